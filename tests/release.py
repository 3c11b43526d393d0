"""Build the package and try it where nothing else of the checkout is.

    python tests/release.py python3.11 python3.12

An argument is an interpreter, for which a fresh environment is made (in build/release) and all that the wheel
needs is installed; or the folder of an environment that has all of it already, and gets the wheel alone.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUDOKU = "..15....6.1.2......3.........3.6..21"


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def run(environment: Path, *command: str, cwd: Path) -> str:
    """What a program of an environment prints, in a folder outside the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = environment / "bin" / command[0]
    done = subprocess.run([program, *command[1:]], cwd=cwd, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def install(environment: Path, *what: str) -> None:
    """Install into an environment with the pip of this one."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "--python", str(environment / "bin" / "python"), "install", *what], check=True)


def try_out(environment: Path, folder: Path) -> None:
    """What a user does first, with the package as it is installed."""
    where = run(environment, "python", "-c", "import trm; print(trm.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(environment.resolve()), where
    assert "solved, and the rules confirm it" in run(environment, "trm", "solve", SUDOKU, cwd=folder)
    train = ("trm", "train", "tiny", "--train.steps", "6", "--train.checkpoint-every", "3", "--out", "run")
    run(environment, *train, "--stop-after", "3", cwd=folder)
    assert "finished 6 steps" in run(environment, "trm", "train", "--resume", "run", cwd=folder)
    assert "exact" in run(environment, "trm", "eval", "run", "--data", "run/data/test.csv", cwd=folder)
    assert "sudoku-9x9" in run(environment, "trm", "info", cwd=folder)
    assert run(environment, "trm", "completion", "bash", cwd=folder).startswith("#")


def main(wanted: list[str]) -> None:
    """Try every interpreter or environment."""
    place = ROOT / "build" / "release"
    shutil.rmtree(place, ignore_errors=True)
    wheel, sdist = build(place)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes")
    for each in wanted:
        environment = Path(each)
        if (environment / "pyvenv.cfg").exists():
            install(environment.resolve(), "--no-deps", "--force-reinstall", str(wheel))
        else:
            environment = place / Path(each).name
            subprocess.run([each, "-m", "venv", str(environment)], check=True)
            constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
            install(
                environment, next(line for line in constraints.splitlines() if line.startswith("torch=="))
            )
            install(environment, "--constraint", str(ROOT / "constraints.txt"), str(wheel))
        with tempfile.TemporaryDirectory() as folder:
            try_out(environment.absolute(), Path(folder))
            about = run(environment.absolute(), "python", "--version", cwd=Path(folder))
        print(f"{each}: {about.strip()}: installed, solved, trained, resumed, measured")


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
