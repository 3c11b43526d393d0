"""Models out to the hub and back, against a server that stands in for it: whole, or refused in one line."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
import torch
import yaml
from huggingface_hub import constants, file_download
from standin_hub import TOKEN, Hub

import trm
from trm import cli, hub, pretrained
from trm.errors import UserError

# The hub's client uses its HTTP library in an older way.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
VALIDATION = {
    "n": 500,
    "exact_accuracy": 0.992,
    "exact_low": 0.98,
    "exact_high": 0.997,
    "cell_accuracy": 0.999,
}
DOCS = Path(__file__).parent.parent / "docs" / "HUB.md"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A hub of one's own, a token for it, an empty cache, and a folder to work in."""
    found = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", found.url)
    template = found.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield found
    found.close()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = cli.main([str(each) for each in arguments])
    out, err = capsys.readouterr()
    return code, out, "".join(line for line in err.splitlines(True) if line.startswith("trm: "))


def model(place: str = "model", **about: Any) -> Path:
    recipe = {
        "name": "small",
        "seed": 3,
        "train": {"batch": 8, "start_from": "/home/somebody/models/old"},
        "ema": {"decay": 0.9},
        "data": {"train": "hub:sudoku-extreme/train", "validation": "/home/somebody/secret/v.csv"},
    }
    return tiny.save(Path(place), step=1400, recipe=recipe, validation=VALIDATION, commit="abc", **about)


def same_weights(name: str) -> bool:
    ours, theirs = pretrained.load(name).model.state_dict(), tiny.model().state_dict()
    return all(torch.equal(ours[each], theirs[each].float()) for each in theirs)


def test_out_and_back(server: Hub, capsys):
    model()
    code, out, err = run(capsys, "push", "model", "org/name")
    assert (code, err) == (0, "")
    assert out.startswith(f"{server.url}/org/name")
    assert "trm solve PUZZLE --model org/name" in out
    files = server.commits["org/name"][-1]
    assert files.keys() == {".gitattributes", "README.md", "config.json", "model.safetensors"}
    assert b"somebody" not in files["config.json"] + files["README.md"]  # places on this machine stay here
    recipe = json.loads(files["config.json"])["about"]["recipe"]
    assert (recipe["data"]["validation"], recipe["train"]["start_from"]) == ("v.csv", "old")
    assert recipe["data"]["train"] == "hub:sudoku-extreme/train"
    code, out, err = run(capsys, "pull", "org/name")
    assert (code, err) == (0, "")
    assert out.startswith("models/name: trm for sudoku\n")
    assert {path.name for path in Path("models/name").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
    }
    assert same_weights("models/name")
    assert trm.load("org/name").solve(tiny.PUZZLES[0]) == tiny.solver().solve(
        tiny.PUZZLES[0]
    ) or same_weights("org/name")
    code, _, err = run(capsys, "pull", "org/name")
    assert (code, err.count("\n")) == (2, 1)
    assert "models/name exists and is not an empty folder" in err


def test_nothing_of_an_earlier_version_stays(server: Hub):
    weights = tiny.model().state_dict()
    config = pretrained.PretrainedConfig(family=tiny.CONFIG, model=tiny.MODEL)
    pretrained.save(Path("model"), config, weights, raw=weights)
    (Path("model") / "notes.txt").write_text("mine")
    hub.push("model", "org/name")
    assert "raw.safetensors" in server.commits["org/name"][-1]
    assert "notes.txt" not in server.commits["org/name"][-1]
    model("other")
    hub.push("other", "org/name", private=True)
    assert "raw.safetensors" not in server.commits["org/name"][-1]
    assert server.private == {"org/name"}


def test_revisions(server: Hub, capsys):
    model("old", colour="red")
    hub.push("old", "org/name")
    server.tags["org/name"] = {"v1": len(server.commits["org/name"]) - 1}
    model("new", colour="blue")
    hub.push("new", "org/name")

    def colour(name: str) -> str:
        return pretrained.find(name)[1].about["colour"]

    assert (colour("org/name"), colour("org/name@v1")) == ("blue", "red")
    assert colour(f"org/name@{server.sha('org/name', 1)}") == "red"
    assert trm.load("org/name", revision="v1").family.length == 16
    assert run(capsys, "pull", "org/name", "--revision", "v1", "--out", "back")[0] == 0
    assert colour("back") == "red"
    code, _, err = run(capsys, "solve", tiny.PUZZLES[0], "--model", "org/name@v2")
    assert (code, err.count("\n")) == (2, 1)
    assert "the hub did not give it at v2" in err
    for name in ("new", "mini", "org/name@v1"):
        with pytest.raises(UserError, match="only these have revisions"):
            trm.load(name, revision="v1")


def test_what_was_downloaded_serves_without_a_network(server: Hub, monkeypatch):
    model()
    hub.push("model", "org/name")
    trm.load("org/name")
    before = len(server.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights("org/name")
    with pytest.raises(UserError, match="no local folder 'org/other', and the hub did not give it"):
        trm.load("org/other")
    with pytest.raises(UserError, match="the hub did not take org/name"):
        hub.push("model", "org/name")
    assert len(server.asked) == before
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    server.close()  # gone, and nobody has said so
    assert same_weights("org/name")


def test_a_download_that_breaks_off_leaves_nothing_that_is_taken_for_whole(server: Hub, capsys, monkeypatch):
    quick = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: None})  # before it is tried again
    monkeypatch.setattr(file_download, "time", quick)
    model()
    hub.push("model", "org/name")
    server.broken["model.safetensors"] = "cut"
    code, out, err = run(capsys, "pull", "org/name")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the hub did not give it" in err
    assert not Path("models").exists()
    server.broken.clear()
    assert run(capsys, "pull", "org/name")[0] == 0
    assert same_weights("models/name")


def test_a_download_of_other_bytes_is_refused_and_had_again_by_force(server: Hub, capsys):
    model()
    hub.push("model", "org/name")
    server.broken["model.safetensors"] = "garbage"
    code, _, err = run(capsys, "pull", "org/name")
    assert (code, err.count("\n")) == (2, 1)
    assert "org/name is not whole" in err and "is damaged or no safetensors file" in err and "--force" in err
    code, _, err = run(capsys, "solve", tiny.PUZZLES[0], "--model", "org/name")
    assert code == 2
    assert "download it again with `trm pull org/name --force`" in err
    server.broken.clear()
    assert run(capsys, "pull", "org/name", "--force")[0] == 0
    assert same_weights("org/name")


def test_a_repository_of_something_else(server: Hub, capsys):
    server.commits["org/bert"] = [
        {"pytorch_model.bin": b"a pickle", "run.py": b"raise SystemExit", "config.json": b"{}"}
    ]
    code, _, err = run(capsys, "pull", "org/bert")
    assert (code, err.count("\n")) == (2, 1)
    assert "has format None" in err
    cached = [path.name for path in Path("../cache").rglob("*")]
    assert "config.json" in cached and not {"pytorch_model.bin", "run.py"} & set(cached)


def test_who_may_not_write_is_told_how_to_log_in(server: Hub, capsys, monkeypatch):
    model()
    monkeypatch.setenv("HF_TOKEN", "wrong")
    code, out, err = run(capsys, "push", "model", "org/name")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "the hub did not take org/name: " in err and "log in with `hf auth login`" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["push", "model", "name"], "'name' is not a repository name: write ORG/NAME"),
        (["push", "model", "a b/c"], "'a b/c' is not a repository name"),
        (["push", "nothing", "org/name"], "no model 'nothing'"),
        (["push", "model", "org/name", "--figures", "none.json"], "cannot read none.json"),
        (
            ["push", "model", "org/name", "--figures", "model/config.json"],
            "is not a report of `trm eval --json`",
        ),
        (["pull", "name"], "write ORG/NAME"),
    ],
)
def test_what_is_refused_before_anything_is_asked(server: Hub, capsys, arguments: list[str], message: str):
    model()
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert server.asked == []


def test_damaged_weights_are_not_pushed(server: Hub, capsys):
    path = model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    code, _, err = run(capsys, "push", "model", "org/name")
    assert code == 2 and "model.safetensors is damaged" in err
    assert server.commits == {}


# The card


def metadata(text: str) -> dict[str, Any]:
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    assert found is not None
    return yaml.safe_load(found[1])


def test_the_card_says_what_is_known(server: Hub, capsys):
    model()
    Path("good.csv").write_text(f"question,answer\n{tiny.PUZZLES[0]},{tiny.ANSWER}\n")
    report = run(capsys, "eval", "model", "--data", "good.csv", "--json")[1]
    Path("report.json").write_text(report)
    code, text, _ = run(capsys, "push", "model", "org/name", "--dry-run", "--figures", "report.json")
    assert code == 0 and server.asked == []
    head = metadata(text)
    assert (head["library_name"], head["license"], head["pipeline_tag"]) == ("trm", "apache-2.0", "other")
    assert {"trm", "sudoku", "recursive-reasoning"} <= set(head["tags"])
    assert head["datasets"] == ["sapientinc/sudoku-extreme"]
    results = head["model-index"][0]["results"]
    assert [each["metrics"][0]["value"] for each in results] == [
        0.992,
        json.loads(report)["weights"]["ema"]["early_stop"]["exact"]["value"],
    ]
    count = sum(weight.numel() for weight in tiny.model().parameters())
    assert (
        f"A TRM for sudoku puzzles on boards of 4 x 4: {count:,} parameters, width 16, T = 1, n = 1" in text
    )
    assert "| validation, on which the weights were chosen | 500 | 99.20 % [98.00, 99.70] | 99.90 % |" in text
    assert "| good.csv, ema weights, stopping early | 1 | " in text
    assert (
        "Recipe `small`, seed 3, batch 8, 1,400 optimizer steps; the weights are averages (decay 0.9)."
        in text
    )
    assert "commit `abc`" in text
    assert "2510.04871" in text and "2506.21734" not in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None and len(code[1].splitlines()) == 5
    hub.push("model", "org/name")
    exec(compile(code[1], "card", "exec"), {"puzzle": tiny.PUZZLES[0]})  # our own text, and the point of it
    assert "Answer" not in capsys.readouterr().out


def test_a_card_of_ones_own_is_kept(server: Hub):
    (model() / "README.md").write_text("mine")
    hub.push("model", "org/name")
    assert server.commits["org/name"][-1]["README.md"] == b"mine"


def test_a_card_says_what_is_not_known():
    config = pretrained.PretrainedConfig(family=tiny.CONFIG, model=tiny.MODEL)
    text = hub.card(config, 12, "org/name", "mit")
    assert "No figures are known" in text and "The weights do not say." in text
    assert metadata(text)["license"] == "mit"
    assert "model-index" not in metadata(text)


def test_a_card_of_hrm_cites_it():
    made = {"kind": "hrm", "width": 16, "heads": 2, "layers": 1, "expansion": 1, "T": 1, "n": 1}
    config = pretrained.PretrainedConfig(family=tiny.CONFIG, model=trm.config.ModelConfig(**made))
    text = hub.card(config, 12, "org/name")
    assert "2506.21734" in text and "hrm" in metadata(text)["tags"]


def test_the_class_of_the_page_loads_a_repository(server: Hub):
    model()
    hub.push("model", "org/name")
    (code,) = re.findall(
        r"```python\n(from huggingface_hub.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL
    )
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code.replace("my-org/sudoku-6x6", "org/name"), "HUB.md", "exec"), names)
    ours, theirs = names["network"].state_dict(), pretrained.load("org/name").model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_address_of_the_hub_is_that_of_the_environment(server: Hub, tmp_path: Path):
    """The whole way in processes of their own, where nothing but HF_ENDPOINT says where the hub is."""
    model()
    environment = os.environ | {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    code = "from trm.cli import main; import sys\n"
    code += "sys.exit(main(['push', 'model', 'org/name']) or main(['pull', 'org/name', '--out', 'back']))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same_weights("back")
