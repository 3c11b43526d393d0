"""The original's checkpoints: described, converted there and back, and refused when they do not fit."""

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from trm.config import LossConfig, ModelConfig, SupervisionConfig
from trm.errors import UserError
from trm.models import Problem, build, load_weights
from trm.original import folders
from trm.original.checkpoints import build_original, describe, load_pt, rename, strip, to_original

# What the original's YAML and metadata say together.
COMMON = {
    "batch_size": 3,
    "seq_len": 6,
    "vocab_size": 7,
    "num_puzzle_identifiers": 4,
    "puzzle_emb_ndim": 16,
    "hidden_size": 16,
    "num_heads": 2,
    "expansion": 1,
    "pos_encodings": "rope",
    "halt_max_steps": 5,
    "halt_exploration_prob": 0.1,
    "forward_dtype": "float32",
    "causal": False,
}
TRM = COMMON | {
    "H_cycles": 3, "L_cycles": 4, "H_layers": 0, "L_layers": 2, "mlp_t": False, "puzzle_emb_len": 3,
    "no_ACT_continue": True,
}  # fmt: skip
HRM = COMMON | {"H_cycles": 2, "L_cycles": 3, "H_layers": 1, "L_layers": 2}
BASELINE = COMMON | {"H_cycles": 1, "H_layers": 2}
HEADS = {
    "inner.embed_tokens.embedding_weight": (7, 16),
    "inner.puzzle_emb.weights": (4, 16),
    "inner.lm_head.weight": (7, 16),
    "inner.q_head.weight": (2, 16),
    "inner.q_head.bias": (2,),
}
MLP = {"mlp.gate_up_proj.weight": (512, 16), "mlp.down_proj.weight": (16, 256)}
ATTENTION = {"self_attn.qkv_proj.weight": (48, 16), "self_attn.o_proj.weight": (16, 16)} | MLP
MIXER = {"mlp_t.gate_up_proj.weight": (512, 9), "mlp_t.down_proj.weight": (9, 256)} | MLP
Y, Z = {"inner.H_init": (16,)}, {"inner.L_init": (16,)}


def level(name: str, layers: int, block: dict[str, tuple]) -> dict[str, tuple]:
    return {f"inner.{name}_level.layers.{k}.{part}": s for k in range(layers) for part, s in block.items()}


FAMILIES: dict[str, tuple[dict, dict[str, tuple]]] = {
    "trm": (TRM, HEADS | Y | Z | level("L", 2, ATTENTION)),
    "mixer": (TRM | {"mlp_t": True, "pos_encodings": "none"}, HEADS | Y | Z | level("L", 2, MIXER)),
    "learned": (
        TRM | {"pos_encodings": "learned"},
        HEADS | Y | Z | level("L", 2, ATTENTION) | {"inner.embed_pos.embedding_weight": (9, 16)},
    ),
    "single_latent": (TRM, HEADS | Z | level("L", 2, ATTENTION)),
    "hrm": (HRM, HEADS | Y | Z | level("L", 2, ATTENTION) | level("H", 1, ATTENTION)),
    "transformer": (BASELINE, HEADS | Y | level("H", 2, ATTENTION)),
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def weights(family: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(shape) for name, shape in FAMILIES[family][1].items()}


def config(family: str) -> dict:
    return dict(FAMILIES[family][0])


# Description


def test_describe_trm():
    original = describe(config("trm"), set(weights("trm")))
    assert original.model == ModelConfig(
        kind="trm", width=16, layers=2, heads=2, expansion=1, T=3, n=4, prefix=3, puzzle_width=16
    )
    assert original.problem == Problem(vocab_size=7, length=6, puzzles=4)
    assert original.supervision == SupervisionConfig(steps=5, exploration=0.1, continue_loss=False)
    assert original.loss == LossConfig(tokens="stablemax64")


@every_family
def test_describe_tells_the_families_apart_by_their_names(family: str):
    model = describe(config(family), set(weights(family))).model
    assert model.kind == (family if family in ("hrm", "transformer") else "trm")
    assert model.single_latent == (family == "single_latent")
    assert model.mixing == ("mixer" if family == "mixer" else "attention")
    assert model.positions == {"mixer": "none", "learned": "learned"}.get(family, "rope")
    assert (model.layers, model.answer_layers) == (2, 1 if family == "hrm" else None)
    assert (model.T, model.n) == {"hrm": (2, 3), "transformer": (1, 1)}.get(family, (3, 4))


def test_continue_loss_and_the_prefix_follow_the_family():
    hrm = describe(config("hrm"), set(weights("hrm")))
    assert hrm.supervision.continue_loss
    assert hrm.model.prefix == 1
    assert describe(config("hrm") | {"puzzle_emb_ndim": 17}, set(weights("hrm"))).model.prefix == 2
    names = set(weights("trm"))
    assert describe(config("trm") | {"no_ACT_continue": False}, names).supervision.continue_loss
    assert describe(config("trm") | {"puzzle_emb_len": 0}, names).model.prefix == 1


def test_the_defaults_of_trm_are_its_own():
    """TRM's configuration has puzzle_emb_len 16 and no_ACT_continue true where they are not given."""
    short = {k: v for k, v in TRM.items() if k not in ("puzzle_emb_len", "no_ACT_continue")}
    original = describe(short, set(weights("trm")))
    assert not original.supervision.continue_loss
    assert original.model.prefix == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dropout": 0.1, "magic": 1}, "unknown fields: dropout, magic"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps"),
        ({"rope_theta": 500.0}, "rope_theta"),
        ({"num_heads": 3}, "rope needs an even head width"),
        ({"pos_encodings": "alibi"}, "positions"),
        ({"loss": {"name": "losses@ACTLossHead", "loss_type": "hinge"}}, "hinge"),
    ],
)
def test_what_cannot_be_translated_is_refused(change: dict, words: str):
    with pytest.raises(UserError, match=words):
        describe(config("trm") | change, set(weights("trm")))


def test_the_loss_of_the_original_is_translated():
    for theirs, ours in (("stablemax_cross_entropy", "stablemax64"), ("softmax_cross_entropy", "softmax")):
        loss = {"name": "losses@ACTLossHead", "loss_type": theirs}
        assert describe(config("trm") | {"loss": loss}, set(weights("trm"))).loss.tokens == ours


@pytest.mark.parametrize("field", ["hidden_size", "num_heads", "vocab_size", "seq_len", "halt_max_steps"])
def test_a_missing_field_is_named(field: str):
    short = config("trm")
    del short[field]
    with pytest.raises(UserError, match=field):
        describe(short, set(weights("trm")))


# Weights


@every_family
@pytest.mark.parametrize("prefix", ["", "_orig_mod.model.", "module._orig_mod.model."])
def test_conversion_there_and_back_keeps_every_bit(family: str, prefix: str):
    theirs = weights(family)
    model = build_original(config(family), {prefix + name: w for name, w in theirs.items()})
    back = to_original(model, "")
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


@every_family
def test_our_models_survive_the_way_there_and_back(family: str):
    original = describe(config(family), set(weights(family)))
    torch.manual_seed(1)
    ours = build(original.model, original.problem)
    again = build_original(config(family), to_original(ours))
    assert again.config == ours.config
    for name, w in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], w), name
    tokens = torch.randint(7, (2, 6))
    outs = [m(tokens, torch.tensor([0, 3]), m.initial_state(2))[1].logits_BLV for m in (ours, again)]
    assert torch.equal(*outs)


@every_family
def test_bfloat16_stays_bfloat16_there(family: str):
    """Loading assigns the tensors there, and float32 starting points would make the whole model float32."""
    theirs = {name: w.bfloat16() if name.endswith("_init") else w for name, w in weights(family).items()}
    back = to_original(build_original(config(family) | {"forward_dtype": "bfloat16"}, theirs), "")
    assert {name: w.dtype for name, w in back.items()} == {name: w.dtype for name, w in theirs.items()}
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_names_are_those_that_the_originals_loader_looks_for():
    model = build_original(config("trm"), weights("trm"))
    names = set(to_original(model))
    assert "_orig_mod.model.inner.puzzle_emb.weights" in names
    assert names == {f"_orig_mod.model.{name}" for name in weights("trm")}
    assert set(to_original(model, "model.")) == {f"model.{name}" for name in weights("trm")}


# `arch` as the original saves it: sizes come from the data.
SIZES = ("vocab_size", "seq_len", "num_puzzle_identifiers")
SAVED = {name: value for name, value in TRM.items() if name not in (*SIZES, "batch_size", "causal")} | {
    "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
}


@pytest.mark.parametrize("data", ["data", "data/train", "data/train/dataset.json"])
def test_sizes_come_from_the_data_folder(tmp_path: Path, data: str):
    for split, ids in (("test", 99), ("train", 4)):
        (tmp_path / "data" / split).mkdir(parents=True)
        about = {"vocab_size": 7, "seq_len": 6, "num_puzzle_identifiers": ids, "pad_id": 0, "sets": ["all"]}
        (tmp_path / "data" / split / "dataset.json").write_text(json.dumps(about))
    model = build_original(SAVED, weights("trm"), tmp_path / data)
    assert model.problem == Problem(vocab_size=7, length=6, puzzles=4)
    with pytest.raises(UserError, match=r"lacks seq_len, vocab_size; sizes are in .*dataset\.json: give"):
        build_original(SAVED, weights("trm"))
    with pytest.raises(UserError, match=r"cannot read .*gone"):
        build_original(SAVED, weights("trm"), tmp_path / "gone")


def test_a_folder_without_the_split_train_will_do(tmp_path: Path):
    (tmp_path / "test").mkdir()
    about = {"vocab_size": 7, "seq_len": 6, "num_puzzle_identifiers": 4, "sets": ["all"]}
    (tmp_path / "test" / "dataset.json").write_text(json.dumps(about))
    assert folders.sizes(tmp_path) == (7, 6, 4)


def test_the_transformer_of_the_original_as_its_yaml_has_it():
    """12 heads in a width of 512 are 42 wide, and together 504; no continue loss is ever trained."""
    yaml = {
        "H_cycles": 1, "H_layers": 1, "hidden_size": 512, "num_heads": 12, "expansion": 4,
        "puzzle_emb_ndim": 512, "pos_encodings": "rope", "halt_exploration_prob": 0.1, "halt_max_steps": 16,
        "act_inference": False,
    }  # fmt: skip
    sizes = {"vocab_size": 7, "seq_len": 6, "num_puzzle_identifiers": 4}
    shapes = {
        "inner.embed_tokens.embedding_weight": (7, 512), "inner.puzzle_emb.weights": (4, 512),
        "inner.lm_head.weight": (7, 512), "inner.q_head.weight": (2, 512), "inner.q_head.bias": (2,),
        "inner.H_init": (512,), "inner.H_level.layers.0.self_attn.qkv_proj.weight": (3 * 504, 512),
        "inner.H_level.layers.0.self_attn.o_proj.weight": (512, 504),
        "inner.H_level.layers.0.mlp.gate_up_proj.weight": (3072, 512),
        "inner.H_level.layers.0.mlp.down_proj.weight": (512, 1536),
    }  # fmt: skip
    theirs = {name: torch.randn(shape) * 0.02 for name, shape in shapes.items()}
    original = describe(yaml | sizes, set(theirs))
    assert (original.model.heads, original.model.head_width, original.model.prefix) == (12, 42, 1)
    assert original.supervision == SupervisionConfig(steps=16, exploration=0.1, continue_loss=False)
    assert not describe(yaml | sizes | {"act_enabled": False}, set(theirs)).supervision.act
    model = build_original(yaml | sizes | {"forward_dtype": "float32"}, theirs)
    assert to_original(model, "").keys() == theirs.keys()
    state, out = model.step(
        model.initial_state(2), model.encode(torch.ones(2, 6).long(), torch.tensor([0, 3]))
    )
    assert out.logits_BLV.isfinite().all() and state.y_BSD.shape == (2, 7, 512)


def test_where_the_tensors_go():
    theirs = weights("hrm")
    model = build_original(config("hrm"), theirs)
    assert torch.equal(model.y_init, theirs["inner.H_init"])
    assert torch.equal(model.z_init, theirs["inner.L_init"])
    qkv = "layers.0.self_attn.qkv_proj.weight"
    assert torch.equal(model.latent_network.blocks[0].mix.qkv.weight, theirs[f"inner.L_level.{qkv}"])
    assert torch.equal(model.answer_network.blocks[0].mix.qkv.weight, theirs[f"inner.H_level.{qkv}"])
    single = build_original(config("single_latent"), weights("single_latent"))
    assert torch.equal(single.y_init, weights("single_latent")["inner.L_init"])
    assert single.z_init.numel() == 0


def test_half_precision_weights_become_float32():
    theirs = {name: w.bfloat16() for name, w in weights("trm").items()}
    model = build_original(config("trm"), theirs)
    assert all(w.dtype == torch.float32 for w in model.state_dict().values())
    assert torch.equal(model.answer_head.weight, theirs["inner.lm_head.weight"].float())


def test_wrapper_prefixes_are_stripped_at_the_front_only():
    assert strip("_orig_mod.model.inner.model.x") == "inner.model.x"
    assert strip("inner.L_init") == "inner.L_init"


def test_unknown_tensors_are_refused():
    for name in (
        "inner.mystery",
        "inner.L_level.layers.0.mystery.weight",
        "inner.L_level.layers.x.mlp.weight",
    ):
        with pytest.raises(UserError, match="unknown tensor"):
            rename({name: torch.ones(1)})


@pytest.mark.parametrize(
    "options",
    [
        {"gate": "normed"},
        {"separate_networks": True},
        {"gradient": "last_update"},
        {"prefix": 2},
        {"head_width": 4},
        {"inner": 8},
        {"halting": "every"},
    ],
    ids=["gate", "separate", "gradient", "registers", "head", "inner", "halting"],
)
def test_models_that_the_original_does_not_have_are_refused(options: dict):
    model = build(ModelConfig(width=16, heads=2, layers=1, **options), Problem(7, 6))
    with pytest.raises(UserError, match="the original"):
        to_original(model)


@pytest.mark.parametrize(
    ("family", "change", "words"),
    [
        ("trm", {"L_layers": 3}, r"latent_network\.blocks\.2\.\S+ is missing \(and 3 more\)"),
        ("trm", {"L_layers": 1}, r"latent_network\.blocks\.1\.\S+ is not part of this model"),
        ("trm", {"vocab_size": 8}, r"answer_head\.weight has shape \(7, 16\), not \(8, 16\)"),
        ("trm", {"pos_encodings": "learned"}, r"embed\.positions is missing$"),
        ("trm", {"num_puzzle_identifiers": 9}, r"embed\.puzzle\.weight has shape \(4, 16\), not \(9, 16\)$"),
        ("mixer", {"seq_len": 7}, r"mix\.\S+ has shape"),
        ("mixer", {"mlp_t": False}, r"mix\.\S+ is"),
        ("hrm", {"H_layers": 2}, r"answer_network\.blocks\.1\.\S+ is missing"),
    ],
)
def test_another_architecture_is_refused_and_a_tensor_named(family: str, change: dict, words: str):
    with pytest.raises(UserError, match=rf"the original's checkpoint is of another architecture: .*{words}"):
        build_original(config(family) | change, weights(family))


@pytest.mark.parametrize("gone", [["inner.L_init"], ["inner.H_init", "inner.L_init"]])
def test_missing_starting_points_are_refused(gone: list[str]):
    short = {n: w for n, w in weights("trm").items() if n not in gone}
    with pytest.raises(UserError, match=r"_init is missing"):
        build_original(config("trm"), short)


def test_load_weights_changes_nothing_when_it_refuses():
    model = build_original(config("trm"), weights("trm"))
    before = {n: w.clone() for n, w in model.state_dict().items()}
    bad = {n: w + 1 for n, w in before.items()} | {"y_init": torch.zeros(3)}
    with pytest.raises(
        UserError, match=r"^there is of another architecture: y_init has shape \(3,\), not \(16,\)$"
    ):
        load_weights(model, bad, "there")
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())


# Files


class Bomb:
    """Unpickling this without care creates a folder."""

    def __init__(self, path: Path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_good_file_is_read(tmp_path: Path, zipped: bool):
    path = tmp_path / "step_1"
    named = {f"_orig_mod.model.{n}": w for n, w in weights("trm").items()}
    torch.save(named, path, _use_new_zipfile_serialization=zipped)
    loaded = load_pt(path)
    assert loaded.keys() == weights("trm").keys()
    assert all(torch.equal(w, loaded[n]) for n, w in weights("trm").items())
    build_original(config("trm"), loaded)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"no checkpoint at .*gone\.pt"):
        load_pt(tmp_path / "gone.pt")
    with pytest.raises(UserError, match="was not loaded"):
        load_pt(tmp_path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_truncated_file_is_refused_wherever_it_is_cut(tmp_path: Path, zipped: bool):
    path = tmp_path / "cut.pt"
    torch.save(
        {"inner.L_init": torch.randn(64), "b": torch.randn(3)}, path, _use_new_zipfile_serialization=zipped
    )
    whole = path.read_bytes()
    for end in range(0, len(whole) - 1, max(1, len(whole) // 200)):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"cut\.pt is not a plain tensor checkpoint"):
            load_pt(path)


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x80", b"\x00" * 100, b"PK\x03\x04junk"])
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "other.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"other\.pt is not a plain tensor checkpoint"):
        load_pt(path)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_pickle_with_other_objects_is_refused_and_not_executed(tmp_path: Path, how: str):
    path, trace = tmp_path / "bomb.pt", tmp_path / "executed"
    bomb = {"weight": torch.ones(1), "bomb": Bomb(trace)}
    if how == "pickle":
        path.write_bytes(pickle.dumps({"bomb": Bomb(trace)}, protocol=2))
    else:
        torch.save(bomb, path, _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(
        UserError, match=r"bomb\.pt is not a plain tensor checkpoint and was not loaded"
    ) as caught:
        load_pt(path)
    assert not trace.exists()
    assert "\n" not in str(caught.value)
    if how == "pickle":  # the bomb is live: the careless way would set it off
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize(
    "content",
    [{"a": 1}, {"a": torch.ones(1), "step": 5}, [torch.ones(1)], torch.ones(1), {0: torch.ones(1)}],
    ids=["number", "mixed", "list", "tensor", "unnamed"],
)
def test_files_that_hold_no_state_dict_are_refused(tmp_path: Path, content: object):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match="not a state dict"):
        load_pt(path)
