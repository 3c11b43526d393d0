"""`trm info`: what there is, and what something is."""

import json as json_text
import os
import platform
import shutil
import textwrap
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

import trm
from trm.commands.common import dump
from trm.config import Config, dump_config
from trm.errors import UserError
from trm.recipe import RunConfig, about_recipe, load_config, load_recipe, recipe_names

if TYPE_CHECKING:
    from trm.pretrained import PretrainedConfig

_PACKAGES = ("torch", "numpy", "numba", "lightning-fabric", "safetensors", "tyro", "pydantic")


def info(name: Positional[str] = "", /, *, full: bool = False, json: bool = False) -> int:
    """List what there is, or say what something is: `trm info mini`, `trm info runs/mini`.

    Without a name: recipes with what they cost, bundled weights, versions and devices (for bug reports).

    For example:
      trm info mini
      trm info runs/mini --json
      trm info puzzles.csv

    Args:
        name: A recipe, bundled weights, a model folder or hub repository, a training run, or a file of
            puzzles.
        full: Show all values of a recipe or a model, as YAML.
        json: Print it as JSON.
    """
    if full and not name:
        raise UserError("--full shows the values of something: trm info NAME --full")
    if full and json:
        raise UserError("give --full or --json, not both")
    if full:
        print("\n".join(dump_config(config).rstrip() for config in _configs(name)))
        return 0
    found = _about(name) if name else _everything()
    if json:
        print(dump(found))
    else:
        _print(found)
    return 0


def machine() -> dict[str, str]:
    """Versions and devices: what a bug report should name."""
    import torch

    devices = [f"cpu ({os.cpu_count()} cores, {torch.get_num_threads()} threads)"]
    devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    devices += ["mps"] * torch.backends.mps.is_available()
    return {
        "trm": trm.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **{name: metadata.version(name) for name in _PACKAGES},
        "devices": ", ".join(devices),
    }


def _everything() -> dict[str, Any]:
    from trm import pretrained

    recipes = {name: about_recipe(name) for name in recipe_names()}
    models = {name: pretrained.find(name)[1] for name in pretrained.bundled_names()}
    return {
        "recipes": {name: {"what": about.what, "cost": about.cost} for name, about in recipes.items()},
        "models": {name: _boards(config) for name, config in models.items()},
        "machine": machine(),
    }


def _about(name: str) -> dict[str, Any]:
    """By kind, what something of that name is: a recipe and weights may share theirs."""
    found: dict[str, Any] = {}
    path = Path(name)
    if name in recipe_names() or name.endswith((".yaml", ".yml")):
        found["recipe"] = _recipe(name)
    if (path / "config.yaml").is_file():
        found["run"] = _run(path)
    if not found and path.exists() and not _holds_model(path):
        found["puzzles"] = _puzzles(name)
    if not found or _holds_model(path) or _is_bundled(name):
        found["model"] = _model(name)
    return found


def _configs(name: str) -> list[Config]:
    from trm import pretrained

    configs: list[Config] = []
    if name in recipe_names() or name.endswith((".yaml", ".yml")):
        configs.append(load_recipe(name))
    elif (Path(name) / "config.yaml").is_file():
        configs.append(load_config(Path(name) / "config.yaml"))
    if not configs or _is_bundled(name):
        configs.append(pretrained.find(name)[1])
    return configs


def _is_bundled(name: str) -> bool:
    from trm import pretrained

    return name in pretrained.bundled_names()


def _holds_model(path: Path) -> bool:
    return any((path / part / "config.json").is_file() for part in ("", "best", "last"))


def _recipe(name: str) -> dict[str, Any]:
    known = about_recipe(name) if name in recipe_names() else None
    return {
        **({"what": known.what, "cost": known.cost} if known else {}),
        **_plan(load_recipe(name)),
        **({"notes": known.notes} if known and known.notes else {}),
        "command": f"trm train {name}",
        "all values": f"trm info {name} --full",
    }


def _plan(config: RunConfig) -> dict[str, Any]:
    """What a run does, in a few lines."""
    model, train, generator = config.model, config.train, config.data.generator()
    counts = ", ".join(f"{count} {name}" for name, count in generator.counts().items()) if generator else ""
    held = f", {config.data.hold_out} held out" if config.data.hold_out else ""
    size = f"width {model.width}, {model.layers} layers, T {model.T}, n {model.n}"
    return {
        "puzzles": _boards(config),
        "data": (config.data.train or f"generated: {counts}") + held,
        "network": f"{model.kind} with {model.mixing}, {size}",
        "training": f"{train.steps:,} steps of {train.batch} rows, {config.optimizer.name}",
        "supervision steps": config.supervision.steps,
    }


def _boards(config: "RunConfig | PretrainedConfig") -> str:
    """The family and its boards in words."""
    options = config.family.model_dump().items()
    values = {name: each for name, each in options if name != "name" and each not in (False, None, ())}
    said = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    any_board = "; boards of every size" if config.model.any_board else ""
    return f"{config.family.name}{': ' if said else ''}{said}{any_board}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_short(each)}" for name, each in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _model(name: str) -> dict[str, Any]:
    from trm import pretrained

    found = pretrained.load(name)
    about = found.config.about
    validation = about.get("validation", {})
    exact = validation.get("exact_accuracy")
    return {
        "folder": str(found.folder),
        "puzzles": _boards(found.config),
        "parameters": sum(weight.numel() for weight in found.model.parameters()),
        "supervision steps": found.config.steps,
        **({"optimizer steps": about["step"]} if "step" in about else {}),
        **({"validation exact": exact, "of puzzles": validation["n"]} if exact is not None else {}),
        "all values": f"trm info {name} --full",
    }


def _run(folder: Path) -> dict[str, Any]:
    config = load_config(folder / "config.yaml")
    lines: dict[str, list[dict[str, Any]]] = {"train": [], "eval": []}
    path = folder / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            values = json_text.loads(line)
            lines[values["kind"]].append(values)
        except (ValueError, KeyError):  # cut short by a kill
            continue
    saved = sorted(int(each.name.removeprefix("step-")) for each in (folder / "checkpoints").glob("step-*"))
    done, steps = saved[-1] if saved else 0, config.train.steps
    best = max(lines["eval"], key=lambda values: values["exact_accuracy"], default=None)
    more = "" if done < steps else f" --train.steps {2 * steps}"
    return {
        "steps": steps,
        "steps done": done,
        **({"loss": lines["train"][-1]["loss"]} if lines["train"] else {}),
        **({"validation exact": best["exact_accuracy"], "at step": best["step"]} if best else {}),
        **_plan(config),
        "resume" if done < steps else "make it longer": f"trm train --resume {folder}{more}",
        "all values": f"trm info {folder} --full",
    }


def _puzzles(name: str) -> dict[str, Any]:
    """What a file or folder of puzzles holds, as far as it shows without knowing the family."""
    from trm import pretrained
    from trm.original import folders as original
    from trm.puzzles import records as reading
    from trm.puzzles.arc import readers

    path = Path(name)
    if original.is_folder(path):
        return {"format": "data folder of the original code", "splits": ", ".join(original.splits(path))}
    if original.is_split(name):
        return {"format": f"split {path.resolve().name} of a data folder of the original code"}
    if path.is_dir() or (path.suffix == ".json" and not _is_array(path)):
        tasks = readers.read(name)
        pairs = {part: sum(len(getattr(task, part)) for task in tasks) for part in ("train", "test")}
        return {
            "format": "ARC",
            "tasks": len(tasks),
            "pairs": f"{pairs['train']} to learn from, {pairs['test']} to be predicted",
        }
    known = {each: pretrained.find(each)[1] for each in pretrained.bundled_names()}
    with reading.opened(path) as lines:
        shown = {each: reading.first(lines, config.family.build()) for each, config in known.items()}
        fits = pretrained.that_fit(known, shown)
        likely = next(iter([*(boards for boards, _ in fits.values()), *(c.family for c in known.values())]))
        found = list(reading.questions(lines, likely.build()))
    if not found:
        raise UserError(f"{name} holds no puzzles")
    sizes = sorted({len(each.text) for each in found})
    names = list(found[0].fields)
    ratings = [int(rating) for each in found if (rating := str(each.fields.get("rating", ""))).isdigit()]
    return {
        "format": f"puzzles with {', '.join(names)}" if len(names) > 1 else "puzzles alone",
        "puzzles": len(found),
        "characters of a question": sizes[0] if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}",
        **({"rating": f"{min(ratings)} to {max(ratings)}"} if ratings else {}),
        "first": found[0].text[:80],
        "bundled weights that fit": ", ".join(fits) or "none",
    }


def _is_array(path: Path) -> bool:
    """Whether a file of JSON is a list, of puzzles, and not an object, of ARC tasks."""
    from trm.puzzles.records import opened

    with opened(path) as lines:
        return next((line.lstrip()[0] == "[" for line in lines if line.strip()), False)


def _print(found: dict[str, Any]) -> None:
    """Sections of names and values, each value beside its name."""
    width = shutil.get_terminal_size((110, 50)).columns
    for section, values in found.items():
        indent = " " * (max(map(len, values)) + 4)
        print(section)
        for name, value in values.items():
            head = f"  {name}".ljust(len(indent))
            lines = textwrap.wrap(_value(name, value), max(30, width - len(indent))) or [""]
            print(head + f"\n{indent}".join(lines))


def _value(name: str, value: Any) -> str:
    match value:
        case dict():
            return "; ".join(value.values())
        case float():
            return f"{100 * value:.2f} %" if name == "validation exact" else f"{value:.4f}"
        case int():
            return f"{value:,}"
    return str(value)
