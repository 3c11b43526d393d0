"""Reading files that anybody may have written, and writing so that no failure leaves half of one behind.

Whoever reads a text reads it here: what is read is bounded, so that no file fills the memory.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

import yaml

from trm.errors import UserError, first_line

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Most bytes of a text that describes something, of one that lists things, and most characters of a line.
# (Reading YAML is slow.)
_YAML, _TEXT, LISTING, _LINE = 2**20, 2**24, 2**28, 2**22


def read_text(path: Path, most: int = _TEXT) -> str:
    """A UTF-8 text; UserError where it cannot be read, is something else, or has more than so many bytes."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size  # 0 of a pipe or a device, which may have no end
            content = file.read((size or most) + 1) if size <= most else None
        if content is not None and len(content) <= most:
            return content.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"cannot read {path}: not a UTF-8 text file ({error.reason})") from None
    except ValueError as error:  # a name that no file can have
        raise UserError(f"cannot read {str(path)!r}: {error}") from None
    raise UserError(f"cannot read {path}: it is larger than {most >> 20} MiB, which no such file should be")


def read_json(path: Path, remedy: str = "", most: int = _TEXT, **options: Any) -> Any:
    """What a JSON file says (`options` as for `json.loads`).

    UserError, with the remedy, as `read_text`, or if it is no JSON.
    """
    end = f"; {remedy}" if remedy else ""
    try:
        return json.loads(read_text(path, most), **options)
    except UserError as error:
        raise UserError(f"{error}{end}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}{end}") from None


class _PlainYaml(yaml.SafeLoader):
    """Plain values, each written where it stands: a few aliases of aliases make billions of values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*name): write the value itself")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> Any:
    """What a YAML file says, without aliases; UserError as `read_text`, or if it is no such YAML."""
    text = read_text(path, _YAML)
    try:
        return yaml.load(text, _PlainYaml)
    # Of dates, numbers and nesting beyond reason it speaks in other ways.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid YAML: {_yaml_fault(error)}") from None


def _yaml_fault(error: Exception) -> str:
    """The place of a fault, where it is known, and what it is."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return first_line(error)
    mark = error.problem_mark
    return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"


def check_archive(file: IO[bytes]) -> None:
    """Raise ValueError for a zip archive whose parts are compressed, or overlap: they could be of any size.

    Files of another kind pass. Torch compresses nothing that it saves.
    """
    if zipfile.is_zipfile(file):
        size, parts = file.seek(0, os.SEEK_END), zipfile.ZipFile(file).infolist()
        if any(each.compress_type for each in parts) or sum(each.file_size for each in parts) > size:
            raise ValueError("it is an archive with compressed parts")
    file.seek(0)


def lines(file: IO[str], name: str) -> Iterator[str]:
    """Lines of an open text with their ends, one by one; UserError if one is endless."""
    while line := file.readline(_LINE + 1):
        if len(line) > _LINE:
            raise UserError(f"{name} has a line of more than {_LINE:,} characters: too long for such a file")
        yield line


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
def held(path: Path, what: str) -> Generator[None]:
    """Hold a file as the mark of one process at work: it is let go when the process ends, however it ends.

    Raises UserError, saying `what` is going on, if another process holds it. Where the file system knows no
    locks, nothing is held.
    """
    with path.open("a", encoding="utf-8") as file:
        # Somebody who only asks holds it for a moment.
        if not any(_lock(file.fileno()) or time.sleep(0.02) for _ in range(5)):
            raise UserError(f"{what} (another process holds {path}): wait for it, or stop it first")
        yield


def is_held(path: Path) -> bool:
    """Whether a process holds the file; False where there is none."""
    try:
        with path.open("rb") as file:
            return not _lock(file.fileno())
    except OSError:
        return False


def _lock(handle: int) -> bool:
    """Lock an open file until it is closed; False if another one has locked it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
    return True


@cache
def git_commit(file: Path) -> str:
    """Commit of the checkout in which a file is kept, with `-dirty` after local changes; empty elsewhere.

    A file that the repository around it does not keep, as that of an installed package, says nothing.
    """
    command = ["git", "-C", str(file.parent)]
    try:
        subprocess.run([*command, "ls-files", "--error-unmatch", file.name], check=True, capture_output=True)
        found = [*command, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(found, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


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
