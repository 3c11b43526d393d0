"""Weights to use and to share: a folder of `config.json` and `model.safetensors`.

`model.safetensors` holds the weights to use (the moving average, where the run kept one) and
`raw.safetensors`, when present, the weights without averaging. Such a folder is a repository of the
Hugging Face hub as it stands; `push` and `load` move it there and back. Nothing in it is a pickle.
"""

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from trm.config import Config, ModelConfig, TaskConfig, parse
from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, new_folder
from trm.tasks import Task, build_task

if TYPE_CHECKING:
    from torch import Tensor

    from trm.models import RecursiveModel

_CONFIG, _WEIGHTS, _RAW = "config.json", "model.safetensors", "raw.safetensors"
FORMAT = 1


class PretrainedConfig(Config):
    """What `config.json` says: enough to rebuild the model and its task."""

    format: int = FORMAT
    """Version of this layout."""
    task: TaskConfig
    model: ModelConfig
    puzzles: int = 1
    """Number of puzzle ids."""
    steps: int = Field(16, gt=0)
    """N_sup, the supervision steps of training, and the default for solving."""
    about: dict[str, Any] = Field(default_factory=dict)
    """How the weights were made: recipe, seed, step, figures."""


@dataclass
class Pretrained:
    """A model with its task; `raw` holds the weights without averaging, where the folder has them."""

    config: PretrainedConfig
    model: "RecursiveModel"
    task: Task
    raw: "dict[str, Tensor] | None"
    folder: Path


def save(
    folder: Path,
    config: PretrainedConfig,
    weights: "dict[str, Tensor]",
    raw: "dict[str, Tensor] | None" = None,
) -> None:
    """Write the folder as a whole: on any failure (a full disk is a UserError), an older one stays."""
    from safetensors.torch import save

    with full_disk_is_a_user_error(f"{folder} was not written"), new_folder(folder) as draft:
        (draft / _WEIGHTS).write_bytes(save(weights))
        if raw is not None:
            (draft / _RAW).write_bytes(save(raw))
        text = json.dumps(config.model_dump(mode="json"), indent=2)
        (draft / _CONFIG).write_text(text + "\n", encoding="utf-8")


def load(
    name: str | Path, device: str = "cpu", dtype: str | None = None, compiled: bool = False
) -> Pretrained:
    """Load a folder, a run (its best weights), bundled weights by name, or a hub repository `org/name`.

    `dtype` overrides the precision of the forward pass; `compiled` compiles the blocks. Raises UserError
    when there is no such model, or when it is damaged or of another architecture.
    """
    from trm.models import Problem, build, check_weights, load_weights

    folder = _locate(str(name))
    config = _read_config(folder)
    changes = ({"dtype": dtype} if dtype else {}) | ({"compile": True} if compiled else {})
    model_config = parse(ModelConfig, config.model.model_dump() | changes, "model")
    if device == "mps" and model_config.dtype == "float64":
        raise UserError("this device has no float64: use dtype float32")
    config = config.model_copy(update={"model": model_config})
    task = build_task(config.task)
    model = build(config.model, Problem(task.vocab_size, task.length, config.puzzles))
    load_weights(model, _read_weights(folder / _WEIGHTS), str(folder))
    raw = _read_weights(folder / _RAW) if (folder / _RAW).exists() else None
    if raw is not None:
        check_weights(model, raw, str(folder / _RAW))
    return Pretrained(config, model.to(device).eval(), task, raw, folder)


def step_of(folder: Path) -> int | None:
    """Training step of the weights in a folder; None where there are none."""
    return _read_config(folder).about.get("step") if (folder / _CONFIG).is_file() else None


def push(folder: Path, repo: str, private: bool = False) -> str:
    """Upload a folder (of a run, its best weights) to the Hugging Face hub and return its address.

    Needs a logged-in user; the hub client's own errors pass through.
    """
    from huggingface_hub import HfApi

    folder = _locate(str(folder))
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=folder))


def bundled_names() -> list[str]:
    """Names of the weights that come with the package."""
    folder = resources.files("trm") / "weights"
    return sorted(path.name for path in folder.iterdir() if (path / _CONFIG).is_file())


def bundled_config(name: str) -> PretrainedConfig:
    """The configuration of bundled weights."""
    return _read_config(Path(str(resources.files("trm") / "weights" / name)))


def _locate(name: str) -> Path:
    path = Path(name)
    for folder in (path, path / "best", path / "last"):
        if (folder / _CONFIG).is_file():
            return folder
    if name in bundled_names():
        return Path(str(resources.files("trm") / "weights" / name))
    if path.exists():
        raise UserError(f"{path} holds no model: expected {_CONFIG} and {_WEIGHTS}, or a training run")
    if name.count("/") == 1 and not name.startswith((".", "/")):
        return _download(name)
    raise UserError(
        f"no model {name!r}: give a folder, a hub repository org/name, or bundled weights "
        f"({', '.join(bundled_names()) or 'none'})"
    )


def _download(repo: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, allow_patterns=[_CONFIG, _WEIGHTS, _RAW]))
    except Exception as error:  # the hub client raises many kinds; all mean "not to be had now"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no local folder {repo!r}, and the hub did not give it: {reason}") from None


def _read_config(folder: Path) -> PretrainedConfig:
    path = folder / _CONFIG
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    found = values.get("format") if isinstance(values, dict) else None
    if found != FORMAT:
        raise UserError(f"{path} has format {found!r}, but this version of trm reads format {FORMAT}")
    return parse(PretrainedConfig, values, str(path))


def _read_weights(path: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: the folder is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or no safetensors file: {error}") from None
