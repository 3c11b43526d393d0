"""Generated puzzles keep their promises; canonical forms agree with a brute force over the whole group."""

from functools import lru_cache
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm.errors import UserError
from trm.puzzles.sudoku import generator as sudoku_generator
from trm.puzzles.sudoku.generator import canonical, generate, minimal_puzzle, more_like, random_solution
from trm.puzzles.sudoku.solver import guesses, is_solution, search

SHAPES = [(2, 2), (2, 3), (3, 2), (2, 4), (3, 3), (3, 4), (4, 4)]


def pattern(box_rows: int, box_cols: int) -> np.ndarray:
    """The full grid whose rows are shifts of 1..N: it has many automorphisms."""
    n = box_rows * box_cols
    row, col = np.indices((n, n))
    return ((box_cols * (row % box_rows) + row // box_rows + col) % n + 1).astype(np.uint8).ravel()


def random_image(board_L: np.ndarray, box_rows: int, box_cols: int, rng) -> np.ndarray:
    n = box_rows * box_cols

    def lines(size: int) -> np.ndarray:
        return np.concatenate([size * g + rng.permutation(size) for g in rng.permutation(n // size)])

    grid = board_L.reshape(n, n)[lines(box_rows)][:, lines(box_cols)]
    if box_rows == box_cols and rng.random() < 0.5:
        grid = grid.T
    return np.concatenate([[0], 1 + rng.permutation(n)])[grid].ravel().astype(np.uint8)


def random_board(box_rows: int, box_cols: int, rng) -> np.ndarray:
    """A board of one of many kinds: noise, part of a grid, part of a highly symmetric grid."""
    n = box_rows * box_cols
    grid = [
        rng.integers(1, n + 1, n * n),
        random_solution(box_rows, box_cols, rng),
        pattern(box_rows, box_cols),
    ][rng.integers(3)].reshape(n, n)
    keep = [
        rng.random((n, n)) < rng.random(),
        np.isin(grid, rng.permutation(n)[: rng.integers(n)]),
        (rng.random(n) < 0.6)[:, None],
        np.True_,
    ][rng.integers(4)]
    return (grid * keep).astype(np.uint8).ravel()


@lru_cache
def arrangements(box_rows: int, box_cols: int) -> np.ndarray:
    """Every symmetry but the digits, as the source of each cell: [G, L]."""
    n = box_rows * box_cols

    def lines(size: int) -> np.ndarray:
        inner = list(permutations(range(size)))
        return np.array(
            [
                [size * g + i for g, order in zip(groups, orders, strict=True) for i in order]
                for groups in permutations(range(n // size))
                for orders in product(inner, repeat=n // size)
            ]
        )

    rows, cols = lines(box_rows), lines(box_cols)
    grids = (n * rows[:, None, :, None] + cols[None, :, None, :]).reshape(-1, n, n)
    if box_rows == box_cols:
        grids = np.concatenate([grids, grids.transpose(0, 2, 1)])
    return grids.reshape(-1, n * n)


def brute_force_form(board_L: np.ndarray, box_rows: int, box_cols: int) -> bytes:
    """The least image of all, digits numbered in order of appearance."""
    n = box_rows * box_cols
    image_GL = board_L[arrangements(box_rows, box_cols)]
    first_GN = np.stack(
        [np.where((image_GL == d).any(1), (image_GL == d).argmax(1), n * n) for d in range(1, n + 1)], 1
    )
    names_GN = np.concatenate([np.zeros((len(image_GL), 1), int), first_GN.argsort(1).argsort(1) + 1], 1)
    image_GL = np.take_along_axis(names_GN, image_GL.astype(int), axis=1).astype(np.uint8)
    return min(map(bytes, np.unique(image_GL, axis=0)))


@pytest.mark.parametrize(("box_rows", "box_cols", "count"), [(2, 2, 600), (2, 3, 24), (3, 2, 12)])
def test_forms_are_those_of_the_whole_group(box_rows, box_cols, count):
    rng = np.random.default_rng(0)
    boards = [random_board(box_rows, box_cols, rng) for _ in range(count)]
    for clues in (1, 2, 3):  # few clues: many boards of few classes
        boards += [
            (rng.integers(1, 3, board.size) * (rng.permutation(board.size) < clues)).astype(np.uint8)
            for board in boards[: count // 6]
        ]
    ours = [canonical(board, box_rows, box_cols) for board in boards]
    theirs = [brute_force_form(board, box_rows, box_cols) for board in boards]
    pairs = set(zip(ours, theirs, strict=True))
    assert len(set(ours)) == len(set(theirs)) == len(pairs)
    assert len(pairs) < len(boards)
    for board, form in zip(boards, ours, strict=True):  # the form is itself an image of the board
        assert brute_force_form(np.frombuffer(form, np.uint8), box_rows, box_cols) == brute_force_form(
            board, box_rows, box_cols
        )


@pytest.mark.parametrize("box_rows, box_cols", [(2, 2), (2, 3), (3, 3)])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=100)
def test_form_is_invariant(box_rows, box_cols, seed):
    rng = np.random.default_rng(seed)
    board = random_board(box_rows, box_cols, rng)
    image = random_image(board, box_rows, box_cols, rng)
    form = canonical(board, box_rows, box_cols)
    assert canonical(image, box_rows, box_cols) == form
    assert canonical(np.frombuffer(form, np.uint8), box_rows, box_cols) == form


@pytest.mark.parametrize("box_rows, box_cols", [(2, 4), (3, 4), (4, 4)])
@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=15)
def test_form_of_a_large_board_is_invariant(box_rows, box_cols, seed):
    rng = np.random.default_rng(seed)
    board = random_board(box_rows, box_cols, rng)
    image = random_image(board, box_rows, box_cols, rng)
    assert canonical(image, box_rows, box_cols) == canonical(board, box_rows, box_cols)


@given(seed=st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=50)
def test_a_changed_digit_changes_the_form(seed):
    """Another digit in one cell of a valid grid breaks its rules, so no symmetry undoes it."""
    rng = np.random.default_rng(seed)
    board = random_solution(3, 3, rng)
    changed = board.copy()
    cell = rng.integers(81)
    changed[cell] = changed[cell] % 9 + 1
    assert canonical(changed, 3, 3) != canonical(board, 3, 3)


@pytest.mark.parametrize("box_rows, box_cols", SHAPES)
def test_symmetric_boards_end_soon(box_rows, box_cols):
    full = pattern(box_rows, box_cols)
    rng = np.random.default_rng(0)
    for board in (np.zeros_like(full), full * (full == 1), full * (full < 3), full):
        image = random_image(board, box_rows, box_cols, rng)
        assert canonical(image, box_rows, box_cols) == canonical(board, box_rows, box_cols)


def test_published_numbers_of_classes():
    """288 grids of 4 x 4 in 2 classes, 28,200,960 of 6 x 6 in 49 (Wikipedia, Mathematics of Sudoku)."""
    grids = search(np.zeros(16, np.uint8), 2, 2, limit=1_000).solutions
    assert len({canonical(grid, 2, 2) for grid in grids}) == 2
    start = np.zeros(36, np.uint8)  # digits can be renamed so that every grid starts like this
    start[:9] = 1, 2, 3, 4, 5, 6, 4, 5, 6
    renamed = search(start, 2, 3, limit=10_000).solutions
    start[:9] = 1, 2, 3, 4, 5, 6, 5, 4, 6  # the other 5 orders of 4, 5, 6 have as many
    assert len(search(start, 2, 3, limit=10_000).solutions) == len(renamed)
    assert 720 * 6 * len(renamed) == 28_200_960
    assert len({canonical(grid, 2, 3) for grid in renamed}) == 49


def test_boxes_matter():
    """Swapping rows of two bands keeps rows and columns valid, but is no symmetry."""
    board = np.zeros((4, 4), np.uint8)
    board[0, 0] = board[1, 1] = 1
    assert canonical(board.ravel(), 2, 2) != canonical(board[[0, 2, 1, 3]].ravel(), 2, 2)
    assert canonical(board.ravel(), 2, 2) == canonical(board[[1, 0, 2, 3]].ravel(), 2, 2)


def test_canonical_rejects_a_malformed_board():
    with pytest.raises(UserError, match="holds 7"):
        canonical(np.full(36, 7), 2, 3)


@pytest.mark.parametrize("box_rows, box_cols", SHAPES)
def test_random_solutions(box_rows, box_cols):
    rng = np.random.default_rng(0)
    grids = [random_solution(box_rows, box_cols, rng) for _ in range(3)]
    assert all(is_solution(np.zeros_like(grid), grid, box_rows, box_cols) for grid in grids)
    assert all(grid.dtype == np.uint8 for grid in grids)
    assert len({grid.tobytes() for grid in grids}) == 3


def assert_minimal(puzzle: np.ndarray, solution: np.ndarray, box_rows: int, box_cols: int) -> None:
    assert search(puzzle, box_rows, box_cols).solutions.tolist() == [solution.tolist()]
    assert is_solution(puzzle, solution, box_rows, box_cols)
    for clue in np.flatnonzero(puzzle):
        fewer = puzzle.copy()
        fewer[clue] = 0
        assert len(search(fewer, box_rows, box_cols).solutions) == 2


@pytest.mark.parametrize("box_rows, box_cols", SHAPES[:-1])
def test_minimal_puzzles(box_rows, box_cols):
    rng = np.random.default_rng(1)
    for _ in range(5):
        solution = random_solution(box_rows, box_cols, rng)
        assert_minimal(minimal_puzzle(solution, box_rows, box_cols, rng), solution, box_rows, box_cols)


def test_minimal_puzzle_on_a_budget_stays_unique():
    solution = random_solution(4, 4, np.random.default_rng(0))
    hasty, patient = (
        minimal_puzzle(solution, 4, 4, np.random.default_rng(0), max_guesses) for max_guesses in (0, 1_000)
    )
    assert np.count_nonzero(hasty) > np.count_nonzero(patient)
    for puzzle in (hasty, patient):
        assert search(puzzle, 4, 4).solutions.tolist() == [solution.tolist()]


def test_minimal_puzzle_needs_a_full_grid():
    with pytest.raises(UserError, match="full, valid grid"):
        minimal_puzzle(np.zeros(16, np.uint8), 2, 2, np.random.default_rng(0))


def test_generate_keeps_its_promises():
    counts = {"train": 60, "validation": 0, "test": 40}
    ticks = []
    splits = generate(2, 3, counts, seed=0, progress=ticks.append)
    assert ticks == list(range(1, 101))
    forms = set()
    for name, count in counts.items():
        puzzles, solutions, ratings = splits[name]
        assert puzzles.shape == solutions.shape == (count, 36)
        assert puzzles.dtype == solutions.dtype == np.uint8
        assert ratings.dtype == np.int32
        for puzzle, solution, rating in zip(puzzles, solutions, ratings, strict=True):
            assert_minimal(puzzle, solution, 2, 3)
            assert rating == guesses(puzzle, 2, 3)
            forms.add(canonical(puzzle, 2, 3))
    assert len(forms) == 100


def test_generate_is_a_function_of_the_seed():
    one, same, other = (generate(2, 3, {"a": 15, "b": 5}, seed) for seed in (1, 1, 2))
    for split in ("a", "b"):
        for x, y, z in zip(one[split], same[split], other[split], strict=True):
            assert (x == y).all()
            assert x.shape == z.shape
        assert (one[split].puzzles != other[split].puzzles).any()
    whole = generate(2, 3, {"all": 20}, 1)["all"]
    assert (whole.puzzles == np.concatenate([one["a"].puzzles, one["b"].puzzles])).all()


def test_extra_clues_and_range_of_guesses():
    easy = generate(2, 2, {"a": 100}, 0, extra_clues=3)["a"]
    assert np.count_nonzero(easy.puzzles, axis=1).min() >= 7  # the fewest of a minimal puzzle are 4
    assert all(len(search(p, 2, 2).solutions) == 1 for p in easy.puzzles)
    hard = generate(3, 3, {"a": 10}, 0, guesses=(2, 4))["a"]
    assert set(hard.ratings.tolist()) <= {2, 3, 4}
    assert hard.ratings.tolist() == [guesses(p, 3, 3) for p in hard.puzzles]


def test_splits_do_not_follow_the_order_of_discovery(monkeypatch):
    """Rare puzzles are found late: were the early ones all for training, the test would be another kind."""
    found = {}

    def recorded(board_L, box_rows, box_cols):
        form = canonical(board_L, box_rows, box_cols)
        found.setdefault(form, len(found))
        return form

    monkeypatch.setattr(sudoku_generator, "canonical", recorded)
    splits = generate(2, 3, {"train": 200, "test": 200}, seed=0)
    ranks = {
        name: np.mean([found[canonical(p, 2, 3)] for p in split.puzzles]) for name, split in splits.items()
    }
    assert abs(ranks["train"] - ranks["test"]) < 40  # 200 were they in order; one sd is 11.5


def test_generate_says_when_there_are_no_more():
    # There are 36 essentially different minimal 4 x 4 puzzles.
    with pytest.raises(
        UserError, match=r"only 36 of 37 .* fewer puzzles, more or fewer extra_clues, or a wider"
    ):
        generate(2, 2, {"train": 30, "test": 7}, seed=0)
    assert len(generate(2, 2, {"all": 36}, seed=0)["all"].puzzles) == 36


@pytest.mark.parametrize("wish", [{"extra_clues": -1}, {"guesses": (3, 1)}])
def test_generate_rejects_a_senseless_wish(wish):
    with pytest.raises(UserError, match="cannot generate"):
        generate(2, 2, {"a": 1}, 0, **wish)


def test_generate_rejects_a_negative_count():
    with pytest.raises(UserError, match="cannot generate"):
        generate(2, 2, {"a": -1}, 0)


def test_avoided_puzzles_do_not_come_again():
    first = generate(2, 2, {"all": 36}, 0)["all"].puzzles
    rest = generate(2, 2, {"all": 30}, 1, avoid=first[:6])["all"].puzzles
    forms = [{canonical(board, 2, 2) for board in boards} for boards in (first[:6], rest)]
    assert len(forms[0]) == 6 and len(forms[1]) == 30 and not forms[0] & forms[1]
    with pytest.raises(UserError, match="only 30 of 31"):
        generate(2, 2, {"all": 31}, 1, avoid=first[:6])


@pytest.mark.parametrize(("box", "count"), [((2, 3), 60), ((3, 3), 12)])
def test_puzzles_like_others_share_their_solutions_and_are_as_hard(box, count):
    of, avoid = (generate(*box, {"a": 4}, seed, guesses=(1, 1000))["a"] for seed in (0, 1))
    made = more_like(of.puzzles, of.solutions, *box, count, seed=0, avoid=avoid.puzzles)
    assert len(made.puzzles) == count
    known = {solution.tobytes(): rating for solution, rating in zip(of.solutions, of.ratings, strict=True)}
    for puzzle, solution, rating in zip(*made, strict=True):
        found = search(puzzle, *box, limit=2)
        assert len(found.solutions) == 1 and (found.solutions[0] == solution).all()
        assert rating == guesses(puzzle, *box) >= 0.6 * known[solution.tobytes()]
        for cell in np.flatnonzero(puzzle):  # minimal
            without = puzzle.copy()
            without[cell] = 0
            assert len(search(without, *box, limit=2).solutions) == 2
    forms = {canonical(puzzle, *box) for puzzle in made.puzzles}
    assert len(forms) == count and not forms & {canonical(puzzle, *box) for puzzle in of.puzzles}
    per_solution = [(made.solutions == solution).all(1).sum() for solution in of.solutions]
    assert min(per_solution) > 0
    again = more_like(of.puzzles, of.solutions, *box, count, seed=0, avoid=avoid.puzzles)
    assert (again.puzzles == made.puzzles).all()
    first = more_like(of.puzzles, of.solutions, *box, 3, seed=0)
    others = more_like(of.puzzles, of.solutions, *box, count, seed=0, avoid=first.puzzles)
    assert not {canonical(puzzle, *box) for puzzle in first.puzzles} & {
        canonical(puzzle, *box) for puzzle in others.puzzles
    }


def test_more_puzzles_like_others_than_there_are(monkeypatch):
    monkeypatch.setattr(sudoku_generator, "PATIENCE", 200)
    of = generate(2, 2, {"a": 1}, 0)["a"]
    with pytest.raises(UserError, match=r"only \d+ of 1000 other puzzles were found before 200 tries"):
        more_like(of.puzzles, of.solutions, 2, 2, 1000, seed=0)


def test_clues_for_all_cells_are_refused():
    with pytest.raises(UserError, match="extra_clues 99 fills a whole board"):
        generate(2, 2, {"train": 3}, seed=0, extra_clues=99)
