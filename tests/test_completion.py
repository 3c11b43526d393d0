"""What Tab offers: the script for bash is run, those for zsh and fish hold the same words."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from trm import cli
from trm.recipe import recipe_names


@pytest.fixture(scope="module")
def script(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "trm.bash"
    path.write_text(printed("bash"))
    return path


def printed(shell: str) -> str:
    from trm.commands.completion import script

    return script({name: cli._command(name, []) for name in cli._COMMANDS if name != "completion"}, shell)


def offered(script: Path, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    code = (
        f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _tyro_trm; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", code, "bash", "trm", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sol"], ["solve"]),
        (["data", "su"], ["sudoku"]),
        (["data", "sudoku", "--box"], ["--box-rows", "--box-cols"]),
        (["arc", "eval", "runs", "--dev"], ["--device"]),
        (["solve", "--dtype", "fl"], ["float32", "float64"]),
        (["train", "mini", "--model.mixing", ""], ["attention", "mixer", "convolution", "relations"]),
        (["train", "maze-"], [name for name in recipe_names() if name.startswith("maze-")]),
    ],
)
def test_bash_offers(script: Path, words: list[str], found: list[str]):
    assert offered(script, *words) == found


def test_nothing_but_words_is_offered(script: Path):
    every = offered(script, "train", "mini", "")
    assert "--data.train" in every
    assert all(re.fullmatch(r"-h|--[\w.-]+|[\w-]+", word) for word in every)


def test_the_command_prints_the_script(capsys):
    assert cli.main(["completion", "zsh"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("#compdef trm")
    assert "'completion'" in out  # it knows itself


def test_fish_knows_the_same_words():
    text = printed("fish")
    line = re.search(r"^COMPLETION_SPEC = (.*)$", text, flags=re.MULTILINE)[1]
    assert "\\'" in line  # Python in single quotes
    line = re.sub(r"\\(.)", r"\1", line)
    spec = ast.literal_eval(line)
    assert set(spec["subcommands"]) == set(cli._COMMANDS) - {"completion"}
    assert "maze-mini" in text


def test_an_unknown_shell_is_refused(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "choose one of bash, zsh, fish" in capsys.readouterr().err
