"""A checkpoint of the original as a model with its family and recipe, and such a model as a checkpoint again.

Its training writes a folder with `all_config.yaml` and files `step_N`: named tensors alone, of the averaged
weights where it kept an average. The names of puzzles are in the data folder. The puzzles themselves are of
three kinds (Sudoku, mazes, ARC), which their vocabularies tell apart; those of a fork need a recipe that says
what they are.
"""

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor

import trm
from trm.config import FamilyConfig, ModelConfig, parse
from trm.errors import UserError
from trm.files import full_disk_is_a_user_error, read_text, read_yaml, sha256, write_atomic
from trm.models import RecursiveModel
from trm.original import arc, checkpoints, folders
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.readers import Seen
from trm.puzzles.arc.variants import Variants
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.sudoku.config import SudokuConfig
from trm.recipe import RunConfig

CONFIG = "all_config.yaml"
_KINDS = {  # its classes, by our kinds
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "single_latent": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1",
    "transformer": "recursive_reasoning.transformers_baseline@Model_ACTV2",
}
# Its options of training, and ours.
_OPTIMIZER = {
    "lr": "lr",
    "weight_decay": "weight_decay",
    "puzzle_emb_lr": "puzzle_lr",
    "puzzle_emb_weight_decay": "puzzle_weight_decay",
    "freeze_weights": "only_puzzles",
}
_LOSSES = {ours: theirs for theirs, ours in checkpoints.LOSSES.items()} | {
    "stablemax": "stablemax_cross_entropy"  # the same in float32
}


class Taken(NamedTuple):
    """A model of the original in our terms."""

    recipe: RunConfig
    """How it was trained, as far as its configuration says."""
    weights: dict[str, Tensor]
    """float32, by our names."""
    puzzles: int
    """Number of puzzle ids."""
    variants: Variants | None
    seen: Seen | None
    about: dict[str, Any]


def read(
    checkpoint: Path,
    config: Path | None = None,
    data: Path | None = None,
    family: FamilyConfig | None = None,
) -> Taken:
    """Read a checkpoint of the original; it is never unpickled beyond its tensors.

    Args:
        checkpoint: the file, such as `step_65104`.
        config: its `all_config.yaml`, or the file of its architecture. Default: beside the checkpoint.
        data: its data folder, for sizes that neither file says, and for the names of puzzle ids.
        family: what its puzzles are. Default: Sudoku, maze or ARC, as the vocabulary says.

    Raises:
        UserError: a file is missing, damaged or of another kind, the architecture is not known, or the
            pieces do not fit each other.
    """
    weights = checkpoints.load_pt(checkpoint)
    path = config or checkpoint.parent / CONFIG
    values = _read_config(path, config is None)
    arch = _architecture(values, path, weights)
    sizes = _sizes(arch, weights, data, family)
    known = _family(sizes) if family is None else family
    made = known.build()
    if (made.vocab_size, made.length) != (sizes.vocab_size, sizes.seq_len):
        raise UserError(
            f"{checkpoint} is for puzzles of {sizes.seq_len} tokens and a vocabulary of {sizes.vocab_size}, "
            f"but those of the family {known.name} have {made.length} and {made.vocab_size}: give the recipe "
            "of a family that fits"
        )
    model = checkpoints.build_original(arch | sizes._asdict() | {"forward_dtype": "float32"}, weights)
    variants, seen = None, None
    if made.named_ids and model.config.puzzle_width:
        if data is None:
            raise UserError(
                "the puzzle ids of the checkpoint stand for ARC tasks, which identifiers.json of its data "
                "folder names: give the folder with --data"
            )
        variants = arc.variants(data)
        if len(variants) != sizes.num_puzzle_identifiers:
            raise UserError(
                f"{data} names {len(variants)} puzzle ids, but the checkpoint has "
                f"{sizes.num_puzzle_identifiers} puzzle embeddings: give the folder that it was trained on"
            )
        seen = arc.seen(data, folders.read(data, "train", made), variants, made)
        if isinstance(known, ArcConfig):
            most = int((variants.first_N[1:] - variants.first_N[:-1]).max())
            known = known.model_copy(update={"variants": most})
    original = checkpoints.describe(arch | sizes._asdict(), set(weights))
    recipe = _recipe(values, original, known, checkpoint)
    about: dict[str, Any] = {
        "trm": trm.__version__,
        "recipe": recipe.model_dump(mode="json"),
        "original": {
            "file": checkpoint.name,
            "sha256": sha256(checkpoint),
            "architecture": str(arch.get("name", "")),
        },
    }
    if (step := re.search(r"\d+$", checkpoint.stem)) is not None:
        about["step"] = int(step[0])
    return Taken(recipe, dict(model.state_dict()), sizes.num_puzzle_identifiers, variants, seen, about)


def write(path: Path, model: RecursiveModel, recipe: RunConfig, compiled: bool = True) -> None:
    """Write a model as a checkpoint of the original, with the `all_config.yaml` that all of a run share.

    Args:
        path: the checkpoint.
        model: one that the original has, too.
        recipe: how it was trained.
        compiled: names as its loader wants them; without, as it wants them where DISABLE_COMPILE is set.

    Raises UserError for a model that the original does not have, if the file exists or the folder's
    `all_config.yaml` says something else, or if the disk is full.
    """
    if path.exists():
        raise UserError(f"{path} exists; give another file with --out")
    weights = checkpoints.to_original(model, checkpoints.COMPILED if compiled else "model.")
    arch = _architecture_of(model, recipe)
    optimizer = recipe.optimizer
    values: dict[str, Any] = {
        "arch": arch,
        "data_paths": [],
        "global_batch_size": recipe.train.batch,
        **{theirs: getattr(optimizer, ours) for theirs, ours in _OPTIMIZER.items()},
        "beta1": optimizer.betas[0],
        "beta2": optimizer.betas[1],
        "lr_warmup_steps": optimizer.warmup,
        "lr_min_ratio": optimizer.lr_min_ratio if optimizer.schedule == "cosine" else 1.0,
        "seed": recipe.seed,
        "ema": recipe.ema.decay > 0,
        "ema_rate": recipe.ema.decay or 0.999,
    }
    config, text = path.parent / CONFIG, yaml.safe_dump(values, sort_keys=False)
    if config.exists() and read_text(config) != text:
        raise UserError(f"{config} exists, of another model; give a file in another folder with --out")
    drawn = io.BytesIO()
    torch.save({name: value.detach().cpu().contiguous() for name, value in weights.items()}, drawn)
    with full_disk_is_a_user_error(f"{path} was not written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, drawn.getvalue())
        write_atomic(config, text)


def _read_config(path: Path, guessed: bool) -> dict[str, Any]:
    if not path.exists():
        hint = "give it with --config" if guessed else "give the one that was written with the checkpoint"
        raise UserError(f"there is no {path}, which describes the model: {hint}")
    values = read_yaml(path)
    if not isinstance(values, dict) or not isinstance(values.get("arch", values), dict):
        raise UserError(f"{path} is not a configuration of the original: it should hold the section arch")
    return values


def _architecture(values: Mapping[str, Any], path: Path, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The section `arch`, with what its fields take from each other filled in."""
    arch = dict(values.get("arch", values))
    for name, value in arch.items():
        if isinstance(value, str) and (found := re.fullmatch(r"\$\{\.?(?:arch\.)?(\w+)\}", value)):
            arch[name] = arch.get(found[1])
    if "hidden_size" not in arch:
        raise UserError(f"{path} describes no model of the original: it has no hidden_size")
    if any(re.fullmatch(r"inner\.L\d_init", name) for name in weights):
        raise UserError(
            "this is a model of the variant trm_hier6, whose six latents take turns: another recursion than "
            "that of TRM or HRM, which this library does not have"
        )
    return arch


def _sizes(
    arch: Mapping[str, Any], weights: Mapping[str, Tensor], data: Path | None, family: FamilyConfig | None
) -> folders.Sizes:
    """Sizes from the data folder; without one, from the tensors, the family, or the three that there are."""
    if data is not None:
        return folders.sizes(data)
    try:
        vocabulary = len(weights["inner.embed_tokens.embedding_weight"])
    except KeyError:
        raise UserError("the checkpoint has no embedding of tokens: it is from neither TRM nor HRM") from None
    puzzle = weights.get("inner.puzzle_emb.weights")
    found = {"vocab_size": vocabulary, "num_puzzle_identifiers": 1 if puzzle is None else len(puzzle)}
    prefix = checkpoints.describe({**arch, **found, "seq_len": 1}, set(weights)).model.prefix
    positions = weights.get("inner.embed_pos.embedding_weight")
    mixed = weights.get("inner.L_level.layers.0.mlp_t.gate_up_proj.weight")
    if positions is not None:
        length = len(positions) - prefix
    elif mixed is not None:
        length = mixed.shape[1] - prefix
    elif family is not None:
        length = family.build().length
    elif vocabulary in _USUAL:
        length = _USUAL[vocabulary].build().length
    else:
        raise UserError(
            "how long the puzzles of the checkpoint are is in the dataset.json of its data folder: give the "
            "folder with --data"
        )
    return folders.Sizes(seq_len=length, **found)


# The puzzles that the original has builders for, by their vocabularies.
_USUAL: dict[int, FamilyConfig] = {11: SudokuConfig(), 6: MazeConfig(), 12: ArcConfig()}


def family_of(folder: Path) -> FamilyConfig:
    """What the puzzles of a data folder are; UserError where its sizes do not tell."""
    return _family(folders.sizes(folder))


def _family(sizes: folders.Sizes) -> FamilyConfig:
    V, L = sizes.vocab_size, sizes.seq_len
    side = math.isqrt(L)
    box = math.isqrt(side)
    square = side * side == L
    if square and V == 12 and (side == 30 or sizes.num_puzzle_identifiers > 1):
        return ArcConfig(side=side)
    if square and box * box == side and side + 2 == V:
        return SudokuConfig(box_rows=box, box_cols=box)
    if square and V == 6:
        return MazeConfig(height=side, width=side)
    raise UserError(
        f"puzzles of {L} tokens and a vocabulary of {V} are neither Sudoku nor mazes nor ARC: say what they "
        "are with --recipe, a recipe of their family (trm data grid writes one)"
    )


def _recipe(
    values: Mapping[str, Any], original: checkpoints.Original, family: FamilyConfig, checkpoint: Path
) -> RunConfig:
    """The run as our recipe, with our defaults where the configuration says nothing."""
    optimizer = {ours: values[theirs] for theirs, ours in _OPTIMIZER.items() if theirs in values}
    optimizer |= {"name": "adam_atan2"}
    if {"beta1", "beta2"} <= values.keys():
        optimizer["betas"] = (values["beta1"], values["beta2"])
    if "lr_warmup_steps" in values:
        optimizer["warmup"] = round(values["lr_warmup_steps"])
    if values.get("lr_min_ratio", 1.0) < 1:
        optimizer |= {"schedule": "cosine", "lr_min_ratio": values["lr_min_ratio"]}
    step = re.search(r"\d+$", checkpoint.stem)
    train = {"steps": int(step[0])} if step and int(step[0]) else {}
    if "global_batch_size" in values:
        train["batch"] = values["global_batch_size"]
    recipe = {
        "name": str(values.get("run_name") or checkpoint.stem),
        "seed": values.get("seed", 0),
        "family": family.model_dump(),
        "data": {},
        "model": original.model.model_dump(),
        "supervision": original.supervision.model_dump(),
        "loss": original.loss.model_dump(),
        "compute": {"dtype": original.compute.dtype},
        "optimizer": optimizer,
        # HRM's code has no average, and says nothing of one.
        "ema": {"decay": values.get("ema_rate", 0.999) if values.get("ema") else 0.0},
        "train": train,
    }
    return parse(RunConfig, recipe, "the original's configuration")


def _architecture_of(model: RecursiveModel, recipe: RunConfig) -> dict[str, Any]:
    """The section `arch` of one of our models, as `describe` reads it."""
    c: ModelConfig = model.config
    if recipe.loss.tokens not in _LOSSES:
        raise UserError(f"the original has no loss {recipe.loss.tokens}")
    derived = -(-c.puzzle_width // c.width)
    if c.kind != "trm" and c.prefix != derived:
        raise UserError(f"the original has no such model: prefix (its {c.kind} has one of {derived} here)")
    transformer = c.kind == "transformer"
    arch: dict[str, Any] = {
        "name": _KINDS["single_latent" if c.single_latent else c.kind],
        "loss": {"name": "losses@ACTLossHead", "loss_type": _LOSSES[recipe.loss.tokens]},
        "halt_exploration_prob": recipe.supervision.exploration,
        "halt_max_steps": recipe.supervision.steps,
        "H_cycles": c.T,
        "L_cycles": c.n,
        "H_layers": c.layers if transformer else (c.answer_layers or c.layers) if c.kind == "hrm" else 0,
        "L_layers": 0 if transformer else c.layers,
        "hidden_size": c.width,
        "num_heads": c.heads,
        "expansion": c.expansion,
        "puzzle_emb_ndim": c.puzzle_width,
        "pos_encodings": c.positions,
        "forward_dtype": str(model.dtype).removeprefix("torch."),
    }
    if transformer:
        arch["act_enabled"] = recipe.supervision.act
    else:
        arch["mlp_t"] = c.mixing == "mixer"
    if c.kind == "trm":
        arch |= {
            "puzzle_emb_len": c.prefix,
            "no_ACT_continue": not recipe.supervision.continue_loss,
        }
    return arch
