"""What a server does, without HTTP: choose the weights, keep to the limits, solve.

Shapes: B puzzles, S positions, D width.
"""

import base64
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trm import export, pretrained
from trm.config import ComputeConfig, Effort, FamilyConfig, Limits
from trm.errors import UserError, out_of_memory_is_a_user_error
from trm.inference.solver import Answer, Solver
from trm.models import State
from trm.models.recursive import Output
from trm.puzzles.family import Family
from trm.serving.joining import Joining, Ticket

_SIZES = 8  # boards of different sizes for which weights are held ready
_DECISIONS = 1000  # of a model that can search, where nothing is said of effort


class Service:
    """Models by name, and requests to them from any number of threads."""

    def __init__(self, models: Sequence[str], compute: ComputeConfig, limits: Limits):
        """Load models; each is a folder, a run, bundled weights by name, or a hub repository."""
        self.limits, self.compute = limits, compute
        self.models = {Path(name).name: name for name in models}
        if len(self.models) < len(models):
            raise UserError("two of the models have the same name: rename a folder")
        self.configs = {name: pretrained.find(path)[1] for name, path in self.models.items()}
        for name, config in self.configs.items():
            if config.family.build().commands:
                raise UserError(f"{name}: models of the family {config.family.name} are not served")
        self._loading = threading.Lock()
        self._solvers: OrderedDict[tuple[str, str], Solver] = OrderedDict()
        self.joining = Joining(limits.rows)
        self._page = []
        for name, config in self.configs.items():
            found = self._solver(name, config.family).found
            assert found is not None
            # A step on a server is one call, which says what stands at its end.
            about = {"calls": ["answer"], **export.described(found)}
            self._page.append({"name": name, "server": "v1/think", "about": about})

    def close(self) -> None:
        """End when what is being computed is done."""
        self.joining.close()

    def about(self) -> list[dict[str, Any]]:
        """The models: name, family, size of the boards, and steps where a request names none."""
        return [
            {
                "name": name,
                "family": config.family.model_dump(mode="json"),
                "any_board": config.model.any_board,
                "steps": config.steps,
                "searches": entry["about"]["searches"],
                "puzzle_ids": config.puzzles,
            }
            for (name, config), entry in zip(self.configs.items(), self._page, strict=True)
        ]

    def solve(
        self, ticket: Ticket, puzzles: Sequence[str], effort: Effort, model: str = "", puzzle_id: int = 0
    ) -> tuple[str, list[Answer]]:
        """The name of the model and its answers; UserError for what is malformed or beyond a limit.

        All puzzles of a request are of one size. Ended where the ticket ends it.
        """
        if len(puzzles) > self.limits.puzzles:
            raise UserError(f"{len(puzzles)} puzzles in a request: give at most {self.limits.puzzles}")
        name, solver = self._choose(model, puzzles)
        effort = solver.by_itself(effort, min(_DECISIONS, self.limits.search))
        self._check(solver, effort)
        with self.joining.request(ticket), out_of_memory_is_a_user_error("ask for less, or lower --rows"):
            for number, puzzle in enumerate(puzzles, 1):
                ticket.check()
                _check_puzzle(solver.family, puzzle, f"puzzle {number}: " if len(puzzles) > 1 else "")
            return name, solver.solve(puzzles, effort, puzzle_id)

    def steps(
        self, ticket: Ticket, puzzle: str, effort: Effort, model: str = "", puzzle_id: int = 0
    ) -> Iterator[dict[str, Any]]:
        """What there is to say after each supervision step of one puzzle, as plain values."""
        name, solver = self._choose(model, [puzzle])
        if effort.search:
            raise UserError("a search has no steps to watch: leave search out")
        if effort.rollouts > 1:
            raise UserError("steps are those of one rollout: leave rollouts out")
        self._check(solver, effort)
        family = solver.family
        with self.joining.request(ticket), out_of_memory_is_a_user_error("ask for less, or lower --rows"):
            _check_puzzle(family, puzzle, "")
            tokens_L = family.parse(puzzle)
            for each in solver.steps(puzzle, effort, puzzle_id):
                yield {
                    "model": name,
                    "step": each.step,
                    "answer": family.text(each.answer),
                    "halt_probability": each.halt_probability,
                    "verified": family.verify(tokens_L, each.answer),
                    "done": each.done,
                }

    def page(self) -> list[dict[str, Any]]:
        """The models as the page lists them: their steps are computed here."""
        return self._page

    @torch.inference_mode()
    def think(
        self,
        ticket: Ticket,
        puzzles: Sequence[str],
        state: Mapping[str, str] | None,
        model: str = "",
        puzzle_id: int = 0,
    ) -> dict[str, Any]:
        """One supervision step of puzzles, from a state or from the start, and the state after it.

        The caller owns the loop and may change puzzles and state as it likes. Arrays are float32, little
        endian, in base64.
        """
        if len(puzzles) > self.limits.puzzles:
            raise UserError(f"{len(puzzles)} puzzles in a request: give at most {self.limits.puzzles}")
        name, solver = self._choose(model, puzzles)
        mind = solver.model
        solver.check_id(puzzle_id)
        with self.joining.request(ticket), out_of_memory_is_a_user_error("ask for less, or lower --rows"):
            before = mind.initial_state(len(puzzles))
            # What nobody could send back is not computed.
            if (size := sum(_text_size(part) for part in before)) > self.limits.body:
                most = self.limits.body
                raise UserError(f"the state would have {size} bytes, and a request at most {most}: give less")
            if state is not None:
                before = State(*(_values(part, key, state.get(key)) for key, part in _parts(before)))
            after, out = self._thought(ticket, solver, puzzles, puzzle_id, before)
            was = dict(_parts(before))
            kept = {part: values for part, values in _parts(after) if values.numel()}
            moved = {part: _distance(was[part], values) for part, values in kept.items()}
            said = (out.logits_BLV, out.halt_B, *kept.values(), *moved.values())
            if not all(values.float().isfinite().all() for values in said):
                raise UserError("the state leads to values that are not finite: give smaller ones")
            return {
                "model": name,
                "logits": _text(out.logits_BLV),
                "halt": out.halt_B.tolist(),
                "moved": {part: values.tolist() for part, values in moved.items()},
                "state": {part: _text(values) for part, values in kept.items()},
            }

    def _thought(
        self, ticket: Ticket, solver: Solver, puzzles: Sequence[str], puzzle_id: int, before: State
    ) -> tuple[State, Output]:
        """One supervision step, in passes as large as the solver's: others have theirs in between."""
        mind, made = solver.model, []
        for first in range(0, len(puzzles), solver.chunk):
            ticket.check()
            rows = slice(first, first + solver.chunk)
            tokens_BL = torch.from_numpy(np.stack([solver.family.parse(each) for each in puzzles[rows]]))
            tokens_BL = tokens_BL.long().to(mind.y_init.device)
            x_BSD = mind.encode(tokens_BL, torch.full_like(tokens_BL[:, 0], puzzle_id))
            made.append(mind.step(State(*(part[rows] for part in before)), x_BSD))
        states, outs = zip(*made, strict=True)
        return State(*map(torch.cat, zip(*states, strict=True))), Output(
            *map(torch.cat, zip(*outs, strict=True))
        )

    def _check(self, solver: Solver, effort: Effort) -> None:
        """Refuse an effort beyond the limits."""
        limits = self.limits
        for name, value, most in (
            ("steps", effort.steps, limits.steps),
            ("rollouts", effort.rollouts, limits.rollouts),
            ("search", effort.search, limits.search),
            ("seconds", effort.seconds, limits.seconds),
        ):
            if value is not None and value > most:
                raise UserError(f"effort.{name} is {value}: this server gives at most {most}")
        solver.check_effort(effort)

    def _choose(self, model: str, puzzles: Sequence[str]) -> tuple[str, Solver]:
        """Weights for puzzles: those asked for, or those that learned on boards most like the first."""
        if model and model not in self.configs:
            raise UserError(f"no model {model[:40]!r} here: choose one of {', '.join(self.configs)}")
        if not puzzles:
            raise UserError("there are no puzzles: give at least one")
        asked = {model: self.configs[model]} if model else self.configs
        fits = pretrained.that_fit(asked, dict.fromkeys(asked, puzzles[:1]))
        if not fits:
            faults = [config.family.build().misfit(puzzles[0]) for config in asked.values()]
            fault = next(filter(None, faults), "the weights are for boards of other sizes")
            raise UserError(f"no model here fits the puzzle: {fault}")
        name, (boards, _) = next(iter(fits.items()))
        if (cells := boards.build().length) > self.limits.cells:
            raise UserError(f"the puzzle has {cells} cells: this server takes at most {self.limits.cells}")
        return name, self._solver(name, boards)

    def _solver(self, name: str, boards: FamilyConfig) -> Solver:
        """A solver whose steps are joined; those of sizes that were asked for last are kept."""
        key = name, boards.model_dump_json()
        with self._loading:
            if key not in self._solvers:
                found = pretrained.load(self.models[name], self.compute, boards)
                self._solvers[key] = Solver(
                    self.joining.of(found.model), found.family, found.config.steps, found
                )
                if len(self._solvers) > _SIZES + len(self.models):
                    self._solvers.popitem(last=False)
            self._solvers.move_to_end(key)
            return self._solvers[key]


def _check_puzzle(family: Family, puzzle: str, place: str) -> None:
    try:
        family.check(family.parse(puzzle))
    except UserError as error:
        raise UserError(f"{place}{error}") from None


def _parts(state: State) -> Iterator[tuple[str, Tensor]]:
    """The parts of a state by the names that callers give them."""
    return zip(("y", "z"), state, strict=True)


def _values(like: Tensor, name: str, text: str | None) -> Tensor:
    """A part of a state, as it came; UserError where it is none of this model and these puzzles."""
    name = f"state.{name}"
    try:
        data = base64.b64decode(text or "", validate=True)
    except ValueError:  # of binascii, or plain where the text is not ASCII
        raise UserError(f"{name} is not base64") from None
    if len(data) != 4 * like.numel():
        raise UserError(f"{name} has {len(data)} bytes: {list(like.shape)} float32 have {4 * like.numel()}")
    values = torch.from_numpy(np.frombuffer(data, "<f4").copy()).view(like.shape)
    if not values.isfinite().all():
        raise UserError(f"{name} holds values that are not finite")
    return values.to(like)


def _text_size(values: Tensor) -> int:
    """Characters of values as text: four for every three bytes."""
    return (4 * values.numel() + 2) // 3 * 4


def _text(values: Tensor) -> str:
    return base64.b64encode(values.float().cpu().numpy().astype("<f4").tobytes()).decode()


def _distance(before_BSD: Tensor, after_BSD: Tensor) -> Tensor:
    """How far the values of every puzzle moved: the root of the mean square of the differences, [B]."""
    return (after_BSD - before_BSD).float().square().mean((1, 2)).sqrt()
