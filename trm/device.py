"""Where a process computes: the device that is there, and what it cannot do."""

import torch

from trm.config import ComputeConfig
from trm.errors import UserError


def pick(compute: ComputeConfig, fall_back: bool = False) -> tuple[ComputeConfig, list[str]]:
    """The section for this machine, its device named, and what had to change for it, for the user to read.

    Device auto prefers CUDA, then an Apple GPU, then the CPU. A device that is not here is a UserError; with
    `fall_back` (a run goes on where it did not start) it is replaced like auto.
    """
    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    best = next(name for name, there in here.items() if there)
    device = best if compute.device == "auto" else compute.device
    lost = not here[device]
    if lost and not fall_back:
        raise UserError(
            f"no device {device!r} here: choose one of auto, {', '.join(n for n in here if here[n])}"
        )
    settled, changes = compute.on(best if lost else device)
    return settled, [f"on {settled.device}, as there is no {device} here"] * lost + changes
