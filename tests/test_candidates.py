"""Candidates: against loops over the rules, the same under every symmetry, and on boards of any size."""

import math
from collections.abc import Callable

import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trm import rng
from trm.config import LossConfig
from trm.errors import UserError
from trm.kernels import native
from trm.models import Problem, State, load_weights
from trm.models.candidates import Candidates
from trm.models.embedding import GIVEN, OPEN, OUT
from trm.models.layers import GatedUnit
from trm.models.mixing import CandidateBlock, group_numbers
from trm.problem import Relation, Relations
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.maze.family import Maze
from trm.puzzles.sudoku.config import SudokuConfig
from trm.puzzles.sudoku.family import Sudoku
from trm.puzzles.symmetry import Symmetry
from trm.training.losses import token_loss

SMALL = {"kind": "candidates", "mixing": "relations", "positions": "none", "halting": "every"}
SMALL |= {"width": 8, "inner": 16, "layers": 1, "T": 2, "n": 2, "dtype": "float64"}
BOXES = [(2, 2), (2, 3), (3, 2), (3, 3)]
every_box = pytest.mark.parametrize("box", BOXES, ids=str)
needs_compiler = pytest.mark.skipif(
    not native.available(), reason="no C++ compiler that builds trm/kernels/native.cpp"
)
Groups = dict[str, list[list[int]]]


def sudoku(box: tuple[int, int]) -> Sudoku:
    return Sudoku(SudokuConfig(box_rows=box[0], box_cols=box[1]))


def make(problem: Problem, seed: int = 0, scale: float = 2, **options) -> Candidates:
    """Fresh weights, scaled so that what is mixed counts, and a halting head that looks at y."""
    torch.manual_seed(seed)
    model = tiny.make(SMALL | options, problem)
    assert isinstance(model, Candidates)
    torch.nn.init.normal_(model.halting_head.weight, std=0.1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(scale if ".blocks." in name else 1)
    return model


def clues(task: Sudoku, seed: int, batch: int = 3) -> Tensor:
    """Boards with random clues; whether they contradict each other is nothing to the network."""
    generator = torch.Generator().manual_seed(seed)
    tokens_BL = torch.randint(2, task.vocab_size, (batch, task.length), generator=generator)
    return tokens_BL.masked_fill(torch.rand(tokens_BL.shape, generator=generator) < 0.6, 1)


def outputs(model: Candidates, tokens_BL: Tensor, steps: int = 3) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What every supervision step says: logits, halt, continue."""
    ids_B = torch.zeros(len(tokens_BL), dtype=torch.int64)
    state, x, said = model.initial_state(len(tokens_BL)), model.encode(tokens_BL, ids_B), []
    with torch.no_grad():
        for _ in range(steps):
            state, out = model.step(state, x)
            said.append(out[:3])
    return said


# Against the rules, one candidate at a time


def rules(rows: int, cols: int, boxes: bool = True) -> Groups:
    """For every relation and candidate (row, column, digit), the numbers of the candidates beside it."""
    side = rows * cols
    number = {
        (r, c, d): (r * side + c) * side + d for r in range(side) for c in range(side) for d in range(side)
    }

    def among(belongs: Callable) -> list[list[int]]:
        return [[n for other, n in number.items() if belongs(*own, *other)] for own in number]

    def same_box(r: int, c: int, d: int, r2: int, c2: int, d2: int) -> bool:
        return d == d2 and r // rows == r2 // rows and c // cols == c2 // cols

    groups = {
        "row": among(lambda r, c, d, r2, c2, d2: r == r2 and d == d2),
        "column": among(lambda r, c, d, r2, c2, d2: c == c2 and d == d2),
    }
    if boxes:
        groups["box"] = among(same_box)
    return groups | {"cell": among(lambda r, c, d, r2, c2, d2: r == r2 and c == c2)}


def latin(side: int, row: str = "row", column: str = "column") -> Relations:
    """A Latin square: no boxes, so rows and columns are axes as they are."""
    members = (Relation(row, (1,)), Relation(column, (0,)), Relation("cell", (2,)))
    return Relations((side, side, side), members, tuple(range(2, 2 + side)))


def norm(x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()


def gated(h: Tensor, unit: GatedUnit) -> Tensor:
    g, u = (unit.up.weight.double() @ h).chunk(2)
    return unit.down.weight.double() @ (g / (1 + torch.exp(-g)) * u)


def reference(block: CandidateBlock, h_SD: Tensor, groups: Groups) -> Tensor:
    """The block, one candidate after the other."""
    rows = []
    for number, h_D in enumerate(h_SD):
        mixed_D = h_D
        for name, members in groups.items():
            total_D = torch.zeros_like(h_D)
            for other in members[number]:
                total_D = total_D + h_SD[other]
            mixed_D = mixed_D + gated(total_D / len(members[number]), block.mix.units[name])
        mixed_D = norm(mixed_D)
        rows.append(norm(mixed_D + gated(mixed_D, block.mlp)))
    return torch.stack(rows)


@every_box
def test_a_block_equals_loops_over_the_rules(box: tuple[int, int]):
    task = sudoku(box)
    block = make(task.problem()).latent_network.blocks[0]
    h_BSD = torch.randn(2, task.relations.candidates, 8, dtype=torch.float64)
    with torch.no_grad():
        out_BSD = block(h_BSD)
        for h_SD, out_SD in zip(h_BSD[:1] if box == (3, 3) else h_BSD, out_BSD, strict=False):
            torch.testing.assert_close(out_SD, reference(block, h_SD, rules(*box)), rtol=0, atol=1e-12)


def test_relations_made_by_hand_are_a_latin_square():
    block = make(Problem(7, 25, relations=latin(5))).latent_network.blocks[0]
    h_SD = torch.randn(125, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = reference(block, h_SD, rules(1, 5, boxes=False))
        torch.testing.assert_close(block(h_SD[None])[0], expected, rtol=0, atol=1e-12)


@every_box
def test_groups_are_numbered_by_the_rules(box: tuple[int, int]):
    for group_S, members in zip(group_numbers(sudoku(box).relations), rules(*box).values(), strict=True):
        assert group_S.dtype == torch.int32 and set(group_S.tolist()) == set(range((box[0] * box[1]) ** 2))
        for number, others in enumerate(members):
            assert (group_S == group_S[number]).nonzero().flatten().tolist() == others


@pytest.mark.parametrize("layers", [1, 2])
def test_a_step_equals_the_formulas(layers: int):
    """From tokens to logits, with the recursion written out."""
    task = sudoku((2, 2))
    model = make(task.problem(), layers=layers)
    (tokens_L,) = tokens_BL = clues(task, 0, 1)
    groups = rules(2, 2)

    def net(h_SD: Tensor) -> Tensor:
        for block in model.latent_network.blocks:
            h_SD = reference(block, h_SD, groups)
        return h_SD

    kinds = [0 if token == 1 else 1 if token == digit + 2 else 2 for token in tokens_L for digit in range(4)]
    with torch.no_grad():
        x_SD = math.sqrt(8) * model.embed.kinds.double()[kinds]
        y_SD, z_SD = (v.double().expand(64, -1) for v in (model.y_init, model.z_init))
        for _ in range(model.config.T):
            for _ in range(model.config.n):
                z_SD = net(x_SD + y_SD + z_SD)
            y_SD = net(y_SD + z_SD)
        score_LN = (y_SD @ model.answer_head.score.weight.double()[0]).view(16, 4)
    ((logits_BLV, _, _),) = outputs(model, tokens_BL, steps=1)
    torch.testing.assert_close(logits_BLV[0, :, 2:], score_LN, rtol=0, atol=1e-10)


def test_gradient_flows_through_the_last_cycle_alone():
    """As in TRM: T cycles end where the last of them would from the same, detached state."""
    task = sudoku((2, 2))
    two, one = (make(task.problem(), T=T) for T in (2, 1))
    tokens_BL, ids_B = clues(task, 1), torch.zeros(3, dtype=torch.int64)
    with torch.no_grad():
        middle, _ = one.step(one.initial_state(3), one.encode(tokens_BL, ids_B))
    grown = []
    for model, state in ((two, two.initial_state(3)), (one, middle)):
        _, out = model.step(state, model.encode(tokens_BL, ids_B))
        (out.logits_BLV[..., 2:].sin().sum() + out.halt_B.sum() + out.continue_B.sum()).backward()
        grown.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in grown[0].items():
        assert gradient is not None and gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, grown[1][name], rtol=1e-5, atol=1e-7)


# The same under every symmetry


def image(symmetry: Symmetry, logits_BLV: Tensor) -> Tensor:
    """Logits of the answer's image: cell i reads cells[i], and token v becomes symbols[v]."""
    moved_BLV = logits_BLV.gather(1, symmetry.cells_BL.unsqueeze(-1).expand_as(logits_BLV))
    return moved_BLV.gather(2, symmetry.symbols_BV.argsort(1).unsqueeze(1).expand_as(logits_BLV))


def lines_swapped(cells_BL: Tensor, side: int) -> Tensor:
    """The move of cells, followed by the transpose."""
    return cells_BL.unflatten(1, (side, side)).mT.flatten(1)


def is_flipped(cells_BL: Tensor, side: int) -> Tensor:
    """Whether cells of one row come from different rows."""
    return cells_BL[:, 0] // side != cells_BL[:, 1] // side


def errors(model: Candidates, tokens_BL: Tensor, symmetry: Symmetry) -> tuple[float, float]:
    """The greatest distance of the image's output from the output's image: of logits, of halting."""
    of_image, of_puzzle = outputs(model, symmetry.apply(tokens_BL)), outputs(model, tokens_BL)
    logits, halting = [], []
    for ours, plain in zip(of_image, of_puzzle, strict=True):
        logits.append((ours[0] - image(symmetry, plain[0])).abs().max().item())
        halting += [(a - b).abs().max().item() for a, b in zip(ours[1:], plain[1:], strict=True)]
    return max(logits), max(halting)


def check_equivariant(model: Candidates, tokens_BL: Tensor, symmetry: Symmetry) -> None:
    logits, halting = errors(model, tokens_BL, symmetry)
    assert logits < 1e-9
    assert halting < 1e-5  # computed in float32


def check_not_equivariant(model: Candidates, tokens_BL: Tensor, symmetry: Symmetry) -> None:
    logits, halting = errors(model, tokens_BL, symmetry)
    assert logits > 1e-2 and halting > 1e-3


def random_symmetry(task: Sudoku, seed: int, batch: int = 3) -> Symmetry:
    return task.symmetry(rng.fold(rng.fold(rng.stream("test"), seed), torch.arange(batch)))


@every_box
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_output_of_an_image_is_the_image_of_the_output(box: tuple[int, int], seed: int):
    """Digits renamed; bands, stacks and lines permuted. No transpose: rows and columns differ in weights."""
    task = sudoku(box)
    symmetry = random_symmetry(task, seed)
    flipped_B1 = is_flipped(symmetry.cells_BL, task.side).unsqueeze(1)
    straight_BL = torch.where(flipped_B1, lines_swapped(symmetry.cells_BL, task.side), symmetry.cells_BL)
    symmetry = symmetry._replace(cells_BL=straight_BL)
    check_equivariant(make(task.problem(), seed % 5), clues(task, seed), symmetry)


def shared(model: Candidates) -> Candidates:
    """The columns' weights copied from the rows'."""
    for block in model.latent_network.blocks:
        block.mix.units["column"].load_state_dict(block.mix.units["row"].state_dict())
    return model


@pytest.mark.parametrize("box", [(2, 2), (3, 3)], ids=str)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_with_shared_weights_the_transpose_is_a_symmetry_too(box: tuple[int, int], seed: int):
    task = sudoku(box)
    symmetry = random_symmetry(task, seed)
    cells_BL = symmetry.cells_BL.clone()
    cells_BL[0] = lines_swapped(cells_BL[:1], task.side)[0]
    both = symmetry._replace(cells_BL=torch.cat((symmetry.cells_BL[:1], cells_BL[:2])))
    flipped_B = is_flipped(both.cells_BL, task.side)
    assert flipped_B.any() and not flipped_B.all()
    check_equivariant(shared(make(task.problem())), clues(task, seed), both)


def test_what_is_no_symmetry_shows():
    """The checks above would see it: a transpose without shared weights, and lines that leave their box."""
    task = sudoku((2, 2))
    tokens_BL = clues(task, 0, 1)
    same_1V = torch.arange(task.vocab_size).unsqueeze(0)
    cells_LL = torch.arange(16).view(1, 4, 4)
    transposed = Symmetry(cells_LL.mT.flatten(1), same_1V)
    check_not_equivariant(make(task.problem()), tokens_BL, transposed)
    check_equivariant(shared(make(task.problem())), tokens_BL, transposed)
    across = Symmetry(cells_LL[:, [0, 2, 1, 3]].flatten(1), same_1V)
    check_not_equivariant(make(task.problem()), tokens_BL, across)
    check_equivariant(make(Problem(6, 16, relations=latin(4))), tokens_BL, across)


def test_relations_of_one_name_share_their_weights():
    model = make(Problem(6, 16, relations=latin(4, "line", "line")))
    assert set(model.latent_network.blocks[0].mix.units) == {"line", "cell"}
    transposed = Symmetry(torch.arange(16).view(1, 4, 4).mT.flatten(1), torch.arange(6).unsqueeze(0))
    check_equivariant(model, clues(sudoku((2, 2)), 0, 1), transposed)


# Boards of every size


@pytest.mark.parametrize("box", [(2, 2), (2, 3), (4, 4), (5, 5)], ids=str)
def test_weights_of_one_size_run_on_every_other(box: tuple[int, int]):
    small = {"T": 1, "n": 1, "dtype": "float32"}
    weights = make(sudoku((3, 3)).problem(), seed=3, **small).state_dict()
    task = sudoku(box)
    model = make(task.problem(), seed=4, **small)
    model.load_state_dict(weights, strict=True)
    load_weights(model, weights, "test")
    assert all(torch.equal(own, weights[name]) for name, own in model.state_dict().items())
    for logits_BLV, halt_B, continue_B in outputs(model, clues(task, 0, 1), steps=2):
        assert logits_BLV.shape == (1, task.length, task.vocab_size)
        assert all(each.isfinite().all() for each in (logits_BLV, halt_B, continue_B))
        assert logits_BLV[..., 2:].std() > 1e-3


# What goes in and what comes out


@every_box
def test_kinds_say_what_is_open_given_or_out(box: tuple[int, int]):
    task = sudoku(box)
    model = make(task.problem())
    tokens_BL = clues(task, 1)
    tokens_BL[0, :3] = 0  # padding says nothing of its cell
    kind_BLN = model.kinds_of(tokens_BL).unflatten(1, (task.length, task.side))
    for tokens_L, kind_LN in zip(tokens_BL.tolist(), kind_BLN.tolist(), strict=True):
        for token, kind_N in zip(tokens_L, kind_LN, strict=True):
            if token < 2:
                assert kind_N == [OPEN] * task.side
            else:
                assert kind_N == [GIVEN if digit + 2 == token else OUT for digit in range(task.side)]
    ids_B = torch.zeros(3, dtype=torch.int64)
    x_BSD = model.encode(tokens_BL, ids_B)
    assert torch.equal(x_BSD, model.encode_kinds(model.kinds_of(tokens_BL)))
    assert x_BSD.flatten(0, 1).unique(dim=0).shape == (3, 8), "every kind looks different"


def test_symbols_may_have_any_tokens():
    """Tokens in another order and with a gap: kinds and logits follow them."""
    relations = latin(3)._replace(tokens=(4, 1, 5))
    model = make(Problem(7, 9, relations=relations))
    tokens_BL = torch.tensor([[4, 1, 5, 0, 2, 3, 6, 4, 4]])
    kind_LN = model.kinds_of(tokens_BL).view(9, 3).tolist()
    assert kind_LN[:3] == [[GIVEN, OUT, OUT], [OUT, GIVEN, OUT], [OUT, OUT, GIVEN]]
    assert kind_LN[3:7] == [[OPEN] * 3] * 4
    plain = make(Problem(5, 9, relations=latin(3)))
    same_BL = torch.tensor([[2, 3, 4, 1, 1, 1, 1, 2, 2]])
    for ours, theirs in zip(outputs(model, tokens_BL), outputs(plain, same_BL), strict=True):
        assert torch.equal(ours[0][..., [4, 1, 5]], theirs[0][..., 2:])


@pytest.mark.parametrize("scale", [1.0, 100.0, -100.0])
@pytest.mark.parametrize("tokens", ["stablemax64", "stablemax", "softmax"])
def test_what_is_no_symbol_is_never_answered(scale: float, tokens: str):
    task = sudoku((2, 3))
    model = make(task.problem(), dtype="float32")
    with torch.no_grad():
        model.answer_head.score.weight.mul_(scale)
    tokens_BL, ids_B = clues(task, 2), torch.zeros(3, dtype=torch.int64)
    _, out = model.step(model.initial_state(3), model.encode(tokens_BL, ids_B))
    assert out.logits_BLV[..., 2:].amin() > out.logits_BLV[..., :2].amax() + 1e3
    assert (out.logits_BLV.argmax(-1) >= 2).all()
    config = LossConfig(tokens=tokens, label_smoothing=0.1 if tokens == "softmax" else 0)
    loss_BL = token_loss(config, out.logits_BLV, (tokens_BL + 1).clamp(2, 7))
    loss_BL.sum().backward()
    assert loss_BL.isfinite().all() and loss_BL.amin() >= 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_a_family_without_relations_is_refused():
    maze = Maze(MazeConfig(height=4, width=5)).problem()
    with pytest.raises(UserError, match=r"kind candidates needs a family .* this one has no relations"):
        tiny.make(SMALL, maze)


# Native code


def slopes(model: Candidates, tokens_BL: Tensor) -> list[Tensor]:
    """Output of a step, and the gradients of all parameters."""
    x = model.encode(tokens_BL, torch.zeros(len(tokens_BL), dtype=torch.int64))
    state, out = model.step(model.initial_state(len(tokens_BL)), x)
    (out.logits_BLV[..., 2:].sin().sum() + out.halt_B.sum() + out.continue_B.sum()).backward()
    return [*state, *out[:3], *(p.grad for p in model.parameters())]


def pair(kernels: str, **options) -> Candidates:
    """Weights as they start: larger ones would make rounding grow from update to update."""
    options = {"dtype": "float32", "kernels": kernels, "scale": 1} | options
    return make(sudoku((2, 3)).problem(), **options)


@needs_compiler
@pytest.mark.parametrize("layers", [1, 2])
def test_native_code_computes_the_same(layers: int, monkeypatch):
    calls = []
    cycle = native.cycle
    monkeypatch.setattr(native, "cycle", lambda *given: calls.append(1) or cycle(*given))
    tokens_BL = clues(sudoku((2, 3)), 3)
    ours = slopes(pair("native", layers=layers), tokens_BL)
    assert len(calls) == 2, "T = 2 cycles"
    for a, b in zip(ours, slopes(pair("torch", layers=layers), tokens_BL), strict=True):
        assert (a - b).norm() < 2e-5 * b.norm()
    assert len(calls) == 2


@pytest.mark.parametrize("why", ["no compiler", "dtype", "width"])
def test_where_native_code_cannot_be_had_torch_computes_silently(why: str, monkeypatch, capfd):
    if why == "no compiler":
        monkeypatch.setattr(native, "available", lambda: False)
    monkeypatch.setattr(native, "cycle", lambda *given: pytest.fail("native code was called"))
    options = {"no compiler": {}, "dtype": {"dtype": "float64"}, "width": {"width": 12}}[why]
    tokens_BL = clues(sudoku((2, 3)), 3)
    ours = slopes(pair("native", **options), tokens_BL)
    theirs = slopes(pair("torch", **options), tokens_BL)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert capfd.readouterr() == ("", "")


class Step(torch.nn.Module):
    """A supervision step as a function of tensors alone."""

    def __init__(self, model: Candidates):
        super().__init__()
        self.model = model

    def forward(self, tokens_BL: Tensor, ids_B: Tensor, y_BSD: Tensor, z_BSD: Tensor) -> tuple[Tensor, ...]:
        state, out = self.model(tokens_BL, ids_B, State(y_BSD, z_BSD))
        return *state, *out


def test_a_step_is_one_graph_for_batches_of_every_size():
    """What an export needs: no control flow that depends on values, and shapes that follow the batch."""
    task = sudoku((2, 2))
    model = make(task.problem(), kernels="torch", conflict_head=True).eval()

    def given(batch: int) -> tuple[Tensor, ...]:
        state = model.initial_state(batch)
        ids_B = torch.zeros(batch, dtype=torch.int64)
        return clues(task, batch, batch), ids_B, *(part.contiguous() for part in state)

    sizes = {0: torch.export.Dim("B", min=2, max=512)}
    with torch.no_grad():
        graph = torch.export.export(Step(model), given(3), dynamic_shapes=(sizes,) * 4).module()
        for ours, theirs in zip(graph(*given(5)), Step(model)(*given(5)), strict=True):
            assert torch.equal(ours, theirs)
