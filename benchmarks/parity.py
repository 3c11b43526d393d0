"""Agreement with the published code, measured: a checkout of the original runs beside this library.

    python benchmarks/parity.py --original TinyRecursiveModels [--only folders steps training votes] [--json]

    folders    what its builders write, read here row by row, and written here file by file
    steps      16 supervision steps of the same weights: logits and halting logits
    training   40 optimizer steps on the same batches: losses, weights and their moving average
    votes      pass@k and submission.json of its ARC evaluator, of the same predictions

Everything runs on a CPU at tiny sizes, in float32 and in float64, where rounding hides nothing. A recursive
network amplifies rounding, so the original also runs beside itself with every weight moved by one unit in the
last place: where that moves it further than a fixed bound, MARGIN times as far is allowed, and nothing is
judged any more from where it parts from itself (TELLING). What stands in for packages that need CUDA is said
in `checkout.py`. Exit code 1 if anything is further apart than allowed.

Shapes: N rows, L tokens, B batch, S positions, D width.
"""

import itertools
import json as json_module
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import checkout
import numpy as np
import torch
import tyro
from checkout import Original
from rich.console import Console
from rich.table import Table
from torch import Tensor

from trm.config import EmaConfig, OptimizerConfig, TrainConfig
from trm.contest.predict import KS
from trm.contest.voting import Prediction, pass_at, rank, submission
from trm.data import sources
from trm.data.batches import Batch
from trm.errors import UserError
from trm.models import RecursiveModel, State
from trm.original import arc as original_arc
from trm.original import folders as original_folders
from trm.original.checkpoints import build_original, describe, strip, to_original
from trm.puzzles.arc import readers
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask, Pair
from trm.puzzles.arc.variants import Variants, transform, undo
from trm.puzzles.family import Family
from trm.puzzles.maze.config import MazeConfig, MazeGeneratorConfig
from trm.puzzles.maze.family import Maze
from trm.puzzles.sudoku.config import SudokuConfig, SudokuGeneratorConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.symmetry import turn
from trm.puzzles.table import Puzzles, read_puzzles, write_csv
from trm.recipe import RunConfig
from trm.terminal import bar
from trm.training.optim import Ema, Optimizer
from trm.training.step import TrainingStep

Part = Literal["folders", "steps", "training", "votes"]
MARGIN, TELLING = 10, 1e-3
ROWS, TASKS, AUGMENTED = 6, 3, 8
SUPERVISION_STEPS, OPTIMIZER_STEPS, BATCH, WARMUP = 16, 40, 8, 10
_EPOCHS = 30  # of the groups of a training folder: enough batches for all steps


class Row(NamedTuple):
    """One line of the table: how far ours is from the original, and how far it may be."""

    part: Part
    what: str
    compared: str
    difference: float | None
    """Items that differ, or the largest difference relative to the largest value; None: not compared."""
    allowed: float | None = 0.0
    """None: not judged, as rounding decides."""
    itself: float | None = None
    """The same between the original and itself, with weights moved by one unit in the last place."""

    @property
    def ok(self) -> bool:
        """Whether it is as near as it must be; what is no number is not."""
        return self.difference is None or self.allowed is None or self.difference <= self.allowed


# --- Folders


def folders(original: Original, home: Path, seed: int) -> Iterator[Row]:
    """What the builders of Sudoku, mazes and ARC write, read and written by ours."""
    yield from _folder_of_boards(original, home / "sudoku", Sudoku(SudokuConfig()), seed)
    yield from _folder_of_boards(original, home / "maze", Maze(MazeConfig(height=12, width=12)), seed)
    yield from _folder_of_arc(original, home / "arc", seed)


def _folder_of_boards(original: Original, home: Path, family: Sudoku | Maze, seed: int) -> Iterator[Row]:
    """A family whose puzzles have no ids: CSV files go in, with all the augmentation that the builder has."""
    is_maze = family.config.name == "maze"
    wanted = MazeGeneratorConfig if is_maze else SudokuGeneratorConfig
    made = sources.generate(wanted(train=ROWS, test=ROWS), family, seed)
    home.mkdir()
    for split in ("train", "test"):
        write_csv(home / f"{split}.csv", family, made[split], "generated")
    builder = original.module(f"build_{family.config.name}_dataset")
    builder.hf_hub_download = lambda _, name, repo_type: str(home / name)
    builder.tqdm = iter
    augmentation = {"aug": True} if is_maze else {"num_aug": AUGMENTED - 1}
    np.random.seed(seed)  # noqa: NPY002 (the generator that the builder draws from)
    builder.preprocess_data(builder.DataProcessConfig(output_dir=str(home / "theirs"), **augmentation))

    found = {split: original_folders.read(home / "theirs", split, family) for split in ("train", "test")}
    wrong = abs(len(found["train"]) - ROWS * AUGMENTED) + abs(len(found["test"]) - ROWS)
    for split, variants in (("train", AUGMENTED), ("test", 1)):
        source = read_puzzles(home / f"{split}.csv", family)
        rows = zip(found[split].tokens_NL, found[split].answers_NL, strict=True)
        for number, (tokens_L, answer_L) in enumerate(rows):
            puzzle, variant = divmod(number, variants)
            given = source.tokens_NL[puzzle], source.answers_NL[puzzle]
            if is_maze:
                given = tuple(turn(each.reshape(family.board), variant).ravel() for each in given)
            if is_maze or variant == 0:
                same = np.array_equal(tokens_L, given[0]) and np.array_equal(answer_L, given[1])
            else:
                same = family.canonical(tokens_L) == family.canonical(given[0])
                same &= family.verify(tokens_L, answer_L) is True
            wrong += not same
    name = family.config.name.capitalize()
    yield Row("folders", f"{name}: its folder, read", f"{sum(map(len, found.values()))} rows", wrong)
    yield from _written(original, home, family, found, name, ["<blank>"], seed)


def _folder_of_arc(original: Original, home: Path, seed: int) -> Iterator[Row]:
    folder, family = arc_folder(original, home, seed), Arc(ArcConfig())
    table = original_arc.variants(folder)
    found = {split: original_folders.read(folder, split, family) for split in ("train", "test")}
    raw = {
        subset: json_module.loads((home / f"few_{subset}_challenges.json").read_text()) for subset in _SUBSETS
    }
    tasks = {task.name: task for subset in _SUBSETS for task in _tasks(home, subset)}
    wrong = 0
    for split, puzzles in found.items():
        for puzzle in np.unique(puzzles.puzzle_N):
            name = _task_name(table, puzzle)
            # Of a task that is trained on whole, the builder takes pairs in the order of the file.
            kinds = [split] if name in raw["evaluation"] else list(raw["training"][name])
            pairs = [pair for kind in kinds for pair in getattr(tasks[name], kind)]
            rows = np.flatnonzero(puzzles.puzzle_N == puzzle)
            wrong += abs(len(rows) - len(pairs))
            places = set()
            for row, pair in zip(rows, pairs, strict=False):
                canvas_SS = puzzles.tokens_NL[row].reshape(family.side, family.side)
                place = tuple(int(np.flatnonzero(canvas_SS.any(axis))[0]) for axis in (1, 0))
                places.add(place)
                way = table.dihedral_P[puzzle], table.colours_PC[puzzle]
                ours = [
                    to_canvas(transform(grid, *way), family.side, *place) for grid in pair if grid is not None
                ]
                theirs = puzzles.tokens_NL[row], puzzles.answers_NL[row]
                wrong += not all(map(np.array_equal, ours, theirs))
            wrong += (0, 0) not in places or (split == "test" and len(places) > 1)
    yield Row("folders", "ARC: its folder, read", f"{sum(map(len, found.values()))} rows", wrong)
    asked = {task.name: task for task in readers.read(str(folder))}
    expected = {name: tasks[name] for name in raw["evaluation"]}
    wrong = len(asked.keys() ^ expected.keys())
    wrong += sum(not _same_task(asked[name], expected[name]) for name in asked.keys() & expected.keys())
    yield Row("folders", "ARC: test_puzzles.json, read", f"{len(expected)} tasks", wrong)
    names = json_module.loads((folder / "identifiers.json").read_text())
    yield from _written(original, home, family, found, "ARC", names, seed)


def _written(
    original: Original,
    home: Path,
    family: Family,
    found: Mapping[str, Puzzles],
    name: str,
    identifiers: Sequence[str],
    seed: int,
) -> Iterator[Row]:
    """Rows read from `home/theirs`, written again: every file, and what the loader makes of them."""
    theirs, ours = home / "theirs", home / "ours"
    groups = {split: np.load(theirs / split / "all__group_indices.npy") for split in found}
    original_folders.write(ours, found, family, groups, identifiers)
    files = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    files = [file for file in files if file.name != "test_puzzles.json"]  # rows do not hold whole tasks
    wrong = sum(not _same_file(theirs / file, ours / file) for file in files)
    yield Row("folders", f"{name}: its folder, written", f"{len(files)} files", wrong)
    batches = [list(_batches(original, folder, seed)) for folder in (theirs, ours)]
    wrong = abs(len(batches[0]) - len(batches[1]))
    wrong += sum(
        any(not torch.equal(one[field], other[field]) for field in one)
        for one, other in zip(*batches, strict=False)
    )
    yield Row("folders", f"{name}: ours, in its loader", f"{len(batches[0])} batches", wrong)


def _same_file(theirs: Path, ours: Path) -> bool:
    """Whether files mean the same; integers may have another width.

    Its builders count groups as `total_puzzles` where these are Sudokus or mazes, and variants where they are
    ARC tasks; ours counts variants. Nothing depends on it.
    """
    if not ours.is_file():
        return False
    if theirs.suffix == ".npy":
        return np.array_equal(np.load(theirs), np.load(ours))
    values = [json_module.loads(path.read_text()) for path in (theirs, ours)]
    for each in values:
        if isinstance(each, dict):
            each.pop("total_puzzles")
    return values[0] == values[1]


_SUBSETS = ("training", "evaluation")


def arc_folder(original: Original, home: Path, seed: int) -> Path:
    """The folder that the builder makes of a few tasks; those of the evaluation set are to be predicted."""
    folder = home / "theirs"
    if folder.exists():
        return folder
    home.mkdir()
    for subset in _SUBSETS:
        files = {kind: f"arc-agi_{subset}_{kind}.json" for kind in ("challenges", "solutions")}
        known = {
            k: json_module.loads((original.path / checkout.ARC / f).read_text()) for k, f in files.items()
        }
        names = sorted(known["challenges"])
        several = [name for name in names if len(known["challenges"][name]["test"]) > 1]
        for kind, values in known.items():
            chosen = {name: values[name] for name in {*names[:TASKS], several[0]}}
            (home / f"few_{subset}_{kind}.json").write_text(json_module.dumps(dict(sorted(chosen.items()))))
    builder = original.module("dataset.build_arc_dataset")
    config = builder.DataProcessConfig(
        input_file_prefix=str(home / "few"),
        output_dir=str(folder),
        subsets=list(_SUBSETS),
        test_set_name="evaluation",
        seed=seed,
        num_aug=AUGMENTED,
    )
    builder.main(config)
    return folder


def _tasks(home: Path, subset: str) -> list[ArcTask]:
    return readers.read(str(home / f"few_{subset}_challenges.json"))


def _task_name(table: Variants, puzzle: int) -> str:
    return table.names[int(np.searchsorted(table.first_N, puzzle, side="right")) - 1]


def _same_task(one: ArcTask, other: ArcTask) -> bool:
    def grids(pairs: Iterable[Pair]) -> list[Any]:
        return [[None if grid is None else grid.tolist() for grid in pair] for pair in pairs]

    return all(grids(a) == grids(b) for a, b in ((one.train, other.train), (one.test, other.test)))


def _loader(original: Original, folder: Path, seed: int, split: str = "train") -> Any:
    module, test = original.module("puzzle_dataset"), split == "test"
    config = module.PuzzleDatasetConfig(
        seed=seed,
        dataset_paths=[str(folder)],
        global_batch_size=BATCH,
        test_set_mode=test,
        epochs_per_iter=1 if test else _EPOCHS,
        rank=0,
        num_replicas=1,
    )
    return module.PuzzleDataset(config, split=split)


def _batches(
    original: Original, folder: Path, seed: int, split: str = "train"
) -> Iterator[dict[str, Tensor]]:
    """Batches as the original's loader draws them."""
    np.random.seed(seed)  # noqa: NPY002 (the generator that the loader draws from)
    for _, batch, _ in _loader(original, folder, seed, split):
        yield batch


# --- Networks


class Case(NamedTuple):
    """A network of the original: its file and class, and its own description."""

    name: str
    module: str
    class_name: str
    options: dict[str, Any]


_COMMON = {
    "hidden_size": 32, "num_heads": 4, "expansion": 4, "puzzle_emb_ndim": 32, "pos_encodings": "rope",
    "halt_max_steps": SUPERVISION_STEPS, "halt_exploration_prob": 0.0,
}  # fmt: skip
_TRM = {"H_cycles": 2, "L_cycles": 2, "H_layers": 0, "L_layers": 2, "puzzle_emb_len": 4}
_ACT = "TinyRecursiveReasoningModel_ACTV1"
# Halting draws from generators of their own when it explores, so nothing here explores. The transformer halts
# where its halting logit is above its other one, which nothing trains, and ours does not: it runs all steps.
CASES = (
    Case("attention", "trm", _ACT, _TRM),
    Case("learned positions", "trm", _ACT, _TRM | {"pos_encodings": "learned"}),
    Case("mixer", "trm", _ACT, _TRM | {"mlp_t": True, "pos_encodings": "none"}),
    Case("single z", "trm_singlez", _ACT, _TRM),
    Case(
        "HRM",
        "hrm",
        "HierarchicalReasoningModel_ACTV1",
        {"H_cycles": 2, "L_cycles": 2, "H_layers": 2, "L_layers": 2},
    ),
    Case(
        "transformer",
        "transformers_baseline",
        "Model_ACTV2",
        {"H_cycles": 1, "H_layers": 3, "act_enabled": False},
    ),
)
# What may differ beyond rounding that is amplified: by the precision of the forward pass.
BOUNDS = {"float32": 1e-4, "float64": 1e-12}
_ROOM = "models.recursive_reasoning"


def _each(part: Part, original: Original, compare: Callable[[Case, str], Iterator[Row]]) -> Iterator[Row]:
    """All networks that the checkout has, in both precisions."""
    for case in CASES:
        if not original.has(f"{_ROOM}.{case.module}"):
            yield Row(part, case.name, "not in this checkout", None)
            continue
        original.module(f"{_ROOM}.{case.module}")
        for dtype in BOUNDS:
            with original.exactly(dtype == "float64"):
                yield from compare(case, dtype)


def nudged(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Every weight moved to the next number above or below, at random."""
    generator = torch.Generator().manual_seed(seed)
    moved = {}
    for name, weight in weights.items():
        sign = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
        moved[name] = torch.nextafter(weight, sign * torch.inf)
    return moved


def start(weights: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Weights to begin with: halting and the puzzle embeddings, which begin at zero, take part as well.

    All are float32 numbers, whatever their type, so that they can be handed over as such.
    """
    generator = torch.Generator().manual_seed(seed)
    begun = {}
    for name, weight in weights.items():
        if name.endswith(("q_head.weight", "puzzle_emb.weights")):
            weight = (
                torch.randn(weight.shape, generator=generator).to(weight.dtype) * weight.shape[-1] ** -0.5
            )
        elif name.endswith("q_head.bias"):
            weight = torch.full_like(weight, -1)  # some rows halt before the last step
        begun[name] = weight.float().to(weight.dtype, copy=True)  # training changes the model's own
    return begun


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, relative to the largest value of the original."""
    scale = theirs.abs().max().item() or 1.0
    return (ours.double() - theirs.double()).abs().max().item() / scale


def judged(row: Row, found: Sequence[float], itself: Sequence[float], bound: float) -> Iterator[Row]:
    """What differs after every step, judged for as long as the original still agrees with itself.

    Where that ends before the last step, all steps are reported too, and not judged: a bound that follows
    rounding further would allow everything.
    """
    parting = next((number for number, each in enumerate(itself) if not each <= TELLING), len(itself))
    steps = max(1, parting)
    near = max(itself[:steps])
    yield row._replace(
        compared=f"{steps} {row.compared}",
        difference=max(found[:steps]),
        itself=near,
        allowed=max(bound, MARGIN * near),
    )
    if steps < len(itself):
        compared = f"all {len(itself)} {row.compared}"
        yield row._replace(compared=compared, difference=max(found), itself=max(itself), allowed=None)


# --- Supervision steps


def steps(original: Original, home: Path, seed: int) -> Iterator[Row]:
    """The same weights and puzzles through 16 supervision steps in evaluation."""
    del home
    sizes = {"batch_size": BATCH, "vocab_size": 6, "seq_len": 16, "num_puzzle_identifiers": 7}
    generator = torch.Generator().manual_seed(seed)
    tokens_BL, labels_BL = torch.randint(1, 6, (2, BATCH, 16), generator=generator, dtype=torch.int32)
    puzzle_B = torch.randint(0, 7, (BATCH,), generator=generator, dtype=torch.int32)
    batch = {"inputs": tokens_BL, "labels": labels_BL, "puzzle_identifiers": puzzle_B}

    @torch.no_grad()
    def compare(case: Case, dtype: str) -> Iterator[Row]:
        config = _COMMON | case.options | sizes | {"forward_dtype": dtype, "causal": False}
        network = getattr(original.module(f"{_ROOM}.{case.module}"), case.class_name)
        torch.manual_seed(seed)
        theirs = network(dict(config)).eval()
        weights = start(theirs.state_dict(), seed)
        theirs.load_state_dict(weights)
        ours = build_original(config, weights).eval()
        share_rotations(ours, theirs)
        expected = _their_steps(theirs, batch)
        theirs.load_state_dict(nudged(weights, seed))
        itself = _apart(_their_steps(theirs, batch), expected)
        bound, label = BOUNDS[dtype], f"{case.name}, {dtype}"
        yield from judged(
            Row("steps", label, "steps in a row", None),
            _apart(_our_steps(ours, batch), expected),
            itself,
            bound,
        )
        found = _apart(_our_steps(ours, batch, [step.state for step in expected]), expected)
        yield Row("steps", label, f"{SUPERVISION_STEPS} steps one by one", max(found), bound)

    return _each("steps", original, compare)


class Said(NamedTuple):
    """What a supervision step says, and the state after it."""

    logits_BLV: Tensor
    halt_B: Tensor
    continue_B: Tensor
    state: State


def share_rotations(ours: RecursiveModel, theirs: Any) -> None:
    """In float64 the original's rotary tables are float64 too; ours stay float32, and take them over here."""
    if ours.rope is not None and ours.dtype == torch.float64:
        ours.rope.cos_SK, ours.rope.sin_SK = theirs.inner.rotary_emb()


def _their_steps(model: Any, batch: dict[str, Tensor]) -> list[Said]:
    carry, said = model.initial_carry(batch), []
    for _ in range(SUPERVISION_STEPS):
        carry, out = model(carry=carry, batch=batch)
        inner = carry.inner_carry
        latents = [getattr(inner, name) for name in ("z_H", "z_L") if hasattr(inner, name)]
        # A model of one latent has it as y, and none as z.
        state = State(latents[0], latents[1] if len(latents) > 1 else latents[0][..., :0])
        said.append(Said(out["logits"], out["q_halt_logits"], out["q_continue_logits"], state))
    return said


def _our_steps(
    model: RecursiveModel, batch: dict[str, Tensor], after: Sequence[State] | None = None
) -> list[Said]:
    """All steps in a row; or each of them from the state that the original was in after the one before."""
    x_BSD = model.encode(batch["inputs"].long(), batch["puzzle_identifiers"].long())
    state, said = model.initial_state(len(x_BSD)), []
    for number in range(SUPERVISION_STEPS):
        if after is not None and number:
            state = after[number - 1]
        state, out = model.step(state, x_BSD)
        said.append(Said(out.logits_BLV, out.halt_B, out.continue_B, state))
    return said


def _apart(ours: Sequence[Said], theirs: Sequence[Said]) -> list[float]:
    """How far the logits of every step are apart."""
    return [max(map(relative, one[:3], other[:3])) for one, other in zip(ours, theirs, strict=True)]


# --- Optimizer steps


class Trained(NamedTuple):
    """What training leaves after every step: the loss, and all weights by the original's names.

    The moving average of the weights is among them.
    """

    losses: list[float]
    weights: list[dict[str, Tensor]]


_OPTIMIZER = OptimizerConfig(
    lr=1e-3, weight_decay=0.1, betas=(0.9, 0.95), puzzle_lr=1e-2, puzzle_weight_decay=0.1, warmup=WARMUP
)
_EMA = EmaConfig(decay=0.9)


def training(original: Original, home: Path, seed: int) -> Iterator[Row]:
    """The same weights through 40 optimizer steps on the same batches."""
    folder = home / "training"
    write_training_folder(folder, seed)
    batches = list(_batches(original, folder, seed))[:OPTIMIZER_STEPS]
    assert len(batches) == OPTIMIZER_STEPS

    def compare(case: Case, dtype: str) -> Iterator[Row]:
        arch = _COMMON | case.options | {"forward_dtype": dtype}
        state = _train_state(original, case, arch, folder, seed)
        weights = start(state[1].model.state_dict(), seed)
        ours = _train_ours(arch, weights, batches, folder, state[1].model.model)
        theirs = _train_theirs(original, *state, weights, batches)
        state = _train_state(original, case, arch, folder, seed)
        again = _train_theirs(original, *state, nudged(weights, seed), batches)
        label, bound = f"{case.name}, {dtype}", BOUNDS[dtype]
        for what, apart in {"losses": losses_apart, "steps, weights": weights_apart}.items():
            row = Row("training", label, what, None)
            yield from judged(row, apart(ours, theirs), apart(again, theirs), bound)

    return _each("training", original, compare)


def write_training_folder(folder: Path, seed: int) -> None:
    """A data folder, written by ours: puzzles with ids of their own and 3 examples each, in groups of 2."""
    family = Sudoku(SudokuConfig(box_rows=2, box_cols=2))
    puzzles = 8
    random = np.random.default_rng(seed)
    answers_NL = np.array([random.permutation(family.length) % 4 + 2 for _ in range(3 * puzzles)], np.uint8)
    tokens_NL = np.where(random.random(answers_NL.shape) < 0.5, 1, answers_NL).astype(np.uint8)
    puzzle_N = np.repeat(np.arange(1, puzzles + 1, dtype=np.int32), 3)
    rows = Puzzles(tokens_NL, answers_NL, puzzle_N, np.zeros_like(puzzle_N))
    groups = {"train": np.arange(0, puzzles + 1, 2)}
    names = ["<blank>", *(f"puzzle {number}" for number in range(1, puzzles + 1))]
    original_folders.write(folder, {"train": rows}, family, groups, names)


def _train_state(
    original: Original, case: Case, arch: dict[str, Any], folder: Path, seed: int
) -> tuple[Any, Any]:
    """The original's configuration of a run, and its state before the first step."""
    pretrain = original.module("pretrain")
    loss = {"name": "losses@ACTLossHead", "loss_type": "stablemax_cross_entropy"}
    config = pretrain.PretrainConfig(
        arch={"name": f"recursive_reasoning.{case.module}@{case.class_name}", "loss": loss, **arch},
        data_paths=[str(folder)],
        global_batch_size=BATCH,
        epochs=1000,
        lr=_OPTIMIZER.lr,
        lr_min_ratio=1.0,
        lr_warmup_steps=WARMUP,
        weight_decay=_OPTIMIZER.weight_decay,
        beta1=_OPTIMIZER.betas[0],
        beta2=_OPTIMIZER.betas[1],
        puzzle_emb_lr=_OPTIMIZER.puzzle_lr,
        puzzle_emb_weight_decay=_OPTIMIZER.puzzle_weight_decay,
    )
    torch.manual_seed(seed)
    return config, pretrain.init_train_state(config, _loader(original, folder, seed).metadata, 0, 1)


def _train_theirs(
    original: Original,
    config: Any,
    state: Any,
    weights: Mapping[str, Tensor],
    batches: Sequence[dict[str, Tensor]],
) -> Trained:
    """The original's own steps."""
    state.model.load_state_dict(weights)
    state.model.train()
    average = original.module("models.ema").EMAHelper(mu=_EMA.decay)
    average.register(state.model)
    trained = Trained([], [])
    # The loss head returns the loss that is then divided by the batch.
    state.model.register_forward_hook(lambda _, __, said: trained.losses.append(said[1].item() / BATCH))
    for batch in batches:
        original.module("pretrain").train_batch(config, state, batch, BATCH, 0, 1)
        average.update(state.model)
        trained.weights.append(_kept(state.model.state_dict(), average.shadow))
    return trained


def _train_ours(
    arch: dict[str, Any],
    weights: Mapping[str, Tensor],
    batches: Sequence[dict[str, Tensor]],
    folder: Path,
    theirs: Any,
) -> Trained:
    """Our steps, with what the original's description means to us."""
    meant = describe(original_folders.sizes(folder)._asdict() | arch, {strip(name) for name in weights})
    config = RunConfig(
        family={"name": "sudoku"},
        data={},
        model=meant.model,
        compute=meant.compute,
        supervision=meant.supervision,
        loss=meant.loss,
        optimizer=_OPTIMIZER,
        ema=_EMA,
        train=TrainConfig(batch=BATCH, steps=OPTIMIZER_STEPS),
    )
    model = build_original(arch, weights, folder).train()
    share_rotations(model, theirs)
    trained = Trained([], [])

    def draw(number: Tensor) -> Batch:
        tokens_BL, labels_BL, puzzle_B = (each.long() for each in batches[int(number)].values())
        return Batch(tokens_BL, labels_BL, puzzle_B, torch.zeros_like(puzzle_B))

    def backward(loss: Tensor) -> None:
        trained.losses.append(loss.item())
        loss.backward()

    optimizer, ema = Optimizer(config.optimizer, model, OPTIMIZER_STEPS), Ema(config.ema, model)
    step = TrainingStep(config, model, optimizer, ema, draw, backward)
    for number in range(OPTIMIZER_STEPS):
        step(number)
        after = {name: weight.clone() for name, weight in to_original(model, "model.").items()}
        with ema.applied():
            trained.weights.append(_kept(after, to_original(model, "model.")))
    return trained


def _kept(weights: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of weights and of their average."""
    named = {**weights, **{f"average of {name}": weight for name, weight in average.items()}}
    return {name: weight.detach().clone() for name, weight in named.items()}


def losses_apart(one: Trained, other: Trained) -> list[float]:
    """How far the losses of every step are apart."""
    return [abs(a - b) / abs(b) for a, b in zip(one.losses, other.losses, strict=True)]


def weights_apart(one: Trained, other: Trained) -> list[float]:
    """How far the weights are apart after every step, for all that the second training keeps."""
    return [
        max(relative(ours[name], weight) for name, weight in theirs.items())
        for ours, theirs in zip(one.weights, other.weights, strict=True)
    ]


# --- Votes


def votes(original: Original, home: Path, seed: int) -> Iterator[Row]:
    """The same predictions for every row of an ARC folder, counted by its evaluator and by ours."""
    folder, family = arc_folder(original, home / "arc", seed), Arc(ArcConfig())
    table, tasks = original_arc.variants(folder), readers.read(str(folder))
    rows = original_folders.read(folder, "test", family)
    predicted_NL, halt_N = predictions(rows, table, tasks, family, seed)

    module = original.module("evaluators.arc")
    module.dist = _OneProcess
    evaluator = module.ARC(str(folder), _loader(original, folder, seed, "test").metadata, pass_Ks=KS)
    evaluator.begin_eval()
    for number, batch in enumerate(_batches(original, folder, seed, "test")):
        part = slice(number * BATCH, (number + 1) * BATCH)
        padding = (0, BATCH - len(halt_N[part]))
        said = {
            "preds": torch.from_numpy(np.pad(predicted_NL[part], (padding, (0, 0)))),
            "q_halt_logits": torch.from_numpy(np.pad(halt_N[part], padding)),
        }
        evaluator.update_batch(batch, said)
    theirs = evaluator.result(str(home), 0, 1)
    their_submission = json_module.loads((home / "submission.json").read_text())

    ballots: dict[str, list[list[Prediction]]] = {task.name: [[] for _ in task.test] for task in tasks}
    for puzzle in np.unique(rows.puzzle_N):
        way = int(table.dihedral_P[puzzle]), table.colours_PC[puzzle]
        for test, row in enumerate(np.flatnonzero(rows.puzzle_N == puzzle)):
            grid = undo(family.grid(predicted_NL[row]), *way)
            # A probability in float64, so that sure logits are still told apart.
            chance = 1 / (1 + math.exp(-float(halt_N[row])))
            ballots[_task_name(table, int(puzzle))][test].append(Prediction(grid, chance))
    ranked = {name: [rank(ballot) for ballot in inputs] for name, inputs in ballots.items()}
    ours = pass_at(ranked, {task.name: [pair.output for pair in task.test] for task in tasks}, KS)
    compared = (
        f"k of {', '.join(map(str, KS))}; pass@1 is {100 * ours[1]:.0f} %, pass@1000 {100 * ours[1000]:.0f} %"
    )
    yield Row(
        "votes", "ARC: pass@k", compared, max(abs(theirs[f"ARC/pass@{k}"] - ours[k]) for k in KS), 1e-12
    )
    mine = submission(ranked)
    wrong = sum(
        their_submission.get(name) != mine.get(name) for name in their_submission.keys() | mine.keys()
    )
    yield Row("votes", "ARC: submission.json", f"{len(mine)} tasks, {len(rows)} votes", wrong)


class _OneProcess:
    """Takes the place of torch.distributed: the evaluator gathers from all processes, here one."""

    @staticmethod
    def gather_object(value: Any, gathered: list[Any], dst: int, group: Any) -> None:
        del dst, group
        gathered[0] = value


def predictions(
    rows: Puzzles, table: Variants, tasks: Sequence[ArcTask], family: Arc, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """What some network might say of every row: canvases, uint8 [N, L], and halting logits, float32 [N].

    Variants vote for the answer or for grids that are nearly it; one row in ten is noise, in which a grid
    must be found. No grid is empty: with the original it takes the place of an attempt, with ours not.
    """
    random = np.random.default_rng(seed)
    by_name = {task.name: task for task in tasks}
    near: dict[tuple[str, int], list[np.ndarray]] = {}
    for task in tasks:
        for test, pair in enumerate(task.test):
            assert pair.output is not None  # the folder was built with the solutions
            near[task.name, test] = [pair.output, *(_nearly(pair.output, random) for _ in range(3))]
    predicted_NL = np.zeros_like(rows.answers_NL)
    for puzzle in np.unique(rows.puzzle_N):
        name = _task_name(table, int(puzzle))
        numbers = np.flatnonzero(rows.puzzle_N == puzzle)
        assert len(numbers) == len(by_name[name].test)
        for test, row in enumerate(numbers):
            if random.random() < 0.1:
                predicted_NL[row] = random.integers(0, family.vocab_size, family.length)
                predicted_NL[row, 0] = 2
            else:
                grid = near[name, test][random.choice(4, p=(0.4, 0.3, 0.2, 0.1))]
                grid = transform(grid, int(table.dihedral_P[puzzle]), table.colours_PC[puzzle])
                predicted_NL[row] = to_canvas(grid, family.side)
    return predicted_NL, (4 * random.standard_normal(len(rows))).astype(np.float32)


def _nearly(grid_HW: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The grid with one cell of another colour."""
    changed = grid_HW.copy()
    row, column = (random.integers(side) for side in grid_HW.shape)
    changed[row, column] = (changed[row, column] + random.integers(1, 10)) % 10
    return changed


# --- The command

PARTS: dict[Part, Callable[[Original, Path, int], Iterator[Row]]] = {
    "folders": folders,
    "steps": steps,
    "training": training,
    "votes": votes,
}


# The rows that a part has at least, with all networks of the original: for the bar.
LEAST: dict[Part, int] = {"folders": 10, "steps": 24, "training": 24, "votes": 2}


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for every part, with a verdict on every row."""
    for part, of_part in itertools.groupby(rows, lambda row: row.part):
        table = Table(part, box=None, pad_edge=False)
        table.add_column("compared")
        for column in ("difference", "itself", "allowed", ""):
            table.add_column(column, justify="right", no_wrap=True)
        for row in of_part:
            verdict = "ok" if row.ok else "[bold red]too far[/]"
            if row.difference is None or row.allowed is None:
                verdict = "not judged"
            numbers = (row.difference, row.itself, None if row.difference is None else row.allowed)
            table.add_row(row.what, row.compared, *map(_number, numbers), verdict)
        yield table


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value == round(value) else f"{value:.1e}"


def main(
    *,
    original: Path,
    only: tuple[Part, ...] = tuple(PARTS),
    seed: int = 0,
    json: bool = False,
) -> int:
    """Run the original beside this library, and say how far they are apart.

    For example:
      git clone https://github.com/SamsungSAILMontreal/TinyRecursiveModels
      python benchmarks/parity.py --original TinyRecursiveModels
      python benchmarks/parity.py --original TinyRecursiveModels --only votes --json

    Args:
        original: A checkout of the original. Its code is run.
        only: Parts to compare.
        seed: Seed of puzzles, weights, batches and predictions.
        json: Print the rows as JSON.
    """
    checkout.check(original)
    if not 0 <= seed < 2**32:
        raise UserError(f"--seed is {seed}: give 0 to {2**32 - 1}")
    console, rows, begun = Console(stderr=True, highlight=False), [], time.process_time()
    parts = list(dict.fromkeys(only))
    with (
        tempfile.TemporaryDirectory() as home,
        bar(console, "comparing", sum(LEAST[part] for part in parts)) as progress,
        checkout.opened(original) as opened,
    ):
        done = 0
        for part in parts:
            for number, row in enumerate(PARTS[part](opened, Path(home), seed), 1):
                rows.append(row)
                progress.at(done + min(number, LEAST[part]), f"{row.part}: {row.what}")
            done += LEAST[part]
        theirs = opened.commit
    values = {
        "commit": checkout.commit(Path(__file__).parent),
        "original": theirs,
        "seed": seed,
        "torch": torch.__version__,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "ok": all(row.ok for row in rows),
    }
    if json:
        print(json_module.dumps(values | {"rows": [row._asdict() | {"ok": row.ok} for row in rows]}))
    else:
        out = Console(highlight=False)
        for each in tables(rows):
            out.print(each, "")
        out.print(
            f"commit {values['commit']}, original {theirs}, seed {seed}, torch {values['torch']}, "
            f"{values['cpu_seconds']:.0f} s of CPU time"
        )
        if wrong := [row for row in rows if not row.ok]:
            out.print(
                f"{len(wrong)} of {len(rows)} comparisons are further apart than allowed", style="bold red"
            )
    return 0 if values["ok"] else 1


if __name__ == "__main__":
    try:
        raise SystemExit(tyro.cli(main))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
