"""The README and the help are run, not trusted."""

import json
import re
import shlex
from pathlib import Path

import pytest
import tiny
import torch
import yaml

from trm import cli
from trm.models import Problem
from trm.original import checkpoints
from trm.recipe import load_recipe, recipe_names

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^trm .*$", README, flags=re.MULTILINE)
PUZZLE = re.compile(r"(?<![.\d])(?:[.1-6]{36}|[.1-9]{81})(?![.\d])")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_of_the_readme_are_understood(line: str):
    command = cli._parse(shlex.split(line, comments=True)[1:])
    assert callable(command)


def test_puzzles_of_the_readme_and_of_the_help_are_solved(capsys):
    shown = set(PUZZLE.findall(README)) | set(PUZZLE.findall((ROOT / "trm" / "cli.py").read_text()))
    assert shown
    for puzzle in shown:
        assert cli.main(["solve", puzzle]) == 0
    assert "solved, and the rules confirm it" in capsys.readouterr().out


def test_the_python_example_runs(capsys):
    example = next(block for block in blocks("python") if "trm.load" in block)
    exec(compile(example, "README.md", "exec"), {})  # our own text, and the point of the test
    assert "True" in capsys.readouterr().out


def test_the_example_with_weights_of_the_original_runs(tmp_path, monkeypatch):
    """With the files that its training and its builder leave, at the size of a toy."""
    example = next(block for block in blocks("python") if "load_pt" in block)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "data/sudoku/train").mkdir(parents=True)
    about = {"vocab_size": 6, "seq_len": 16, "num_puzzle_identifiers": 1, "pad_id": 0, "sets": ["all"]}
    (tmp_path / "data/sudoku/train/dataset.json").write_text(json.dumps(about))
    arch = {
        "name": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
        "loss": {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"},
        "H_cycles": 1, "L_cycles": 1, "H_layers": 0, "L_layers": 1, "hidden_size": 16, "num_heads": 2,
        "expansion": 1, "mlp_t": True, "pos_encodings": "none", "puzzle_emb_ndim": 16, "puzzle_emb_len": 2,
        "forward_dtype": "bfloat16", "halt_exploration_prob": 0.1, "halt_max_steps": 4,
        "no_ACT_continue": True,
    }  # fmt: skip
    (tmp_path / "run/all_config.yaml").write_text(yaml.safe_dump({"arch": arch, "lr": 1e-4}))
    options = {"width": 16, "heads": 2, "layers": 1, "expansion": 1, "T": 1, "n": 1, "mixing": "mixer",
               "positions": "none", "prefix": 2, "puzzle_width": 16, "dtype": "bfloat16"}  # fmt: skip
    weights = checkpoints.to_original(tiny.make(options, Problem(6, 16)))
    torch.save(weights, tmp_path / "run/step_65104")
    exec(compile(example, "README.md", "exec"), {})  # our own text, and the point of the test
    copy = torch.load(tmp_path / "copy", weights_only=True)
    assert copy.keys() == weights.keys()
    assert all(torch.equal(copy[name], w) and copy[name].dtype == w.dtype for name, w in weights.items())


def test_make_targets_and_recipes_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert set(targets) >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
    for name in recipe_names():
        assert f"`{name}`" in README, f"the README does not mention recipe {name}"
        assert load_recipe(name).name == name


def test_files_that_the_readme_shows_exist():
    for path in re.findall(r"\]\((docs/[^)]+)\)", README):
        assert (ROOT / path).exists(), path
