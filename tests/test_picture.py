"""Answers and refinements as pictures: for notebooks, as files, and from the command."""

import io
import re

import pytest
import tiny
from PIL import Image
from rich.console import Console
from tiny import ANSWER, PUZZLES

import trm
from trm import cli
from trm.config import Effort
from trm.errors import UserError

ALL_STEPS = Effort(steps=3, early_stop=False)


def words(svg: str) -> str:
    """The characters of a picture, row by row."""
    return re.sub(r"<[^>]*>|&#160;", " ", svg.partition("</style>")[2])


def test_answers_and_refinements_draw_themselves_in_notebooks():
    solver = tiny.solver()
    (answer,) = solver.solve(PUZZLES[0], Effort(exact=True))
    drawn = answer._repr_html_()
    assert drawn.startswith("<svg") and "@font-face" not in drawn and "http" not in words(drawn)
    assert "solved" in words(drawn) and f"{100 * answer.halt_probability:.1f}" in words(drawn)
    assert re.findall(r"\d", words(drawn).partition("solved")[2])[:16] == list(ANSWER)
    assert "breaks the rules" in words(solver.solve(PUZZLES[0])[0]._repr_html_())
    first, second, *_ = solver.steps(PUZZLES[0], ALL_STEPS)
    assert "step 1" in words(first._repr_html_()) and "step 2" in words(second._repr_html_())
    assert (second.previous == first.answer).all() and (first.previous == first.question).all()
    console = Console(width=80, file=io.StringIO())
    console.print(answer)
    assert "solved" in console.file.getvalue()


def test_steps_are_drawn_side_by_side_and_one_after_the_other(tmp_path):
    picture = trm.draw(tiny.solver().steps(PUZZLES[0], ALL_STEPS))
    shown = words(picture._repr_html_())
    assert [shown.index(word) for word in ("puzzle", "step 1", "step 2", "step 3")] == sorted(
        shown.index(word) for word in ("puzzle", "step 1", "step 2", "step 3")
    )
    assert "@font-face" not in picture.save(tmp_path / "steps.svg").read_text()
    with (
        Image.open(picture.save(tmp_path / "steps.gif")) as gif,
        Image.open(picture.save(str(tmp_path / "steps.png"))) as png,
    ):
        assert gif.n_frames == 4 and gif.info["loop"] == 0
        assert png.size == (4 * gif.size[0], gif.size[1])
        assert len(png.convert("L").getcolors()) > 2


def test_what_cannot_be_drawn_or_written_is_said(tmp_path, monkeypatch):
    picture = trm.draw(tiny.solver().solve(PUZZLES[0])[0])
    assert len(picture.drawings) == 1
    with pytest.raises(UserError, match="nothing to draw"):
        trm.draw([])
    with pytest.raises(UserError, match=r"ends in \.svg, \.png or \.gif"):
        picture.save(tmp_path / "picture.jpg")
    with pytest.raises(UserError, match="there is no folder"):
        picture.save(tmp_path / "gone" / "picture.svg")
    monkeypatch.setattr("trm.inference.picture.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"a GIF needs matplotlib: pip install 'trm\[plot\]'"):
        picture.save(tmp_path / "picture.gif")
    assert picture.save(tmp_path / "picture.svg").exists()


def test_the_command_writes_an_animation(tmp_path, capsys):
    weights = str(tiny.save(tmp_path / "four"))
    gif = tmp_path / "solved.gif"
    command = ["solve", PUZZLES[0], "--model", weights, "--steps", "3", "--no-early-stop", "--exact"]
    assert cli.main([*command, "--gif", str(gif)]) == 0
    with Image.open(gif) as image:
        assert image.n_frames == 5  # the puzzle, three steps, and the exact solver's answer
    assert "by exact" in capsys.readouterr().out
    for more, said in (
        (["--gif", str(gif), "--json"], "--gif shows one puzzle"),
        (["--gif", str(tmp_path / "solved.mp4")], "ends in .svg, .png or .gif"),
    ):
        assert cli.main([*command, *more]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
