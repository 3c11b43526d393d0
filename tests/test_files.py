"""Files: what is left after a failure at any moment."""

import errno
import os
from pathlib import Path

import pytest

from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, new_folder, remove_drafts, write_atomic


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fail_at(monkeypatch, owner: type, name: str, call: int) -> None:
    """Let one call of a method (counted from 1) raise as a full disk does."""
    real, calls = getattr(owner, name), iter(range(1, 100))

    def method(*args, **kwargs):
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, method)


def test_write_atomic_writes_and_replaces(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    write_atomic(path, "neu: ä")
    assert path.read_text(encoding="utf-8") == "neu: ä"
    assert names(tmp_path) == {"a.txt"}


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
def test_write_atomic_keeps_the_old_text_on_failure(tmp_path, monkeypatch, owner, name):
    path = tmp_path / "a.txt"
    path.write_text("old")
    fail_at(monkeypatch, owner, name, 1)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_new_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "deep" / "model"
    with new_folder(path) as draft:
        (draft / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert names(path.parent) == {"model"}
    assert path.stat().st_mode & 0o777 == 0o755
    assert (path / "a").stat().st_mode & 0o777 == 0o644


def test_new_folder_replaces_all_of_the_old(tmp_path):
    path = tmp_path / "model"
    for name in ("a", "b"):
        with new_folder(path) as draft:
            (draft / name).write_text(name)
    assert names(path) == {"b"}
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_new_folder_keeps_the_old_when_the_block_fails(tmp_path, failure):
    path = tmp_path / "model"
    with new_folder(path) as draft:
        (draft / "a").write_text("old")
    with pytest.raises(failure), new_folder(path) as draft:
        (draft / "a").write_text("new")
        raise failure
    assert (path / "a").read_text() == "old"
    assert names(tmp_path) == {"model"}


@pytest.mark.parametrize("call", [1, 2])
def test_new_folder_keeps_the_old_when_a_rename_fails(tmp_path, monkeypatch, call):
    path = tmp_path / "model"
    path.mkdir()
    (path / "a").write_text("old")
    fail_at(monkeypatch, Path, "rename", call)
    with pytest.raises(OSError, match="No space"), new_folder(path) as draft:
        (draft / "a").write_text("new")
    assert (path / "a").read_text() == "old"


def test_a_full_disk_is_a_user_error():
    with pytest.raises(UserError, match="the disk is full: the notes were not written"):  # noqa: SIM117
        with full_disk_is_a_user_error("the notes were not written"):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_really_full_device_is_a_user_error():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(UserError, match="disk is full"), full_disk_is_a_user_error("x"):
        Path("/dev/full").write_text("x")


def test_other_errors_pass():
    with pytest.raises(PermissionError), full_disk_is_a_user_error("x"):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_remove_drafts_restores_and_removes_what_a_kill_left_and_nothing_else(tmp_path):
    for name in (".best.x1.draft", ".last.old", ".model.old", "model", ".git"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_text(name)
    (tmp_path / ".config.yaml.draft").write_text("half")
    (tmp_path / ".gitignore").write_text("*")
    (tmp_path / ".notes.draft").write_text("somebody's own")
    (tmp_path / ".vimrc.old").write_text("too")
    remove_drafts(tmp_path, "best", "last", "model", "config.yaml")
    assert names(tmp_path) == {"model", "last", ".gitignore", ".git", ".notes.draft", ".vimrc.old"}
    assert (tmp_path / "last" / "a").read_text() == ".last.old"  # it was being replaced
    assert (tmp_path / "model" / "a").read_text() == "model"
