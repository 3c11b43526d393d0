"""Folders of weights: the round trip, what is refused, where they are looked for, and the hub."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file

from trm import pretrained
from trm.errors import UserError

CONFIG = pretrained.PretrainedConfig(family=tiny.CONFIG, model=tiny.MODEL, steps=5, about={"seed": 3})


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def folder(tmp_path):
    return tiny.save(tmp_path / "model")


def edit(folder: Path, **changes: object) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def test_round_trip(tmp_path):
    weights, raw = tiny.model(1).state_dict(), tiny.model(2).state_dict()
    pretrained.save(tmp_path / "a", CONFIG, weights, raw)
    assert {p.name for p in (tmp_path / "a").iterdir()} == {
        "config.json",
        "model.safetensors",
        "raw.safetensors",
    }
    found = pretrained.load(tmp_path / "a")
    assert found.config == CONFIG
    assert equal(found.model.state_dict(), weights)
    assert equal(found.raw, raw)
    assert (found.family.length, found.folder, found.model.training) == (16, tmp_path / "a", False)


def test_saving_again_leaves_nothing_of_the_old(tmp_path):
    weights = tiny.model(1).state_dict()
    pretrained.save(tmp_path / "a", CONFIG, weights, weights)
    pretrained.save(tmp_path / "a", CONFIG, tiny.model(2).state_dict())
    found = pretrained.load(tmp_path / "a")
    assert found.raw is None
    assert equal(found.model.state_dict(), tiny.model(2).state_dict())


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_damaged_weights(folder, cut):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or no safetensors file"):
        pretrained.load(folder)


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        pretrained.load(folder)


@pytest.mark.parametrize("text", ["", "{", "\0", "[1]", "3", "{}"])
def test_damaged_config(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=r"config\.json"):
        pretrained.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2, but this version of trm reads format 1"),
        ({"format": None}, "has format None"),
        ({"colour": "red"}, "unknown option 'colour'"),
        ({"model": {"widht": 16}}, "unknown option 'model.widht'; did you mean 'model.width'?"),
        ({"family": {"name": "chess"}}, "family: needs a name, one of sudoku, maze, arc, grid"),
        ({"model": tiny.MODEL.model_dump() | {"width": 32}}, "is of another architecture: "),
        ({"model": tiny.MODEL.model_dump() | {"layers": 2}}, "is missing (and "),
        ({"model": tiny.MODEL.model_dump() | {"prefix": 1}}, "is of another architecture"),
        ({"family": {"name": "sudoku", "box_rows": 2, "box_cols": 3}}, "is of another architecture"),
    ],
)
def test_another_config(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(UserError) as caught:
        pretrained.load(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_tensor_too_many_is_named(folder):
    save_file(tiny.model().state_dict() | {"more": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(UserError, match="more is not part of this model"):
        pretrained.load(folder)


def test_a_run_has_best_before_last(tmp_path):
    tiny.save(tmp_path / "last")
    assert pretrained.load(tmp_path).folder == tmp_path / "last"
    tiny.save(tmp_path / "best")
    assert pretrained.load(str(tmp_path)).folder == tmp_path / "best"
    tiny.save(tmp_path)
    assert pretrained.load(tmp_path).folder == tmp_path


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(UserError, match=r"holds no model: expected config\.json and model\.safetensors"):
        pretrained.load(tmp_path)


@pytest.mark.parametrize("name", ["nope", "./a/b", "/a/b", "a/b/c"])
def test_an_unknown_name_never_asks_the_hub(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match=f"no model '{name}'"):
        pretrained.load(name)


def test_the_bundled_mini_knows_its_training_puzzles_in_any_disguise():
    found = pretrained.load("mini")
    trained = found.family.parse("...2..32..5..4...21.........6.5.1...")  # the first of `trm train mini`
    unseen = found.family.parse("..15....6.1.2......3.........3.6..21")  # of its test
    turned = trained.reshape(6, 6)[::-1].ravel()
    renamed = np.where(turned > 1, 9 - turned, turned)
    known = pretrained.trained_on(found.folder)
    assert known is not None
    marks = pretrained.marks(found.family, np.stack([trained, renamed, unseen]))
    assert np.isin(marks, known).tolist() == [True, True, False]


def test_bundled_names_can_be_loaded():
    size = 0
    for name in pretrained.bundled_names():
        found = pretrained.load(name)
        assert found.family.length > 0
        # Some are kept in half precision.
        assert {w.dtype for w in found.model.state_dict().values()} == {torch.float32}
        size += sum(path.stat().st_size for path in found.folder.iterdir())
    assert size < 2_000_000  # everybody who installs the package downloads them


def test_load_from_the_hub(folder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download",
        lambda repo, **options: (asked.append((repo, options)), str(folder))[1],
    )
    assert equal(pretrained.load("org/name").model.state_dict(), tiny.model().state_dict())
    files = ["config.json", "model.safetensors", "raw.safetensors", "puzzles.safetensors", "seen.json"]
    files.append("trained-on.npy")
    assert asked == [("org/name", {"revision": None, "allow_patterns": files, "force_download": False})]


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError("offline\nvery"), "offline"), (KeyError(), "KeyError")]
)
def test_a_hub_that_fails(monkeypatch, error, reason):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(
        UserError, match=f"no local folder 'org/name', and the hub did not give it: {reason}$"
    ):
        pretrained.load("org/name")


def test_weights_that_are_not_finite_are_refused(folder):
    broken = tiny.model().state_dict()
    broken["answer_head.weight"][0, 0] = torch.nan
    save_file(broken, folder / "model.safetensors")
    with pytest.raises(
        UserError, match=r"model\.safetensors: answer_head\.weight holds numbers that are not"
    ):
        pretrained.load(folder)
