"""What is exported, and what is refused; the graphs themselves are tested in tests/page."""

import sys

from untrained import FREE, KINDS, made

from trm import cli, export
from trm.puzzles.grid.config import GridConfig


def test_candidates_whose_symbols_are_not_the_last_tokens_keep_their_board():
    rules = {"rows": "all_different", "columns": "all_different"}
    grid = GridConfig(height=2, width=2, symbols=("1", "2", "."), permute=("1", "2"), rules=rules)
    assert "not the last tokens" in export.View(made(FREE["candidates"][0], grid).model).fixed


def test_puzzles_to_check_on_are_made_by_the_family_or_are_any_boards():
    found = made(KINDS["single latent with registers"])
    puzzles = export.example_puzzles(found, 2)
    for tokens_L, answer_L in zip(puzzles.tokens_NL, puzzles.answers_NL, strict=True):
        assert found.family.verify(tokens_L, answer_L)
    grid = GridConfig(height=2, width=3, symbols=("1", "2"))
    puzzles = export.example_puzzles(made(KINDS["hrm with puzzle embeddings"], grid), 20)
    assert puzzles.tokens_NL.shape == (20, 6) and set(puzzles.tokens_NL.ravel()) == {1, 2}
    assert set(puzzles.puzzle_N) == {0, 1, 2}


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")

    def fault(*arguments: str) -> str:
        assert cli.main(["export", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "trm export MODEL --out FOLDER" in fault("mini")
    assert "holds something other than" in fault("mini", "--out", str(tmp_path / "full"))
    assert "at least 1" in fault("mini", "--out", str(tmp_path / "new"), "--check", "0")
    assert "does not fit the board" in fault("mini", "--out", str(tmp_path / "new"), "--board", "1" * 81)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'trm[export]'" in fault("mini", "--out", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
