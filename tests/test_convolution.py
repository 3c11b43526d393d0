"""Convolution: against a loop over neighbours, the same everywhere on the board, on boards of every size."""

import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from trm.errors import UserError
from trm.models import Problem, RecursiveModel
from trm.models.mixing import Convolution
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.maze.family import Maze

SMALL = {
    "mixing": "convolution",
    "positions": "none",
    "width": 8,
    "inner": 16,
    "layers": 1,
    "dtype": "float64",
}
# One supervision step convolves T * (n + 1) times: no cell sees further than that.
REACH = {"T": 1, "n": 2}
RADIUS = 3


def make(height: int, width: int, **options) -> RecursiveModel:
    torch.manual_seed(0)
    problem = Problem(5, height * width, board=(height, width))
    model = tiny.make(SMALL | REACH | options, problem)
    torch.nn.init.normal_(model.halting_head.weight)
    return model


def logits(model: RecursiveModel, tokens_BHW: Tensor) -> Tensor:
    """Of one supervision step, [B, H, W, V]."""
    tokens_BL = tokens_BHW.flatten(1)
    x = model.encode(tokens_BL, torch.zeros(len(tokens_BL), dtype=torch.int64))
    _, out = model.step(model.initial_state(len(tokens_BL)), x)
    return out.logits_BLV.unflatten(1, tokens_BHW.shape[1:])


def boards(height: int, width: int, batch: int = 2) -> Tensor:
    return torch.randint(5, (batch, height, width), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("board", [(1, 1), (1, 4), (2, 2), (3, 5), (6, 4)], ids=str)
def test_equals_a_loop_over_neighbours(board: tuple[int, int]):
    """Beyond the edge are zeros: the corners, the edges and the inside are all in here."""
    torch.manual_seed(0)
    layer = Convolution(4, board)
    height, width = board
    h_BSD = torch.randn(2, height * width, 4, dtype=torch.float64)
    weight = layer.weight.double()
    expected_BSD = torch.zeros_like(h_BSD)
    for row in range(height):
        for col in range(width):
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    r, c = row + down, col + right
                    if 0 <= r < height and 0 <= c < width:
                        seen_BD = h_BSD[:, r * width + c] @ weight[:, :, down + 1, right + 1].T
                        expected_BSD[:, row * width + col] += seen_BD
    torch.testing.assert_close(layer(h_BSD), expected_BSD, rtol=0, atol=1e-12)


def test_fresh_weights_keep_the_variance():
    torch.manual_seed(0)
    layer = Convolution(32, (20, 20))
    mixed_HWD = layer(torch.randn(1, 400, 32)).unflatten(1, (20, 20))[0]
    assert mixed_HWD[1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


def test_every_cell_is_treated_alike_wherever_it_lies_and_however_large_the_board():
    """Two windows of one picture, of different sizes: what both see whole, both answer alike."""
    picture = boards(16, 15)
    large, small = make(16, 15), make(11, 12)
    small.load_state_dict(large.state_dict(), strict=True)
    of_large, of_small = logits(large, picture), logits(small, picture[:, 2:13, 1:13])
    same = of_large[:, 2:13, 1:13]
    inside = (slice(None), slice(RADIUS, -RADIUS), slice(RADIUS, -RADIUS))
    torch.testing.assert_close(of_small[inside], same[inside], rtol=0, atol=1e-10)
    # The edges of the small board are inside the large one: the network sees that they are edges.
    apart_HW = (of_small - same).abs().amax((0, -1))
    assert min(each.min() for each in (apart_HW[0], apart_HW[-1], apart_HW[:, 0], apart_HW[:, -1])) > 1e-3


def test_a_step_sees_as_far_as_it_convolves():
    model = make(11, 11)
    tokens_BHW = boards(11, 11, 1)
    changed_BHW = tokens_BHW.clone()
    changed_BHW[0, 5, 5] = (tokens_BHW[0, 5, 5] + 1) % 5
    differs_HW = (logits(model, tokens_BHW) != logits(model, changed_BHW)).any(-1)[0]
    near_HW = torch.zeros(11, 11, dtype=torch.bool)
    near_HW[5 - RADIUS : 6 + RADIUS, 5 - RADIUS : 6 + RADIUS] = True
    assert torch.equal(differs_HW, near_HW)


@pytest.mark.parametrize("kind", ["trm", "hrm", "transformer"])
def test_every_kind_of_model_can_convolve(kind: str):
    """Gradient reaches every weight, the convolution's too."""
    model = make(4, 6, kind=kind, halting="every")
    ids_B = torch.zeros(2, dtype=torch.int64)
    x = model.encode(boards(4, 6).flatten(1), ids_B)
    _, out = model.step(model.initial_state(2), x)
    (out.logits_BLV.sin().sum() + out.halt_B.sum() + out.continue_B.sum()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().max() > 0, name


def test_it_learns_what_only_a_neighbour_knows():
    """The answer of a cell is the token to its left, and 0 at the edge."""
    model = make(6, 6, dtype="float32").train()
    tokens_BHW = boards(6, 6, 16)
    labels_BL = F.pad(tokens_BHW, (1, 0))[..., :-1].flatten()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        loss = F.cross_entropy(logits(model, tokens_BHW).flatten(0, 2), labels_BL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < 0.2 * losses[0]
    assert (logits(model, tokens_BHW).argmax(-1).flatten() == labels_BL).float().mean() > 0.95


def test_weights_of_mazes_serve_mazes_of_every_size():
    small, large = (
        tiny.make(SMALL, Maze(MazeConfig(height=h, width=w)).problem()) for h, w in ((5, 7), (40, 30))
    )
    large.load_state_dict(small.state_dict(), strict=True)
    assert all(torch.equal(large.state_dict()[name], w) for name, w in small.state_dict().items())
    tokens_BL = boards(40, 30, 1).flatten(1)
    with torch.no_grad():
        _, out = large(tokens_BL, torch.zeros(1, dtype=torch.int64), large.initial_state(1))
    assert out.logits_BLV.shape == (1, 1200, large.problem.vocab_size) and out.logits_BLV.isfinite().all()


def test_a_family_without_a_board_is_refused():
    with pytest.raises(UserError, match=r"mixing convolution needs a board .* this family has none"):
        tiny.make(SMALL, Arc(ArcConfig(side=4)).problem())
