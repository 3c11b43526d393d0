"""Builds a C++ file of this package with the system's compiler, once, and loads it.

The library lies in a cache folder (of XDG_CACHE_HOME or ~/.cache) under a name that stands for everything
it was made from: source, flags, compiler and the processor's instructions. Where that folder cannot be
written, it is built anew for the process.
"""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

COMPILERS = ("c++", "g++", "clang++")
# No -ffast-math: the exponential's rounding must not be simplified away.
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-shared", "-fPIC", "-fno-math-errno"),
    *("-fno-trapping-math", "-fno-signed-zeros", "-ffinite-math-only", "-ffp-contract=fast"),
)
SECONDS = 300


def load(source: Path) -> tuple[ctypes.CDLL | None, str]:
    """The library, or None; and what the compilers that failed had to say."""
    log = ""
    for compiler in filter(None, map(shutil.which, COMPILERS)):
        for flags in ((*FLAGS, "-fopenmp"), FLAGS):
            try:
                return _load(source, [compiler, *flags]), log
            except subprocess.SubprocessError as error:
                log += f"{compiler} {' '.join(flags)}: {error}\n{getattr(error, 'stderr', None) or ''}\n"
            except OSError as error:
                log += f"{compiler} {' '.join(flags)}: {error}\n"
    return None, log or f"no C++ compiler found ({', '.join(COMPILERS)})"


def _load(source: Path, command: list[str]) -> ctypes.CDLL:
    # The macros name the compiler's version and the instructions that -march=native stands for.
    macros = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
    made_from = "\0".join([*command, macros, source.read_text(encoding="utf-8")])
    name = f"{source.stem}-{hashlib.sha256(made_from.encode()).hexdigest()[:20]}.so"
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trm"
        if not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as here:
                _run([*command, str(source), "-o", str(Path(here, name))])
                Path(here, name).replace(folder / name)  # at once: another process may be reading
        return ctypes.CDLL(str(folder / name))
    except (OSError, RuntimeError):  # read-only, mounted noexec, or no home at all
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as here:
            _run([*command, str(source), "-o", str(Path(here, name))])
            return ctypes.CDLL(str(Path(here, name)))  # stays loaded when its file is gone


def _run(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS).stdout
