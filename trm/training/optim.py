"""Optimizers, learning-rate schedule and the average of the weights.

One `Optimizer` serves every recipe: it holds the torch optimizers of the parameter groups, sets their
learning rates from the schedule, and steps them together. All counters are tensors, so that a saved
state is complete.

What a step needs from the host (learning rates, the weight of the average) is set by `schedule`; `apply`
does the work. With `capturable`, all of it is kept in tensors on the device that stay where they are, so
that a CUDA graph may record `apply` once and replay it.
"""

import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from trm.config import EmaConfig, OptimizerConfig
from trm.models.embedding import PuzzleEmbedding
from trm.models.layers import Network
from trm.processes import ALONE, Processes


class AdamATan2(torch.optim.Optimizer):
    """Adam with atan2 in place of division, so that it needs no epsilon (Everett et al., 2407.05872).

        p = p * (1 - lr * weight_decay)
        p = p - lr / (1 - beta1^t) * atan2(m, sqrt(v) / sqrt(1 - beta2^t))

    This is what version 0.0.3 of the optimizer package of the original computes: only the second moment
    is corrected inside atan2. Other public packages use another formula.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.95),
        weight_decay: float = 0.0,
        capturable: bool = False,
    ):
        defaults = {"lr": lr, "betas": betas, "weight_decay": weight_decay, "capturable": capturable}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("AdamATan2 takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, **group)

    def _update(
        self,
        p: Tensor,
        lr: float | Tensor,
        betas: tuple[float, float],
        weight_decay: float,
        capturable: bool,
        **_: Any,
    ) -> None:
        state = self.state[p]
        if not state:
            # A counter on the CPU is read without waiting for the device, but a graph would not count.
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device if capturable else "cpu")
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = betas
        m, v = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        t = state["step"] if capturable else state["step"].item()
        m.lerp_(p.grad, 1 - beta1)
        v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        update = torch.atan2(m, v.sqrt().div_((1 - beta2**t) ** 0.5))
        rate = lr / (1 - beta1**t)
        p.mul_(1 - lr * weight_decay)
        if isinstance(rate, Tensor):
            p.addcmul_(update, rate, value=-1)
        else:
            p.sub_(update, alpha=rate)


class Muon(torch.optim.Muon):
    """torch's Muon (Jordan et al., 2024), whose learning rate may be a tensor that is never read back."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every matrix that has a gradient."""
        if not any(isinstance(group["lr"], Tensor) for group in self.param_groups):
            return super().step(closure)
        if closure is not None:
            raise ValueError("Muon takes no closure with a learning rate on the device")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, group)
        return None

    def _update(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        momentum = gradient.lerp(state["momentum_buffer"], group["momentum"])
        update = newton_schulz(momentum, group["ns_coefficients"], group["ns_steps"], group["eps"])
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.addcmul_(update, group["lr"] * math.sqrt(max(1, p.shape[0] / p.shape[1])), value=-1)


def newton_schulz(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """Bring all singular values near 1, in bfloat16: X = a X + (b X X^T + c (X X^T)^2) X, `steps` times."""
    a, b, c = coefficients
    x = matrix.bfloat16()
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        square = x @ x.mT
        x = torch.addmm(x, torch.addmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class SignSgd(torch.optim.Optimizer):
    """Sign-SGD with decoupled decay on the rows of a puzzle embedding that were looked up.

    Gradients of equal ids are summed before the sign is taken, and a row is written once however often
    it was looked up. Rows that were not looked up stay untouched. All shapes are fixed by the batch.

    Of several processes each looks up the rows of its share of `batch`. Ids and gradients are put together
    before the sign is taken, in the order of the batch, so that every process writes the same bits.
    """

    def __init__(
        self,
        embedding: PuzzleEmbedding,
        lr: float,
        weight_decay: float,
        processes: Processes = ALONE,
        batch: int = 0,
    ):
        super().__init__([embedding.weight], {"lr": lr, "weight_decay": weight_decay})
        self.embedding, self.processes, self.batch = embedding, processes, batch

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update the rows of the last lookup."""
        if closure is not None:
            raise ValueError("SignSgd takes no closure")
        if self.embedding.looked_up is None:
            return
        puzzle_B, rows_BW = self.embedding.looked_up
        if rows_BW.grad is None:
            return
        puzzle_B, grad_BW = (self.processes.whole(each, self.batch) for each in (puzzle_B, rows_BW.grad))
        # Every row of an id reads the sum kept at the first one: equal ids get equal bits.
        first_B = (puzzle_B.unsqueeze(0) == puzzle_B.unsqueeze(1)).int().argmax(1)
        summed_BW = torch.zeros_like(grad_BW).index_add_(0, first_B, grad_BW)[first_B]
        (group,) = self.param_groups
        decayed_BW = self.embedding.weight[puzzle_B] * (1 - group["lr"] * group["weight_decay"])
        # Rows of equal ids hold equal values, so the order in which they are written does not matter.
        self.embedding.weight[puzzle_B] = decayed_BW - group["lr"] * summed_BW.sign()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the last lookup."""
        self.embedding.looked_up = None


def learning_rate_factor(config: OptimizerConfig, step: int, steps: int) -> float:
    """Factor on the learning rate at `step` (from 0) of a run of `steps`: warm-up, then the schedule."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    if config.schedule == "wsd":
        return min(1.0, max(0.0, (steps - step) / config.decay_steps))
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    falling = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.lr_min_ratio + (1 - config.lr_min_ratio) * falling


def parameter_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The matrices of the blocks (Muon's), and all other trained parameters."""
    matrices = [
        p
        for module in model.modules()
        if isinstance(module, Network)
        for p in module.parameters()
        if p.ndim == 2 and p.requires_grad
    ]
    chosen = {id(p) for p in matrices}
    return matrices, [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]


def torch_optimizers(
    config: OptimizerConfig,
    model: nn.Module,
    capturable: bool = False,
    processes: Processes = ALONE,
    batch: int = 0,
) -> list[torch.optim.Optimizer]:
    """The torch optimizers that share the model's parameters between them."""
    optimizers: list[torch.optim.Optimizer] = []
    if not config.only_puzzles:  # else the network is frozen
        optimizers += OPTIMIZERS[config.name](config, *parameter_groups(model), capturable)
    optimizers += [
        SignSgd(module, config.puzzle_lr, config.puzzle_weight_decay, processes, batch)
        for module in model.modules()
        if isinstance(module, PuzzleEmbedding)
    ]
    return optimizers


def _adam_options(config: OptimizerConfig) -> dict[str, Any]:
    return {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}


def _adam_atan2(
    config: OptimizerConfig, matrices: list[nn.Parameter], others: list[nn.Parameter], capturable: bool
) -> list[torch.optim.Optimizer]:
    return [AdamATan2(matrices + others, **_adam_options(config), capturable=capturable)]


def _adamw(
    config: OptimizerConfig, matrices: list[nn.Parameter], others: list[nn.Parameter], capturable: bool
) -> list[torch.optim.Optimizer]:
    parameters = matrices + others
    # The fused form is one kernel for all parameters, and on a CPU the only one that takes rates as tensors.
    on_cuda = capturable and parameters[0].device.type == "cuda"
    options = _adam_options(config)
    return [torch.optim.AdamW(parameters, **options, fused=capturable or None, capturable=on_cuda)]


def _muon(
    config: OptimizerConfig, matrices: list[nn.Parameter], others: list[nn.Parameter], capturable: bool
) -> list[torch.optim.Optimizer]:
    muon = Muon(
        matrices,
        lr=config.muon_lr,
        weight_decay=config.muon_weight_decay,
        momentum=config.muon_momentum,
        nesterov=True,
        ns_steps=config.muon_newton_schulz,
        adjust_lr_fn="original",
    )
    return [muon, *_adamw(config, [], others, capturable)]


# By name: from the configuration, the matrices of the blocks, all other parameters, and whether rates must be
# tensors (for a CUDA graph), to the torch optimizers that share the parameters between them.
OPTIMIZERS = {"adam_atan2": _adam_atan2, "adamw": _adamw, "muon": _muon}


class Optimizer:
    """All optimizers of a model, stepped together under one schedule and one gradient clip.

    The gradient of every process is that of its share of the `batch` rows of a step; their sum is clipped and
    applied by all alike. Only the last cycle carries gradient, so there is little work behind which an
    exchange could hide: there is one, of all gradients, when they are complete. (A wrapper such as
    DistributedDataParallel averages where we add up, and broadcasts buffers before every step.)
    """

    def __init__(
        self,
        config: OptimizerConfig,
        model: nn.Module,
        steps: int,
        capturable: bool = False,
        processes: Processes = ALONE,
        batch: int = 0,
    ):
        self.config, self.processes = config, processes
        self.steps = steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = torch_optimizers(config, model, capturable, processes, batch)
        self._peaks = [[g["lr"] for g in each.param_groups] for each in self.optimizers]
        self._rates: list[list[Tensor]] | None = None
        if capturable:
            device = next(model.parameters()).device
            self._rates = [[torch.tensor(p, device=device) for p in peaks] for peaks in self._peaks]

    def step(self, step: int) -> None:
        """Clip the gradient, apply one update at the learning rate of `step`, and clear the gradient."""
        self.schedule(step)
        self.apply()

    def schedule(self, step: int) -> None:
        """Set the learning rates of `step`."""
        factor = learning_rate_factor(self.config, step, self.steps)
        for i, (each, peaks) in enumerate(zip(self.optimizers, self._peaks, strict=True)):
            for j, (group, peak) in enumerate(zip(each.param_groups, peaks, strict=True)):
                rate = peak * factor
                group["lr"] = rate if self._rates is None else self._rates[i][j].fill_(rate)

    def apply(self) -> None:
        """Add up the gradients of all processes, clip the sum, apply one update, and clear the gradients."""
        self.processes.add_up([p.grad for p in self.parameters if p.grad is not None])
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for each in self.optimizers:
            each.step()
            each.zero_grad()


class Ema:
    """Exponential moving average of the trained parameters, kept beside the model.

    average = decay * average + (1 - decay) * weights, after every optimizer step from `start` on; until
    then the average is a copy. Puzzle embeddings and fixed vectors are not averaged: the same tensors
    serve both.
    """

    def __init__(self, config: EmaConfig, model: nn.Module, capturable: bool = False):
        self.config = config
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages = {n: p.detach().clone() for n, p in self.parameters.items()}
        device = next(model.parameters()).device
        self._weight: float | Tensor = torch.ones((), device=device) if capturable else 1.0

    def update(self, step: int) -> None:
        """Follow the weights after the optimizer step number `step` (from 0)."""
        self.schedule(step)
        self.apply()

    def schedule(self, step: int) -> None:
        """Set the weight of the next weights in the average: 1 until the start."""
        weight = 1.0 if step < self.config.start else 1 - self.config.decay
        self._weight = self._weight.fill_(weight) if isinstance(self._weight, Tensor) else weight

    @torch.no_grad()
    def apply(self) -> None:
        """Follow the weights."""
        if not self.averages:  # the network is frozen
            return
        averages: list[Tensor] = list(self.averages.values())
        parameters: list[Tensor] = list(self.parameters.values())
        weight = self._weight
        torch._foreach_lerp_(
            averages, parameters, [weight] * len(averages) if isinstance(weight, Tensor) else weight
        )

    @contextmanager
    def applied(self) -> Generator[None]:
        """Within the context, the model computes with the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.parameters.items():
            held = p.clone()
            p.copy_(self.averages[name])
            self.averages[name].copy_(held)
