"""Where puzzles come from: local files, files of the hub pinned by revision and hash, or a generator."""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
import numpy as np

from trm import rng
from trm.config import DataConfig, GeneratorConfig
from trm.data import batches
from trm.errors import UserError, first_line
from trm.files import new_folder, read_json, sha256, write_atomic
from trm.original import arc as original_arc
from trm.original import folders as original
from trm.puzzles import deal
from trm.puzzles.family import Family, TrainingData
from trm.puzzles.records import first_of
from trm.puzzles.table import Puzzles, from_arrays, read_puzzles, write_csv
from trm.recipe import absent, upgraded

MADE_FROM = "made-from.json"


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
    try:
        kind = {"repo_type": "dataset", "revision": known.revision}
        path = Path(huggingface_hub.hf_hub_download(known.repo, known.filename, **kind))
    except Exception as error:  # the hub client raises many kinds; all mean "not available now"
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


def first_question(name: str, family: Family) -> str:
    """The first question of a file or of `hub:NAME`; empty where there is none, as in a data folder."""
    path = locate(name)
    if not path.is_file():
        return ""
    return first_of(path, family)


def read(name: str, family: Family, limit: int | None = None) -> Puzzles:
    """Puzzles of a CSV file, of `hub:NAME`, or of a split of one of the original code's data folders."""
    path = locate(name)
    if original.is_split(str(path)):
        path = path.resolve()  # so that "." has a name
        puzzles = original.read(path.parent, path.name, family).take(slice(limit))
        empty_N = ~puzzles.answers_NL.any(axis=1)
        if empty_N.any():
            raise UserError(
                f"{name}, row {empty_N.argmax()}: no label, so there is nothing to learn or to measure; "
                "build the folder without such rows"
            )
        return puzzles
    if original.is_folder(path):
        splits = ", ".join(original.splits(path))
        raise UserError(f"{path} is a data folder with the splits {splits}: name one, such as {path}/train")
    return read_puzzles(path, family, limit)


def generate(
    config: GeneratorConfig,
    family: Family,
    seed: int,
    progress: Callable[[int], None] = lambda found: None,
    avoid: Sequence[Puzzles] = (),
) -> dict[str, Puzzles]:
    """Generate the splits that the configuration asks for, all essentially different.

    With `avoid` they are also essentially different from those puzzles. `progress` is called with the
    number found so far.
    """
    splits = family.generate(config, seed, _boards(avoid), progress)
    return {name: from_arrays(*arrays) for name, arrays in splits.items()}


def more_like(
    given: Puzzles,
    family: Family,
    count: int,
    seed: int,
    progress: Callable[[int], None] = lambda found: None,
    avoid: Sequence[Puzzles] = (),
) -> Puzzles:
    """Other puzzles made from given ones: see `Family.more_like`."""
    made = family.more_like(given.tokens_NL, given.answers_NL, count, seed, _boards(avoid), progress)
    return from_arrays(*made)


def _boards(puzzles: Sequence[Puzzles]) -> Iterable[np.ndarray]:
    return itertools.chain.from_iterable(each.tokens_NL for each in puzzles)


def prepare(
    config: DataConfig,
    family: Family,
    seed: int,
    folder: Path,
    progress: Callable[[int], None],
    resume: bool = False,
    first_rows: bool = False,
) -> TrainingData:
    """Training and validation puzzles of a run, essentially different from each other.

    Generated puzzles are written to `folder` as CSV and read back from there ever after, so that a resumed
    run sees the same ones even if the generator has changed.

    Args:
        config: where puzzles come from.
        family: what they are.
        seed: of the generator, and of what is held out.
        folder: for generated puzzles; it appears as a whole.
        progress: called with the number of puzzles generated so far.
        resume: nothing is generated, and a folder that is not the run's own is a UserError.
        first_rows: hold out the first rows, as earlier versions did.
    """
    for option, name in absent(config):
        raise UserError(
            f"cannot read {name}, which is data.{option}: there is no such file; {_remedy(option, family)}"
        )
    # What the original's builder has laid out holds variants and all: its rows are trained on as they are.
    given = original.is_split(config.train)
    own = None if given else family.prepare(config, seed)
    if own is not None:
        return own
    if given:
        family.check_rows(config)
        if family.named_ids:
            return _named(config, family, seed)
    if not config.train:
        train, validation = _generated(config, family, seed, folder, progress, resume)
    elif config.validation:
        train, validation = read(config.train, family), read(config.validation, family)
        _refuse_overlap(train, validation, family)
    else:
        train = read(config.train, family)
        train, validation = _held_out(train, config.hold_out, family, seed, first_rows)
    ids = int(max(train.puzzle_N.max(), validation.puzzle_N.max())) + 1
    if config.augments():
        return TrainingData(train, validation, ids, lambda to: batches.random_symmetry(train, family, to))
    return TrainingData(train, validation, ids, lambda to: batches.as_they_are(train, to))


def _remedy(option: str, family: Family) -> str:
    """Where else puzzles of a family come from."""
    ways = [f"give a file with --data.{option} FILE"]
    # Published files are called by their family.
    ways += [f"--data.{option} hub:{name}" for name in HUB_FILES if name.startswith(family.config.name)][:1]
    if family.config.data().generator() is not None:
        ways.append(f"make puzzles with `trm data {family.config.name} --out FOLDER`")
    return ", or ".join(ways)


def _named(config: DataConfig, family: Family, seed: int) -> TrainingData:
    """Rows whose puzzle ids have names, beside the split."""
    train = read(config.train, family)
    home = Path(config.train).resolve().parent
    table = original_arc.variants(home)
    record = original_arc.seen(home, train, table, family)
    validation = train.take(slice(0))
    if config.validation:
        validation = read(config.validation, family)
        _refuse_overlap(train, validation, family)
    elif config.hold_out:
        train, validation = original_arc.hold_out(train, table, config.hold_out, seed)
    chance_N = original_arc.chances(train, table)
    return TrainingData(
        train, validation, len(table), lambda to: batches.as_they_are(train, to), table, record, chance_N
    )


def _generated(
    config: DataConfig,
    family: Family,
    seed: int,
    folder: Path,
    progress: Callable[[int], None],
    resume: bool,
) -> tuple[Puzzles, Puzzles]:
    """Training and validation puzzles of the generator, from the folder where it has written them."""
    generator = config.generator()
    if generator is None:
        raise UserError("no training data: give data.train and data.validation, or data.hold_out")
    if not (generator.train and generator.validation):
        raise UserError(
            "no training data: give data.train and data.validation (CSV files), "
            "or data.generate.train and data.generate.validation (numbers of puzzles)"
        )
    mark = folder / MADE_FROM
    wanted = {
        "family": family.config.model_dump(mode="json"),
        "data": {"generate": generator.model_dump(mode="json")},
        "seed": seed,
    }
    if not mark.exists() or _made_from(mark, family) != wanted:
        if resume:
            fault = "names others" if mark.exists() else "is missing"
            raise UserError(
                f"{folder} does not hold the puzzles that this run was started with: {mark.name} {fault}; "
                "put them back, or train into a new folder"
            )
        _check_ours(folder, {f"{name}.csv" for name in generator.counts()})
        splits = generate(generator, family, seed, progress)
        with new_folder(folder) as draft:
            for name, puzzles in splits.items():
                write_csv(draft / f"{name}.csv", family, puzzles, "generated")
            write_atomic(draft / MADE_FROM, json.dumps(wanted, indent=1))
    return read_puzzles(folder / "train.csv", family), read_puzzles(folder / "validation.csv", family)


def _check_ours(folder: Path, files: set[str]) -> None:
    """Raise UserError unless the folder may be replaced: a run has made it, and nobody put anything in."""
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if odd := sorted(there - files - {MADE_FROM}):
        raise UserError(f"{folder / odd[0]} was not made by a run: choose another folder with --out")
    if there and MADE_FROM not in there:
        raise UserError(
            f"{folder} holds puzzles that no run has made ({MADE_FROM} is missing): give them with "
            "--data.train and --data.validation, or choose another folder with --out"
        )


def _made_from(mark: Path, family: Family) -> dict[str, Any] | None:
    """What generated puzzles were made from, complete; None where the mark is of another family or damaged.

    Options that were added later have their defaults.
    """
    try:
        values = upgraded(read_json(mark))
        config = type(family.config).model_validate(values["family"])
        generator = config.data.model_validate({"generate": values["data"]["generate"]}).generator()
        assert generator is not None  # it has made them
        return {
            "family": config.model_dump(mode="json"),
            "data": {"generate": generator.model_dump(mode="json")},
            "seed": values["seed"],
        }
    except (UserError, ValueError, KeyError, TypeError):
        return None


def _refuse_overlap(train: Puzzles, validation: Puzzles, family: Family) -> None:
    """UserError where a training puzzle is equivalent to one held out: augmentation shows all images."""
    held = {family.canonical(tokens_L) for tokens_L in validation.tokens_NL}
    shared_N = deal.among(map(family.canonical, train.tokens_NL), held)
    if shared_N.any():
        raise UserError(
            f"{shared_N.sum()} training puzzles are equivalent to validation puzzles: "
            "remove them from data.train, or validation says nothing"
        )


def _held_out(
    train: Puzzles, count: int, family: Family, seed: int, first_rows: bool
) -> tuple[Puzzles, Puzzles]:
    """Hold out whole groups, drawn at random, of which the first row is validated on.

    Augmentation shows the model every image of a training puzzle, so none may be held out as well: training
    groups that are equivalent to one held out are left out.
    """
    group_N = np.arange(len(train)) if train.group_N is None or first_rows else train.group_N
    groups, first_G = np.unique(group_N, return_index=True)
    if not 0 < count < len(groups):
        raise UserError(
            f"data.hold_out is {count} of {len(groups)} puzzles: give data.validation, or hold some out"
        )
    order_G = rng.permutation(rng.fold(rng.stream("hold out"), seed), len(groups)).numpy()
    held_G = np.isin(np.arange(len(groups)), np.arange(count) if first_rows else order_G[:count])
    # The members of a group are images of one puzzle: the first of them speaks for all.
    forms = [family.canonical(tokens_L) for tokens_L in train.tokens_NL[first_G]]
    left_out_G = deal.among(forms, [form for form, held in zip(forms, held_G, strict=True) if held])
    if left_out_G.all():
        raise UserError("every training puzzle is equivalent to one held out: give more puzzles")
    kept_N = np.isin(group_N, groups[~left_out_G])
    return train.take(kept_N), train.take(first_G[held_G])


class Record(NamedTuple):
    """What a run trains on and is judged by, for a resumed run to compare."""

    rows: int
    sha256: str


def records(data: TrainingData) -> dict[str, Record]:
    """Numbers and hashes of the training and the validation puzzles."""
    parts = {"train": data.train, "validation": data.validation}
    return {name: Record(len(part), part.digest()) for name, part in parts.items()}
