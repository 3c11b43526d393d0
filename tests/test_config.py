"""Configuration: recipes survive the round trip through YAML, and every fault is named in one line."""

import subprocess
import sys
from importlib import resources
from pathlib import Path

import pydantic
import pytest

from trm.config import (
    ComputeConfig,
    DataConfig,
    Effort,
    EmaConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SupervisionConfig,
    dump_config,
    option_names,
    parse,
)
from trm.errors import UserError
from trm.puzzles import FAMILIES
from trm.puzzles.arc.config import ArcDataConfig
from trm.puzzles.sudoku.config import SudokuConfig, SudokuDataConfig
from trm.recipe import RunConfig, load_config, load_recipe, recipe_names

CANDIDATES = {"kind": "candidates", "mixing": "relations", "positions": "none", "halting": "every"}
CONVOLUTION = {"mixing": "convolution", "positions": "none"}


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "run.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_survives_the_round_trip(name: str, tmp_path: Path):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe != RunConfig()
    again = load_config(write(tmp_path, dump_config(recipe)))
    assert again == recipe
    assert dump_config(again) == dump_config(recipe)


def test_the_paper_recipe_says_what_the_paper_says():
    c = load_recipe("sudoku-paper")
    assert (c.model.width, c.model.layers, c.model.T, c.model.n, c.model.mixing) == (512, 2, 3, 6, "mixer")
    assert (c.model.prefix, c.model.puzzle_width) == (16, 512)
    assert (c.optimizer.name, c.optimizer.lr, c.optimizer.weight_decay) == ("adam_atan2", 1e-4, 1.0)
    assert (c.optimizer.betas, c.optimizer.warmup, c.ema.decay) == ((0.9, 0.95), 2000, 0.999)
    assert (c.supervision.steps, c.supervision.exploration, c.train.batch) == (16, 0.1, 768)
    assert c.train.steps == 50_000 * 1000 // 768


def test_extreme_values_survive_the_round_trip(tmp_path: Path):
    values = {"optimizer": {"lr": 1e-12, "weight_decay": 1e16, "betas": [0.0, 0.999999]}}
    config = parse(RunConfig, values, "test")
    assert load_config(write(tmp_path, dump_config(config))) == config


def test_numbers_that_yaml_reads_as_text_are_understood(tmp_path: Path):
    # YAML 1.1 takes 1e-4, without a point, for a string.
    assert load_config(write(tmp_path, "optimizer: {lr: 1e-4}")).optimizer.lr == 1e-4


def test_an_empty_file_is_the_default(tmp_path: Path):
    assert load_config(write(tmp_path, "")) == RunConfig()


@pytest.mark.parametrize(
    ("text", "named", "near"),
    [
        ("model: {widht: 32}", "model.widht", "model.width"),
        ("train: {batch_size: 1}", "train.batch_size", "train.batch"),
        ("sed: 1", "sed", "seed"),
        ("modle: {width: 32}", "modle", "model"),
        ("optimiser: {lr: 1}", "optimiser", "optimizer"),
    ],
)
def test_an_unknown_key_is_named_with_a_near_one(tmp_path: Path, text: str, named: str, near: str):
    with pytest.raises(UserError) as caught:
        load_config(write(tmp_path, text))
    assert f"unknown option {named!r}; did you mean {near!r}?" in str(caught.value)
    assert "run.yaml" in str(caught.value)


def test_the_near_name_is_one_of_the_class_that_was_parsed():
    with pytest.raises(UserError, match=r"unknown option 'widht'; did you mean 'width'\?"):
        parse(ModelConfig, {"widht": 3}, "test")


def test_a_key_that_resembles_nothing_gets_no_hint(tmp_path: Path):
    with pytest.raises(UserError, match=r"unknown option 'qqqqqqqq'$"):
        load_config(write(tmp_path, "qqqqqqqq: 1"))


@pytest.mark.parametrize(
    ("kind", "values", "place"),
    [
        (ModelConfig, {"width": 0}, "width"),
        (ModelConfig, {"kind": "lstm"}, "kind"),
        (ModelConfig, {"T": 1.5}, "T"),
        (ModelConfig, {"prefix": -1}, "prefix"),
        (ComputeConfig, {"dtype": "float16"}, "dtype"),
        (SupervisionConfig, {"steps": 0}, "steps"),
        (SupervisionConfig, {"exploration": 1.1}, "exploration"),
        (SupervisionConfig, {"hints": 1.1}, "hints"),
        (SupervisionConfig, {"first_hints": -1}, "first_hints"),
        (SupervisionConfig, {"noise": -0.1}, "noise"),
        (SupervisionConfig, {"start_noise": -0.1}, "start_noise"),
        (LossConfig, {"label_smoothing": 1.0}, "label_smoothing"),
        (OptimizerConfig, {"lr": -1.0}, "lr"),
        (OptimizerConfig, {"lr": float("nan")}, "lr"),
        (OptimizerConfig, {"lr": float("inf")}, "lr"),
        (OptimizerConfig, {"betas": [0.9]}, "betas"),
        (OptimizerConfig, {"betas": [0.9, 1.0]}, "betas"),
        (OptimizerConfig, {"betas": [-0.1, 0.9]}, "betas"),
        (EmaConfig, {"decay": 1.0}, "decay"),
        (SudokuConfig, {"box_rows": 6}, "box_rows"),
        (RunConfig, {"model": {"width": "wide"}}, "model.width"),
        (RunConfig, {"model": [1]}, "model"),
    ],
)
def test_bad_values_are_refused_and_their_place_named(kind: type, values: dict, place: str):
    with pytest.raises(UserError, match=rf"^test: {place}"):
        parse(kind, values, "test")


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (ModelConfig, {"width": 30, "heads": 4}, "width 30 is not a multiple of heads 4"),
        (ModelConfig, {"width": 12, "heads": 4}, "even head width"),
        (ModelConfig, {"width": 16, "prefix": 2, "puzzle_width": 33}, "raise prefix"),
        (ModelConfig, {"single_latent": True, "kind": "hrm"}, "single_latent"),
        (ModelConfig, {"single_latent": True, "kind": "transformer"}, "single_latent"),
        (ModelConfig, {"single_latent": True, "separate_networks": True}, "single_latent"),
        (LossConfig, {"label_smoothing": 0.1}, "tokens: softmax"),
        (LossConfig, {"label_smoothing": 0.1, "tokens": "stablemax64"}, "tokens: softmax"),
        (SudokuConfig, {"box_rows": 1, "box_cols": 1}, "2 to 25 symbols"),
        (ModelConfig, {"mixing": "relations", "positions": "none"}, "kind candidates and mixing relations"),
        (ModelConfig, {"kind": "candidates", "mixing": "mixer"}, "kind candidates and mixing relations"),
        (ModelConfig, CANDIDATES | {"halting": "first"}, "set halting to every"),
        (ModelConfig, CANDIDATES | {"gate": "normed"}, "gate and gradient are fixed"),
        (ModelConfig, CANDIDATES | {"gradient": "last_update"}, "gate and gradient are fixed"),
        (ModelConfig, {"conflict_head": True}, "conflict_head is a part of kind candidates"),
        (ModelConfig, CANDIDATES | {"prefix": 1}, "mixing relations serves boards of every size"),
        (ModelConfig, CANDIDATES | {"positions": "learned"}, "mixing relations .* set positions to none"),
        (ModelConfig, CONVOLUTION | {"prefix": 1}, "mixing convolution .* prefix to 0"),
        (ModelConfig, CONVOLUTION | {"positions": "rope"}, "mixing convolution .* set positions to none"),
        (ModelConfig, CANDIDATES | {"single_latent": True}, "ablations of kind trm"),
        (ModelConfig, CANDIDATES | {"separate_networks": True}, "ablations of kind trm"),
        (OptimizerConfig, {"schedule": "wsd"}, "decay_steps and schedule wsd go together"),
        (OptimizerConfig, {"decay_steps": 5}, "decay_steps and schedule wsd go together"),
        (
            OptimizerConfig,
            {"schedule": "cosine", "decay_steps": 5},
            "decay_steps and schedule wsd go together",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(kind: type, values: dict, words: str):
    with pytest.raises(UserError, match=words) as caught:
        parse(kind, values, "test")
    assert "Value error" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (ModelConfig, {"width": 12, "heads": 4, "positions": "none"}),
        (ModelConfig, {"width": 12, "heads": 4, "mixing": "mixer"}),
        (ModelConfig, {"width": 16, "prefix": 2, "puzzle_width": 32}),
        (ModelConfig, CANDIDATES | {"width": 13}),
        (ModelConfig, CONVOLUTION | {"width": 13}),
        (OptimizerConfig, {"schedule": "wsd", "decay_steps": 1}),
        (LossConfig, {"label_smoothing": 0.1, "tokens": "softmax"}),
        (SudokuConfig, {"box_rows": 1, "box_cols": 2}),
        (SudokuConfig, {"box_rows": 5, "box_cols": 5}),
    ],
)
def test_the_limits_themselves_are_allowed(kind: type, values: dict):
    parse(kind, values, "test")


def test_files_that_are_no_configuration_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"cannot read .*missing\.yaml: No such file"):
        load_config(tmp_path / "missing.yaml")
    with pytest.raises(UserError, match="cannot read"):
        load_config(tmp_path)
    with pytest.raises(UserError, match="not valid YAML"):
        load_config(write(tmp_path, "a: [1"))
    with pytest.raises(UserError, match="valid dictionary"):
        load_config(write(tmp_path, "just words"))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"run\.yaml"):
        load_config(write(tmp_path, b"name: \xff\xfe"))


def test_recipes_are_found_by_name_or_path(tmp_path: Path):
    assert {"mini", "tiny", "sudoku-paper", "sudoku-fast", "hrm-sudoku"} <= set(recipe_names())
    with pytest.raises(
        UserError, match=r"unknown recipe 'sudoku-papr'; did you mean 'sudoku-paper'\?"
    ) as caught:
        load_recipe("sudoku-papr")
    assert all(name in str(caught.value) for name in recipe_names())
    with pytest.raises(UserError, match=r"unknown recipe '\.\./config'"):
        load_recipe("../config")
    path = write(tmp_path, "{name: mine, seed: 7}")
    assert load_recipe(str(path)) == RunConfig(name="mine", seed=7)
    with pytest.raises(UserError, match=r"cannot read nowhere\.yml"):
        load_recipe("nowhere.yml")


def test_configurations_are_frozen():
    config = RunConfig()
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.model.width = 16
    assert hash(config) == hash(RunConfig())


def test_option_names_are_dotted_and_every_option_is_documented():
    names = option_names(RunConfig)
    assert {"name", "seed", "model.T", "optimizer.betas", "family.box_rows"} <= set(names)
    assert len(names) == len(set(names))
    for section in RunConfig.model_fields.values():
        for name, field in getattr(section.annotation, "model_fields", {}).items():
            assert field.description, name


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (DataConfig, {"validation": "v.csv"}, "need a training file"),
        (DataConfig, {"train": "t.csv", "validation": "v.csv", "hold_out": 2}, "not both"),
        (Effort, {"rollouts": 2, "symmetries": False}, "would all be the same"),
        (Effort, {"rollouts": 4, "budget": 3}, "below one step for each rollout"),
        (Effort, {"steps": 0}, "give more than 0"),
        (ModelConfig, {"answer_layers": 2}, "needs a network for y"),
        (ModelConfig, {"kind": "hrm", "separate_networks": True}, "ablations of kind trm"),
        (ComputeConfig, {"kernels": "native", "compile": "block"}, "set compile to none"),
        (ComputeConfig, {"kernels": "triton", "dtype": "float64"}, "not in float64"),
        (SupervisionConfig, {"act": False, "continue_loss": True}, "part of act"),
    ],
)
def test_options_that_would_do_nothing_are_refused(kind, values, message):
    with pytest.raises(UserError, match=message):
        parse(kind, values, "test")


@pytest.mark.parametrize(("written", "meant"), [(True, "block"), (False, "none"), ("cycle", "cycle")])
def test_compile_reads_what_earlier_versions_wrote(written, meant):
    old = {"task": {"name": "sudoku"}, "model": {"compile": written}}
    assert parse(RunConfig, old, "test").compute.compile == meant


def test_how_a_machine_computes_was_said_in_other_sections_once():
    old = {
        "model": {"dtype": "bfloat16", "kernels": "triton", "T": 2},
        "train": {"cuda_graph": True, "keep": 3},
    }
    found = parse(RunConfig, old | {"compute": {"compile": "cycle"}}, "test")
    assert found.compute == ComputeConfig(
        dtype="bfloat16", kernels="triton", cuda_graph=True, compile="cycle"
    )
    assert (found.model.T, found.train.keep) == (2, 3)


@pytest.mark.parametrize(
    ("model", "compute", "message"),
    [
        ({"kind": "transformer"}, {"compile": "cycle"}, "no cycle"),
        (CANDIDATES, {"kernels": "triton"}, "no triton kernels"),
        ({}, {"kernels": "native"}, "native is for kind candidates"),
    ],
)
def test_a_model_that_cannot_be_computed_like_that(model, compute, message):
    with pytest.raises(ValueError, match=message):
        ComputeConfig(**compute).check(ModelConfig.model_validate(model))


def test_what_a_device_cannot_do_is_left_out_and_said():
    fast = ComputeConfig(dtype="bfloat16", kernels="triton", compile="cycle", cuda_graph=True)
    assert fast.on("cuda") == (fast.model_copy(update={"device": "cuda"}), [])
    there, remarks = fast.on("cpu")
    assert remarks == ["without a CUDA graph", "without triton kernels"]
    assert there == ComputeConfig(device="cpu", dtype="bfloat16", compile="cycle")
    assert ComputeConfig(dtype="float64").on("mps")[1] == ["in float32"]


def test_positions_that_would_do_nothing():
    assert parse(ModelConfig, {"mixing": "mixer"}, "test").positions == "none"
    with pytest.raises(UserError, match="mixing mixer has no use for positions rope: set positions to none"):
        parse(ModelConfig, {"mixing": "mixer", "positions": "rope"}, "test")
    old = {"task": {"name": "sudoku"}, "model": {"mixing": "mixer", "positions": "rope"}}
    assert parse(RunConfig, old, "test").model.positions == "none"


@pytest.mark.parametrize(
    ("family", "data", "message"),
    [
        (
            "maze",
            {"generate": {"min_guesses": 3}},
            "generate.min_guesses is for sudoku, and would do nothing for maze",
        ),
        ("maze", {"train": "x", "demonstrations": "y"}, "demonstrations is for arc"),
        ("sudoku", {"generate": {"min_path": 9}}, "generate.min_path is for maze"),
        ("arc", {"generate": {"max_guesses": 0}}, "generate.max_guesses is for sudoku"),
    ],
)
def test_data_options_of_another_family_are_refused(family, data, message):
    with pytest.raises(UserError) as caught:
        parse(RunConfig, {"family": {"name": family}, "data": data}, "test")
    assert message in str(caught.value)


def test_files_of_earlier_versions_are_read(tmp_path: Path):
    old = write(
        tmp_path,
        "task: {name: sudoku, box_rows: 2, box_cols: 3}\n"
        "data: {generate_train: 40, generate_test: 9, extra_clues: 2, min_path: 2, augment: false}\n",
    )
    config = load_config(old)
    assert config.family == SudokuConfig(box_rows=2, box_cols=3)
    assert config.data == SudokuDataConfig(generate={"train": 40, "test": 9, "extra_clues": 2}, augment=False)
    assert "task" not in dump_config(config)
    assert "extra_clues: 2" in dump_config(config)
    everything = {"augment": True, "generate_train": 0, "max_guesses": 1_000_000, "hold_out_variants": 3}
    arc = parse(RunConfig, {"task": {"name": "arc", "ids": "task"}, "data": everything}, "test")
    assert arc.data == ArcDataConfig(hold_out_variants=3)
    assert parse(RunConfig, {"data": {"generate_train": 4}}, "test").data.generator().train == 4
    with pytest.raises(UserError, match=r"generate\.extra_clues is for sudoku"):
        parse(RunConfig, {"task": {"name": "maze"}, "data": {"extra_clues": 3}}, "test")


def test_options_that_do_nothing_for_arc_are_refused():
    for data in ({"augment": False}, {"generate": {"train": 3}}):
        with pytest.raises(UserError, match="would do nothing for arc"):
            parse(RunConfig, {"family": {"name": "arc"}, "data": data}, "test")


def test_mazes_are_not_augmented_unless_asked():
    assert not parse(RunConfig, {"family": {"name": "maze"}}, "test").data.augments()
    assert parse(RunConfig, {}, "test").data.augments()


def test_families_by_name_without_torch_or_numpy():
    code = (
        "import sys, trm.puzzles\n"
        "print(all(kind.name == name for name, kind in trm.puzzles.config_classes().items()))\n"
        "print({'torch', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True", "set()"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_configuration_is_written_with_its_name(name: str):
    values = {"name": name} | ({"height": 2, "width": 3, "symbols": ["a"]} if name == "grid" else {})
    config = parse(RunConfig, {"family": values}, "test").family
    assert config.model_dump()["name"] == name == config.name
    assert type(config).model_validate(config.model_dump()) == config
    assert config.build().config == config


# Epochs, and what they count (puzzles, or pairs of ARC tasks), as the recipes of the original have them.
ARC1, ARC2 = (100_000, 3_081), (100_000, 4_666)
SCHEDULES = {
    "sudoku-paper": (50_000, 1_000), "sudoku-paper-attention": (50_000, 1_000), "maze-paper": (50_000, 1_000),
    "hrm-sudoku": (20_000, 1_000), "hrm-maze": (20_000, 1_000),
    "arc1-paper": ARC1, "hrm-arc1": ARC1, "transformer-arc1": ARC1, "arc2-paper": ARC2, "hrm-arc2": ARC2,
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_recipes_of_papers_see_as_many_rows_as_the_original(name: str):
    epochs, rows = SCHEDULES[name]
    recipe = load_recipe(name)
    assert recipe.train.batch == 768
    assert recipe.train.steps == epochs * rows // 768
    assert (recipe.optimizer.lr, recipe.optimizer.warmup, recipe.optimizer.schedule) == (
        1e-4,
        2000,
        "constant",
    )
    arc = recipe.family.name == "arc"
    decays = recipe.optimizer.weight_decay, recipe.optimizer.puzzle_weight_decay
    assert (*decays, recipe.optimizer.puzzle_lr) == ((0.1, 0.1, 1e-2) if arc else (1.0, 1.0, 1e-4))
    assert recipe.supervision.continue_loss == (recipe.model.kind == "hrm")
    assert recipe.ema.decay == (0.999 if recipe.model.kind == "trm" else 0)
    text = (Path(str(resources.files("trm"))) / "recipes" / f"{name}.yaml").read_text()
    comment = " ".join(line.removeprefix("#").strip() for line in text.splitlines() if line.startswith("#"))
    assert f"{recipe.train.steps:,} steps" in comment and "Deviation" in comment


def test_options_of_one_schedule_or_mixing_are_refused_elsewhere():
    for kind, values, words in (
        (OptimizerConfig, {"lr_min_ratio": 0.1}, "lr_min_ratio is for schedule cosine"),
        (
            ModelConfig,
            {"head_width": 8, "mixing": "mixer", "positions": "none"},
            "head_width is for mixing attention",
        ),
        (ModelConfig, {"head_width": 7}, "rope needs an even head width"),
        (ModelConfig, {"heads": 12}, "set head_width as well"),
    ):
        with pytest.raises(UserError, match=words):
            parse(kind, values, "test")
    assert parse(ModelConfig, {"heads": 12, "head_width": 42}, "test").width_of_a_head == 42
