"""Numba's compiler with a cache that does without a writable installation or home folder.

Compiling takes seconds, so numba keeps its results: beside the source, or in the user's cache folder. Where
it can write to neither (a hardened container) it refuses to work at all. Then a folder in the temporary
directory takes their place, and where that is not available, every process compiles for itself.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called; the result is kept where there is a place for it."""
    compiled = numba.njit(function)
    try:
        compiled.enable_caching()
    except RuntimeError:  # numba found no place that it can write to
        if folder := _own_folder():
            numba.config.CACHE_DIR = str(folder)  # pyrefly: ignore[missing-attribute]
            compiled.enable_caching()
    return compiled


def _own_folder() -> Path | None:
    """A folder in the temporary directory that only this user can write to: what is cached there is run."""
    try:
        folder = Path(tempfile.gettempdir()) / f"trm-numba-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except (OSError, AttributeError):  # nothing is writable; or a system without user ids
        return None
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder if private and os.access(folder, os.W_OK) else None
