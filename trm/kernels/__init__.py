"""The parts of a block in two versions with one signature each: `plain` PyTorch, and fused Triton kernels.

    mix_tokens(h_BSD, up_ES, down_SI, gate)    rmsnorm over tokens of h + the gated unit over tokens
    mix_channels(h_BSD, up_ED, down_DI, gate)  rmsnorm over channels of h + the gated unit over channels
    add_rms_norm(h_BSD, m_BSD)                 rmsnorm over channels of h + m

`ComputeConfig.kernels` chooses. The fused version is imported only when it is asked for: Triton is no
dependency of the package (PyTorch's builds for CUDA bring it along).

Shapes: B batch, S tokens, D width, I inner width, E = 2 I (the gate's rows, then the values' rows).
"""

import importlib
from typing import Literal, Protocol, cast

from torch import Tensor

from trm.errors import UserError

Gate = Literal["swiglu", "normed"]


class Kernels(Protocol):
    """What both versions offer; weights may be of another dtype than h, which decides the precision."""

    def mix_tokens(self, h_BSD: Tensor, up_ES: Tensor, down_SI: Tensor, gate: Gate) -> Tensor:
        """Token mixing, residual and norm over tokens."""
        ...

    def mix_channels(self, h_BSD: Tensor, up_ED: Tensor, down_DI: Tensor, gate: Gate) -> Tensor:
        """The gated unit over channels, residual and norm over channels."""
        ...

    def add_rms_norm(self, h_BSD: Tensor, m_BSD: Tensor) -> Tensor:
        """Residual and norm over channels."""
        ...


def choose(name: Literal["auto", "torch", "triton", "native"]) -> Kernels:
    """The version of that name; UserError where Triton is missing."""
    try:
        return cast(
            Kernels, importlib.import_module(f"trm.kernels.{'fused' if name == 'triton' else 'plain'}")
        )
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        raise UserError(
            "compute.kernels triton needs the package triton (on Linux: pip install triton)"
        ) from None
