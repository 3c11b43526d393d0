"""Checkpoints of the original become models and go back; its data folders are checked and merged."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import yaml
from test_interop import FAMILIES, config
from test_original import build, indices, tokens
from test_original_arc import ASKED, VARIANTS, build_folder
from tiny import ANSWER, PUZZLES
from tiny_arc import write
from torch import Tensor

from trm import cli, pretrained
from trm.original import folders
from trm.original.checkpoints import build_original, load_pt
from trm.puzzles.arc.readers import read

Run = Callable[..., tuple[int, str, str]]
SUDOKU = {"vocab_size": 6, "seq_len": 16, "num_puzzle_identifiers": 1}
SIZES = ("batch_size", "seq_len", "vocab_size", "num_puzzle_identifiers", "causal")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)

    def trm(*arguments: object) -> tuple[int, str, str]:
        code = cli.main([str(each) for each in arguments])
        return code, *capsys.readouterr()

    return trm


def sized(shape: tuple, sizes: dict, prefix: int) -> tuple:
    """A shape of `test_interop` for a family of other sizes."""
    old = {7: sizes["vocab_size"], 4: sizes["num_puzzle_identifiers"], 9: sizes["seq_len"] + prefix}
    return tuple(old.get(n, n) for n in shape)


def save(
    path: Path, kind: str, sizes: dict, prefix: str = "_orig_mod.model.", **arch: object
) -> dict[str, Tensor]:
    """A checkpoint as the training there leaves it, for a family of these sizes, and what describes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(1)
    shapes = FAMILIES[kind][1]
    tensors = {name: torch.randn(sized(shape, sizes, 3)) * 0.3 for name, shape in shapes.items()}
    torch.save({prefix + name: value for name, value in tensors.items()}, path)
    values = {name: value for name, value in config(kind).items() if name not in SIZES} | arch
    values |= {
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
    }
    whole = {
        "arch": values,
        "data_paths": ["data/somewhere"],
        "evaluators": [],
        "global_batch_size": 96,
        "epochs": 10,
        "lr": 3e-4,
        "lr_min_ratio": 1.0,
        "lr_warmup_steps": 200,
        "weight_decay": 0.5,
        "beta1": 0.9,
        "beta2": 0.95,
        "puzzle_emb_lr": 0.01,
        "puzzle_emb_weight_decay": 0.1,
        "seed": 7,
        "ema": True,
        "ema_rate": 0.99,
        "freeze_weights": False,
        "run_name": "pretrain_mlp_t",
    }
    (path.parent / "all_config.yaml").write_text(yaml.safe_dump(whole))
    return tensors


def folder(path: Path, puzzles: tuple[str, ...] = PUZZLES[:3], **about: object) -> Path:
    """A data folder of 4x4 Sudokus, as the original's builder leaves it."""
    N = len(puzzles)
    fields = {
        "inputs": np.stack([tokens(text) for text in puzzles]),
        "labels": np.stack([tokens(ANSWER)] * N),
        "puzzle_identifiers": indices(*[0] * N),
        "puzzle_indices": indices(*range(N + 1)),
        "group_indices": indices(*range(N + 1)),
    }
    for split in ("train", "test"):
        build(path / split, fields, **(SUDOKU | about))
    (path / "identifiers.json").write_text('["<blank>"]')
    return path


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- in


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_kind_of_checkpoint_becomes_a_model(run: Run, tmp_path: Path, kind: str):
    tensors = save(tmp_path / "run/step_300", kind, SUDOKU)
    code, out, err = run("import", "run/step_300", "--data", folder(tmp_path / "data"), "--out", "model")
    assert (code, err) == (0, "")
    expected = "trm" if kind in ("mixer", "learned", "single_latent") else kind
    assert out.startswith(f"model: {expected} for sudoku, ")
    assert "now: trm eval model --data FILE" in out
    found = pretrained.load("model")
    theirs = build_original(config(kind) | SUDOKU, tensors)
    assert same(dict(found.model.state_dict()), dict(theirs.state_dict()))
    assert (found.family.config, found.config.steps) == (tiny.CONFIG, 5)
    assert run("eval", "model", "--data", "data/test", "--json")[0] == 0
    assert run("solve", PUZZLES[0], "--model", "model", "--brief")[0] in (0, 1)


@pytest.mark.parametrize("prefix", ["model.", "", "module."])
def test_wrappers_and_half_precision_make_no_difference(run: Run, tmp_path: Path, prefix: str):
    tensors = save(tmp_path / "step_1", "trm", SUDOKU, prefix)
    torch.save({prefix + name: value.bfloat16() for name, value in tensors.items()}, tmp_path / "step_1")
    assert run("import", "step_1", "--data", folder(tmp_path / "data"), "--out", "model")[0] == 0
    kept = pretrained.load("model").model.state_dict()
    assert {value.dtype for value in kept.values()} == {torch.float32}
    rounded = {name: value.bfloat16().float() for name, value in tensors.items()}
    assert torch.equal(kept["answer_head.weight"], rounded["inner.lm_head.weight"])


def test_how_it_was_trained_comes_along(run: Run, tmp_path: Path):
    save(tmp_path / "step_300", "mixer", SUDOKU)
    assert run("import", "step_300", "--out", "model")[0] == 0  # a mixer says how long its puzzles are
    about = pretrained.find("model")[1].about
    recipe = about["recipe"]
    assert (about["step"], about["original"]["file"]) == (300, "step_300")
    optimizer = recipe["optimizer"]
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["warmup"]) == (3e-4, 0.5, 200)
    assert (optimizer["puzzle_lr"], optimizer["puzzle_weight_decay"]) == (0.01, 0.1)
    assert (optimizer["schedule"], optimizer["name"]) == ("constant", "adam_atan2")
    assert (recipe["name"], recipe["seed"]) == ("pretrain_mlp_t", 7)
    assert (recipe["ema"]["decay"], recipe["train"]["batch"], recipe["train"]["steps"]) == (0.99, 96, 300)
    folder(tmp_path / "data")
    report = json.loads(run("eval", "model", "--data", "data/test", "--json")[1])
    assert list(report["weights"]) == ["ema"]  # it keeps nothing but the average
    (tmp_path / "recipe.yaml").write_text(
        yaml.safe_dump(
            recipe
            | {
                "data": {"train": "data/train", "hold_out": 1},
                "train": {"batch": 2, "steps": 1, "eval_every": 1, "start_from": "model"},
            }
        )
    )
    assert run("train", "recipe.yaml", "--out", "on", "--train.start-from", "model")[0] == 0


def test_a_schedule_that_falls(run: Run, tmp_path: Path):
    save(tmp_path / "step_9", "mixer", SUDOKU)
    values = yaml.safe_load((tmp_path / "all_config.yaml").read_text())
    values |= {"lr_min_ratio": 0.1, "ema": False}
    values["arch"]["puzzle_emb_ndim"] = "${.hidden_size}"  # as its own files have it
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(values))
    assert run("import", "step_9", "--config", "other.yaml", "--out", "model")[0] == 0
    config = pretrained.find("model")[1]
    recipe = config.about["recipe"]
    assert (recipe["optimizer"]["schedule"], recipe["optimizer"]["lr_min_ratio"]) == ("cosine", 0.1)
    assert recipe["ema"]["decay"] == 0
    assert config.model.puzzle_width == 16


def test_sizes_come_from_the_data_the_tensors_or_the_puzzles_that_there_are(run: Run, tmp_path: Path):
    maze = {"vocab_size": 6, "seq_len": 900, "num_puzzle_identifiers": 1}
    save(tmp_path / "maze/step_1", "trm", maze)
    assert run("import", "maze/step_1", "--out", "maze/model")[1].startswith("maze/model: trm for maze, ")
    save(tmp_path / "nine/step_1", "trm", maze | {"vocab_size": 11})
    assert run("import", "nine/step_1", "--out", "nine/model")[1].startswith("nine/model: trm for sudoku, ")
    learned = {"vocab_size": 6, "seq_len": 100, "num_puzzle_identifiers": 1}
    save(tmp_path / "small/step_1", "learned", learned)
    assert run("import", "small/step_1", "--out", "small/model")[0] == 0
    assert pretrained.find("small/model")[1].family.model_dump() == {
        "name": "maze",
        "height": 10,
        "width": 10,
    }


def test_puzzles_of_a_fork_need_a_recipe(run: Run, tmp_path: Path):
    save(tmp_path / "step_1", "trm", SUDOKU | {"vocab_size": 4})
    code, _, err = run("import", "step_1", "--out", "model")
    assert (code, err.count("\n")) == (2, 1)
    assert "dataset.json of its data folder: give the folder with --data" in err
    folder(tmp_path / "data", vocab_size=4)
    code, _, err = run("import", "step_1", "--data", "data", "--out", "model")
    assert "puzzles of 16 tokens and a vocabulary of 4 are neither Sudoku nor mazes nor ARC" in err
    family = {"name": "grid", "height": 4, "width": 4, "symbols": ["a", "b", "c"]}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"family": family, "data": {}}))
    assert run("import", "step_1", "--recipe", "own.yaml", "--out", "model")[0] == 0
    assert pretrained.find("model")[1].family.model_dump()["symbols"] == ("a", "b", "c")
    code, _, err = run("import", "step_1", "--recipe", "mini", "--out", "other")
    assert code == 2
    assert "but those of the family sudoku have 36 and 8" in err


class Bomb:
    def __reduce__(self):
        return (Path("exploded").touch, ())


def test_what_is_refused(run: Run, tmp_path: Path):
    save(tmp_path / "step_1", "mixer", SUDOKU)

    def refused(*arguments: object, out: str = "model") -> str:
        code, said, err = run("import", *arguments, "--out", out)
        assert (code, said, err.count("\n")) == (2, "", 1)
        assert not (tmp_path / "model").exists()
        return err

    assert "no checkpoint at none" in refused("none")
    assert "there is no other.yaml" in refused("step_1", "--config", "other.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1")
    assert "broken.yaml is not valid YAML" in refused("step_1", "--config", "broken.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    assert "should hold the section arch" in refused("step_1", "--config", "list.yaml")
    (tmp_path / "empty.yaml").write_text("lr: 1")
    assert "it has no hidden_size" in refused("step_1", "--config", "empty.yaml")
    save(tmp_path / "wide/step_1", "mixer", SUDOKU, hidden_size=32)
    assert "the original's checkpoint is of another architecture" in refused("wide/step_1")
    torch.save({"x": Bomb()}, tmp_path / "bomb")
    assert "bomb is not a plain tensor checkpoint and was not loaded" in refused("bomb")
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").touch()
    assert "mine exists and is not an empty folder" in refused("step_1", out="mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes"]


def test_six_latents_are_another_recursion(run: Run, tmp_path: Path):
    tensors = save(tmp_path / "step_1", "trm", SUDOKU)
    six = {f"inner.L{k}_init": tensors["inner.L_init"] for k in range(1, 7)}
    torch.save(
        {name: value for name, value in tensors.items() if name != "inner.L_init"} | six, tmp_path / "step_1"
    )
    code, _, err = run("import", "step_1", "--data", folder(tmp_path / "data"), "--out", "model")
    assert code == 2
    assert "trm_hier6, whose six latents take turns" in err


@pytest.mark.parametrize(
    "command", [("eval", "MODEL", "--data", "x"), ("solve", PUZZLES[0], "--model", "MODEL")]
)
def test_a_checkpoint_as_a_model_points_to_the_command(run: Run, tmp_path: Path, command: tuple[str, ...]):
    save(tmp_path / "run/step_300", "trm", SUDOKU)
    for given in ("run/step_300", "run"):
        code, _, err = run(*(each.replace("MODEL", given) for each in command))
        assert (code, err.count("\n")) == (2, 1)
        assert "`trm import run/step_300 --out MODEL`" in err


# --- ARC


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    """A data folder, and the checkpoint of a network that knows its ids."""
    data = build_folder(tmp_path / "orig")
    ids = len(json.loads((data / "identifiers.json").read_text()))
    save(tmp_path / "run/step_5", "mixer", {"vocab_size": 12, "seq_len": 16, "num_puzzle_identifiers": ids})
    return data


def test_an_arc_checkpoint_knows_its_tasks(run: Run, tmp_path: Path, arc: Path):
    code, out, _ = run("import", "run/step_5", "--data", "orig", "--out", "model")
    assert code == 0
    assert "4 ARC tasks by name, 16 puzzle ids" in out
    assert "now: trm arc eval model --data FILE" in out
    found = pretrained.load("model")
    assert found.variants().names == ("a", "few", "c", "d")
    assert found.config.family.model_dump()["variants"] == VARIANTS
    assert found.seen().names == {"a", "few"}
    code, out, _ = run("arc", "eval", "model", "--data", "orig", "--submission", "s.json", "--json")
    assert code == 0
    assert json.loads(out)["score"]["tasks"] == len(ASKED)
    assert json.loads((tmp_path / "s.json").read_text()).keys() == {"c", "d"}
    assert run("eval", "model", "--data", "orig/test", "--json")[0] == 0
    new = write(tmp_path / "new.json", [ASKED[0]._replace(name="new")])
    options = ("--model", "model", "--out", "adapted", "--adapt-steps", "2", "--variants", "3")
    assert run("arc", "adapt", new, *options)[0] == 0


def test_an_arc_checkpoint_needs_the_names_of_its_ids(run: Run, tmp_path: Path, arc: Path):
    recipe = {"family": {"name": "arc", "side": 4}, "data": {}}
    (tmp_path / "arc.yaml").write_text(yaml.safe_dump(recipe))
    code, _, err = run("import", "run/step_5", "--recipe", "arc.yaml", "--out", "model")
    assert code == 2
    assert "give the folder with --data" in err
    other = build_folder(tmp_path / "other", start=3)
    code, _, err = run("import", "run/step_5", "--data", other, "--out", "model")
    assert code == 2


# --- and back


@pytest.mark.parametrize("kind", FAMILIES)
def test_there_and_back_keeps_every_bit(run: Run, tmp_path: Path, kind: str):
    tensors = save(tmp_path / "a/step_300", kind, SUDOKU)
    data = folder(tmp_path / "data")
    assert run("import", "a/step_300", "--data", data, "--out", "model")[0] == 0
    code, out, _ = run("original", "export", "model", "--out", "b/step_300")
    assert code == 0
    assert out.startswith("b/step_300, b/all_config.yaml\n")
    assert "+load_checkpoint=" in out
    back = torch.load(tmp_path / "b/step_300", weights_only=True)
    assert same(back, {f"_orig_mod.model.{name}": value for name, value in tensors.items()})
    before, after = (yaml.safe_load((tmp_path / x / "all_config.yaml").read_text()) for x in "ab")
    own = {"name", "loss"}
    assert {k: v for k, v in before["arch"].items() if k not in own}.items() <= (
        after["arch"] | {"H_layers": before["arch"].get("H_layers", 0)}
    ).items()
    for option in (
        "lr",
        "weight_decay",
        "beta2",
        "lr_warmup_steps",
        "lr_min_ratio",
        "ema",
        "ema_rate",
        "seed",
    ):
        assert after[option] == before[option]
    assert run("import", "b/step_300", "--data", data, "--out", "again")[0] == 0
    assert same(pretrained.load("again").model.state_dict(), pretrained.load("model").model.state_dict())
    assert pretrained.find("again")[1].model == pretrained.find("model")[1].model


def test_names_and_precision_are_those_that_its_loader_wants(run: Run, tmp_path: Path):
    tiny.save(tmp_path / "model")
    assert run("original", "export", "model", "--out", "a/step_1", "--no-compiled")[0] == 0
    found = torch.load(tmp_path / "a/step_1", weights_only=True)
    assert {name.split(".")[0] for name in found} == {"model"}
    # Where nothing is known of the training, as its own recipes compute; its loader assigns the tensors.
    assert found["model.inner.H_init"].dtype == torch.bfloat16
    assert found["model.inner.lm_head.weight"].dtype == torch.float32
    assert run("original", "export", "model", "--out", "b/step_1", "--dtype", "float32")[0] == 0
    assert (
        torch.load(tmp_path / "b/step_1", weights_only=True)["_orig_mod.model.inner.H_init"].dtype
        == torch.float32
    )
    arch = yaml.safe_load((tmp_path / "b/all_config.yaml").read_text())["arch"]
    assert (arch["forward_dtype"], arch["halt_max_steps"], arch["mlp_t"]) == ("float32", 6, True)
    assert run("export", "model", "--original", "--out", "c/step_1")[0] == 0
    again = torch.load(tmp_path / "c/step_1", weights_only=True)
    assert set(again) == {f"_orig_mod.{name}" for name in found}
    for more in (["--json"], ["--check", "3"]):
        code, _, err = run("export", "model", "--original", "--out", "d/step_1", *more)
        said = "trm: error: with --original leave out --board, --data, --check and --json\n"
        assert (code, err) == (2, said)
    # Several checkpoints of one run share a folder.
    assert run("export", "model", "--original", "--out", "c/step_2")[0] == 0
    assert "c/step_2 exists" in run("export", "model", "--original", "--out", "c/step_2")[2]


def test_what_the_original_cannot_load_is_not_written(run: Run, tmp_path: Path):
    code, _, err = run("original", "export", "sudoku-9x9", "--out", "a/step_1")
    assert (code, err.count("\n")) == (2, 1)
    assert "the original has no such model" in err
    assert not (tmp_path / "a").exists()
    tiny.save(tmp_path / "model")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "all_config.yaml").write_text("mine")
    code, _, err = run("original", "export", "model", "--out", "b/step_1")
    assert (code, (tmp_path / "b" / "all_config.yaml").read_text()) == (2, "mine")
    assert "all_config.yaml exists" in err


# --- data folders


def test_a_folder_is_checked_and_described(run: Run, tmp_path: Path):
    folder(tmp_path / "data")
    code, out, err = run("data", "original", "data")
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert rows[0] == "family sudoku"
    assert rows[2] == "data test 3 3 3 1 0 0 of 3"
    labels = np.load(tmp_path / "data/train/all__labels.npy")
    labels[1, :2] = labels[1, 1::-1]  # no line holds every digit any more
    np.save(tmp_path / "data/train/all__labels.npy", labels)
    found = json.loads(run("data", "original", "data", "--json")[1])["folders"][0]["splits"]["train"]
    assert (found["wrong"], found["checked"], found["rows"]) == (1, 3, 3)
    (tmp_path / "data/train/all__labels.npy").write_bytes(b"no")
    code, _, err = run("data", "original", "data")
    assert (code, err.count("\n")) == (2, 1)
    assert "train/all__labels.npy is not a readable array" in err
    assert ". is not a data folder of the original" in run("data", "original", ".")[2]
    assert "is not a data folder of the original" in run("data", "original", "none")[2]
    assert "give a data folder, or several" in run("data", "original")[2]


def test_several_folders_become_one(run: Run, tmp_path: Path):
    folder(tmp_path / "a")
    folder(tmp_path / "b", PUZZLES[3:8])
    code, out, _ = run("data", "original", "a", "b", "--out", "both")
    assert code == 0
    assert "both: 8 rows in test, 8 rows in train" in out
    both = folders.read(tmp_path / "both", "train", tiny.TASK)
    assert [tiny.TASK.text(row) for row in both.tokens_NL] == list(PUZZLES)
    assert both.group_N.tolist() == list(range(8))
    assert run("data", "original", "a", "--out", "both")[2].startswith("trm: error: ")


def test_arc_folders_with_their_tasks(run: Run, tmp_path: Path):
    build_folder(tmp_path / "a")
    code, out, _ = run("data", "original", "a", "--out", "copy")
    assert code == 0
    assert "a: 16 puzzle ids of 4 ARC tasks, 2 of them to be predicted" in out
    for split in ("train", "test"):
        for path in sorted((tmp_path / "a" / split).iterdir()):
            assert (tmp_path / "copy" / split / path.name).read_bytes() == path.read_bytes()
    for name in ("identifiers.json", "test_puzzles.json"):
        first, second = (json.loads((tmp_path / x / name).read_text()) for x in ("a", "copy"))
        assert first == second
    assert [task.name for task in read(str(tmp_path / "copy"))] == ["c", "d"]


def test_an_id_with_two_names_is_refused_and_ids_side_by_side_are_joined(run: Run, tmp_path: Path):
    build_folder(tmp_path / "a", tests=False)
    build_folder(tmp_path / "b", start=4)
    code, _, err = run("data", "original", "a", "b", "--out", "both")
    assert (code, err.count("\n")) == (2, 1)
    assert "the puzzle id 4 is " in err and "(--puzzle-identifiers-start)" in err
    names = json.loads((tmp_path / "b/identifiers.json").read_text())
    later = ["<blank>"] * 17 + [
        f"{name}x" if "|" not in name else name.replace("|||", "x|||", 1) for name in names[4:]
    ]
    build_folder(tmp_path / "c", start=17)
    (tmp_path / "c/identifiers.json").write_text(json.dumps(later))
    tests = json.loads((tmp_path / "c/test_puzzles.json").read_text())
    (tmp_path / "c/test_puzzles.json").write_text(
        json.dumps({f"{name}x": task for name, task in tests.items()})
    )
    code, _, err = run("data", "original", "a", "c", "--out", "both")
    assert (code, err) == (0, "")
    assert run("data", "original", "both")[1].splitlines()[-1] == (
        "both: 32 puzzle ids of 8 ARC tasks, 2 of them to be predicted"
    )


def test_tasks_that_no_id_stands_for_are_named(run: Run, tmp_path: Path):
    build_folder(tmp_path / "a")
    path = tmp_path / "a/test_puzzles.json"
    path.write_text(path.read_text().replace('"c"', '"unknown"'))
    code, _, err = run("data", "original", "a")
    assert code == 2
    assert "asks for unknown, which no puzzle id stands for" in err


def test_checkpoints_are_read_without_their_prefixes(tmp_path: Path):
    tensors = save(tmp_path / "step_1", "trm", SUDOKU)
    assert same(load_pt(tmp_path / "step_1"), tensors)
