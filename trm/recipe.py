"""A run on one page: the shared sections, and those of its family of puzzles.

Recipes are YAML files of this shape, and so is the `config.yaml` of every run. This module imports neither
torch nor numpy, so that the command answers at once.
"""

import difflib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator, model_validator
from tyro.conf import arg

from trm.config import (
    ComputeConfig,
    Config,
    DataConfig,
    EmaConfig,
    FamilyConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    SupervisionConfig,
    TrainConfig,
    option_names,
    parse,
)
from trm.errors import UserError
from trm.files import read_yaml
from trm.puzzles import FAMILIES, AnyFamily, config_classes


class RunConfig(Config):
    """Everything that decides the result of a run."""

    name: str = "run"
    """Name of the run, shown in logs."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of initial weights, data order, augmentation and exploration."""
    family: AnyFamily
    data: SerializeAsAny[DataConfig]
    model: ModelConfig = ModelConfig()
    compute: Annotated[ComputeConfig, arg(name="")] = ComputeConfig()
    supervision: SupervisionConfig = SupervisionConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema: EmaConfig = EmaConfig()
    train: TrainConfig = TrainConfig()

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """The default family is the first one; a family gives its section `data` its class."""
        if not isinstance(values, Mapping):
            return values
        return {"family": {"name": next(iter(FAMILIES))}, "data": {}} | upgraded(values)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.supervision.conflicts != self.model.conflict_head:
            raise ValueError(
                "model.conflict_head learns from supervision.decisions or supervision.contradictions: set it "
                "with one of them, or none of the three"
            )
        return self

    @field_validator("data", mode="before")
    @classmethod
    def _of_the_family(cls, values: Any, info: ValidationInfo) -> Any:
        family = info.data.get("family")
        if family is None:  # it is at fault itself, and its fault is the one to report
            return DataConfig()
        if isinstance(values, Mapping):
            _refuse_options_of_others(values, family)
        return family.data.model_validate(values)


def _refuse_options_of_others(values: Mapping[str, Any], family: FamilyConfig) -> None:
    """Raise ValueError for an option that another family has, which says more than "unknown"."""
    others = {name: option_names(kind.data) for name, kind in config_classes().items()}
    known = others[family.name]
    given = [name for name in values if name != "generate"]
    generate = values.get("generate")
    if isinstance(generate, Mapping):
        given += [f"generate.{name}" for name in generate]
    for option in given:
        owners = [name for name, options in others.items() if option in options]
        if option not in known and owners:
            raise ValueError(
                f"{option} is for {' and '.join(owners)}, and would do nothing for {family.name}"
            )


# --- Files of earlier versions
#
# The family was called `task`, and the options of all families stood together in the section `data`. A
# complete configuration (config.yaml of a run, config.json of weights) lists them all, whatever the family,
# each with the default that it had. How a machine computes was said in the sections `model` and `train`.

_ONCE_SHARED: dict[str, tuple[str, Any]] = {  # its place in the section `data` now; its old default
    "generate_train": ("generate.train", 0),
    "generate_validation": ("generate.validation", 0),
    "generate_test": ("generate.test", 0),
    "extra_clues": ("generate.extra_clues", 0),
    "min_guesses": ("generate.min_guesses", 0),
    "max_guesses": ("generate.max_guesses", 1_000_000),
    "min_path": ("generate.min_path", 2),
    "augment": ("augment", True),
    "demonstrations": ("demonstrations", ""),
    "tasks": ("tasks", []),
    "hold_out_variants": ("hold_out_variants", 0),
    "allow_leaks": ("allow_leaks", False),
}


_ONCE_ELSEWHERE = {"model": ("dtype", "compile", "kernels"), "train": ("cuda_graph",)}  # in `compute` now


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a run, of weights or of generated data in the form that this version writes."""
    new = dict(values)
    for section, options in _ONCE_ELSEWHERE.items():
        old = new.get(section)
        if isinstance(old, Mapping) and (moved := {name: old[name] for name in options if name in old}):
            new[section] = {name: value for name, value in old.items() if name not in moved}
            new["compute"] = _filled(new.get("compute", {}), moved)
    if "task" in new:
        new.setdefault("family", new.pop("task"))
        if isinstance(new.get("model"), Mapping):
            new["model"] = _upgraded_model(new["model"])
        compute = new.get("compute")
        if isinstance(compute, Mapping) and isinstance(compiled := compute.get("compile"), bool):
            new["compute"] = dict(compute) | {"compile": "block" if compiled else "none"}
    family, data = new.get("family"), new.get("data")
    if not isinstance(data, Mapping):
        return new
    name = family.get("name") if isinstance(family, Mapping) else next(iter(FAMILIES))
    kind = config_classes().get(str(name))
    known = option_names(kind.data) if kind else []
    sections: dict[str, dict[str, Any]] = {"": {}}
    for option, value in data.items():
        if not isinstance(option, str):
            return new
        place, default = _ONCE_SHARED.get(option, (option, None))
        if option in _ONCE_SHARED and place not in known and value == default:
            continue  # listed for the sake of another family
        section, _, place = place.rpartition(".")
        sections.setdefault(section, {})[place] = value
    for section in sections.keys() - {""}:
        sections[""][section] = _filled(sections[""].get(section, {}), {}, sections[section])
    new["data"] = sections[""]
    return new


def _filled(section: Any, defaults: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> Any:
    """A section with values under and over its own; what is none stays, to be refused by name."""
    return {**defaults, **section, **(changes or {})} if isinstance(section, Mapping) else section


def _upgraded_model(values: Mapping[str, Any]) -> dict[str, Any]:
    """The mixer was listed with positions that it never had."""
    new = dict(values)
    if new.get("mixing", "attention") != "attention" and new.get("positions") == "rope":
        new["positions"] = "none"
    return new


# --- Reading recipes


def load_config(path: Path) -> RunConfig:
    """Read a `RunConfig` from a YAML file."""
    values = read_yaml(path)
    config = parse(RunConfig, {} if values is None else values, str(path))
    return _renamed(config, lambda name: _beside(name, path.parent))


def located(config: RunConfig, folder: Path) -> RunConfig:
    """The configuration for a file in a folder: paths are named from there, so that both can be moved."""
    home = Path.cwd() / folder.parent

    def name_from(name: str) -> str:
        path = Path(name)
        if not name or not path.exists() or (path.is_absolute() and not path.is_relative_to(home)):
            return name  # what lies elsewhere does not move with the folder
        return os.path.relpath(name, folder)

    return _renamed(config, name_from)


def absent(data: DataConfig) -> Iterator[tuple[str, str]]:
    """Options that name files, and names of files that are not there; `hub:` and the like are no files."""
    for option in data.paths:
        for name in filter(None, map(str.strip, getattr(data, option).split(","))):
            if ":" not in name and not Path(name).exists():
                yield option, name


def _beside(name: str, folder: Path) -> str:
    """A path that a file in a folder names: from there if it is there, else from where the command runs."""
    there = name and not Path(name).is_absolute() and (folder / name).exists()
    return os.path.normpath(folder / name) if there else name


def _renamed(config: RunConfig, rename: Callable[[str], str]) -> RunConfig:
    """The configuration with other names of all files and folders, where they are several one by one."""

    def several(names: str) -> str:
        return ",".join(rename(name.strip()) for name in names.split(",")) if names else names

    data = {option: several(getattr(config.data, option)) for option in config.data.paths}
    train = {"start_from": rename(config.train.start_from)}
    return config.model_copy(
        update={"data": config.data.model_copy(update=data), "train": config.train.model_copy(update=train)}
    )


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("trm") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str) -> RunConfig:
    """Load a recipe by name, or from a YAML file when the name ends in .yaml."""
    if name.endswith((".yaml", ".yml")):
        return load_config(Path(name))
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UserError(f"unknown recipe {name!r}; {hint}recipes: {', '.join(names)}")
    return load_config(Path(str(resources.files("trm") / "recipes" / f"{name}.yaml")))


class About(NamedTuple):
    """What the comment at the top of a recipe says."""

    what: str
    cost: str
    notes: str


def about_recipe(name: str) -> About:
    """What a recipe that comes with the package is for, and what it costs."""
    found = {"What": "", "Cost": ""}
    notes = []
    lines = (resources.files("trm") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    for line in itertools.takewhile(lambda line: line.startswith("#"), lines):
        key, _, value = line[1:].strip().partition(": ")
        if key in found:
            found[key] = value
        else:
            notes.append(line[1:].strip())
    return About(found["What"], found["Cost"], " ".join(notes))
