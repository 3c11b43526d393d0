"""Where puzzles come from: local files, files of the hub pinned by revision and hash, or a generator."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trm.config import DataConfig, GeneratorConfig
from trm.data import batches
from trm.errors import UserError, first_line
from trm.files import sha256, write_atomic
from trm.original import arc as original_arc
from trm.original import folders as original
from trm.puzzles.family import Family, TrainingData
from trm.puzzles.table import Puzzles, from_arrays, read_csv, write_csv
from trm.recipe import upgraded


class HubFile(NamedTuple):
    """A data file of the Hugging Face hub, pinned."""

    repo: str
    revision: str
    filename: str
    sha256: str


_SUDOKU = ("sapientinc/sudoku-extreme", "58942f96baeb572ca3127e2a9e9c70f330783d6b")
_MAZE = ("sapientinc/maze-30x30-hard-1k", "549754de3d67eebe57b6b22c7d226b9412d55b07")
HUB_FILES = {
    "sudoku-extreme/train": HubFile(
        *_SUDOKU, "train.csv", "64b46674db0148e0d73a16346dadeb2b1c00824d3fca3f85b2ae7037f6b4b38e"
    ),
    "sudoku-extreme/test": HubFile(
        *_SUDOKU, "test.csv", "a2fd52aea23d331d5b4ee723c856236e838a9fb9a70e66f4e0e0cf26c338c6a8"
    ),
    "maze-hard/train": HubFile(
        *_MAZE, "train.csv", "25f9e39b5aee16967da41ba63b2d1d75cf608c2360d8a1419d827f9859dbafa0"
    ),
    "maze-hard/test": HubFile(
        *_MAZE, "test.csv", "5120d52088fb3f8036e62e90103808a79ba58847d8601f9451f40991b0903a62"
    ),
}


def locate(name: str) -> Path:
    """A local path for a file name, or for `hub:NAME` (downloaded once, then checked against its hash)."""
    if not name.startswith("hub:"):
        return Path(name)
    known = HUB_FILES.get(name.removeprefix("hub:"))
    if known is None:
        raise UserError(f"unknown hub file {name!r}; known: {', '.join('hub:' + n for n in HUB_FILES)}")
    from huggingface_hub import hf_hub_download

    try:
        path = Path(hf_hub_download(known.repo, known.filename, repo_type="dataset", revision=known.revision))
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had now"
        raise UserError(
            f"cannot download {known.filename} of {known.repo}: {first_line(error)}; "
            "check the network, or pass a local CSV file"
        ) from None
    if (found := sha256(path)) != known.sha256:
        raise UserError(
            f"{path} has sha256 {found[:12]}..., not {known.sha256[:12]}...: "
            "the download is damaged or was changed; delete it and try again"
        )
    return path


def read(name: str, family: Family, limit: int | None = None) -> Puzzles:
    """Puzzles of a CSV file, of `hub:NAME`, or of a split of one of the original code's data folders."""
    path = locate(name)
    if original.is_split(path):
        path = path.resolve()  # so that "." has a name
        return original.read(path.parent, path.name, family).take(slice(limit))
    if original.is_folder(path):
        splits = ", ".join(original.splits(path))
        raise UserError(f"{path} is a data folder with the splits {splits}: name one, such as {path}/train")
    return read_csv(path, family, limit)


def generate(
    config: GeneratorConfig,
    family: Family,
    seed: int,
    progress: Callable[[int], None] = lambda found: None,
    avoid: Puzzles | None = None,
) -> dict[str, Puzzles]:
    """Generate the splits that the configuration asks for, all essentially different.

    With `avoid` they are also essentially different from those puzzles. `progress` is called with the
    number found so far.
    """
    boards = () if avoid is None else avoid.tokens_NL
    splits = family.generate(config, seed, boards, progress)
    return {name: from_arrays(*arrays) for name, arrays in splits.items()}


def prepare(
    config: DataConfig, family: Family, seed: int, folder: Path, progress: Callable[[int], None]
) -> TrainingData:
    """Training and validation puzzles of a run, essentially different from each other.

    Generated puzzles are written to `folder` as CSV and read back from there ever after, so that a
    resumed run sees the same ones even if the generator has changed.
    """
    # What the original's builder has laid out holds variants and all: its rows are trained on as they are.
    given = original.is_split(Path(config.train))
    own = None if given else family.prepare(config, seed)
    if own is not None:
        return own
    if given:
        family.check_rows(config)
    train, validation = _splits(config, family, seed, folder, progress)
    if family.named_ids:  # the names of the ids are beside the split
        home = Path(config.train).resolve().parent
        table = original_arc.variants(home)
        return TrainingData(
            train,
            validation,
            len(table),
            lambda to: batches.as_they_are(train, to),
            table,
            original_arc.seen(home, train, table, family),
            original_arc.chances(train, table),
        )
    ids = int(max(train.puzzle_N.max(), validation.puzzle_N.max())) + 1
    if config.augments():
        return TrainingData(train, validation, ids, lambda to: batches.random_symmetry(train, family, to))
    return TrainingData(train, validation, ids, lambda to: batches.as_they_are(train, to))


def _splits(
    config: DataConfig, family: Family, seed: int, folder: Path, progress: Callable[[int], None]
) -> tuple[Puzzles, Puzzles]:
    """Training and validation puzzles from files or a generator."""
    if config.train:
        train = read(config.train, family)
        validation = read(config.validation, family) if config.validation else None
        return _held_out(train, validation, config.hold_out, family)
    generator = config.generator()
    if generator is None:
        raise UserError("no training data: give data.train and data.validation, or data.hold_out")
    if not (generator.train and generator.validation):
        raise UserError(
            "no training data: give data.train and data.validation (CSV files), "
            "or data.generate.train and data.generate.validation (numbers of puzzles)"
        )
    mark = folder / "made-from.json"
    wanted = {
        "family": family.config.model_dump(mode="json"),
        "data": {"generate": generator.model_dump(mode="json")},
        "seed": seed,
    }
    if not mark.exists() or _made_from(mark, family) != wanted:
        folder.mkdir(parents=True, exist_ok=True)
        for name, puzzles in generate(generator, family, seed, progress).items():
            write_csv(folder / f"{name}.csv", family, puzzles, "generated")
        write_atomic(mark, json.dumps(wanted, indent=1))  # last: what has no mark is made again
    return read_csv(folder / "train.csv", family), read_csv(folder / "validation.csv", family)


def _made_from(mark: Path, family: Family) -> dict[str, Any] | None:
    """What generated puzzles were made from, complete; None where the mark is of another family or damaged.

    Options that were added later have their defaults.
    """
    try:
        values = upgraded(json.loads(mark.read_text(encoding="utf-8")))
        config = type(family.config).model_validate(values["family"])
        generator = config.data.model_validate({"generate": values["data"]["generate"]}).generator()
        assert generator is not None  # it has made them
        return {
            "family": config.model_dump(mode="json"),
            "data": {"generate": generator.model_dump(mode="json")},
            "seed": values["seed"],
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _held_out(
    train: Puzzles, validation: Puzzles | None, hold_out: int, family: Family
) -> tuple[Puzzles, Puzzles]:
    """Split off the first puzzles for validation where there is no file for it.

    Augmentation shows the model every image of a training puzzle, so none may be held out as well:
    training puzzles of a class that is held out are left out, and overlapping files are a UserError.
    """
    given = validation is not None
    if validation is None:
        if not 0 < hold_out < len(train):
            raise UserError(
                f"data.hold_out is {hold_out} of {len(train)} puzzles: give data.validation, or hold some out"
            )
        train, validation = train.take(slice(hold_out, None)), train.take(slice(hold_out))
    held = {family.canonical(tokens_L) for tokens_L in validation.tokens_NL}
    fresh = np.array([family.canonical(tokens_L) not in held for tokens_L in train.tokens_NL])
    if given and not fresh.all():
        raise UserError(
            f"{(~fresh).sum()} training puzzles are essentially the same as validation puzzles: "
            "remove them from data.train, or validation says nothing"
        )
    if not fresh.any():
        raise UserError("every training puzzle is essentially the same as one held out: give more puzzles")
    return train.take(fresh), validation
