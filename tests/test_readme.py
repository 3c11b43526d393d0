"""The README and the help are run, not trusted."""

import re
import shlex
from pathlib import Path

import pytest

from trm import cli
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


def test_make_targets_and_recipes_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^make (\w+)", README, flags=re.MULTILINE)
    assert set(targets) >= {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


def test_recipes_stand_in_the_documentation():
    text = (ROOT / "docs" / "research.md").read_text(encoding="utf-8")
    for name in recipe_names():
        assert f"`{name}`" in text, f"docs/research.md does not mention recipe {name}"
        assert load_recipe(name).name == name


def test_files_that_the_readme_shows_exist():
    for path in re.findall(r"\]\((docs/[^)#]+)", README):
        assert (ROOT / path).exists(), path
