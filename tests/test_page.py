"""The command `trm page`: what it writes, and what it refuses. The page itself is tested in `tests/page`."""

import json
import re

import pytest
import tiny

from trm import cli, export, page, pretrained
from trm.config import ModelConfig
from trm.errors import UserError
from trm.models import build
from trm.pretrained import Pretrained, PretrainedConfig
from trm.puzzles.futoshiki.config import FutoshikiConfig


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A browser's runtime where npm puts it, as far as building a page goes."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "node_modules" / page.RUNTIME / "dist"
    folder.mkdir(parents=True)
    for name in page.RUNTIME_FILES:
        (folder / name).write_text("runtime")


def test_a_site_holds_all_that_a_browser_asks_for(tmp_path, runtime, monkeypatch):
    def fake(found, folder, puzzles, say):  # what an export writes is tested elsewhere
        folder.mkdir()
        graphs = {name: {"file": f"{name}.onnx"} for name in ("step", "latent", "answer")}
        about = {"graphs": graphs, "calls": ["latent", "answer"], "start": {"y": [0.0]}}
        (folder / "model.json").write_text(json.dumps(about))
        for graph in graphs.values():
            (folder / graph["file"]).write_text("graph")
        assert len(puzzles) == 2

    monkeypatch.setattr(export, "export", fake)
    found = pretrained.load(tiny.save(tmp_path / "weights"))
    size = page.build([("four", found)], tmp_path / "site", check=2)
    names = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.*")}
    assert size > 1000
    assert {"index.html", "main.js", "worker.js", "families/maze.js", "vendor/ort.wasm.min.mjs"} <= names
    assert {"models/four/latent.onnx", "models/four/answer.onnx", "models/four/model.json"} <= names
    assert not {"models/four/step.onnx", "__init__.py"} & names
    (entry,) = json.loads((tmp_path / "site/models.json").read_text())
    assert (entry["name"], entry["folder"]) == ("four", "models/four/")
    assert len(entry["examples"]) == 2
    html = (tmp_path / "site/index.html").read_text()
    for file in re.findall(r'<link rel="preload" href="([^"]+)"', html):
        assert (tmp_path / "site" / file).is_file()
    begun = html.index('begun = new Worker("worker.js"')
    assert html.index("<meta charset") < begun < html.index('src="main.js"')


def test_a_family_that_the_page_does_not_draw_is_refused(tmp_path, runtime, monkeypatch):
    monkeypatch.setattr(page, "FAMILIES", ("sudoku", "maze"))
    config = PretrainedConfig(family=FutoshikiConfig(), model=ModelConfig(width=8, heads=2, layers=1))
    family = config.family.build()
    found = Pretrained(config, build(config.model, family.problem()), family, None, tmp_path)
    with pytest.raises(UserError, match="draws sudoku, maze, not futoshiki"):
        page.build([("mine", found)], tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_the_command_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    def fault(*arguments: str) -> str:
        assert cli.main(["page", *arguments]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    assert "trm page MODEL... --out FOLDER" in fault("mini")
    assert "holds something other than" in fault("mini", "--out", "full")
    assert "same name" in fault("mini", "mini", "--out", "site")
    monkeypatch.setattr(page, "RUNTIME_FILES", ("no-such-file",))
    assert "run `make page`" in fault("mini", "--out", "site")
    assert not (tmp_path / "site").exists()
