"""`trm info`: what there is."""

from tyro.conf import Positional

import trm
from trm.config import dump_config
from trm.recipe import load_recipe, recipe_names


def info(name: Positional[str] = "", /) -> int:
    """List recipes and bundled weights, or show one: `trm info mini`, `trm info runs/mini`.

    Args:
        name: A recipe, a model folder, a training run, or bundled weights.
    """
    from trm import pretrained

    if not name:
        print(f"trm {trm.__version__}")
        print("recipes:", ", ".join(recipe_names()))
        print("bundled weights:", ", ".join(pretrained.bundled_names()) or "none")
        return 0
    if name in recipe_names():
        print(dump_config(load_recipe(name)), end="")
    if name not in recipe_names() or name in pretrained.bundled_names():
        found = pretrained.load(name)
        count = sum(p.numel() for p in found.model.parameters())
        print(f"# weights in {found.folder}: {count:,} parameters")
        print(dump_config(found.config), end="")
    return 0
