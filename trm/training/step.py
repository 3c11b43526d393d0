"""One optimizer step of the rows in flight, run plainly or replayed as a CUDA graph.

Whatever changes from step to step is in tensors that stay where they are: the number of the step, the
learning rates, the rows in flight and the sums of the metrics. The rest is a fixed sequence of work on the
device, drawing and augmenting the batch included, in which the host reads nothing. So one function serves
both ways, and what is tested on a CPU is what a graph records.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from trm import rng
from trm.data.batches import Batch
from trm.models import RecursiveModel
from trm.processes import ALONE, Processes
from trm.recipe import RunConfig
from trm.training.decisions import Decisions
from trm.training.hints import Hints
from trm.training.losses import step_loss
from trm.training.optim import Ema, Optimizer
from trm.training.supervision import HINTS, Slots, empty_slots, supervise

# Steps run plainly before a graph is recorded: they compile, choose kernels and allocate.
WARM_UP = 3


class TrainingStep:
    """Refill, supervision step, loss, backward, update, average.

    `draw(number)` offers the batch of a step (this process's rows of it), whose number it gets as an int64
    scalar on the device; `backward(loss)` computes gradients. With `graph` the model must be on a CUDA
    device, and the optimizer and the average must be `capturable`.
    """

    def __init__(
        self,
        config: RunConfig,
        model: RecursiveModel,
        optimizer: Optimizer,
        ema: Ema | None,
        draw: Callable[[Tensor], Batch],
        backward: Callable[[Tensor], object] = torch.Tensor.backward,
        graph: bool = False,
        hints: Hints | None = None,
        decisions: Decisions | None = None,
        processes: Processes = ALONE,
    ):
        self.config, self.model, self.optimizer, self.ema = config, model, optimizer, ema
        self.draw, self.backward, self.hints, self.decisions = draw, backward, hints, decisions
        self.processes, self.first = processes, processes.share(config.train.batch).start
        self._warm = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        # One stream for all warm-up steps: it keeps its memory.
        self._beside = torch.cuda.Stream() if graph else None
        self._sums: dict[str, Tensor] = {}
        self.steps_since_reading = 0
        device = next(model.parameters()).device
        self.number = torch.zeros((), dtype=torch.int64, device=device)
        self.slots = empty_slots(model, draw(self.number))

    def __call__(self, step: int) -> None:
        """Take the optimizer step of that number."""
        self.number.fill_(step)
        self.optimizer.schedule(step)
        if self.ema is not None:
            self.ema.schedule(step)
        if self._beside is None:
            self._run()
        elif self._warm < WARM_UP:
            self._warm += 1
            # As recording does: so that nothing is set up anew there.
            self._beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._beside):
                self._run()
            torch.cuda.current_stream().wait_stream(self._beside)
        else:
            if self._graph is None:
                self._graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self._graph):
                    self._run()
            self._graph.replay()
        self.steps_since_reading += 1

    def _run(self) -> None:
        config = self.config
        key = rng.fold(rng.fold(rng.stream("explore", self.number.device), config.seed), self.number)
        key = rng.fold(key, 0)  # of old, like that of `Batches`
        offered, hinted_B = self.draw(self.number), None
        if self.hints is not None:
            offered, hinted_B = self.hints.add(offered, rng.fold(key, HINTS))
        step = supervise(self.model, self.slots, offered, config.supervision, key, self.decisions, self.first)
        loss, sums = step_loss(config.loss, step)
        # A sum over rows, of which the others have theirs: gradients are added up, not averaged.
        self.backward(loss.total / config.train.batch)
        self.optimizer.apply()
        if self.ema is not None:
            self.ema.apply()
        if self.hints is not None and hinted_B is not None:
            self.hints.learn(self.slots.halted_B, hinted_B, step)
        self.load(step.slots)
        for name, value in sums.items():
            if name not in self._sums:
                self._sums[name] = torch.zeros_like(value)
            self._sums[name].add_(value)

    def load(self, slots: Slots) -> None:
        """Put these rows in flight (copied: the tensors of `slots` stay where they are)."""
        for own, new in zip(_tensors(self.slots), _tensors(slots), strict=True):
            own.copy_(new)

    def read(self) -> dict[str, float]:
        """Sums of the metrics over all rows since the last reading, which they end.

        Waits for the device, once.
        """
        sums = torch.stack(list(self._sums.values()))
        self.processes.add_up([sums])
        values = sums.tolist()
        for value in self._sums.values():
            value.zero_()
        self.steps_since_reading = 0
        return dict(zip(self._sums, values, strict=True))


def _tensors(slots: Slots) -> tuple[Tensor, ...]:
    return (*slots.batch, *slots.state, slots.steps_B, slots.halted_B)
