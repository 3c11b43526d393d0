"""Benchmarks that no other test uses, at their smallest: that they run, and count what they say."""

import re
from pathlib import Path

import processes
import pytest
import saving
import tiny_arc
from test_train import config

from trm.config import dump_config


@pytest.fixture
def small(tmp_path: Path, monkeypatch) -> None:
    recipe = tmp_path / "small.yaml"
    recipe.write_text(dump_config(config()))
    monkeypatch.setattr(processes, "CASES", {"mini": (str(recipe), {})})


def rows(said: str) -> list[list[str]]:
    """The cells of a printed table, without its heading."""
    return [line.strip("| ").split(" | ") for line in said.splitlines() if line.startswith("| ")][1:]


def test_runs_by_several_processes_are_compared(small: None, capfd):
    processes.same(steps=4, batch=8, only=("mini",), dtypes=("float64",))
    alone, nudged, *several = rows(capfd.readouterr().out)
    assert alone[2:] == ["1", *alone[3:4], "0.0e+00", "0.0e+00", *alone[6:]] and "nudged" in nudged[2]
    assert 0 < float(nudged[5]) < 1e-9
    assert [row[2] for row in several] == ["2", "4", "2, 1, 4"]
    assert all(float(row[4]) < 1e-6 and float(row[5]) < 1e-11 and row[6:] == alone[6:] for row in several)


def test_saving_is_timed(tmp_path: Path, capsys):
    tiny_arc.write(tmp_path / "tasks.json", [tiny_arc.made("a"), tiny_arc.made("b")])
    recipe = tmp_path / "arc.yaml"
    recipe.write_text(dump_config(tiny_arc.config(data={"train": str(tmp_path / "tasks.json")})))
    saving.main(variants=6, batch=8, saves=2, recipe=str(recipe), folder=tmp_path)
    said = capsys.readouterr().out
    assert "embeddings: [13, 20]" in said
    assert re.findall(r"^(\w+) +[\d.]+ s +\d+ MB", said, re.MULTILINE) == ["checkpoint", "weights"] * 2
