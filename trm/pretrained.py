"""Weights to use and to share: a folder of `config.json` and `model.safetensors`.

`model.safetensors` holds the weights to use (the moving average, where the run kept one) and
`raw.safetensors`, when present, the averaged ones as they were without averaging. Where puzzle ids stand
for variants of named puzzles, `puzzles.safetensors` says for which (see `data.variants`) and `seen.json`
what was trained on: embeddings read by another table would be those of other puzzles. `trained-on.npy`
holds marks of all other training puzzles, so that nobody measures on them unawares. Such a folder is a
repository of the Hugging Face hub as it stands; `hub.push` and `load` move it there and back. Nothing in it
is a pickle.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
from pydantic import Field, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor

from trm import device
from trm.config import ComputeConfig, Config, Dtype, FamilyConfig, ModelConfig, parse
from trm.errors import UserError, first_line
from trm.files import full_disk_is_a_user_error, new_folder, read_json
from trm.models import RecursiveModel, check_weights, load_weights, rebuild
from trm.models.wider import widened
from trm.original import models as original
from trm.puzzles import AnyFamily
from trm.puzzles.arc.readers import Seen
from trm.puzzles.arc.variants import Variants
from trm.puzzles.family import Family
from trm.recipe import RunConfig, load_recipe, upgraded

CONFIG, WEIGHTS, _RAW = "config.json", "model.safetensors", "raw.safetensors"
_PUZZLES, _SEEN, _TRAINED_ON = "puzzles.safetensors", "seen.json", "trained-on.npy"
FILES = (CONFIG, WEIGHTS, _RAW, _PUZZLES, _SEEN, _TRAINED_ON)
"""All that a model folder may hold."""
FORMAT = 1


class PretrainedConfig(Config):
    """What `config.json` says: enough to rebuild the model and its family."""

    format: int = FORMAT
    """Version of this layout."""
    family: AnyFamily
    model: ModelConfig
    puzzles: int = Field(1, ge=1, le=2**31)
    """Number of puzzle ids."""
    puzzle_ids: str = ""
    """Hash of the table that says what the ids stand for (`puzzles.safetensors`), where there is one."""
    steps: int = Field(16, gt=0)
    """N_sup, the supervision steps of training, and the default for solving."""
    about: dict[str, Any] = Field(default_factory=dict)
    """How the weights were made: recipe, seed, step, figures."""

    @model_validator(mode="before")
    @classmethod
    def _as_written_now(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        # How the first machine computed is no property of the weights.
        return {name: value for name, value in upgraded(values).items() if name != "compute"}


@dataclass
class Pretrained:
    """A model with its family; `raw` holds the weights without averaging, where the folder has them."""

    config: PretrainedConfig
    model: RecursiveModel
    family: Family
    raw: dict[str, Tensor] | None
    folder: Path

    def variants(self) -> Variants:
        """What the puzzle ids stand for; UserError where the weights have no such table or another one."""
        return _read_variants(self.folder, self.config)

    def seen(self) -> Seen:
        """What was trained on; empty where the folder does not say."""
        return seen(self.folder)

    def save(self, folder: Path) -> None:
        """Write all of it to another folder."""
        named = bool(self.config.puzzle_ids)
        seen = self.seen() if (self.folder / _SEEN).exists() else None
        average = weights(self.model)
        raw = None if self.raw is None else {n: w for n, w in self.raw.items() if not w.equal(average[n])}
        variants = self.variants() if named else None
        save(folder, self.config, average, raw or None, variants, seen, trained_on(self.folder))


def save(
    folder: Path,
    config: PretrainedConfig,
    weights: dict[str, Tensor],
    raw: dict[str, Tensor] | None = None,
    variants: Variants | None = None,
    seen: Seen | None = None,
    trained_on: np.ndarray | None = None,
) -> None:
    """Write the folder as a whole: on any failure (a full disk is a UserError), an older one stays."""
    with full_disk_is_a_user_error(f"{folder} was not written"), new_folder(folder) as draft:
        save_file(weights, draft / WEIGHTS)
        if raw is not None:
            save_file(raw, draft / _RAW)
        if variants is not None:
            variants.save(draft / _PUZZLES)
        if seen is not None:
            seen.save(draft / _SEEN)
        if trained_on is not None:
            np.save(draft / _TRAINED_ON, trained_on)
        text = json.dumps(config.model_dump(mode="json"), indent=2)
        (draft / CONFIG).write_text(text + "\n", encoding="utf-8")


def import_original(
    checkpoint: Path, folder: Path, config: Path | None = None, data: Path | None = None, recipe: str = ""
) -> PretrainedConfig:
    """Write a checkpoint of the original as a model folder; see `original.models.read`.

    `recipe` (a name or a YAML file) says of which family the puzzles are, where their sizes do not. Raises
    UserError where the folder exists, or what is given does not fit.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder: give the name of a new one")
    taken = original.read(checkpoint, config, data, load_recipe(recipe).family if recipe else None)
    made = PretrainedConfig(
        family=taken.recipe.family,
        model=taken.recipe.model,
        puzzles=taken.puzzles,
        puzzle_ids=taken.variants.digest() if taken.variants else "",
        steps=taken.recipe.supervision.steps,
        about=taken.about,
    )
    save(folder, made, taken.weights, None, taken.variants, taken.seen)
    return made


def export_original(
    name: str | Path, checkpoint: Path, dtype: Dtype | None = None, compiled: bool = True
) -> None:
    """Write a model as a checkpoint of the original, with `all_config.yaml`; see `original.models.write`.

    `dtype` is the precision in which the original computes. Default: as in the training of these weights.
    """
    _, config = find(name)
    known = config.about.get("recipe", {})
    here = {"family": config.family.model_dump(), "model": config.model.model_dump(), "data": {}}
    recipe = parse(RunConfig, upgraded(known) | here if known else here, str(name))
    if not known:
        steps = recipe.supervision.model_copy(update={"steps": config.steps})
        recipe = recipe.model_copy(update={"supervision": steps})
    usual = recipe.compute.dtype if known else "bfloat16"
    found = load(name, ComputeConfig(device="cpu", dtype=dtype or usual))
    original.write(checkpoint, found.model, recipe, compiled)


def weights(model: RecursiveModel) -> dict[str, Tensor]:
    """The weights of a model as they are saved."""
    return {name: w.detach().cpu().contiguous() for name, w in model.state_dict().items()}


def check_replaceable(folder: Path) -> None:
    """Raise UserError unless weights may be written there: it is not there, or empty, or holds a model."""
    own = {*FILES, "README.md"}
    if folder.exists() and not (folder.is_dir() and {path.name for path in folder.iterdir()} <= own):
        raise UserError(f"{folder} holds something other than a model: choose another folder")


def find(name: str | Path) -> tuple[Path, PretrainedConfig]:
    """The folder that `load` would load, and its configuration, without the weights."""
    folder = _locate(str(name))
    return folder, _read_config(folder)


def fitting(config: PretrainedConfig, text: str) -> FamilyConfig | None:
    """The boards on which weights solve the puzzle in a text; None where they cannot."""
    family = config.family.build()
    boards = family.resized(text)
    # Four lines of 64 cells have as many as a board of 16x16, and are none.
    if boards is not None or len(text.splitlines()) == 1:
        with contextlib.suppress(UserError):
            family.parse(text)
            return config.family
    if boards is None or not config.model.any_board:
        return None
    # Only candidates know no symbol by its token: other weights need the same vocabulary.
    alike = boards.build().vocab_size == family.vocab_size
    return boards if alike or config.model.kind == "candidates" else None


def that_fit(
    known: Mapping[str, PretrainedConfig], readings: Mapping[str, Sequence[str]]
) -> dict[str, tuple[FamilyConfig, str]]:
    """Of several weights those that solve a puzzle, by name: on which boards, and how the puzzle is read.

    Those come first that learned on boards most like the puzzle's: on just these; then on larger ones, as
    little larger as can be; then on the largest.

    Args:
        known: by the name of weights, what they say of themselves.
        readings: by the same names, what the puzzle may be in a text, the likeliest first.
    """
    found = {
        name: (boards, text)
        for name, config in known.items()
        for text in reversed(readings[name])
        if (boards := fitting(config, text)) is not None
    }

    def unlike(name: str) -> tuple[bool, bool, int]:
        boards, learned = found[name][0], known[name].family
        wanted, cells = boards.build().length, learned.build().length
        return boards != learned, cells < wanted, abs(cells - wanted)

    return {name: found[name] for name in sorted(found, key=unlike)}


def load(
    name: str | Path, compute: ComputeConfig | None = None, boards: FamilyConfig | None = None
) -> Pretrained:
    """Load a folder, a run (its best weights), bundled weights by name, or a hub repository.

    A repository is `org/name`, or `org/name@revision` for a branch, a tag or a commit.

    `compute` says where and how it computes; `boards` (see `fitting`) fits weights that serve boards of every
    size to another one than they were trained on. Raises UserError when there is no such model, when it is
    damaged or of another architecture, or when it cannot be computed like that here.
    """
    folder, config = find(name)
    if boards is not None:
        config = config.model_copy(update={"family": boards})
    settled, remarks = device.pick(compute or ComputeConfig())
    if remarks:
        raise UserError(f"{settled.device} computes only {' and '.join(remarks)}")
    family = config.family.build()
    try:
        weights = _read_weights(folder / WEIGHTS)
    except UserError as error:
        if Path(name).exists() or (repo := _hub_name(str(name))) is None:
            raise
        remedy = f"trm pull {repo[0]} --force" + (f" --revision {repo[1]}" if repo[1] else "")
        raise UserError(f"{error}; download it again with `{remedy}`") from None
    model = rebuild(config.model, family.problem(config.puzzles), weights, str(folder), settled)
    raw = weights | _read_weights(folder / _RAW) if (folder / _RAW).exists() else None
    if raw is not None:
        check_weights(model, raw, str(folder / _RAW))
    return Pretrained(config, model.to(settled.device).eval(), family, raw, folder)


def start_from(model: RecursiveModel, name: str, family: Family, variants: Variants | None) -> Seen:
    """Give a new model the weights of another, and return what that one was trained on.

    Puzzle embeddings go by the names of their puzzles. A variant that the other model knows, of the same
    puzzle and looking the same, keeps its embedding; all others start at the mean. A model of half the width
    gives all that it knows, where `wider` holds. Raises UserError where the models do not fit each other.
    """
    found = load(name)
    theirs, ours = found.config.family.name, family.config.name
    if theirs != ours:
        raise UserError(f"{found.folder} is a model of {theirs}, not of {ours}")
    weights, table = found.model.state_dict(), "embed.puzzle.weight"
    embedded = table in weights and table in model.state_dict()
    known = found.variants() if embedded and variants is not None else None
    try:
        family.check_tokens(found.family)
        shared = list(family.shared_ids(variants, found.family, known)) if variants and known else []
    except UserError as error:
        raise UserError(f"{found.folder}: {error}") from None
    if embedded:
        # Id 0 is no puzzle, unless it is the only one.
        mean_W = weights[table][min(1, found.config.puzzles - 1) :].mean(0)
        new_PW = mean_W.repeat(len(model.state_dict()[table]), 1)
        for old, new in shared:
            if int(old.max()) >= found.config.puzzles:
                raise UserError(f"{found.folder} names more puzzle ids than it has embeddings: it is damaged")
            new_PW[new] = weights[table][old]
        weights[table] = new_PW
    if _twice_as_wide(found.config.model, model.config):
        weights = widened(weights)
    # A head that the other model did not have starts as new.
    fresh = {name: w for name, w in model.state_dict().items() if name.startswith("conflict_head.")}
    load_weights(model, fresh | weights, str(found.folder))
    return found.seen()


def _twice_as_wide(theirs: ModelConfig, ours: ModelConfig) -> bool:
    """Whether our model is theirs with twice the channels, of a kind that can be widened."""
    if theirs.inner is None:  # it follows from the expansion
        return False
    twice = (ours.width, ours.inner) == (2 * theirs.width, 2 * theirs.inner)
    return twice and theirs.any_board


def check_ids(folder: Path, variants: Variants, remedy: str) -> None:
    """Raise UserError, naming both, unless the weights in a folder mean these variants by their ids."""
    config = _read_config(folder)
    if config.puzzle_ids != variants.digest():
        known = _read_variants(folder, config)
        raise UserError(
            f"the puzzle embeddings of {folder} are for other puzzles: they know {_described(known)}, "
            f"the data has {_described(variants)}; {remedy}"
        )


def _described(variants: Variants) -> str:
    return (
        f"{len(variants) - 1} variants of {len(variants.names)} tasks from {variants.names[0]} "
        f"({variants.digest()[:8]})"
    )


def _read_variants(folder: Path, config: PretrainedConfig) -> Variants:
    if not config.puzzle_ids:
        raise UserError(f"{folder} does not say what its puzzle ids stand for: it was trained without names")
    variants = Variants.load(folder / _PUZZLES)
    if variants.digest() != config.puzzle_ids:
        raise UserError(
            f"{folder / _PUZZLES} is the table {variants.digest()[:8]}, but the weights were trained with "
            f"{config.puzzle_ids[:8]}: put back the one that came with them"
        )
    return variants


def seen(folder: Path) -> Seen:
    """What the weights in a folder were trained on; empty where it does not say."""
    return Seen.load(folder / _SEEN) if (folder / _SEEN).exists() else Seen()


def marks(family: Family, tokens_NL: np.ndarray) -> np.ndarray:
    """Marks of puzzles, uint64 [N]: those of puzzles that a symmetry maps to each other are equal."""
    forms = [family.canonical(tokens_L) for tokens_L in tokens_NL]
    digests = b"".join(hashlib.blake2b(form, digest_size=8).digest() for form in forms)
    return np.frombuffer(digests, "<u8")


def trained_on(folder: Path) -> np.ndarray | None:
    """Marks of the puzzles that the weights in a folder were trained on; None where it does not say."""
    path = folder / _TRAINED_ON
    try:
        return np.load(path, allow_pickle=False) if path.exists() else None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from None


def step_of(folder: Path) -> int | None:
    """Training step of the weights in a folder; None where there are none."""
    return _read_config(folder).about.get("step") if (folder / CONFIG).is_file() else None


def download(repo: str, revision: str = "", force: bool = False, more: Sequence[str] = ()) -> Path:
    """Folder of the hub's cache with the files of a model, and `more` where they are there.

    Without a network it is what was downloaded before. Raises UserError where it is not available; `force`
    downloads again what the cache has.
    """
    at = f" at {revision}" if revision else ""
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repo, revision=revision or None, allow_patterns=[*FILES, *more], force_download=force
            )
        )
    except Exception as error:  # the hub client raises many kinds; all mean "not available now"
        raise UserError(
            f"no local folder {repo!r}, and the hub did not give it{at}: {first_line(error)}"
        ) from None


def at_revision(name: str, revision: str) -> str:
    """The name of a hub repository at a revision; UserError for what has none."""
    if Path(name).exists() or "@" in name or _hub_name(name) is None:
        raise UserError(f"{name!r} is not a hub repository org/name: only these have revisions")
    return f"{name}@{revision}"


def bundled_names() -> list[str]:
    """Names of the weights that come with the package."""
    folder = resources.files("trm") / "weights"
    return sorted(path.name for path in folder.iterdir() if (path / CONFIG).is_file())


def _locate(name: str) -> Path:
    path = Path(name)
    for folder in (path, path / "best", path / "last"):
        if (folder / CONFIG).is_file():
            return folder
    if name in bundled_names():
        return Path(str(resources.files("trm") / "weights" / name))
    if path.is_file():
        raise UserError(
            f"{path} is a file, not a model folder; a checkpoint of the original code becomes one by "
            f"`trm import {path} --out MODEL`"
        )
    if (path / original.CONFIG).is_file():
        newest = max(path.glob("step_*"), key=lambda each: each.stat().st_mtime, default=path / "CHECKPOINT")
        raise UserError(
            f"{path} holds checkpoints of the original code; one becomes a model by "
            f"`trm import {newest} --out MODEL`"
        )
    if path.exists():
        raise UserError(f"{path} holds no model: expected {CONFIG} and {WEIGHTS}, or a training run")
    if repo := _hub_name(name):
        return download(*repo)
    raise UserError(
        f"no model {name!r}: give a folder, a hub repository org/name, or bundled weights "
        f"({', '.join(bundled_names()) or 'none'})"
    )


def _hub_name(name: str) -> tuple[str, str] | None:
    """Repository and revision of a name such as `org/name` or `org/name@revision`; None of another one."""
    repo, _, revision = name.partition("@")
    return (repo, revision) if repo.count("/") == 1 and not name.startswith((".", "/")) else None


def _read_config(folder: Path) -> PretrainedConfig:
    path = folder / CONFIG
    values = read_json(path)
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}, but this version of trm reads format {FORMAT}")
    return parse(PretrainedConfig, values, str(path))


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        found = load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the folder is incomplete") from None
    except (
        Exception
    ) as error:  # safetensors and torch fail in several ways, at numbers that one of them lacks
        raise UserError(f"{path} is damaged or no safetensors file: {first_line(error)}") from None
    for name, weight in found.items():
        if not (weight.is_floating_point() and weight.isfinite().all()):
            raise UserError(
                f"{path}: {name} holds numbers that are not finite, so nothing can be computed with it; take "
                "weights of an earlier step"
            )
    return found
