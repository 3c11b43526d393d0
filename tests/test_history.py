"""Runs as their folders tell of them: state, best figures, curves; and the commands that show them."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trm import cli
from trm.errors import UserError
from trm.files import held, is_held
from trm.training import history


def make(folder: Path, *, steps: int = 100, saved: int = 0, lock: bool = True, figures: tuple = ()) -> Path:
    """The folder of a run with what `history` reads of it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"name: {folder.name}\ntrain: {{steps: {steps}}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in figures))
    if saved:
        (folder / "last").mkdir()
        (folder / "last" / "config.json").write_text(json.dumps({"about": {"step": saved}}))
    if lock:
        (folder / history.LOCK).touch()
    return folder


def train(step: int, loss: float, exact: float = 0.1) -> dict:
    figures = {"loss": loss, "exact_accuracy": exact, "accuracy": 0.5, "seconds": 10.0 * step}
    return {"kind": "train", "step": step} | figures


def judged(step: int, exact: float, cells: float) -> dict:
    shares = {"exact_accuracy": exact, "exact_low": exact - 0.05, "exact_high": exact + 0.05}
    return {"kind": "eval", "step": step, "n": 200, "cell_accuracy": cells, "seconds": 10.0 * step} | shares


FIGURES = (train(10, 2.0), judged(20, 0.5, 0.8), train(20, 1.0), judged(30, 0.5, 0.9), judged(40, 0.4, 0.99))


def test_a_run_in_all_its_states(tmp_path: Path):
    stopped = make(tmp_path / "stopped", saved=40, figures=FIGURES)
    assert history.read(stopped).state == "stopped"
    assert history.read(make(tmp_path / "finished", saved=100)).state == "finished"
    # All steps done but not all saved: the last of them would be trained again.
    assert history.read(make(tmp_path / "late", saved=90, figures=(train(100, 1.0),))).state == "stopped"
    with held(stopped / history.LOCK, "busy"):
        assert history.read(stopped).state == "running"
    assert history.read(stopped).state == "stopped"


def test_of_a_run_without_a_lock_nothing_is_claimed_until_it_has_been_quiet(tmp_path: Path):
    old = make(tmp_path / "old", lock=False, figures=FIGURES)
    assert history.read(old).state == "unknown"
    for path in (old / "config.yaml", old / "metrics.jsonl"):
        os.utime(path, (0, time.time() - 3600))
    run = history.read(old)
    assert run.state == "stopped"
    assert 3600 <= run.changed < 3700


def test_a_killed_process_is_running_no_more(tmp_path: Path):
    lock = make(tmp_path / "run") / history.LOCK
    code = "import sys, time; from pathlib import Path; from trm.files import held\n"
    code += "with held(Path(sys.argv[1]), 'busy'): print('held', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code, lock], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        assert is_held(lock)
        with (
            pytest.raises(UserError, match=r"busy \(another process holds .*run\.lock\)"),
            held(lock, "busy"),
        ):
            pytest.fail("held twice")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert not is_held(lock)
    assert not is_held(tmp_path / "nothing")


def test_step_and_best_figures(tmp_path: Path):
    run = history.read(make(tmp_path / "run", saved=30, figures=FIGURES))
    assert (run.name, run.step, run.saved, run.steps, run.seconds, run.loss) == (
        "run",
        40,
        30,
        100,
        400.0,
        1.0,
    )
    assert run.best == history.Best(30, 0.5, 0.45, 0.55, 0.9, 200)  # cells decide between equals
    young = history.read(make(tmp_path / "young"))
    assert (young.step, young.loss, young.best) == (0, None, None)


def test_lines_that_are_cut_short_are_left_out(tmp_path: Path):
    run = make(tmp_path / "run", figures=FIGURES)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('5\n{"kind": "train", "st')
    assert history.lines(run) == list(FIGURES)


def test_runs_are_found_below_a_folder_and_not_within_each_other(tmp_path: Path):
    a, b = make(tmp_path / "a"), make(tmp_path / "deep" / "er" / "b")
    make(a / "inside")
    make(tmp_path / ".hidden")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.yaml").touch()
    assert history.find(tmp_path) == [a, b]
    assert history.find(b) == [b]
    with pytest.raises(UserError, match="there is no folder"):
        history.find(tmp_path / "none")


# The commands


def trm(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(each) for each in arguments])
    return code, *capsys.readouterr()


def test_the_list(tmp_path: Path, capsys):
    make(tmp_path / "a", saved=40, figures=FIGURES)
    make(tmp_path / "b", saved=100)
    (make(tmp_path / "broken") / "config.yaml").write_text("a: [")
    code, out, err = trm(capsys, "runs", tmp_path)
    rows = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert "a stopped 40 of 100 1.000 50.00 % [45.00, 55.00] 90.00 % 200 30 6.7 min" in rows[1]
    assert "b finished 100 of 100 - - - - -" in rows[2]
    assert len(rows) == 3
    assert err.startswith("left out: ") and "broken/config.yaml is damaged" in " ".join(err.split())
    code, out, _ = trm(capsys, "runs", tmp_path, "--json")
    first = json.loads(out.splitlines()[0])
    assert (first["state"], first["best"]["exact"], first["best"]["n"]) == ("stopped", 0.5, 200)
    assert trm(capsys, "runs", tmp_path / "a" / "last")[:2] == (0, f"no runs in {tmp_path}/a/last\n")
    code, _, err = trm(capsys, "runs", tmp_path / "none")
    assert (code, err) == (2, f"trm: error: there is no folder {tmp_path}/none\n")


def test_the_list_needs_no_torch(tmp_path: Path):
    make(tmp_path / "a", figures=FIGURES)
    code = "import sys; from trm.cli import main\nmain(['runs', sys.argv[1]]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_curves_of_one_run_and_of_two(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "one", figures=FIGURES)
    make(tmp_path / "two", figures=(train(10, 3.0), train(30, 0.5), judged(30, 0.2, 0.4)))
    make(tmp_path / "more" / "two", figures=FIGURES)
    assert trm(capsys, "plot", "one") == (0, "curves.svg\n", "")
    alone = Path("curves.svg").read_bytes()
    assert trm(capsys, "plot", "one", "one")[0] == 0
    assert Path("curves.svg").read_bytes() == alone  # the same run twice is one curve
    assert trm(capsys, "plot", "one", "two", "--out", "deep/both.svg")[0] == 0
    both = Path("deep/both.svg").read_text()
    assert "<!-- one -->" in both and "<!-- two -->" in both
    assert both.count("#ff7f0e") > 0 and b"#ff7f0e" not in alone  # a colour for every run
    assert trm(capsys, "plot", "two", "more/two", "--out", "names.svg")[0] == 0
    assert "<!-- more/two -->" in Path("names.svg").read_text()
    assert trm(capsys, "plot", "one", "--out", "hours.svg", "--against", "hours")[0] == 0
    assert "<!-- hours of training -->" in Path("hours.svg").read_text()
    assert trm(capsys, "plot", "one", "--out", "one.png")[0] == 0
    assert Path("one.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_drawn_are_the_figures(tmp_path: Path, monkeypatch):
    drawn = []
    monkeypatch.setattr(history, "_save", lambda figure, out: drawn.append(figure))
    history.plot([make(tmp_path / "a", figures=FIGURES)], tmp_path / "a.svg")
    loss, exact, cells = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 2.0], [20, 1.0]]
    assert exact.lines[1].get_xydata().tolist() == [[20, 50], [30, 50], [40, 40]]
    assert cells.lines[1].get_xydata().tolist() == [[20, 80], [30, 90], [40, 99]]
    band = exact.collections[0].get_paths()[0].vertices
    assert sorted({round(y) for _, y in band}) == [35, 45, 55]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give the folder of a run, or several: trm plot RUN..."),
        (["a", "--out", "a.jpg"], "a.jpg should end in one of .svg, .png, .pdf"),
        (["none"], "none has no metrics.jsonl with figures"),
        (["young"], "young has no metrics.jsonl with figures"),
    ],
)
def test_what_cannot_be_drawn(tmp_path: Path, capsys, monkeypatch, arguments: list[str], message: str):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a", figures=FIGURES)
    make(tmp_path / "young")
    code, out, err = trm(capsys, "plot", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_without_matplotlib(tmp_path: Path, capsys, monkeypatch):
    make(tmp_path / "a", figures=FIGURES)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = trm(capsys, "plot", tmp_path / "a")
    assert (code, err) == (2, "trm: error: curves need matplotlib: pip install 'trm[plot]'\n")
