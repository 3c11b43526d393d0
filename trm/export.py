"""Models as ONNX graphs, for callers without PyTorch: one supervision step, whose loop the caller owns.

A folder holds up to three graphs, and what a caller must know to use them:

    step.onnx     a supervision step: T cycles
    latent.onnx   one latent update (none where nothing is updated before the answer)
    answer.onnx   one answer update, and what the heads say of it
    model.json    the loop, the starting point, signs of the tokens, the family, the check that was made

A graph takes values by name and gives new ones:

    tokens     int64 [B, L]   the puzzle            puzzle_ids   int64 [B], of models that have them
    y, z       [B, S, D]      the state before      next_y, next_z   the state after, as far as it changes
    logits     [B, L, V]      halt [B]              conflict  [B, L], of models that say so

`latent` n times and then `answer`, and that T times, is `step`. The batch is free in every graph. Where the
weights serve boards of every size, the board is free too: its shape is read off the tokens, [B, *cells], and
the state, [B, *cells, D] or for candidates [B, *cells, N, D].

Shapes: B batch, L cells, S positions, D width, V vocabulary, N symbols.
"""

import json
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, cast, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim

from trm.config import ComputeConfig
from trm.data.sources import generate
from trm.errors import UserError, first_line
from trm.files import full_disk_is_a_user_error, new_folder
from trm.inference.solver import Solver
from trm.models import RecursiveModel, State, build, load_weights
from trm.models.candidates import Candidates
from trm.models.embedding import (
    GIVEN,
    NEVER,
    OPEN,
    OUT,
    CandidateEmbedding,
    CandidateHead,
    ConflictHead,
)
from trm.models.halting import HIGHEST_LOG_P, EveryPosition
from trm.models.layers import Linear
from trm.models.mixing import Convolution, RelationMixing
from trm.models.recursive import LatentRecursion
from trm.pretrained import Pretrained
from trm.puzzles.table import Puzzles, from_arrays

FORMAT = 1
_OPSET = 18
MODEL = "model.json"
# The most by which a value may differ from PyTorch's after one step: rounding, in sums of another order.
TOLERANCE = 2e-3
_BATCH = 4


@final
class _FreeEmbedding(nn.Module):
    """As `CandidateEmbedding`, for any number of symbols: kinds are computed instead of looked up.

    A negative token is an open cell with symbols ruled out: bit n of it, without its sign, is symbol n.
    """

    def __init__(self, embed: CandidateEmbedding, first: int):
        super().__init__()
        self.embed, self.first, self.symbols = embed, first, 0

    def forward(self, tokens_BL: Tensor, puzzle_B: Tensor) -> Tensor:
        del puzzle_B
        symbol_BL1 = (tokens_BL - self.first).unsqueeze(-1)
        is_symbol_BL1 = (symbol_BL1 >= 0) & (symbol_BL1 < self.symbols)
        number_N = torch.arange(self.symbols)
        given_BLN = symbol_BL1 == number_N
        bits_BL1 = (-tokens_BL).clamp_min(0).unsqueeze(-1)
        ruled_out_BLN = torch.div(bits_BL1, 2**number_N, rounding_mode="floor") % 2 == 1
        kind_BLN = torch.where(given_BLN, GIVEN, torch.where(is_symbol_BL1 | ruled_out_BLN, OUT, OPEN))
        return self.embed.embed_kinds(kind_BLN.flatten(1))


@final
class _FreeHead(nn.Module):
    """As `CandidateHead`, for any number of symbols, whose tokens are the last ones."""

    def __init__(self, head: CandidateHead, first: int):
        super().__init__()
        self.score, self.first, self.symbols = head.score, first, 0

    def forward(self, y_BSD: Tensor) -> Tensor:
        score_BLN = self.score(y_BSD).squeeze(-1).unflatten(1, (-1, self.symbols))
        return F.pad(score_BLN, (self.first, 0), value=NEVER)


@final
class _EveryPosition(nn.Module):
    """As `EveryPosition`, by operations that ONNX has.

    It has no log(sigmoid), log1p and expm1: what the exporter puts in their place loses the small rest that
    a network which is almost sure leaves open.
    """

    def __init__(self, head: EveryPosition):
        super().__init__()
        self.head = head

    def forward(self, y_BSD: Tensor) -> Tensor:
        logit_BSK = Linear.forward(self.head, y_BSD).float()
        small_BSK = torch.exp(-logit_BSK.abs())
        log1p_BSK = 2 * torch.atanh(small_BSK / (2 + small_BSK))  # log(1 + small)
        log_p_BK = (logit_BSK.clamp(max=0.0) - log1p_BSK).sum(1).clamp(max=HIGHEST_LOG_P)
        half_BK = torch.tanh(-log_p_BK / 2)  # 1 - p is 2 half / (1 + half)
        return log_p_BK - torch.log(2 * half_BK / (1 + half_BK))


class Shapes(NamedTuple):
    """The shapes in which callers give puzzles and states, without their batch."""

    cells: tuple[int, ...]
    """Of a puzzle's tokens."""
    positions: tuple[int, ...]
    """Of a state, without its width."""
    fixed: str
    """Why the board is not free; empty where it is."""


def shapes(model: RecursiveModel) -> Shapes:
    """How callers see the puzzles and states of a model."""
    length = model.problem.length
    if isinstance(model, Candidates):
        board, tokens = model.relations.shape, model.relations.tokens
        if tokens == tuple(range(model.problem.vocab_size - len(tokens), model.problem.vocab_size)):
            return Shapes(board[:-1], board, "")
        return Shapes((length,), (model.seq_len,), "its symbols are not the last tokens of the vocabulary")
    if not model.config.any_board:
        return Shapes((length,), (model.seq_len,), "its weights are for this board")
    assert model.problem.board is not None
    return Shapes(model.problem.board, model.problem.board, "")


class View(nn.Module):
    """A model as the graphs see it: puzzles and states in the shapes that a caller gives them.

    Where the board is free, the layers that know its size are told it by every call.
    """

    def __init__(self, model: RecursiveModel):
        super().__init__()
        weights = model.state_dict()
        model = build(model.config, model.problem, ComputeConfig(device="cpu", kernels="torch"))
        load_weights(model, weights, "the model to export")
        self.model = model.eval()
        self.has_z = model.z_init.numel() > 0
        self.has_ids = model.config.puzzle_width > 0
        self.cells, self.positions, self.fixed = shapes(model)
        if isinstance(model.halting_head, EveryPosition):
            halting: nn.Module = _EveryPosition(model.halting_head)
            model.halting_head = cast(EveryPosition, halting)
        if isinstance(model, Candidates) and not self.fixed:
            first = model.relations.tokens[0]
            embed: nn.Module = _FreeEmbedding(cast(CandidateEmbedding, model.embed), first)
            model.embed = cast(CandidateEmbedding, embed)  # it only has to compute the same
            model.answer_head = _FreeHead(cast(CandidateHead, model.answer_head), first)

    def fit(self, shape: tuple[int, ...]) -> None:
        """Tell the layers the shape of the positions."""
        if self.fixed:
            return
        for layer in self.model.modules():
            if isinstance(layer, Convolution):
                layer.board = cast(tuple[int, int], shape)
            elif isinstance(layer, RelationMixing):
                layer.relations = layer.relations._replace(shape=shape)
            elif isinstance(layer, _FreeEmbedding | _FreeHead | ConflictHead):
                layer.symbols = shape[-1]

    def read(self, given: Mapping[str, Tensor]) -> tuple[State, Tensor | None]:
        """The state, and x where the puzzle is given."""
        y = given["y"]
        shape = y.shape[1:-1]
        self.fit(tuple(shape))
        y_BSD = y.flatten(1, -2)
        z_BSD = given["z"].flatten(1, -2) if self.has_z else y_BSD[..., :0]
        if "tokens" not in given:
            return State(y_BSD, z_BSD), None
        tokens_BL = given["tokens"].flatten(1)
        puzzle_B = given["puzzle_ids"] if self.has_ids else tokens_BL[:, 0]
        return State(y_BSD, z_BSD), self.model.encode(tokens_BL, puzzle_B)

    def say(self, y_BSD: Tensor) -> dict[str, Tensor]:
        """What the heads read from y."""
        out = RecursiveModel.say(self.model, y_BSD)
        said = {"logits": out.logits_BLV.float(), "halt": out.halt_B}
        if isinstance(self.model, Candidates) and self.model.conflict_head is not None:
            # As `Candidates.say`; tokens that are no symbol add nothing to the sum.
            any_BL = out.logits_BLV.float().logsumexp(-1)
            said["conflict"] = self.model.conflict_head(y_BSD).float() - any_BL
        return said


class _Graph(nn.Module, ABC):
    """One of the graphs."""

    name: ClassVar[str]

    def __init__(self, view: View):
        super().__init__()
        self.view = view

    @property
    def puzzle(self) -> tuple[str, ...]:
        """Names of what says which puzzle it is."""
        return ("tokens", "puzzle_ids") if self.view.has_ids else ("tokens",)

    @property
    def state(self) -> tuple[str, ...]:
        """Names of the state."""
        return ("y", "z") if self.view.has_z else ("y",)

    @property
    def all_inputs(self) -> tuple[str, ...]:
        """What a whole step takes, in order."""
        return self.puzzle + self.state

    @property
    def inputs(self) -> tuple[str, ...]:
        """What this graph takes, in order."""
        return self.all_inputs

    @abstractmethod
    def compute(self, state: State, x_BSD: Tensor | None) -> dict[str, Tensor]:
        """New values by name; those of the state as [B, S, D]."""

    def forward(self, *values: Tensor) -> dict[str, Tensor]:
        given = dict(zip(self.inputs, values, strict=True))
        made = self.compute(*self.view.read(given))
        return {name: v.view_as(given["y"]) if name.startswith("next_") else v for name, v in made.items()}


@final
class _Latent(_Graph):
    name = "latent"

    def compute(self, state: State, x_BSD: Tensor | None) -> dict[str, Tensor]:
        assert x_BSD is not None
        state = cast(LatentRecursion, self.view.model).update_latent(state, x_BSD)
        return {"next_z": state.z_BSD} if self.view.has_z else {"next_y": state.y_BSD}


@final
class _Answer(_Graph):
    name = "answer"

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.state if isinstance(self.view.model, LatentRecursion) else self.all_inputs

    def compute(self, state: State, x_BSD: Tensor | None) -> dict[str, Tensor]:
        model = self.view.model
        if isinstance(model, LatentRecursion):
            state = model.update_answer(state)
        else:  # nothing comes before its answer
            assert x_BSD is not None
            state = model.refine(state, x_BSD)
        return {"next_y": state.y_BSD, **self.view.say(state.y_BSD)}


def example_puzzles(found: Pretrained, count: int) -> Puzzles:
    """Puzzles to check a model on: made by its family, or boards of any tokens where it makes none."""
    family, generator = found.family, found.config.family.data().generator()
    if generator is not None:
        return generate(generator.model_copy(update={"test": count}), family, seed=0)["test"]
    drawn = np.random.default_rng(0)
    tokens_NL = drawn.integers(1, family.vocab_size, (count, family.length)).astype(np.uint8)
    return from_arrays(tokens_NL, tokens_NL, puzzle_N=drawn.integers(0, found.config.puzzles, count))


class Check(NamedTuple):
    """How far graphs are from PyTorch, on real puzzles."""

    puzzles: int
    steps: int
    """Supervision steps of each."""
    step: float
    """Largest difference of a value that one step gives, from the same state."""
    updates: float
    """The same, of a step made of `latent` and `answer`."""
    answers_alike: int
    """Puzzles to which a caller's own loop gives the same answer after all steps."""
    board: str
    """Whether the graphs serve every board, and why not."""

    @property
    def largest(self) -> float:
        """The larger of the two differences."""
        return max(self.step, self.updates)


def export(
    found: Pretrained, folder: Path, puzzles: Puzzles, say: Callable[[str], None] = lambda line: None
) -> Check:
    """Write the graphs of a model to a folder, after checking them on puzzles; an older folder is replaced.

    `say` is told what is being done. UserError where a package is missing, where the model cannot be
    exported, where graphs and PyTorch differ by more than rounding, and where the disk is full.
    """
    onnx, _ = needed()
    view = View(found.model)
    parts: list[_Graph] = [_Answer(view)]
    if isinstance(view.model, LatentRecursion):
        parts.insert(0, _Latent(view))
    with full_disk_is_a_user_error(f"{folder} was not written"), new_folder(folder) as draft:
        models = {}
        for part in parts:
            say(f"exporting {part.name}")
            models[part.name] = _exported(part)
        models["step"] = _composed(models, _calls(view), _Answer(view))
        for name, model in models.items():
            onnx.checker.check_model(model)
            (draft / f"{name}.onnx").write_bytes(model.SerializeToString())
        say("checking")
        about = _about(found, view, models)
        check = _checked(draft, about, found, view, puzzles)
        about["check"] = {**check._asdict(), "largest": check.largest}
        (draft / MODEL).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return check


def needed() -> tuple[Any, Any]:
    """The packages onnx and onnxruntime; UserError says how to get them."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # torch's exporter writes with it
    except ImportError as error:
        raise UserError(f"an export needs the package {error.name}: pip install 'trm[export]'") from None
    del onnxscript
    return onnx, onnxruntime


def _calls(view: View) -> list[str]:
    """The graphs that make a supervision step, in order."""
    if not isinstance(view.model, LatentRecursion):
        return ["answer"]
    return ([*["latent"] * view.model.config.n, "answer"]) * view.model.config.T


def _exported(graph: _Graph) -> Any:
    """A graph as ONNX."""
    view, config = graph.view, graph.view.model.config
    cells, positions = view.cells, view.positions
    values = {
        "tokens": torch.ones((2, *cells), dtype=torch.int64),
        "puzzle_ids": torch.zeros(2, dtype=torch.int64),
        "y": torch.ones(2, *positions, config.width),
        "z": torch.ones(2, *positions, config.width),
    }
    args = tuple(values[name] for name in graph.inputs)
    batch = Dim("batch")
    axes = [] if view.fixed else [Dim(f"axis_{i}", max=1024) for i in range(len(positions))]
    sizes = {"tokens": axes[: len(cells)], "puzzle_ids": [], "y": axes, "z": axes}
    shapes = tuple({0: batch, **dict(enumerate(sizes[name], 1))} for name in graph.inputs)
    try:
        with _quiet(), torch.no_grad():
            outputs = list(graph(*args))
            program = torch.onnx.export(
                graph.eval(),
                args,
                dynamo=True,
                input_names=list(graph.inputs),
                output_names=outputs,
                dynamic_shapes=(shapes,),
                opset_version=_OPSET,
                verbose=False,
                external_data=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"PyTorch cannot export {graph.name} of this model: {first_line(error)}") from error
    assert program is not None
    made = program.model_proto
    # The exporter's remarks on where every node comes from are larger than the weights of a small model.
    made.graph.ClearField("value_info")
    for each in (made, made.graph, *made.graph.node, *made.graph.input, *made.graph.output):
        each.ClearField("doc_string")
        each.ClearField("metadata_props")
    for weight in made.graph.initializer:
        weight.ClearField("metadata_props")
    return made


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _composed(models: Mapping[str, Any], calls: list[str], last: _Graph) -> Any:
    """A supervision step as one graph: those of the updates one after the other, their weights only once.

    Tracing the step as a whole gives the same, but takes T (n + 1) times as long.
    """
    onnx, _ = needed()
    weights: dict[bytes, Any] = {}
    values = {name: name for name in ("tokens", "puzzle_ids", "y", "z")}  # where each value is by now
    nodes = []
    for number, call in enumerate(calls):
        graph = models[call].graph
        names = {value.name: values[value.name] for value in graph.input}
        for weight in graph.initializer:
            content = onnx.TensorProto()
            content.CopyFrom(weight)
            content.name = ""
            kept = weights.setdefault(content.SerializeToString(), weight)
            if kept is weight:
                kept = onnx.TensorProto()
                kept.CopyFrom(weight)
                kept.name = f"weight_{len(weights)}"
                weights[content.SerializeToString()] = kept
            names[weight.name] = kept.name
        for node in graph.node:
            copied = onnx.NodeProto()
            copied.CopyFrom(node)
            copied.name = f"{number}/{node.name}"
            names |= {name: f"{number}/{name}" for name in node.output if name}
            copied.input[:] = [names.get(name, name) for name in node.input]
            copied.output[:] = [names.get(name, name) for name in node.output]
            nodes.append(copied)
        for value in graph.output:
            values[value.name] = names[value.name]
            if value.name.startswith("next_"):
                values[value.name.removeprefix("next_")] = names[value.name]
    inputs = {value.name: value for call in reversed(calls) for value in models[call].graph.input}
    outputs = {value.name: value for call in calls for value in models[call].graph.output}
    nodes += [onnx.helper.make_node("Identity", [values[name]], [name]) for name in outputs]
    graph = onnx.helper.make_graph(
        _reached(nodes, set(outputs)),
        "step",
        [inputs[name] for name in last.all_inputs],
        list(outputs.values()),
        list(weights.values()),
    )
    return onnx.helper.make_model(
        graph, opset_imports=models["answer"].opset_import, ir_version=models["answer"].ir_version
    )


def _reached(nodes: list[Any], wanted: set[str]) -> list[Any]:
    """The nodes on which wanted values depend: what earlier answers say is not among them."""
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            wanted |= set(node.input)
            kept.append(node)
    return kept[::-1]


def described(found: Pretrained) -> dict[str, Any]:
    """What a caller must know of a model, however its steps are computed."""
    config, model = found.config, found.model
    cells, positions, fixed = shapes(model)
    z = {"z": model.z_init.tolist()} if model.z_init.numel() else {}
    return {
        "steps": config.steps,
        "start": {"y": model.y_init.tolist(), **z},
        "width": config.model.width,
        "prefix": config.model.prefix,
        "puzzles": config.puzzles,
        "cells": list(cells),
        "positions": list(positions),
        "any_board": not fixed,
        "candidates": isinstance(model, Candidates),
        "searches": Solver(model, found.family, config.steps).searches,
        "family": config.family.model_dump(mode="json"),
        "board": found.family.board,
        "signs": [sign._asdict() for sign in found.family.signs()],
        "same_cells": found.family.same_cells,
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _about(found: Pretrained, view: View, models: Mapping[str, Any]) -> dict[str, Any]:
    """What `model.json` says, without the check."""

    def names(values: Any) -> list[str]:
        return [value.name for value in values]

    graphs = {
        name: {
            "file": f"{name}.onnx",
            "inputs": names(graph.graph.input),
            "outputs": names(graph.graph.output),
        }
        for name, graph in models.items()
    }
    return {"format": FORMAT, "graphs": graphs, "calls": _calls(view), **described(found)}


def _board(view: View) -> str:
    return f"for boards of this size only: {view.fixed}" if view.fixed else "for boards of every size"


class Runner:
    """The graphs of a folder, called by name: a caller in Python, and how the check calls them."""

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        _, runtime = needed()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.sessions = {
            name: runtime.InferenceSession(
                (folder / graph["file"]).read_bytes(), options, providers=["CPUExecutionProvider"]
            )
            for name, graph in about["graphs"].items()
        }
        self.about = about

    def call(self, names: list[str], values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Graphs one after the other, on values by name; the state is replaced by each."""
        values = dict(values)
        for name in names:
            graph = self.about["graphs"][name]
            given = {each: values[each] for each in graph["inputs"]}
            made = dict(zip(graph["outputs"], self.sessions[name].run(None, given), strict=True))
            values |= {each.removeprefix("next_"): value for each, value in made.items()}
        return values


@torch.inference_mode()
def _checked(
    folder: Path, about: Mapping[str, Any], found: Pretrained, view: View, puzzles: Puzzles
) -> Check:
    """Graphs and PyTorch side by side through all steps of the puzzles; UserError where they differ."""
    runner, model, steps = Runner(folder, about), found.model, found.config.steps
    largest, alike = {"step": 0.0, "updates": 0.0}, 0
    for first in range(0, len(puzzles), _BATCH):
        part = puzzles.take(slice(first, first + _BATCH))
        tokens_BL, ids_B = torch.from_numpy(part.tokens_NL).long(), torch.from_numpy(part.puzzle_N).long()
        shape = (len(part), *view.positions, -1)
        puzzle = {"tokens": tokens_BL.view(len(part), *view.cells).numpy(), "puzzle_ids": ids_B.numpy()}

        def as_given(state: State, shape: tuple[int, ...] = shape) -> dict[str, np.ndarray]:
            names = ("y", "z") if view.has_z else ("y",)
            return {name: v.reshape(shape).numpy() for name, v in zip(names, state, strict=False)}

        x_BSD, state = model.encode(tokens_BL, ids_B), model.initial_state(len(part))
        own = puzzle | as_given(state)
        logits_BLV = torch.zeros(())
        for _ in range(steps):
            given = puzzle | as_given(state)
            own = runner.call(["step"], own)
            state, out = model.step(state, x_BSD)
            logits_BLV = out.logits_BLV
            right = as_given(state) | {"logits": logits_BLV.numpy(), "halt": out.halt_B.numpy()}
            if "conflict" in own:
                right["conflict"] = out.conflict_BL.numpy()
            for name, calls in (("step", ["step"]), ("updates", about["calls"])):
                got = runner.call(calls, given)
                differ = max(float(np.abs(got[each] - value).max()) for each, value in right.items())
                largest[name] = max(largest[name], differ)
        alike += int((own["logits"].argmax(-1) == logits_BLV.argmax(-1).numpy()).all(-1).sum())
    check = Check(len(puzzles), steps, largest["step"], largest["updates"], alike, _board(view))
    if not check.largest <= TOLERANCE:
        raise UserError(
            f"the exported graphs differ from PyTorch by {check.largest:.2g} in one step, more than rounding "
            f"({TOLERANCE:g}): nothing was written; please report this model"
        )
    return check
