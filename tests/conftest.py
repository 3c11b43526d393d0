"""Settings shared by all tests."""

import os

import pytest
import torch

# The models of the tests are tiny: one thread each is fastest, and leaves the cores to parallel workers.
torch.set_num_threads(1)

# Where there is no GPU, Triton's interpreter runs the kernels; Triton asks for it when it is imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Workers take whole files, so that what a file prepares is prepared once; those that take longest come first.
# But the second does without numba: what the first compiles meanwhile is kept for all.
LONGEST = (
    "test_processes",
    "test_kernels",
    "test_cli",
    "test_train",
    "test_chaos",
    "test_tutorial",
    "test_inference",
    "test_serving",
    "test_sudoku_generator",
    "test_release",
    "test_models",
    "test_candidates",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, or one of them would be left over for one worker in the end."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
