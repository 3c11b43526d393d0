"""Supervision steps of many requests in one forward pass.

Every request thinks in a thread of its own, by the loops of `inference`, over a model whose `step` is
replaced: it hands its rows in and waits for what becomes of them. One thread takes what has been handed in,
joins rows of the same model and shape, computes them together and gives everybody their own. So rows of
different requests join and leave between any two supervision steps, whatever the requests do besides
(rollouts, search, votes), and nobody waits for another's whole solve.

Shapes: A rows handed in, S positions, D width.
"""

import copy
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor

from trm.models import RecursiveModel, State
from trm.models.recursive import Output

M = TypeVar("M", bound=RecursiveModel)


class Ended(Exception):  # noqa: N818 (no error: what ends a request from outside)
    """A request goes no further: nobody waits for it, or its time is over."""


class Ticket:
    """What ends a request from outside: its deadline, or that whoever asked has gone."""

    def __init__(self, seconds: float):
        self.deadline = time.monotonic() + seconds
        self.gone = threading.Event()

    @property
    def late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() > self.deadline

    def check(self) -> None:
        """Raise Ended where the request is to go no further."""
        if self.gone.is_set() or self.late:
            raise Ended


class _Call:
    """Rows handed in for one supervision step, and what becomes of them."""

    def __init__(self, model: RecursiveModel, state: State, x_ASD: Tensor):
        self.model, self.state, self.x_ASD = model, state, x_ASD
        self.done = threading.Event()
        self.result: tuple[State, Output] | None = None
        self.error: Exception | None = None

    def joins(self, other: "_Call") -> bool:
        """Whether both can be computed in one pass."""
        return self.model is other.model and self.x_ASD.shape[1:] == other.x_ASD.shape[1:]


class Joining:
    """Computes supervision steps of many threads together. Close it when nobody thinks any more."""

    def __init__(self, rows: int = 256, patience: float = 0.002):
        """At most `rows` rows in a pass, unless one request hands in more; with 1 nobody is joined.

        A pass waits at most `patience` seconds for requests that are between two of their steps.
        """
        self.rows, self.patience = rows, patience
        self.passes = self.computed = 0  # forward passes, and rows in them
        self._waiting: list[_Call] = []
        self._thinking = 0
        self._closed = False
        self._changed = threading.Condition()
        self._mine = threading.local()
        self._thread = threading.Thread(target=self._run, name="joining", daemon=True)
        self._thread.start()

    def of(self, model: M) -> M:
        """The same model, with the same weights, whose steps are computed here."""
        mind = copy.copy(model)
        # An attribute of the copy alone: `model.step` stays what it is, and is what the passes call.
        mind.__dict__["step"] = lambda state, x_ASD: self._step(model, state, x_ASD)
        return mind

    @contextmanager
    def request(self, ticket: Ticket) -> Generator[None]:
        """Think in this thread as one request; its steps raise Ended when the ticket does."""
        self._mine.ticket = ticket
        with self._changed:
            self._thinking += 1
        try:
            yield
        finally:
            del self._mine.ticket
            with self._changed:
                self._thinking -= 1
                self._changed.notify_all()

    def close(self) -> None:
        """Compute what has been handed in, then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()

    def _step(self, model: RecursiveModel, state: State, x_ASD: Tensor) -> tuple[State, Output]:
        self._mine.ticket.check()
        call = _Call(model, state, x_ASD)
        with self._changed:
            if self._closed:
                raise Ended
            self._waiting.append(call)
            self._changed.notify_all()
        call.done.wait()
        if call.error is not None:
            raise call.error
        assert call.result is not None
        return call.result

    def _run(self) -> None:
        while calls := self._next():
            try:
                _compute(calls)
            except Exception as error:  # theirs, and no reason to stop computing for others
                for call in calls:
                    call.error = error
            self.passes += 1
            self.computed += sum(len(call.x_ASD) for call in calls)
            for call in calls:
                call.done.set()

    def _next(self) -> list[_Call]:
        """The calls of the next pass, those that came first before others; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self.rows > 1:
                self._changed.wait_for(
                    lambda: self._closed or len(self._waiting) >= self._thinking, self.patience
                )
            taken: list[_Call] = []
            left: list[_Call] = []
            rows = 0
            for call in self._waiting:
                joins = not taken or (call.joins(taken[0]) and rows + len(call.x_ASD) <= self.rows)
                (taken if joins else left).append(call)
                rows += len(call.x_ASD) if joins else 0
            self._waiting = left
            return taken


@torch.inference_mode()
def _compute(calls: list[_Call]) -> None:
    """One supervision step of all rows of some calls."""
    states = zip(*(call.state for call in calls), strict=True)
    state, out = calls[0].model.step(
        State(*(torch.cat(parts) for parts in states)), torch.cat([call.x_ASD for call in calls])
    )
    sizes = [len(call.x_ASD) for call in calls]
    parts = zip(
        zip(*(part.split(sizes) for part in state), strict=True),
        zip(*(part.split(sizes) for part in out), strict=True),
        strict=True,
    )
    for call, (own, said) in zip(calls, parts, strict=True):
        call.result = State(*own), Output(*said)
