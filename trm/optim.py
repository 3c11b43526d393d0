"""Optimizers, learning-rate schedule and the average of the weights.

One `Optimizer` serves every recipe: it holds the torch optimizers of the parameter groups, sets their
learning rates from the schedule, and steps them together. All counters are tensors, so that a saved
state is complete.
"""

import math
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trm.config import EmaConfig, OptimizerConfig
from trm.models.embedding import PuzzleEmbedding
from trm.models.layers import Network


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
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient."""
        if closure is not None:
            raise ValueError("AdamATan2 takes no closure")
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, **group)

    def _update(self, p: Tensor, lr: float, betas: tuple[float, float], weight_decay: float, **_: Any):
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(p)
            state["exp_avg_sq"] = torch.zeros_like(p)
        beta1, beta2 = betas
        m, v = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        t = state["step"].item()
        m.lerp_(p.grad, 1 - beta1)
        v.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        denominator = v.sqrt().div_(math.sqrt(1 - beta2**t))
        p.mul_(1 - lr * weight_decay)
        p.sub_(torch.atan2(m, denominator), alpha=lr / (1 - beta1**t))


class SignSgd(torch.optim.Optimizer):
    """Sign-SGD with decoupled decay on the rows of a puzzle embedding that were looked up.

    Gradients of equal ids are summed before the sign is taken, and a row is written once however often
    it was looked up. Rows that were not looked up stay untouched. All shapes are fixed by the batch.
    """

    def __init__(self, embedding: PuzzleEmbedding, lr: float, weight_decay: float):
        super().__init__([embedding.weight], {"lr": lr, "weight_decay": weight_decay})
        self.embedding = embedding

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
        # Every row of an id reads the sum kept at the first one: equal ids get equal bits.
        first_B = (puzzle_B.unsqueeze(0) == puzzle_B.unsqueeze(1)).int().argmax(1)
        summed_BW = torch.zeros_like(rows_BW).index_add_(0, first_B, rows_BW.grad)[first_B]
        (group,) = self.param_groups
        decayed_BW = rows_BW * (1 - group["lr"] * group["weight_decay"])
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
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


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


def torch_optimizers(config: OptimizerConfig, model: nn.Module) -> list[torch.optim.Optimizer]:
    """The torch optimizers that share the model's parameters between them."""
    matrices, others = parameter_groups(model)
    adam = {"lr": config.lr, "betas": config.betas, "weight_decay": config.weight_decay}
    optimizers: list[torch.optim.Optimizer] = []
    if config.only_puzzles:
        pass  # the network is frozen
    elif config.name == "adam_atan2":
        optimizers.append(AdamATan2(matrices + others, **adam))
    elif config.name == "adamw":
        optimizers.append(torch.optim.AdamW(matrices + others, **adam))
    else:
        muon = torch.optim.Muon(
            matrices,
            lr=config.muon_lr,
            weight_decay=config.muon_weight_decay,
            momentum=config.muon_momentum,
            nesterov=True,
            ns_steps=config.muon_newton_schulz,
            adjust_lr_fn="original",
        )
        optimizers += [muon, torch.optim.AdamW(others, **adam)]
    optimizers += [
        SignSgd(module, config.puzzle_lr, config.puzzle_weight_decay)
        for module in model.modules()
        if isinstance(module, PuzzleEmbedding)
    ]
    return optimizers


class Optimizer:
    """All optimizers of a model, stepped together under one schedule and one gradient clip."""

    def __init__(self, config: OptimizerConfig, model: nn.Module, steps: int):
        self.config = config
        self.steps = steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = torch_optimizers(config, model)
        self._peaks = [[g["lr"] for g in each.param_groups] for each in self.optimizers]

    def step(self, step: int) -> None:
        """Clip the gradient, apply one update at the learning rate of `step`, and clear the gradient."""
        if self.config.clip:
            nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        factor = learning_rate_factor(self.config, step, self.steps)
        for each, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(each.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
            each.step()
            each.zero_grad()


class Ema:
    """Exponential moving average of the trained parameters, kept beside the model.

    average = decay * average + (1 - decay) * weights, after every optimizer step from `start` on; until
    then the average is a copy. Puzzle embeddings and fixed vectors are not averaged: the same tensors
    serve both.
    """

    def __init__(self, config: EmaConfig, model: nn.Module):
        self.config = config
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.averages = {n: p.detach().clone() for n, p in self.parameters.items()}
        self._average = get_ema_multi_avg_fn(config.decay)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Follow the weights after the optimizer step number `step` (from 0)."""
        if not self.averages:  # the network is frozen
            return
        averages: list[Tensor] = list(self.averages.values())
        parameters: list[Tensor] = list(self.parameters.values())
        if step < self.config.start:
            torch._foreach_copy_(averages, parameters)
        else:
            self._average(averages, parameters, step)

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
