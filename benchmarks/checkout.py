"""The code of the original, run from a checkout: as it is, on a CPU, without packages that need CUDA.

`opened` imports its modules under their own names, which are taken back when the block ends. What it imports
and does not need here, or what would need a CUDA device, is stood in for:

    adam_atan2    the equation of version 0.0.3 written out with plain tensors: the package itself is
                  compiled CUDA code, so its rounding is not what is compared here, but its formula
    einops        the one call that permutes named axes
    argdantic, hydra, omegaconf, wandb, coolname    command lines, logging, names of runs: nothing is left
    cuda          `tensor.cuda()` is the tensor, and the device "cuda" is the CPU
"""

import contextlib
import importlib
import io
import math
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm.errors import UserError, first_line

NAME = "SamsungSAILMontreal/TinyRecursiveModels"
# Its folders of modules. They are no regular packages, so that one installed elsewhere would hide them.
_PACKAGES = ("models", "models.recursive_reasoning", "dataset", "evaluators", "utils")
ARC = "kaggle/combined"  # where it keeps the public ARC tasks
_NEEDED = (
    *(f"{ARC}/arc-agi_{s}_{k}.json" for s in ("training", "evaluation") for k in ("challenges", "solutions")),
    "models/layers.py",
    "models/losses.py",
    "models/recursive_reasoning/trm.py",
    "dataset/build_sudoku_dataset.py",
    "dataset/build_maze_dataset.py",
    "dataset/build_arc_dataset.py",
    "evaluators/arc.py",
    "pretrain.py",
    "puzzle_dataset.py",
)


class Original:
    """The original's modules, by their own names, while its checkout is open."""

    def __init__(self, path: Path):
        self.path = path
        self.commit = commit(path)

    def has(self, name: str) -> bool:
        """Whether the checkout has a module of that name."""
        return (self.path / f"{name.replace('.', '/')}.py").is_file()

    def module(self, name: str) -> Any:
        """A module; UserError where it cannot be imported."""
        try:
            return importlib.import_module(name)
        except Exception as error:  # whatever the code of another version does when it is imported
            raise UserError(
                f"cannot import {name} of {self.path}: {first_line(error)}; take a checkout near the commit "
                "that docs/PARITY.md names"
            ) from None

    @contextlib.contextmanager
    def exactly(self, exact: bool) -> Generator[None]:
        """In the block new tensors are float64, and so is what its layers compute in float32 by name.

        Its norms and rotary tables name that type, whatever the type of the rest.
        """
        if not exact:
            yield
            return
        layers, default = self.module("models.layers"), torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        layers.torch = _Torch(float32=torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(default)
            layers.torch = torch


@contextlib.contextmanager
def opened(path: Path) -> Generator[Original]:
    """The original's code at `path`; in the block nothing that it prints is seen.

    The global generator of numpy, which its builders and its loader draw from, is left as it was found.

    Raises:
        UserError: there is no checkout of the original.
    """
    check(path)
    path = path.resolve()
    stand_ins = _stand_ins()
    for name in _PACKAGES:
        stand_ins[name] = ModuleType(name)
        stand_ins[name].__path__ = [str(path / name.replace(".", "/"))]
    before, paths, cuda = dict(sys.modules), list(sys.path), torch.Tensor.cuda
    compiling, random = os.environ.get("DISABLE_COMPILE"), np.random.get_state()  # noqa: NPY002
    for name in _own(path):
        sys.modules.pop(name, None)
    sys.modules.update(stand_ins)
    sys.path[:0] = [
        str(path),
        str(path / "dataset"),
    ]  # its builders are scripts, and import what is beside them
    torch.Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign]
    os.environ["DISABLE_COMPILE"] = "1"
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            original = Original(path)
            original.module("pretrain").torch = _Torch(device=lambda _: torch.device("cpu"))
            yield original
    finally:
        torch.Tensor.cuda = cuda
        np.random.set_state(random)  # noqa: NPY002
        if compiling is None:
            os.environ.pop("DISABLE_COMPILE")
        else:
            os.environ["DISABLE_COMPILE"] = compiling
        sys.path[:] = paths
        for name in {*_own(path), *stand_ins}:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


def check(path: Path) -> None:
    """UserError unless there is a checkout of the original."""
    if missing := next((name for name in _NEEDED if not (path / name).is_file()), None):
        raise UserError(
            f"{path} is not a checkout of {NAME}: it has no {missing}; clone that repository of GitHub"
        )


def commit(path: Path) -> str:
    """The commit that is checked out, with a + where files were changed since; "unknown" without git."""
    git = ["git", "-C", str(path)]
    try:
        found = subprocess.run(
            [*git, "rev-parse", "--short=7", "HEAD"], capture_output=True, text=True, check=True
        )
        changed = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip() + ("+" if changed else "")


def _own(path: Path) -> set[str]:
    """Names under which the modules of a checkout are imported, all of them."""
    places = {"": path, **{f"{name}.": path / name.replace(".", "/") for name in _PACKAGES}}
    names = {prefix + file.stem for prefix, place in places.items() for file in place.glob("*.py")}
    return names | {file.stem for file in places["dataset."].glob("*.py")}


class _Torch(ModuleType):
    """The module torch, in which some names mean something else."""

    def __init__(self, **changed: Any):
        super().__init__("torch")
        vars(self).update(changed)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


# What stands in for packages.


def _stand_ins() -> dict[str, ModuleType]:
    contents: Mapping[str, Mapping[str, Any]] = {
        "adam_atan2": {"AdamATan2": PlainAdamATan2},
        "argdantic": {"ArgParser": _CommandLine},
        "coolname": {},
        "einops": {"rearrange": permuted},
        "hydra": {"main": lambda **_: lambda function: function},
        "omegaconf": {"DictConfig": dict},
        "wandb": {},
    }
    made = {name: ModuleType(name) for name in contents}
    for name, values in contents.items():
        vars(made[name]).update(values)
    return made


class _CommandLine:
    """Takes the place of a parser whose commands are only ever called from Python."""

    def command(self, **_: Any) -> Any:
        return lambda function: function


def permuted(tensor: Tensor, pattern: str) -> Tensor:
    """The tensor with its axes in another order, as in "B S H D -> B H S D"."""
    old, new = (side.split() for side in pattern.split("->"))
    return tensor.permute([old.index(axis) for axis in new])


class PlainAdamATan2(torch.optim.Optimizer):
    """The optimizer's equation, once more and in the plainest form, so that ours has something to agree with.

    With the gradient g, its mean m and the mean v of its square, both started at 0, at step t from 1:

        m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
        p = p (1 - lr wd) - lr / (1 - b1^t) atan2(m, sqrt(v / (1 - b2^t)))
    """

    def __init__(self, params: Any, lr: float, betas: tuple[float, float], weight_decay: float):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            lr, (b1, b2) = group["lr"], group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                t, m, v = self.state[p].get("means", (0, torch.zeros_like(p), torch.zeros_like(p)))
                t, m, v = t + 1, b1 * m + (1 - b1) * p.grad, b2 * v + (1 - b2) * p.grad**2
                self.state[p]["means"] = t, m, v
                update = torch.atan2(m, v.sqrt() / math.sqrt(1 - b2**t))
                p.copy_(p * (1 - lr * group["weight_decay"]) - lr / (1 - b1**t) * update)
