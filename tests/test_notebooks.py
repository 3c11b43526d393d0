"""The notebooks run from top to bottom; with small budgets here, as they stand in `make notebooks`."""

import json
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
# What makes them quick, and what must be true at the end.
SMALLER = {
    "1-solve-and-watch": {},
    "2-train-your-own-puzzle": {
        "range(1500)": "range(60)",
        '{"steps": 240, "eval_every": 30}': '{"steps": 3, "eval_every": 2, "batch": 8, "log_every": 1}',
    },
    "3-accuracy-against-compute": {
        "COUNT = 100": "COUNT = 6",
        "depths=[4, 16, 64]": "depths=[2, 3]",
        "SEARCHED = 20": "SEARCHED = 2",
        "search=100, budget=64": "search=4, budget=4",
    },
}


def cells(name: str) -> list[dict]:
    return json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]


def test_all_are_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_it_runs_from_top_to_bottom(name: str, tmp_path, monkeypatch, capsys):
    import matplotlib

    matplotlib.use("agg")
    monkeypatch.chdir(FOLDER)
    monkeypatch.syspath_prepend(str(FOLDER))  # undone at the end, with what the notebook adds
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    text = "\n".join("".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code")
    for large, small in SMALLER[name].items():
        assert large in text
        text = text.replace(large, small)
    exec(compile(text, name, "exec"), {"__name__": "notebook"})  # our own text, and the point of the test
    matplotlib.pyplot.close("all")
    assert capsys.readouterr().out


@pytest.mark.parametrize("name", SMALLER)
def test_what_was_printed_is_kept_and_no_error_among_it(name: str):
    code = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs, "run `make notebooks`"
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 200_000
