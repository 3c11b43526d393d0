"""The example of docs/SCALING.md: Ray starts the processes. It needs the extra `ray`."""

import subprocess
import sys
from pathlib import Path

import pytest
from release import ray_example
from test_train import config, metrics

from trm.config import dump_config
from trm.training.loop import train

pytest.importorskip("ray.train")


def test_workers_of_ray_train_as_one_process_does(tmp_path: Path):
    (tmp_path / "small.yaml").write_text(dump_config(config()))
    (tmp_path / "example.py").write_text(ray_example("small.yaml", "run"))
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert train(config(), tmp_path / "alone").finished
    (ours,), (alone,) = (metrics(tmp_path / name, "train")[-1:] for name in ("run", "alone"))
    assert ours["step"] == alone["step"] and ours["loss"] == pytest.approx(alone["loss"], rel=1e-3)
