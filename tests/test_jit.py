"""Compiled functions work wherever they are installed, and whatever may be written to."""

import os
import subprocess
import sys
from pathlib import Path

import trm

TEXT = """
from trm.jit import njit

@njit
def double(x):
    return 2 * x

@njit
def more(x):
    return double(x) + 1

print(more(20))
"""


def run(folder: Path, temporary: Path) -> int:
    """Call a compiled function that is installed where nothing can be cached, without a home to write to."""
    folder.mkdir(exist_ok=True)
    (folder / "own.py").write_text(TEXT)
    (folder / "__pycache__").touch()  # no folder can be made here, whoever asks
    nowhere = folder / "__pycache__" / "x"
    env = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    env |= {"HOME": str(nowhere), "XDG_CACHE_HOME": str(nowhere), "TMPDIR": str(temporary)}
    env |= {"PYTHONPATH": str(Path(trm.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    code = "import tempfile, sys; tempfile.tempdir = sys.argv[1]; import own"
    done = subprocess.run(
        [sys.executable, "-c", code, temporary], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.stderr == ""
    return int(done.stdout)


def test_functions_are_cached_in_a_folder_of_our_own_where_no_other_is_writable(tmp_path: Path):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    assert run(tmp_path / "package", temporary) == 41
    (cache,) = temporary.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert list(cache.rglob("*.nbi"))
    cache.chmod(0o777)  # others could have put something there, and it would be run
    before = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}
    assert run(tmp_path / "package", temporary) == 41
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == before


def test_functions_are_compiled_anew_where_nothing_at_all_is_writable(tmp_path: Path):
    assert run(tmp_path / "package", tmp_path / "missing") == 41
