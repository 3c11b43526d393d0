"""Recursive reasoning models: train, evaluate and solve with TRM and HRM.

    import trm
    solver = trm.load("mini")
    answer = solver.solve(puzzle)[0]

Training and evaluation are functions of the modules of that name: `trm.training.loop.train`,
`trm.inference.evaluate.evaluate`. Names are imported when first used, so that `import trm` does not import
torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trm.config import Effort
    from trm.errors import UserError
    from trm.fitting import fit
    from trm.inference.solver import Answer, Solver, load
    from trm.recipe import RunConfig, load_recipe

__version__ = "0.1.0"
__all__ = ["Answer", "Effort", "RunConfig", "Solver", "UserError", "fit", "load", "load_recipe"]

_HOMES = {
    "Answer": "inference.solver",
    "Effort": "config",
    "RunConfig": "recipe",
    "Solver": "inference.solver",
    "UserError": "errors",
    "fit": "fitting",
    "load": "inference.solver",
    "load_recipe": "recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'trm' has no attribute {name!r}")
    return getattr(importlib.import_module(f"trm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"Any", "TYPE_CHECKING", "importlib"})
