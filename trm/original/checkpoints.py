"""The original code's checkpoints: names and configuration, both ways.

The published TRM and HRM code stores a flat state dict (optionally under `_orig_mod.` from torch.compile
and `model.` from its loss wrapper) of a model described by its own field names. What depends on the data is
not among them: sizes are in `dataset.json` of the data folder. `describe` translates the description,
`rename` and `to_original` the weights; no tensor changes its shape or layout.
"""

import mmap
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from trm.config import ComputeConfig, Config, LossConfig, ModelConfig, SupervisionConfig, parse
from trm.errors import UserError, first_line
from trm.files import check_archive
from trm.models import Problem, RecursiveModel, rebuild
from trm.original import folders

_WRAPPERS = re.compile(r"^(_orig_mod\.|model\.|module\.)+")

# The original's names on the left; {k} is a block.
_NAMES = {
    "inner.H_init": "y_init",
    "inner.L_init": "z_init",
    "inner.embed_tokens.embedding_weight": "embed.tokens",
    "inner.embed_pos.embedding_weight": "embed.positions",
    "inner.puzzle_emb.weights": "embed.puzzle.weight",
    "inner.lm_head.weight": "answer_head.weight",
    "inner.q_head.weight": "halting_head.weight",
    "inner.q_head.bias": "halting_head.bias",
}
_NETWORKS = {"inner.L_level.layers": "latent_network", "inner.H_level.layers": "answer_network"}
_BLOCK = {
    "self_attn.qkv_proj.weight": "mix.qkv.weight",
    "self_attn.o_proj.weight": "mix.out.weight",
    "mlp_t.gate_up_proj.weight": "mix.up.weight",
    "mlp_t.down_proj.weight": "mix.down.weight",
    "mlp.gate_up_proj.weight": "mlp.up.weight",
    "mlp.down_proj.weight": "mlp.down.weight",
}
# Fields of the original that change nothing here, or that other parts of a run decide.
_IGNORED = {"batch_size", "name", "puzzle_emb_optimizer", "act_inference"}
_SIZES = ("vocab_size", "seq_len", "num_puzzle_identifiers")
_REQUIRED = {"hidden_size", "num_heads", "expansion", "vocab_size", "seq_len", "halt_max_steps"}
# What torch.compile and the loss wrapper put before every name: the original's loader looks for it.
COMPILED = "_orig_mod.model."
LOSSES = {"stablemax_cross_entropy": "stablemax64", "softmax_cross_entropy": "softmax"}


_WHERE = "the original's configuration"


class _Numbers(Config):
    """Those fields that are computed with before a configuration of ours checks what comes of them."""

    hidden_size: int = Field(1, gt=0, le=2**16)
    num_heads: int = Field(1, gt=0, le=2**16)
    puzzle_emb_ndim: int = Field(0, ge=0, le=2**28)
    puzzle_emb_len: int = Field(0, ge=0, le=2**12)
    vocab_size: int = Field(1, gt=0, le=2**16)
    seq_len: int = Field(1, gt=0, le=2**16)
    num_puzzle_identifiers: int = Field(1, gt=0, le=2**31)


class Original(NamedTuple):
    """A model of the original in our terms."""

    model: ModelConfig
    problem: Problem
    supervision: SupervisionConfig
    loss: LossConfig
    compute: ComputeConfig


def describe(config: Mapping[str, Any], names: set[str]) -> Original:
    """Translate the original's configuration; the state dict's names tell the family apart.

    Raises UserError for a field that this library does not know, so that nothing is dropped silently.
    """
    known = dict(config)
    take = known.pop
    sizes = parse(_Numbers, {name: known[name] for name in _Numbers.model_fields if name in known}, _WHERE)
    known |= sizes.model_dump(exclude_unset=True)
    if missing := _REQUIRED - known.keys():
        hint = (
            "; sizes are in the data folder's dataset.json: give the folder too"
            if missing & {*_SIZES}
            else ""
        )
        raise UserError(f"the original's configuration lacks {', '.join(sorted(missing))}{hint}")
    two_networks = any(n.startswith("inner.H_level.") for n in names)
    single = not two_networks and "inner.H_init" not in names
    kind = "trm"
    if two_networks:
        kind = "hrm" if any(n.startswith("inner.L_level.") for n in names) else "transformer"
    mixer = take("mlp_t", False)
    width = take("hidden_size")
    puzzle_width = take("puzzle_emb_ndim", 0)
    # The original's TRM has a prefix of 16 unless told otherwise; the others derive theirs.
    prefix = take("puzzle_emb_len", 16 if kind == "trm" else 0) or -(-puzzle_width // width)
    layers, answer_layers = take("L_layers", None), take("H_layers", None)
    # The original's transformer has the head, but asks for no second forward pass to learn it from.
    continue_loss = not take("no_ACT_continue", kind != "hrm")
    heads = take("num_heads")
    positions = take("pos_encodings", "rope")
    model = {
        "kind": kind,
        "width": width,
        "layers": answer_layers if kind == "transformer" else layers,
        "answer_layers": answer_layers if kind == "hrm" else None,
        "heads": heads,
        # It rounds down where the width is no multiple.
        "head_width": width // heads if width % heads and not mixer else None,
        "expansion": take("expansion"),
        "T": take("H_cycles", 1),
        "n": take("L_cycles", 1),
        "mixing": "mixer" if mixer else "attention",
        "positions": "none" if mixer and positions == "rope" else positions,
        "prefix": prefix,
        "puzzle_width": puzzle_width,
        "single_latent": single,
    }
    problem = Problem(take("vocab_size"), take("seq_len"), take("num_puzzle_identifiers", 1))
    compute = {"dtype": take("forward_dtype", "bfloat16")}
    supervision = {
        "steps": take("halt_max_steps"),
        "act": take("act_enabled", True),
        "exploration": take("halt_exploration_prob", 0.0),
        "continue_loss": continue_loss,
    }
    if take("causal", False):
        raise UserError("causal attention of the original is not supported")
    if take("rms_norm_eps", 1e-5) != 1e-5 or take("rope_theta", 10_000.0) != 10_000.0:
        raise UserError("only rms_norm_eps 1e-5 and rope_theta 10000 of the original are supported")
    loss = take("loss", None) or {}
    loss_type = loss.get("loss_type", "stablemax_cross_entropy") if isinstance(loss, Mapping) else loss
    if not isinstance(loss_type, str) or loss_type not in LOSSES:
        raise UserError(f"the original's loss {loss_type!r} is unknown; known: {', '.join(LOSSES)}")
    if unknown := known.keys() - _IGNORED:
        raise UserError(f"the original's configuration has unknown fields: {', '.join(sorted(unknown))}")
    return Original(
        parse(ModelConfig, model, _WHERE),
        problem,
        parse(SupervisionConfig, supervision, _WHERE),
        parse(LossConfig, {"tokens": LOSSES[loss_type]}, _WHERE),
        parse(ComputeConfig, compute, _WHERE),
    )


def rename(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from the original's, as float32; unknown names are a UserError."""
    return {_our_name(strip(name)): value.float() for name, value in weights.items()}


def to_original(model: RecursiveModel, prefix: str = COMPILED) -> dict[str, Tensor]:
    """The original's state dict from one of our models.

    Args:
        model: one that the original has, too.
        prefix: what stands before every name. Default: as its loader wants it, for a compiled model;
            "model." where it runs without torch.compile, and "" for the network alone.

    Raises UserError for options that the original does not have, as its code would compute something
    else with these weights.
    """
    c = model.config
    own = {
        "gate": c.gate != "swiglu",
        "separate_networks": c.separate_networks,
        "gradient": c.kind == "trm" and c.gradient != "last_cycle",
        "kind": c.kind == "candidates",
        "mixing": c.mixing not in ("attention", "mixer"),
        "halting": c.halting != "first",
        "inner": c.inner is not None,
        "head_width": c.mixing == "attention" and c.width_of_a_head != c.width // c.heads,
    }
    if any(own.values()):
        raise UserError(f"the original has no such model: {', '.join(name for name in own if own[name])}")
    weights = dict(model.state_dict())
    if c.single_latent:  # its only latent is our y
        weights["z_init"] = weights.pop("y_init")
    for name in ("y_init", "z_init"):
        if name in weights:
            # There they have the precision of the forward pass, and decide it: loading assigns the tensors.
            weights[name] = weights[name].to(model.dtype)
    return {prefix + _their_name(name): value for name, value in weights.items() if value.numel()}


def strip(name: str) -> str:
    """A name of the original without the prefixes of its wrappers."""
    return _WRAPPERS.sub("", name)


def load_pt(path: Path) -> dict[str, Tensor]:
    """Read a `.pt` checkpoint of the original, tensors only; anything else in it is a UserError."""
    try:
        with path.open("rb") as file:
            check_archive(file)
            # Of what torch's reader for tensors still makes, this alone fills memory from a few bytes.
            if mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(b"bytearray") >= 0:
                raise ValueError("it asks for a bytearray")
            weights = torch.load(file, map_location="cpu", weights_only=True)
            most = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {path}") from None
    except Exception as error:  # a damaged file makes torch fail in a dozen ways
        raise UserError(
            f"{path} is not a plain tensor checkpoint and was not loaded: {first_line(error)}"
        ) from None
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items()
    ):
        raise UserError(f"{path} holds something other than named tensors: not a state dict")
    plain = (
        each.layout == torch.strided and each.device.type == "cpu" and not each.is_quantized
        for each in weights.values()
    )
    if not all(plain) or sum(each.nbytes for each in weights.values()) > most:
        raise UserError(f"{path} claims tensors that it does not hold: it is damaged, and was not loaded")
    return {strip(name): value for name, value in weights.items()}


def build_original(
    config: Mapping[str, Any], weights: Mapping[str, Tensor], data: Path | str | None = None
) -> RecursiveModel:
    """A model with the original's configuration and weights.

    Args:
        config: the section `arch` of its `all_config.yaml`.
        weights: its state dict, see `load_pt`.
        data: its data folder, a split of it, or a `dataset.json`: for sizes that are not in `config`.

    Raises UserError where the configuration is unknown or incomplete, or the weights do not fit it.
    """
    if data is not None:
        config = folders.sizes(Path(data))._asdict() | dict(config)
    weights = {strip(name): value for name, value in weights.items()}
    original = describe(config, set(weights))
    ours = rename(weights)
    if original.model.single_latent:  # its only latent is our y
        ours = {"y_init" if name == "z_init" else name: value for name, value in ours.items()}
    if original.model.single_latent or original.model.kind == "transformer":
        ours["z_init"] = torch.empty(0)
    return rebuild(original.model, original.problem, ours, "the original's checkpoint", original.compute)


def _our_name(name: str) -> str:
    if name in _NAMES:
        return _NAMES[name]
    for theirs, ours in _NETWORKS.items():
        if match := re.fullmatch(re.escape(theirs) + r"\.(\d+)\.(.+)", name):
            block, part = match.groups()
            if part in _BLOCK:
                return f"{ours}.blocks.{block}.{_BLOCK[part]}"
    raise UserError(f"unknown tensor {name!r}: not a TRM or HRM checkpoint of the original")


def _their_name(name: str) -> str:
    for theirs, ours in _NAMES.items():
        if ours == name:
            return theirs
    if match := re.fullmatch(r"(\w+)\.blocks\.(\d+)\.(.+)", name):
        network, block, part = match.groups()
        parts = {ours: theirs for theirs, ours in _BLOCK.items()}
        networks = {ours: theirs for theirs, ours in _NETWORKS.items()}
        return f"{networks[network]}.{block}.{parts[part]}"
    raise UserError(f"{name!r} has no counterpart in the original")
