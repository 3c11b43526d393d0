"""Puzzles per second and latency of `trm serve` under load, with and without joining, in one run.

    python benchmarks/serve.py [--model mini] [--clients 64] [--seconds 60]

A real server on the loopback interface, and clients that each ask one puzzle after the other. Between
the two ways only `--rows` differs: with 1 every request has forward passes of its own. The clients run in a
process beside the server and share its cores.
"""

import asyncio
import itertools
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import tyro

import trm
from trm.data import sources
from trm.puzzles.sudoku.config import SudokuGeneratorConfig


def main(
    model: str = "mini",
    clients: int = 64,
    seconds: float = 60.0,
    n: int = 500,
    rows: tuple[int, ...] = (256, 1),
) -> None:
    """Load a server.

    Args:
        model: Weights, as for `trm serve`.
        clients: Clients at once.
        seconds: Seconds of each way.
        n: Different puzzles, generated from a fixed seed.
        rows: Most rows of a forward pass, for each way.
    """
    family = trm.load(model, device="cpu").family
    puzzles = sources.generate(SudokuGeneratorConfig(test=n), family, seed=12345)["test"]
    texts = [family.text(tokens_L) for tokens_L in puzzles.tokens_NL]
    print(f"{model}, {clients} clients, {seconds:g} s each")
    print(
        f"{'rows':>5}{'puzzles/s':>11}{'lost':>6}{'verified %':>12}{'p50 ms':>8}{'p95 ms':>8}{'p99 ms':>8}"
        f"{'rows/pass':>11}{'MB begin':>10}{'middle':>8}{'end':>8}"
    )
    for most in rows:
        print(row(model, most, texts, clients, seconds), flush=True)


def row(model: str, rows: int, texts: list[str], clients: int, seconds: float) -> str:
    """Load one server, and what it gave."""
    command = [sys.executable, "-m", "trm", "serve", model, "--port", "0", "--rows", str(rows)]
    command += ["--requests", str(clients), "--device", "cpu"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ)) as server:
        assert server.stderr is not None
        try:
            found = re.match(r"(http://\S+):", server.stderr.readline())
            assert found is not None
            address = found[1]
            asyncio.run(load(address, texts, clients, 2))  # to warm up
            before, passes = memory(server.pid), figures(address)

            async def loaded() -> tuple[tuple[list[float], int, int, float], float]:
                return await asyncio.gather(
                    load(address, texts, clients, seconds), memory_after(server.pid, seconds / 2)
                )

            (took, verified, lost, wall), middle = asyncio.run(loaded())
            after, passed = memory(server.pid), figures(address)
        finally:
            server.terminate()
    joined = (passed[1] - passes[1]) / (passed[0] - passes[0])
    p50, p95, p99 = 1000 * np.percentile(took, (50, 95, 99))
    speed, right = len(took) / wall, 100 * verified / len(took)
    return (
        f"{rows:>5}{speed:>11.1f}{lost:>6}{right:>12.1f}{p50:>8.1f}{p95:>8.1f}{p99:>8.1f}{joined:>11.2f}"
        f"{before:>10.0f}{middle:>8.0f}{after:>8.0f}"
    )


async def load(
    address: str, texts: list[str], clients: int, seconds: float
) -> tuple[list[float], int, int, float]:
    """Seconds of every answer, answers that are verified, requests that were not answered, seconds in all."""
    took: list[float] = []
    verified = lost = 0
    asked = itertools.cycle(texts)
    started = time.perf_counter()

    async def client() -> None:
        nonlocal verified, lost
        async with httpx.AsyncClient(base_url=address, timeout=120) as http:
            while time.perf_counter() - started < seconds:
                begun = time.perf_counter()
                answer = await http.post("/v1/solve", json={"puzzles": [next(asked)]})
                if answer.status_code != 200:
                    lost += 1
                    continue
                took.append(time.perf_counter() - begun)
                verified += answer.json()["answers"][0]["verified"]

    await asyncio.gather(*(client() for _ in range(clients)))
    return took, verified, lost, time.perf_counter() - started


def figures(address: str) -> tuple[int, int]:
    """Forward passes, and rows in them."""
    text = httpx.get(f"{address}/metrics").text
    values = dict(re.findall(r"^trm_forward_(\w+)_total (\d+)$", text, flags=re.MULTILINE))
    return int(values["passes"]), int(values["rows"])


async def memory_after(pid: int, seconds: float) -> float:
    """Megabytes that a process holds some seconds from now."""
    await asyncio.sleep(seconds)
    return memory(pid)


def memory(pid: int) -> float:
    """Megabytes that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1000


if __name__ == "__main__":
    tyro.cli(main)
