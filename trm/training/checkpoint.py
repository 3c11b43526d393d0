"""Training state on disk: complete, atomic, and refused when damaged.

A checkpoint is a folder `step-00001234` written by torch.distributed.checkpoint, so that it does not
depend on the number of processes. It holds weights, average, optimizer states, the slots in flight and
the counters: all that a bit-exact continuation needs, and only tensors. A manifest with the size and
hash of every file is checked before anything is loaded, and an index that names anything but tensors is
refused.

A checkpoint is for resuming one's own run. Weights to share are a folder of `pretrained`.
"""

import io
import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import StorageMeta

from trm.errors import UserError, first_line
from trm.files import (
    check_archive,
    full_disk_is_a_user_error,
    new_folder,
    read_json,
    remove_drafts,
    remove_folder,
    sha256,
)

_MANIFEST = "manifest.json"


def steps_saved(folder: Path) -> list[int]:
    """Steps of the complete checkpoints in a folder, oldest first."""
    names = [re.fullmatch(r"step-(\d{8,})", path.name) for path in folder.glob("step-*")]
    return sorted(int(name[1]) for name in names if name)


def tidy(folder: Path) -> None:
    """Clean up after a process that was killed while it saved."""
    remove_drafts(folder, "step-*")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def save(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of a step and delete all but the newest `keep`.

    Raises UserError when the disk is full; the older checkpoints are untouched then.
    """
    saved = steps_saved(folder)
    what = f"the checkpoint of step {step} was not written" + (
        f", the last good one is step {saved[-1]}" if saved else ""
    )
    with full_disk_is_a_user_error(what), new_folder(checkpoint_path(folder, step)) as draft:
        failure = None
        try:
            with _one_process():
                dcp.save(state, checkpoint_id=draft, no_dist=True)
        except CheckpointException as error:  # wraps what each process raised
            failure = next(iter(error.failures.values()))[0]
        if failure is not None:
            raise failure  # outside the handler, so that it keeps its own context
        manifest = {path.name: _fingerprint(path) for path in sorted(draft.iterdir())}
        (draft / _MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    for old in steps_saved(folder)[:-keep]:
        remove_folder(checkpoint_path(folder, old))


def load(folder: Path, state: dict[str, Any]) -> int:
    """Fill `state` (tensors are overwritten in place) from the newest checkpoint; returns its step.

    Raises UserError if there is none, or if it is damaged or of another run, saying what to do.
    """
    saved = steps_saved(folder)
    if not saved:
        raise UserError(f"no checkpoint in {folder}: nothing to resume; start the run again")
    path = checkpoint_path(folder, saved[-1])
    remedy = f"delete {path} to resume from step {saved[-2]}" if len(saved) > 1 else "start the run again"
    try:
        manifest = read_json(path / _MANIFEST)
        files = {each.name: each for each in path.iterdir() if each.is_file()}
        if not isinstance(manifest, dict) or ".metadata" not in manifest:
            raise UserError(f"{_MANIFEST} lists no files")
        damaged = [
            name for name, mark in manifest.items() if name not in files or _fingerprint(files[name]) != mark
        ]
    except (OSError, UserError) as error:
        raise UserError(f"checkpoint {path} is damaged ({error}); {remedy}") from None
    if damaged:
        raise UserError(f"checkpoint {path} is damaged (file {damaged[0]} was changed or cut); {remedy}")
    try:
        _check_parts(path, _read_index(path), manifest.keys())
        with _one_process():
            dcp.load(state, storage_reader=_reader(path), no_dist=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"checkpoint {path} holds more than tensors and was not loaded: {error}") from None
    except (
        Exception,
        CheckpointException,
    ) as error:  # the library fails in many ways at what does not fit, or is damaged
        failures = error.failures if isinstance(error, CheckpointException) else {0: (error, None)}
        reason = first_line(next(iter(failures.values()))[0])
        raise UserError(
            f"checkpoint {path} does not fit this run ({reason}): config.yaml describes another model or "
            "optimizer; restore it, or train into a new folder"
        ) from None
    return saved[-1]


@contextmanager
def _one_process() -> Generator[None]:
    """Silence the library's remark that it works without a process group."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        yield


class _TensorsOnly(pickle.Unpickler):
    """Reads the index of a checkpoint, and nothing that could run code."""

    _ALLOWED = frozenset(
        {
            ("torch.distributed.checkpoint.metadata", "Metadata"),
            ("torch.distributed.checkpoint.metadata", "MetadataIndex"),
            ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"),
            ("torch.distributed.checkpoint.metadata", "TensorProperties"),
            ("torch.distributed.checkpoint.metadata", "ChunkStorageMetadata"),
            ("torch.distributed.checkpoint.metadata", "StorageMeta"),
            ("torch.distributed.checkpoint.metadata", "_MEM_FORMAT_ENCODING"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("pathlib", "PosixPath"),
            ("pathlib", "WindowsPath"),
            ("pathlib._local", "PosixPath"),
            ("pathlib._local", "WindowsPath"),
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        dtype = module == "torch" and name in ("float64", "float32", "bfloat16", "int64", "int32", "bool")
        if not dtype and (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"its index names {module}.{name}")
        return super().find_class(module, name)


def _read_index(path: Path) -> Any:
    index = (path / ".metadata").read_bytes()
    # A few bytes of a pickle may claim any length, and memory is taken before there is anything to read.
    for step, number, _ in pickletools.genops(index):
        if step.name.endswith("PUT") and int(number or 0) > len(index):
            raise ValueError("its index is damaged")
    return _TensorsOnly(io.BytesIO(index)).load()


def _check_parts(path: Path, index: Any, files: Collection[str]) -> None:
    """Raise ValueError for tensors that are said to be anywhere but in these files, or are compressed."""
    for part in index.storage_data.values():
        if part.relative_path not in files:
            raise ValueError(f"its index names {str(part.relative_path)[:40]!r}, which is none of its files")
        with (path / part.relative_path).open("rb") as file:
            file.seek(part.offset)
            check_archive(io.BytesIO(file.read(part.length)))


def _reader(path: Path) -> Any:
    """The library's reader, but with a safe way to read the index, which is a pickle."""

    class Reader(FileSystemReader):
        def read_metadata(self, *args: Any, **kwargs: Any) -> Any:
            metadata = _read_index(path)
            metadata.storage_meta = metadata.storage_meta or StorageMeta()
            metadata.storage_meta.load_id = self.load_id
            return metadata

    return Reader(path)


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}
