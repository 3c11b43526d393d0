"""Writing files so that a crash, a kill or a full disk never leaves half of one behind."""

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from trm.errors import UserError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def full_disk_is_a_user_error(what: str) -> Generator[None]:
    """Turn "no space left" into a UserError that says what was being written."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        # Libraries fail in their own ways after the write has failed: look for what came first.
        first: BaseException | None = error
        while first is not None:
            if isinstance(first, OSError) and first.errno in _FULL:
                raise UserError(f"the disk is full: {what}; free some space and try again") from error
            first = first.__cause__ or first.__context__
        raise


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file as a whole: readers see the old or the new one, never a part. Text becomes UTF-8."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path) -> Generator[Path]:
    """A folder that appears at `path` when the block has written all of it, replacing an older one.

    Everything is written beside it and synced first; on any failure the old folder stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".draft"))
    try:
        yield draft
        for file in draft.iterdir():
            file.chmod(0o644)
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        draft.chmod(0o755)
        _sync_folder(draft)
        if path.exists():
            # Two renames: killed between them, `remove_drafts` puts the old folder back.
            old = path.with_name(f".{path.name}.old")
            path.rename(old)
            try:
                draft.rename(path)
            except BaseException:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            draft.rename(path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Keep a folder to oneself, making it if it is not there; UserError where another process has it.

    The system keeps the lock and gives it up with the process, however that ends; no file stays behind. A
    folder that was made here and is still empty at the end is taken away again. (Network folders that know no
    locks are not kept.)
    """
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is at work on {folder}: wait for its end, or choose another folder"
            ) from None
        except OSError:
            pass
        yield
    finally:
        if made:
            with suppress(OSError):  # it holds something by now
                folder.rmdir()
        os.close(handle)


def sha256(path: Path) -> str:
    """Hash of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def drafts(folder: Path, *names: str) -> list[Path]:
    """What a killed process may have left of files and folders of these names (patterns of `glob`).

    Everything else in the folder is somebody's own, whatever it is called.
    """
    found = [path for name in names for ends in ("old", "draft") for path in folder.glob(f".{name}.{ends}")]
    found += [path for name in names for path in folder.glob(f".{name}.*.draft") if path.is_dir()]
    return list(dict.fromkeys(found))


def remove_drafts(folder: Path, *names: str) -> None:
    """Clean up after a killed process: restore folders that were being replaced, delete drafts."""
    for path in drafts(folder, *names):
        if path.suffix == ".old" and not (whole := folder / path.name[1:].removesuffix(".old")).exists():
            path.rename(whole)
        else:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_folder(path: Path) -> None:
    """Delete a folder so that it is never seen half there."""
    draft = path.with_name(f".{path.name}.draft")
    path.rename(draft)
    shutil.rmtree(draft)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
