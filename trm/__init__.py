"""Recursive reasoning models: train, evaluate and solve with TRM and HRM.

    import trm
    solver = trm.load("mini")
    answer = solver.solve(puzzle)[0]

Names are imported when first used, so that `import trm` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm.config import RunConfig, load_recipe
    from trm.errors import UserError
    from trm.evaluate import evaluate
    from trm.solver import Answer, Solver, load
    from trm.train import train

__version__ = "0.1.0"
__all__ = ["Answer", "RunConfig", "Solver", "UserError", "evaluate", "load", "load_recipe", "train"]

_HOMES = {
    "Answer": "solver",
    "RunConfig": "config",
    "Solver": "solver",
    "UserError": "errors",
    "evaluate": "evaluate",
    "load": "solver",
    "load_recipe": "config",
    "train": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trm' has no attribute {name!r}")
    # After this import the submodule of the same name would hide the function: bind it for good.
    value = getattr(importlib.import_module(f"trm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
