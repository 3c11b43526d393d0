"""What a training step costs by P GPUs: time and bytes of the paper's recipes, computed and not measured.

    python benchmarks/cluster.py [--gpus 1 8 64 512] [--utilisation 0.4 ...]

The time of a step is the larger of two: what the device does, and the number of 8 bytes by which the hosts
tell each other of signals. The device computes its share of the rows, which takes as long as their matrix
products at a share of the peak, but no less than its kernels take to start; it adds up gradients with the
others; and it updates the weights, which takes as long as reading and writing them. Bytes are those that a
process hands to sums (a ring sends and receives up to twice as many). They follow from shapes alone, and a
test counts them. Everything else that is assumed is an option, and printed.
"""

import math
from dataclasses import dataclass, fields

import torch
import tyro
from flops import step_flops

from trm.models import RecursiveModel, build
from trm.recipe import RunConfig, load_recipe

RECIPES = ("sudoku-paper", "maze-paper", "arc1-paper")
# Of every parameter, 4 bytes each: gradient read, weight and both moments read and written; then the weight
# read and its average read and written.
_TOUCHED = 10 * 4


@dataclass
class Assumed:
    """What is assumed of the GPUs and of what connects them (H100 in nodes of eight)."""

    peak: float = 989e12
    """Operations per second of matrix products in bfloat16, without sparsity (NVIDIA's data sheet)."""
    utilisation: float = 0.4
    """Share of the peak that a step reaches with many rows."""
    launch: float = 3e-6
    """Least seconds of a kernel, within a CUDA graph."""
    kernels: int = 12
    """Kernels of a block forward; backward has twice as many."""
    memory: float = 2.7e12
    """Bytes per second of the GPU's memory (80 % of the data sheet)."""
    node: int = 8
    """GPUs of a node."""
    inside: float = 300e9
    """Bytes per second of a sum within a node (NVLink)."""
    between: float = 40e9
    """Bytes per second and GPU of a sum over several nodes (400 Gb/s each)."""
    delay: float = 20e-6
    """Seconds until a sum within a node begins to flow."""
    hop: float = 20e-6
    """The same for each doubling of the number of nodes, there and back."""
    host: float = 100e-6
    """Seconds of the hosts' message for each doubling of the number of processes."""


def handed(config: RunConfig, model: RecursiveModel) -> list[int]:
    """Bytes of each sum of a step: gradients, and of puzzle embeddings ids and gradients."""
    sums, batch = [4 * sum(p.numel() for p in model.parameters() if p.requires_grad)], config.train.batch
    return sums + [8 * batch, 4 * batch * config.model.puzzle_width] * bool(config.model.puzzle_width)


def seconds(config: RunConfig, model: RecursiveModel, gpus: int, assumed: Assumed) -> tuple[float, float]:
    """Seconds of a step, and of these the sums over all GPUs."""
    rows = math.ceil(config.train.batch / gpus)
    products = rows * step_flops(model, training=True) / (assumed.peak * assumed.utilisation)
    forward, graded = (sum(len(network.blocks) for network in each) for each in model.applications())
    starting = assumed.launch * assumed.kernels * (forward + 2 * graded)
    updating = _TOUCHED * handed(config, model)[0] / 4 / assumed.memory
    nodes = math.ceil(gpus / assumed.node)
    speed = assumed.between if nodes > 1 else assumed.inside
    waiting = assumed.delay + 2 * math.log2(nodes) * assumed.hop
    ring = 2 * (gpus - 1) / gpus
    adding = sum(waiting + ring * size / speed for size in handed(config, model)) if gpus > 1 else 0.0
    device = max(products, starting) + updating + adding
    return max(device, math.log2(gpus) * assumed.host), adding


def main(assumed: Assumed | None = None, gpus: tuple[int, ...] = (1, 2, 4, 8, 32, 128, 512)) -> None:
    """Print a table of the paper's recipes.

    Args:
        assumed: What is assumed.
        gpus: Numbers of GPUs.
    """
    assumed = assumed or Assumed()
    print("assumed: " + ", ".join(f"{each.name} {getattr(assumed, each.name):g}" for each in fields(assumed)))
    print("| recipe | GPUs | rows each | ms a step | of it sums | MB in sums | faster | whole run, hours |")
    print("|---|---|---|---|---|---|---|---|")
    for name in RECIPES:
        config = load_recipe(name)
        with torch.device("meta"):
            model = build(config.model, config.family.build().problem(1), config.compute)
        alone, _ = seconds(config, model, 1, assumed)
        for count in gpus:
            step, adding = seconds(config, model, count, assumed)
            size = sum(handed(config, model)) / 1e6 if count > 1 else 0.0
            print(
                f"| {name} | {count} | {math.ceil(config.train.batch / count)} | {1000 * step:.2f} | "
                f"{1000 * adding:.2f} | {size:.1f} | {alone / step:.1f} | "
                f"{step * config.train.steps / 3600:.1f} |"
            )


if __name__ == "__main__":
    tyro.cli(main)
