"""Parity with the original, pinned by tensors computed once with the published code.

Every `*.safetensors` of the folder `TRM_GOLDEN` (default: tests/golden) is a case; the model is built
from the file's own metadata. When a case fails, the mathematics has changed: fix the code, never the
tensors.

The tensors are float32, and a recursive network with random weights amplifies rounding: a nudge of one
unit in the last place of the mixer's weights grows tenfold with every supervision step. So the
mathematics is compared in float64, and a tensor of the file may be as far from ours as rounding can
put it: rtol 1e-4 and atol 1e-5, plus a few times the distance of our own float32 runs, whose weights
are nudged by their last bit. Evaluation steps start from the file's own previous state, so that
rounding does not pile up.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from trm import rng
from trm.data.batches import Batch
from trm.models import RecursiveModel, State
from trm.original import checkpoints as interop
from trm.training.losses import step_loss
from trm.training.optim import AdamATan2, SignSgd
from trm.training.supervision import empty_slots, supervise

FOLDER = Path(os.environ.get("TRM_GOLDEN", Path(__file__).parent / "golden"))
FILES = sorted(FOLDER.glob("*.safetensors"))
RTOL, ATOL = 1e-4, 1e-5
NUDGED = 4  # float32 runs that measure the effect of rounding
MARGIN = 4  # how many times that effect is allowed

METRICS = {  # the original's names, and ours
    "count": "count",
    "accuracy": "accuracy",
    "exact_accuracy": "exact_accuracy",
    "q_halt_accuracy": "halting_accuracy",
    "steps": "steps",
    "lm_loss": "token_loss",
    "q_halt_loss": "halting_loss",
    "q_continue_loss": "continue_loss",
}


@dataclass
class Case:
    config: dict[str, Any]
    train: dict[str, Any]
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def model(self, dtype: str = "float64", nudge: int | None = None) -> RecursiveModel:
        """Our model with the file's weights; with `nudge`, each multiplied by 1 +- 2^-24 at random."""
        weights = self.group("weights/")
        if nudge is not None:
            generator = torch.Generator().manual_seed(nudge)
            for name, w in weights.items():
                sign = torch.randint(0, 2, w.shape, generator=generator) * 2 - 1
                weights[name] = w * (1 + 2.0**-23 * sign)
        return interop.build_original({**self.config, "forward_dtype": dtype}, weights)

    def models(self) -> list[RecursiveModel]:
        """The exact model, then some in the file's own precision, which show what rounding does."""
        dtype = self.config.get("forward_dtype", "bfloat16")
        return [self.model(), *(self.model(dtype, nudge) for nudge in range(NUDGED))]

    def batch(self, prefix: str) -> Batch:
        names = ("inputs", "labels", "puzzle_identifiers")
        tokens_BL, labels_BL, puzzle_B = (self.tensors[f"{prefix}/batch/{name}"].long() for name in names)
        return Batch(tokens_BL, labels_BL, puzzle_B, torch.zeros_like(puzzle_B))

    def train_steps(self, model: RecursiveModel):
        """Walk the training steps with the original's optimizers; yields before each update."""
        original = interop.describe(self.config, set(self.group("weights/")))
        optimizers: list[torch.optim.Optimizer] = [
            AdamATan2(
                [p for p in model.parameters() if p.requires_grad],
                lr=self.train["lr"],
                betas=tuple(self.train["betas"]),
                weight_decay=self.train["weight_decay"],
            )
        ]
        if model.embed.puzzle is not None:
            puzzle = (self.train["puzzle_emb_lr"], self.train["puzzle_emb_weight_decay"])
            optimizers.append(SignSgd(model.embed.puzzle, *puzzle))
        model.train()
        slots = empty_slots(model, self.batch("train/step0"))
        for i in range(self.train["steps"]):
            offered = self.batch(f"train/step{i}")
            step = supervise(model, slots, offered, original.supervision, rng.stream("explore"))
            halted_B = step.slots.halted_B
            # Whatever rounding makes of a halting logit near 0, all runs go on as the file does.
            step = step._replace(slots=step.slots._replace(halted_B=self.tensors[f"train/step{i}/halted"]))
            loss, metrics = step_loss(original.loss, step)
            (loss.total / self.train["batch"]).backward()
            yield i, step, halted_B, loss, metrics
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            slots = step.slots


def load(path: Path) -> Case:
    with safe_open(path, framework="pt") as file:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return Case(json.loads(meta["config"]), json.loads(meta["train"]), tensors)


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def case(request) -> Case:
    return load(request.param)


def close(ours: list[Tensor], theirs: Tensor, what: str) -> None:
    """Compare a tensor of the file with ours: the exact one first, then those with rounding."""
    exact, *rounded = (each.detach().double().reshape(theirs.shape) for each in ours)
    rounding = max((each - exact).abs().max().item() for each in rounded)
    error = (exact - theirs.double()).abs()
    allowed = ATOL + RTOL * theirs.double().abs() + MARGIN * rounding
    worst = (error - allowed).argmax()
    assert (error <= allowed).all(), (
        f"{what}: {(error > allowed).sum()} of {error.numel()} values differ, by up to {error.max():.1e} "
        f"where {allowed.flatten()[worst]:.1e} is allowed (rounding accounts for {rounding:.1e})"
    )


def test_the_four_families_are_here():
    assert {"hrm", "trm_attention", "trm_learned_positions", "trm_mixer"} <= {
        path.stem for path in (Path(__file__).parent / "golden").glob("*.safetensors")
    }
    assert FILES, f"no golden files in {FOLDER}"


def state_of(model: RecursiveModel, tensors: dict[str, Tensor]) -> State:
    """The state that the file holds, with our names; a model without z keeps its empty one."""
    y = tensors.get("z_H", tensors.get("z_L"))
    z = tensors.get("z_L") if model.z_init.numel() else y[..., :0]
    return State(y.to(model.dtype), z.to(model.dtype))


@torch.no_grad()
def test_every_supervision_step_in_evaluation(case: Case):
    models = [model.eval() for model in case.models()]
    batch = case.batch("eval")
    steps = sum(name.startswith("eval/step") and name.endswith("/logits") for name in case.tensors)
    assert steps == case.config["halt_max_steps"]
    for k in range(steps):
        theirs = case.group(f"eval/step{k}/")
        results = []
        for model in models:
            state = model.initial_state(len(batch.puzzle_B))
            if k > 0:
                state = state_of(model, case.group(f"eval/step{k - 1}/"))
            results.append(model.step(state, model.encode(batch.tokens_BL, batch.puzzle_B)))
        expected = state_of(models[0], theirs)
        close([out.logits_BLV for _, out in results], theirs["logits"], f"eval/step{k}/logits")
        close([out.halt_B for _, out in results], theirs["q_halt_logits"], f"eval/step{k}/q_halt_logits")
        if "q_continue_logits" in theirs:
            continues = [out.continue_B for _, out in results]
            close(continues, theirs["q_continue_logits"], f"eval/step{k}/q_continue_logits")
        close([state.y_BSD for state, _ in results], expected.y_BSD, f"eval/step{k}/y")
        if expected.z_BSD.numel():
            close([state.z_BSD for state, _ in results], expected.z_BSD, f"eval/step{k}/z")


def test_training_steps_and_the_weights_after_them(case: Case):
    models = case.models()
    for runs in zip(*(case.train_steps(model) for model in models), strict=True):
        i, step, halted_B, _, _ = runs[0]
        theirs = case.group(f"train/step{i}/")
        close([loss.total for *_, loss, _ in runs], theirs["loss_sum"], f"train/step{i}/loss_sum")
        for name, tensor in case.group(f"train/step{i}/metrics/").items():
            ours = [metrics[METRICS[name]] for *_, metrics in runs]
            close(ours, tensor, f"train/step{i}/metrics/{name}")
        halts = [run_step.output.halt_B.detach() for _, run_step, *_ in runs]
        rounding = max((halt - halts[0]).abs().max() for halt in halts)
        settled_B = halts[0].abs() > ATOL + MARGIN * rounding
        assert torch.equal(halted_B[settled_B], theirs["halted"][settled_B]), f"train/step{i}/halted"
        slots = step.slots
        assert torch.equal(slots.steps_B, theirs["steps"].int()), f"train/step{i}/steps"
        labels = theirs["current_labels"].long()
        assert torch.equal(slots.batch.labels_BL, labels), f"train/step{i}/current_labels"
    after = [interop.to_original(model, "") for model in models]
    for name, tensor in case.group("after/").items():
        close([weights[name] for weights in after], tensor, f"after/{name}")


def test_first_step_gradients(case: Case):
    models = case.models()
    for model in models:
        next(case.train_steps(model))
    theirs = case.group("train/step0/grad/")
    if "puzzle_emb_rows" in theirs:
        rows = [model.embed.puzzle.looked_up[1].grad for model in models]
        close(rows, theirs.pop("puzzle_emb_rows"), "train/step0/grad/puzzle_emb_rows")
    theirs = interop.rename(theirs)
    ours = [{n: p.grad for n, p in model.named_parameters() if p.grad is not None} for model in models]
    assert ours[0].keys() == theirs.keys()
    for name, tensor in theirs.items():
        close([gradients[name] for gradients in ours], tensor, f"train/step0/grad/{name}")


def test_conversion_is_lossless(case: Case):
    weights = case.group("weights/")
    back = interop.to_original(case.model("float32"), "")
    assert back.keys() == weights.keys()
    for name, tensor in weights.items():
        assert torch.equal(back[name], tensor), name
