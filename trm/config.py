"""Typed, frozen configuration: every option is one documented field with one default.

These are the sections that all runs share. What a family of puzzles adds is in its own room
(`puzzles/FAMILY/config.py`), and `recipe.RunConfig` puts the sections together. An unknown key is an error
that names the nearest known one. This module imports neither torch nor numpy, so that the command answers
at once.
"""

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticUndefined

from trm.errors import UserError

if TYPE_CHECKING:
    from trm.puzzles.family import Family

C = TypeVar("C", bound="Config")
Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["float32", "bfloat16", "float64"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """Base of every configuration: frozen, and strict about unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _within_reason(cls, value: Any) -> Any:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError("larger than 64 bits can hold; give a smaller number")
        if isinstance(value, str) and any(char < " " or char == "\x7f" for char in value):
            raise ValueError(f"holds a control character: {value[:40]!a}")
        return value

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Let `help` of a class say what its options mean."""
        options = "\n".join(
            f"    {name}: {' '.join(field.description.split())}" + _default(field.default)
            for name, field in cls.model_fields.items()
            if field.description
        )
        if cls.__doc__ and options:
            cls.__doc__ = f"{inspect.cleandoc(cls.__doc__)}\n\nArgs:\n{options}"


def _default(value: Any) -> str:
    return "" if value is PydanticUndefined or isinstance(value, Config) else f" (default: {value!r})"


class ModelConfig(Config):
    """A recursive reasoning model; the names T, n, y and z are the TRM paper's (arXiv 2510.04871)."""

    kind: Literal["trm", "candidates", "hrm", "transformer"] = "trm"
    """trm: one tiny network; candidates: the same recursion with a position for every cell and symbol, for
    families whose symbols may be renamed; hrm: two networks and a one-step gradient; transformer: plain
    baseline."""
    width: int = Field(512, gt=0, le=2**16)
    """D, the width of y, z and every embedding."""
    layers: int = Field(2, gt=0, le=1024)
    """Blocks of the network that updates z (and y, unless the networks are separate)."""
    answer_layers: int | None = Field(None, gt=0, le=1024)
    """Blocks of the network that updates y, where it is a network of its own; default: as `layers`."""
    heads: int = Field(8, gt=0, le=2**16)
    """Attention heads."""
    head_width: int | None = Field(None, gt=0, le=2**16)
    """Width of a head. Default: width / heads, which must be whole then."""
    expansion: float = Field(4.0, gt=0, le=1024)
    """Expansion of the gated unit; its inner width is 2/3 of expansion x width, rounded up to 256s."""
    inner: int | None = Field(None, gt=0, le=2**20)
    """Inner width of the gated unit over channels, where it is not to follow from the expansion."""
    T: int = Field(3, gt=0, le=10_000)
    """Cycles per supervision step; only the last one carries gradient."""
    n: int = Field(6, gt=0, le=10_000)
    """Latent updates (of z) per cycle, before the one answer update (of y)."""
    mixing: Literal["attention", "mixer", "convolution", "relations"] = "attention"
    """How positions exchange information: self-attention; an MLP over a fixed number of tokens; 3x3
    convolutions, for boards whose rules are local; means over related candidates (kind candidates)."""
    positions: Literal["rope", "learned", "none"] = "rope"
    """Position encoding; RoPE acts in attention only, and the default of all other mixing is none."""
    gate: Literal["swiglu", "normed"] = "swiglu"
    """normed: down(sigmoid(g) * rmsnorm(g * u)), which stays bounded under Muon."""
    prefix: int = Field(0, ge=0, le=2**12)
    """P, positions before the puzzle: learned registers, or the puzzle embedding padded with zeros."""
    puzzle_width: int = Field(0, ge=0)
    """Width of the puzzle embedding that fills the start of the prefix; 0 turns it off."""
    separate_networks: bool = False
    """Ablation: y gets a network of its own (HRM always has two)."""
    gradient: Literal["last_cycle", "last_update"] = "last_cycle"
    """Ablation: last_update is HRM's one-step gradient (HRM always uses it)."""
    single_latent: bool = False
    """Ablation: no z; one latent is both the answer and the reasoning."""
    halting: Literal["first", "every"] = "first"
    """What the halting head reads: y at the first position (as the original), or at every one, where the
    answer is right if all of them say so."""
    conflict_head: bool = False
    """Kind candidates: a head that says whether a cell has nothing left, as what was decided contradicts the
    puzzle; for searching."""

    @property
    def any_board(self) -> bool:
        """Whether the weights serve boards of every size."""
        return self.mixing in ("convolution", "relations")

    @property
    def width_of_a_head(self) -> int:
        """K, given or derived."""
        return self.head_width or self.width // self.heads

    @model_validator(mode="before")
    @classmethod
    def _no_positions(cls, values: Any) -> Any:
        """Only attention has a use for the default of `positions`."""
        if not isinstance(values, Mapping) or values.get("mixing", "attention") == "attention":
            return values
        return {"positions": "none", **values}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.mixing == "attention":
            if self.head_width is None and self.width % self.heads:
                raise ValueError(
                    f"width {self.width} is not a multiple of heads {self.heads}: set head_width as well"
                )
            if self.positions == "rope" and self.width_of_a_head % 2:
                raise ValueError("rope needs an even head width (head_width, or else width / heads)")
        elif self.positions == "rope":
            raise ValueError(f"mixing {self.mixing} has no use for positions rope: set positions to none")
        elif self.head_width is not None:
            raise ValueError(f"head_width is for mixing attention, and would do nothing for {self.mixing}")
        if self.conflict_head and self.kind != "candidates":
            raise ValueError("conflict_head is a part of kind candidates")
        if (self.kind == "candidates") != (self.mixing == "relations"):
            raise ValueError("kind candidates and mixing relations go together: set both or neither")
        if self.kind == "candidates" and self.halting != "every":
            raise ValueError("kind candidates treats all positions alike: set halting to every")
        if self.kind == "candidates" and (self.gate != "swiglu" or self.gradient != "last_cycle"):
            raise ValueError("gate and gradient are fixed for kind candidates: leave them out")
        if self.any_board and (self.prefix or self.positions != "none"):
            raise ValueError(
                f"mixing {self.mixing} serves boards of every size: set positions to none and prefix to 0"
            )
        if self.puzzle_width > self.prefix * self.width:
            raise ValueError(
                f"puzzle_width {self.puzzle_width} does not fit in a prefix of {self.prefix} positions "
                f"of width {self.width}: raise prefix"
            )
        if self.kind != "trm" and (self.single_latent or self.separate_networks):
            raise ValueError("single_latent and separate_networks are ablations of kind trm")
        if self.single_latent and self.separate_networks:
            raise ValueError("single_latent leaves nothing for separate_networks to update")
        if self.answer_layers and self.kind != "hrm" and not self.separate_networks:
            raise ValueError("answer_layers needs a network for y: kind hrm, or separate_networks")
        return self


class ComputeConfig(Config):
    """How a machine computes: a property of neither weights nor runs, which may change machines."""

    device: Device = "auto"
    """Where to compute; auto: a GPU if there is one."""
    dtype: Dtype = "float32"
    """Precision of the forward pass (float64 is for measuring rounding); weights stay float32."""
    compile: Literal["none", "block", "cycle"] = "none"
    """What torch.compile makes one piece of: a block (quick to compile), or a cycle of n + 1 updates
    (fewer passes over memory, on a GPU)."""
    kernels: Literal["auto", "torch", "triton", "native"] = "auto"
    """triton: the parts of a block as fused kernels on a CUDA device; goes with every `compile`. native: a
    cycle of candidates as native code on a CPU, in float32, where there is a C++ compiler; otherwise as
    torch. auto: native where that is possible, else torch."""
    cuda_graph: bool = False
    """Training: record a whole optimizer step on a CUDA device and replay it, so that it never waits for
    Python."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kernels == "triton" and self.dtype == "float64":
            raise ValueError("kernels triton computes in float32 or bfloat16, not in float64")
        if self.kernels == "native" and self.compile != "none":
            raise ValueError("kernels native is compiled already: set compile to none")
        return self

    def check(self, model: ModelConfig) -> None:
        """Raise ValueError if a model cannot be computed in this way on any machine."""
        if model.kind == "transformer" and self.compile == "cycle":
            raise ValueError("a transformer has no cycle: set compile to block")
        if model.kind == "candidates" and self.kernels == "triton":
            raise ValueError("kind candidates has no triton kernels: set kernels to auto, torch or native")
        if model.kind != "candidates" and self.kernels == "native":
            raise ValueError("kernels native is for kind candidates: set kernels to auto, torch or triton")

    def on(self, device: str) -> tuple[Self, list[str]]:
        """The same on a device of that kind, and what had to change for it."""
        changes: dict[str, Any] = {"device": device}
        remarks = []
        if device != "cuda" and self.cuda_graph:
            changes["cuda_graph"] = False
            remarks.append("without a CUDA graph")
        if device != "cuda" and self.kernels == "triton":
            changes["kernels"] = "auto"
            remarks.append("without triton kernels")
        if device == "mps" and self.dtype == "float64":
            changes["dtype"] = "float32"
            remarks.append("in float32")
        return self.model_copy(update=changes), remarks


class SupervisionConfig(Config):
    """Deep supervision and adaptive halting (ACT)."""

    steps: int = Field(16, gt=0, le=10**6)
    """N_sup, the most supervision steps that one puzzle gets; each is one optimizer step."""
    act: bool = True
    """Halt a training row as soon as its halt logit says so; off: every row runs all steps."""
    exploration: float = Field(0.1, ge=0, le=1)
    """Probability that a row must first reach a random minimum of 2..steps supervision steps."""
    continue_loss: bool = False
    """HRM's Q-learning: halt when halt > continue, and learn `continue` from a second forward pass."""
    start_noise: float = Field(0.0, ge=0)
    """Greatest standard deviation of the starting points of y and z around the fixed ones; every row draws
    its own, from 0 to this."""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of the noise on y and z before every supervision step of training."""
    hints: float = Field(0.0, ge=0, le=1)
    """Probability that a row gets further cells of its solution as clues, as many as its puzzle needs at
    present: one fewer after it was solved with them, one more after it was not."""
    first_hints: int = Field(5, ge=0)
    """Hints that every puzzle needs at first."""
    decisions: float = Field(0.0, ge=0, le=1)
    """Probability that a row decides open cells and is taken back, as a search does; needs
    model.conflict_head, which learns to notice wrong decisions."""
    longest_wrong: int = Field(6, gt=0)
    """Most steps until a wrong decision is taken back."""
    contradictions: float = Field(0.0, ge=0, le=1)
    """Probability that a row is posed with a contradiction: one wrong symbol, and some more cells of the
    solution. It has no answer: its targets are the conflict, and not to halt; needs model.conflict_head."""

    @property
    def conflicts(self) -> bool:
        """Whether rows in training may contradict their solution."""
        return bool(self.decisions or self.contradictions)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.continue_loss and not self.act:
            raise ValueError("continue_loss is a part of act")
        return self


class LossConfig(Config):
    """Token loss and the weight of the halting loss."""

    tokens: Literal["stablemax64", "stablemax", "softmax"] = "stablemax"
    """Cross entropy over stablemax in float64 (the original) or float32, or over softmax."""
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    """Label smoothing (softmax only)."""
    halting_weight: float = Field(0.5, ge=0)
    """Weight of the halting (and continue) binary cross entropy."""
    conflict_weight: float = Field(0.5, ge=0)
    """Weight of the binary cross entropy of the conflict head, averaged over cells."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.label_smoothing and self.tokens != "softmax":
            raise ValueError("label_smoothing needs tokens: softmax")
        return self


class OptimizerConfig(Config):
    """Optimizer, learning-rate schedule and gradient clipping."""

    name: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """muon: Muon on the matrices of the blocks, AdamW on everything else."""
    lr: float = Field(1e-4, ge=0)
    """Learning rate of AdamATan2 or AdamW."""
    weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay of AdamATan2 or AdamW."""
    betas: tuple[Beta, Beta] = (0.9, 0.95)
    """Decay of the moments of AdamATan2 or AdamW."""
    muon_lr: float = Field(0.02, ge=0)
    """Muon's learning rate; updates are scaled by sqrt(max(1, rows / columns))."""
    muon_weight_decay: float = Field(0.005, ge=0)
    """Muon's decoupled weight decay."""
    muon_momentum: float = Field(0.6, ge=0, lt=1)
    """Muon's (Nesterov) momentum."""
    muon_newton_schulz: int = Field(3, gt=0, le=100)
    """Newton-Schulz iterations of Muon."""
    puzzle_lr: float = Field(1e-4, ge=0)
    """Learning rate of the sparse sign-SGD on puzzle embeddings."""
    puzzle_weight_decay: float = Field(1.0, ge=0)
    """Decoupled weight decay of the looked-up puzzle embeddings."""
    only_puzzles: bool = False
    """Train the puzzle embeddings alone and leave the network as it is."""
    warmup: int = Field(2000, ge=0)
    """Steps of linear warm-up."""
    schedule: Literal["constant", "cosine", "wsd"] = "constant"
    """Learning rate after the warm-up: constant; half a cosine that ends with the run, at 0 or at
    `lr_min_ratio`; or wsd (warm-up, stable, decay), constant until `decay_steps` before the end and then in a
    line to 0."""
    decay_steps: int = Field(0, ge=0)
    """Steps of the final decay of schedule wsd; a run that is made longer has only that part before it."""
    lr_min_ratio: float = Field(0.0, ge=0, le=1)
    """Where schedule cosine ends, as a share of the full learning rate."""
    clip: float = Field(0.0, ge=0)
    """Largest norm of the gradient; 0 turns clipping off."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.schedule == "wsd") != bool(self.decay_steps):
            raise ValueError("decay_steps and schedule wsd go together: set both or neither")
        if self.lr_min_ratio and self.schedule != "cosine":
            raise ValueError(f"lr_min_ratio is for schedule cosine, and would do nothing for {self.schedule}")
        return self


class EmaConfig(Config):
    """Exponential moving average of the weights."""

    decay: float = Field(0.999, ge=0, lt=1)
    """Decay per step; 0 turns the average off."""
    start: int = Field(0, ge=0)
    """Step from which the average runs; before it, the average is a copy of the weights."""


class FamilyConfig(Config, ABC):
    """What a puzzle family is told about its boards; every family has one final class of its own.

    Weights keep it: it says what a board is, and not where the puzzles of a run came from.
    """

    name: ClassVar[str]
    """The family's name; it is written with the options, and tells whose they are."""
    data: ClassVar[type["DataConfig"]]
    """The section `data` of this family's runs."""

    @model_serializer(mode="wrap")
    def _with_name(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"name": self.name} | write(self)

    @model_validator(mode="before")
    @classmethod
    def _without_name(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or values.get("name", cls.name) != cls.name:
            return values
        return {option: value for option, value in values.items() if option != "name"}

    @abstractmethod
    def build(self) -> "Family":
        """The family itself. Its module is imported by this call, as it may need torch."""


class GeneratorConfig(Config):
    """How many puzzles to generate where no file is given; families add what kinds of puzzles."""

    about: ClassVar[str]
    """What the command `trm data FAMILY` says of itself, with examples."""
    for_command: ClassVar[dict[str, Any]] = {"train": 1000, "validation": 500, "test": 1000}
    """Defaults of that command."""
    train: int = Field(0, ge=0, le=10_000_000)
    """Training puzzles."""
    validation: int = Field(0, ge=0, le=10_000_000)
    """Validation puzzles."""
    test: int = Field(0, ge=0, le=10_000_000)
    """Test puzzles (essentially different from all others)."""

    def counts(self) -> dict[str, int]:
        """Puzzles to generate, by split."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


class DataConfig(Config):
    """Where puzzles come from: what all families share."""

    paths: ClassVar[tuple[str, ...]] = ("train", "validation")
    """Options that name files or folders, or several of them separated by commas."""
    train: str = ""
    """CSV file of training puzzles, a known hub file such as hub:sudoku-extreme/train, or a split of a data
    folder of the original code, such as FOLDER/train."""
    validation: str = ""
    """The same for held-out training puzzles; every choice during training is made on them."""
    hold_out: int = Field(0, ge=0)
    """Without a validation file: puzzles held out of the training file, drawn at random. In a data folder of
    the original code: groups, whose members are variants of one puzzle; the first of each is validated on."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.train and (self.validation or self.hold_out):
            raise ValueError("validation and hold_out need a training file: data.train")
        if self.validation and self.hold_out:
            raise ValueError("give validation or hold_out, not both")
        return self

    def augments(self) -> bool:
        """Whether every puzzle offered is drawn under a random symmetry of the family."""
        return False

    def generator(self) -> GeneratorConfig | None:
        """What to generate where no file is given; None where the family has no generator."""
        return None


class AugmentedDataConfig(DataConfig):
    """What the families share whose puzzles have symmetries."""

    augment: bool = True
    """Draw a random symmetry of the family for every puzzle offered."""

    def augments(self) -> bool:
        """Whether every puzzle offered is drawn under a random symmetry of the family."""
        return self.augment


class TrainConfig(Config):
    """Length of a run and how often things happen; every count is in optimizer steps."""

    start_from: str = ""
    """Weights to start from: a model folder, a training run, bundled weights, or a hub repository. Puzzle
    embeddings go by the names of their puzzles; new ones start at the mean of the old ones. A model of
    candidates or convolutions may be twice as wide (width, inner): it starts with all that they know."""
    batch: int = Field(768, gt=0, le=100_000)
    """Rows in flight, of all processes together."""
    steps: int = Field(65_104, gt=0)
    """Optimizer steps."""
    log_every: int = Field(50, gt=0)
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = Field(1000, gt=0)
    """Steps between two evaluations on the validation puzzles."""
    eval_puzzles: int = Field(1000, gt=0)
    """Most validation puzzles used in an evaluation during training."""
    checkpoint_every: int = Field(1000, gt=0)
    """Steps between two checkpoints."""
    keep: int = Field(2, gt=0)
    """Checkpoints kept."""
    loggers: tuple[str, ...] = ("tensorboard",)
    """Where figures and pictures go beside metrics.jsonl, as far as they are installed: tensorboard, wandb,
    trackio."""


class Effort(Config):
    """How long, and in how many ways, to think about a puzzle."""

    steps: int | None = Field(None, gt=0, le=1_000_000)
    """Most supervision steps of a rollout. Default: as many as in training."""
    early_stop: bool = True
    """Stop a rollout once its halting logit is positive and its answer stood still for a step. (`first`
    and `verify` stop a puzzle by their own rule all the same.)"""
    rollouts: int = Field(1, gt=0, le=1_000_000)
    """Runs of the puzzle; the first is always the plain one."""
    symmetries: bool = True
    """All rollouts but the first see the puzzle under a random symmetry, undone on the answer. (To a model of
    candidates all images are one: its rollouts differ by noise and start alone.)"""
    noise: float = Field(0.0, ge=0)
    """Standard deviation of the noise on the latents before every step, in all rollouts but the first."""
    start: Literal["fixed", "random"] = "fixed"
    """random: all rollouts but the first start from random latents."""
    select: Literal["halt", "first", "stable", "vote", "verify"] = "halt"
    """The answer to keep: highest halting logit, first to stop, least moving, most frequent, or the first
    that the rules confirm."""
    budget: int | None = Field(None, gt=0)
    """Most supervision steps of a puzzle, over all its rollouts."""
    seconds: float | None = Field(None, gt=0)
    """Most seconds for a puzzle, counted from the start of its batch: the one option with which answers
    depend on the machine."""
    search: int = Field(0, ge=0, le=100_000)
    """Most decisions of a puzzle: where the answer stands still, decide the surest open cell both ways and
    think on where it looks right, until the rules confirm the answer (models of kind candidates)."""
    exact: bool = False
    """Hand puzzles whose answer the rules do not confirm to the exact solver, and say so."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of noise, starting points and symmetries."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rollouts > 1 and not (self.symmetries or self.noise or self.start == "random"):
            raise ValueError("the rollouts would all be the same: set symmetries, noise or start")
        if self.search and (self.rollouts > 1 or self.steps or self.seconds or not self.early_stop):
            raise ValueError("a search is one rollout, as long as its decisions take: give search and budget")
        if self.search and self.select != "halt":
            raise ValueError(f"select {self.select} chooses among rollouts, of which a search has one")
        if self.budget is not None and self.budget < self.rollouts:
            raise ValueError(f"a budget of {self.budget} steps is below one step for each rollout")
        return self

    def idle(self) -> list[str]:
        """Options that were set and do nothing, as there is one rollout."""
        if self.rollouts > 1:
            return []
        found = {
            "noise": bool(self.noise),
            "start": self.start != "fixed",
            "symmetries": not self.symmetries,
            "select": self.select in ("stable", "vote"),
        }
        return [name for name, given in found.items() if given]


class Limits(Config):
    """What a server gives at most."""

    puzzles: int = Field(100, gt=0)
    """Puzzles in a request."""
    cells: int = Field(1024, gt=0)
    """Cells of a puzzle."""
    steps: int = Field(256, gt=0)
    """Supervision steps of a rollout."""
    rollouts: int = Field(64, gt=0)
    """Rollouts of a puzzle."""
    search: int = Field(10_000, gt=0)
    """Decisions of a search."""
    seconds: float = Field(60.0, gt=0)
    """Seconds of a request, waiting included."""
    body: int = Field(12_000_000, gt=0)
    """Bytes of a request. (As text, the state of the largest Sudoku, 625 cells of 25 symbols, with width 64
    has 10.7 million; that of 30x30 cells with width 512 has 5.)"""
    requests: int = Field(64, gt=0)
    """Requests that are worked on at once; more are told to come back."""
    rows: int = Field(256, gt=0)
    """Rows of one forward pass, in which requests are joined; 1: none are."""


def explain(error: ValidationError, kind: type[Config], where: str) -> UserError:
    """Turn pydantic's report into one line: the first fault, its place, and a near name if there is one."""
    fault = error.errors()[0]
    place = ".".join(map(str, fault["loc"]))
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, [*kind.model_fields, *option_names(kind)], n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return UserError(f"{where}: unknown option {place!r}{hint}")
    if instead := allowed(fault):
        return UserError(f"{where}: {place} is {fault['input']!r}: {instead}")
    message = fault["msg"].removeprefix("Value error, ")
    return UserError(f"{where}: {place + ': ' if place else ''}{message}")


_ALLOWED = {
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "literal_error": "choose {expected}",
    "finite_number": "give a finite number",
} | dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "give a whole number")
_ALLOWED |= dict.fromkeys(("float_parsing", "float_type"), "give a number")


def allowed(fault: Mapping[str, Any]) -> str:
    """What an option may be instead, from pydantic's report of a fault; empty where that needs more words."""
    return _ALLOWED.get(fault["type"], "").format(**fault.get("ctx", {}))


def option_names(config: Config | type[Config], prefix: str = "") -> list[str]:
    """Dotted names of all options, e.g. `model.width`.

    Of a configuration these are the options that it has. Where only its class is given, a section may be of
    that class or of any derived from it, so the options of all of them are named.
    """
    names: list[str] = []
    made = isinstance(config, Config)
    for name, field in (type(config) if made else config).model_fields.items():
        sections = _sections(getattr(config, name) if made else field.annotation)
        for section in sections:
            names += option_names(section, f"{prefix}{name}.")
        if not sections:
            names.append(prefix + name)
    return list(dict.fromkeys(names))


def _sections(value: Any) -> "list[Config | type[Config]]":
    """The configurations that an option holds, or may hold by its type: none for a plain option."""
    if isinstance(value, Config):
        return [value]
    if isinstance(value, type) and issubclass(value, Config):
        return [value, *(each for derived in value.__subclasses__() for each in _sections(derived))]
    return []


def parse(kind: type[C], values: Any, where: str) -> C:
    """Validate plain values (from YAML or JSON) as a configuration; UserError names the fault."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise explain(error, kind, where) from None


def dump_config(config: Config) -> str:
    """Write a configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
