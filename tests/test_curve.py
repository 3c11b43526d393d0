"""The sweep: its points against the solver's own answers, and what it writes."""

import json

import numpy as np
import pytest
import tiny
from tiny import ANSWER, PUZZLES, TASK

from trm import cli
from trm.config import Effort
from trm.inference import curve
from trm.puzzles.table import from_arrays


def puzzles(answers: list[str]):
    tokens = np.stack([TASK.parse(puzzle) for puzzle in PUZZLES])
    return from_arrays(tokens, np.stack([TASK.parse(answer.replace("?", ".")) for answer in answers]))


def test_a_point_counts_right_answers_and_all_steps():
    effort = Effort(steps=5, rollouts=3, select="vote")
    answers = tiny.solver().solve(PUZZLES, effort)
    asked = puzzles([answers[i].answer if i < 3 else ANSWER for i in range(len(PUZZLES))])
    (point,) = curve.measure(tiny.solver(), asked, [effort])
    assert (point.depth, point.rollouts, point.select, point.n) == (5, 3, "vote", 8)
    assert point.exact.value == 3 / 8
    found = tiny.solver().decisions(asked.tokens_NL, [effort], np.zeros(8, int))
    assert point.steps == sum(each.total_steps for (each,) in found) / 8
    assert point.applications == point.steps * 1 * (1 + 1)  # T * (n + 1)
    chunked = tiny.solver()
    chunked.chunk = 4
    assert curve.measure(chunked, asked, [effort])[0].exact == point.exact


def test_the_sweep_has_every_combination_once():
    made = [effort for group in curve.sweep(Effort(noise=0.5), [2, 4], [1, 3]) for effort in group]
    assert len({(e.steps, e.rollouts, e.select) for e in made}) == len(made) == 2 * (2 + 5)
    assert all(e.noise == 0.5 for e in made)


def test_without_rules_nothing_is_selected_by_them():
    made = [effort for group in curve.sweep(Effort(), [2], [1, 3], verifies=False) for effort in group]
    assert [effort.select for effort in made] == ["halt", "halt", "stable", "vote", "first"]


def test_the_command_writes_table_json_and_plot(tmp_path, capsys):
    tiny.save(tmp_path / "model")
    rows = "".join(f"{puzzle},{ANSWER}\n" for puzzle in PUZZLES)
    (tmp_path / "data.csv").write_text("question,answer\n" + rows)
    options = ["--curve-depths", "2,3", "--curve-rollouts", "1,2", "--curve", str(tmp_path / "out")]
    code = cli.main(["eval", str(tmp_path / "model"), "--data", str(tmp_path / "data.csv"), *options])
    assert code == 0
    points = json.loads((tmp_path / "out" / "curve.json").read_text())["points"]
    assert len(points) == 14 and {p["n"] for p in points} == {8}
    table = (tmp_path / "out" / "curve.md").read_text()
    assert table.count("\n| ") == 15 and table.splitlines()[2] in capsys.readouterr().out
    assert (tmp_path / "out" / "curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("depths", ["0", "2,", "a", "2;3"])
def test_bad_lists_are_refused(tmp_path, capsys, depths):
    tiny.save(tmp_path / "model")
    (tmp_path / "data.csv").write_text(f"question,answer\n{PUZZLES[0]},{ANSWER}\n")
    options = ["--curve", str(tmp_path / "out"), "--curve-depths", depths]
    assert cli.main(["eval", str(tmp_path / "model"), "--data", str(tmp_path / "data.csv"), *options]) == 2
    assert "is not a list of positive numbers" in capsys.readouterr().err
