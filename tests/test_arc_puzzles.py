"""ARC rows: what is trained on, what is never, and that every drawn row is what its id says.

Expected rows are made by the plain path, from a task's own pairs by `transform` and `to_canvas`.
"""

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_arc import SIDE, TASK, grid, image, made, same, unanswered, write

from trm.config import parse
from trm.data.batches import IGNORE, Batch, Batches
from trm.data.sources import prepare as prepare_run
from trm.errors import UserError
from trm.puzzles.arc import rows as arc_puzzles
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.config import ArcConfig, ArcDataConfig
from trm.puzzles.arc.family import Arc
from trm.puzzles.arc.readers import ArcTask, Pair
from trm.puzzles.arc.rows import ArcData
from trm.puzzles.arc.variants import transform
from trm.puzzles.table import Puzzles

A, B, C, D = (made(name) for name in "abcd")
BY_TASK = Arc(ArcConfig(side=SIDE, variants=6, ids="task"))
STILL = Arc(ArcConfig(side=SIDE, variants=6, translate=False))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in an empty folder, so that files go by their bare names."""
    monkeypatch.chdir(tmp_path)


def sources(train: list[ArcTask] = (), shown: list[ArcTask] = (), **options: object) -> ArcDataConfig:
    """Tasks as files, and the configuration that names them."""
    values: dict[str, object] = dict(options)
    for key, tasks in (("train", train), ("demonstrations", shown)):
        if tasks:
            values[key] = write(Path(f"{key}.json"), tasks)
    return parse(ArcDataConfig, values, "test")


def prepare(
    train: list[ArcTask] = (), shown: list[ArcTask] = (), task: Arc = TASK, seed: int = 0, **options: object
) -> ArcData:
    return arc_puzzles.prepare(sources(train, shown, **options), task, seed)


def rows(puzzles: Puzzles) -> Counter:
    """Number of rows by id, question and answer."""
    texts = ([TASK.text(tokens_L) for tokens_L in each] for each in (puzzles.tokens_NL, puzzles.answers_NL))
    return Counter(zip(puzzles.puzzle_N.tolist(), *texts, strict=True))


def expected(*parts: tuple[int, tuple[Pair, ...]]) -> Counter:
    return Counter(
        (number, *("/".join("".join(map(str, row)) for row in each) for each in pair))
        for number, pairs in parts
        for pair in pairs
    )


def batches(data: ArcData, config: ArcDataConfig, task: Arc, size: int = 64, seed: int = 0) -> Batches:
    augment = arc_puzzles.random_variant(data, config, task, seed, "cpu")
    return Batches(data.train, range(size), augment, "cpu")


def drawn(data: ArcData, config: ArcDataConfig, task: Arc, count: int = 20, size: int = 64) -> Batch:
    """The rows of many batches."""
    made = batches(data, config, task, size)
    return Batch(*(torch.cat(parts) for parts in zip(*(made.batch(0, i) for i in range(count)), strict=True)))


def canvases(pair: Pair, data: ArcData, puzzle: int) -> tuple[bytes, bytes]:
    """Question and answer of a pair under the variant of an id, in the corner of the canvas."""
    way = data.variants.dihedral_P[puzzle], data.variants.colours_PC[puzzle]
    question, answer = (to_canvas(transform(each, *way), SIDE) for each in pair if each is not None)
    return question.tobytes(), answer.tobytes()


def bytes_of(batch: Batch) -> list[tuple[int, bytes, bytes]]:
    """Every row: its id, question and answer."""
    answers_BL = torch.where(batch.labels_BL == IGNORE, 0, batch.labels_BL)
    questions, answers = (each.numpy().astype(np.uint8) for each in (batch.tokens_BL, answers_BL))
    return [
        (int(puzzle), question.tobytes(), answer.tobytes())
        for puzzle, question, answer in zip(batch.puzzle_B, questions, answers, strict=True)
    ]


# --- which pairs


def test_training_tasks_give_all_pairs_and_demonstrations_their_train_pairs():
    half = B._replace(test=(*B.test, Pair(C.test[0].input, None)))
    data = prepare([A, half], [D])
    assert data.variants.names == ("a", "b", "d")
    assert rows(data.train) == expected((0, A.train + A.test), (1, B.train + B.test), (2, D.train))
    assert len(data.validation) == 0
    assert data.left_out == 0
    assert data.seen.names == {"a", "b"}
    assert all(data.seen.shows(pair) for pair in A.test + A.train)
    assert not any(data.seen.shows(pair) for pair in D.train)  # to use them is what the task asks for
    assert data.seen.leaks([D]) == []
    assert data.seen.leaks([A, B]) == ["a", "b"]


def test_either_source_will_do_but_one_is_needed():
    assert prepare([A]).variants.names == ("a",)
    only = prepare([], [A])
    assert rows(only.train) == expected((0, A.train))
    assert only.seen.names == frozenset()
    with pytest.raises(UserError, match=r"no ARC tasks: give data\.train or data\.demonstrations"):
        prepare()


@pytest.mark.parametrize("task", [TASK, BY_TASK], ids=["variant", "task"])
def test_test_pairs_of_held_out_tasks_are_validated_and_never_trained_on(task):
    tasks = [made(name, test=2) for name in "abcdefg"]
    data = prepare(tasks, task=task, hold_out=3)
    held = {each.name for each in tasks} - data.seen.names
    assert len(held) == 3
    whole = [(i, t.train + (() if t.name in held else t.test)) for i, t in enumerate(tasks)]
    assert rows(data.train) == expected(*whole)
    numbers = [i + 1 if task is BY_TASK else int(data.variants.first_N[i]) for i in range(len(tasks))]
    judged = [(numbers[i], t.test) for i, t in enumerate(tasks) if t.name in held]
    assert rows(data.validation) == expected(*judged)
    assert data.seen.leaks([t for t in tasks if t.name in held]) == []
    assert data.left_out == 0


def test_the_seed_chooses_what_is_held_out():
    tasks = [made(name) for name in "abcdefgh"]
    again, same_seed, *others = (prepare(tasks, hold_out=2, seed=seed) for seed in (0, 0, 1, 2, 3))
    assert again.seen == same_seed.seen
    assert len({each.seen.names for each in (again, *others)}) > 1


def test_only_tasks_with_known_answers_are_held_out():
    tasks = [A, unanswered(B), unanswered(C), D]
    data = prepare(tasks, hold_out=2)
    assert data.seen.names == {"b", "c"}
    assert rows(data.validation) == expected(
        (int(data.variants.first_N[0]), A.test), (int(data.variants.first_N[3]), D.test)
    )
    with pytest.raises(UserError, match=r"hold_out is 3, but only 2 training tasks have known answers"):
        prepare(tasks, hold_out=3)


def test_a_test_pair_held_out_is_not_trained_on_under_another_name():
    copy = ArcTask("copy", (*B.train, image(A.test[0])), (image(A.test[0], 3, 1),))
    for allow in (False, True):
        data = prepare([A, copy], hold_out=2, allow_leaks=allow)  # both are held out
        assert rows(data.train) == expected((0, A.train), (1, B.train))
        assert data.left_out == 1


def test_names_in_both_sources_are_refused_unless_leaks_are_allowed():
    shown = [A, B, C, D, made("e")]
    with pytest.raises(
        UserError,
        match=r"^4 tasks of data\.demonstrations are in data\.train too \(a, b, c \.\.\.\): .*allow_leaks",
    ):
        prepare([D, C, B, A], shown)
    data = prepare([A, B], [B, C], allow_leaks=True)
    assert data.variants.names == ("a", "b", "c")
    assert rows(data.train) == expected((0, A.train + A.test), (1, B.train + B.test), (2, C.train))
    assert data.seen.leaks([B, C]) == ["b"]


@pytest.mark.parametrize("dihedral", range(8))
def test_pairs_to_be_predicted_are_left_out_in_any_orientation_and_colours(dihedral):
    hidden = image(D.test[0], dihedral, seed=dihedral)
    assert same(hidden, D.test[0])
    for tasks in (
        [A._replace(train=(A.train[0], hidden, A.train[1]))],
        [A._replace(test=(hidden, *A.test))],
        [A, ArcTask("copy", (hidden, *B.train), (hidden,))],
    ):
        data = prepare(tasks, [D])
        every = [pair for each in tasks for pair in each.train + each.test]
        kept = [pair for pair in every if pair.input is not hidden.input]
        assert len(data.train) == len(kept) + len(D.train)
        assert data.left_out == len(every) - len(kept) > 0
        assert not any(same(pair, D.test[0]) for pair in trained_pairs(data))
        assert data.seen.leaks([D]) == []
        allowed = prepare(tasks, [D], allow_leaks=True)
        assert (len(allowed.train), allowed.left_out) == (len(every) + len(D.train), 0)
        assert allowed.seen.leaks([D]) == ["d"]


def trained_pairs(data: ArcData) -> list[Pair]:
    return [
        Pair(*map(TASK.grid, each)) for each in zip(data.train.tokens_NL, data.train.answers_NL, strict=True)
    ]


def test_a_pair_of_the_same_question_and_another_answer_stays():
    other = Pair(D.test[0].input, D.train[0].output)
    data = prepare([A._replace(train=(*A.train, other))], [D])
    assert data.left_out == 0
    assert data.seen.leaks([D]) == []


@pytest.mark.parametrize("allow", [False, True])
def test_where_the_answer_is_unknown_the_question_tells(allow):
    question = image(D.test[0])
    other = A._replace(train=(*A.train, Pair(question.input, A.train[0].output)))
    helpful = D._replace(train=(*D.train, question))  # a demonstration may look like what is asked
    data = prepare([other], [unanswered(helpful)], allow_leaks=allow)
    left_out = () if allow else (other.train[-1],)
    kept = tuple(pair for pair in other.train + other.test if not any(pair is each for each in left_out))
    assert rows(data.train) == expected((0, kept), (1, helpful.train))
    assert data.left_out == len(left_out)
    assert data.seen.leaks([unanswered(D)]) == (["d"] if allow else [])
    assert data.seen.leaks([D]) == []


def test_nothing_left_to_train_on_is_refused():
    with pytest.raises(UserError, match=r"nothing to train on|no pairs"):
        prepare([ArcTask("copy", (image(D.test[0]),), (image(D.test[0], 1, 1),))], hold_out=1)


def test_tasks_picks_in_its_order_and_complains():
    with pytest.raises(UserError, match="there is no task 'a' among the 0 of the source"):
        prepare([], [A], tasks=("a",))
    data = prepare([A, B, C, D], [made("e")], tasks=("c", "a"))
    assert data.variants.names == ("c", "a", "e")
    assert rows(data.train)[(0, *next(iter(expected((0, C.test))))[1:])] == 1
    assert data.seen.names == {"a", "c"}
    with pytest.raises(UserError, match="there is no task 'x' among the 2 of the source"):
        prepare([A, B], [C], tasks=("x", "a", "y", "z", "c"))


def test_picking_tasks_settles_an_overlap():
    assert prepare([A, B], [B], tasks=("a",)).variants.names == ("a", "b")


@pytest.mark.parametrize("where", ["train", "demonstrations"])
@pytest.mark.parametrize("tall", [True, False])
def test_a_grid_larger_than_the_canvas_is_refused(where, tall):
    long = np.zeros((SIDE + 1, 1) if tall else (1, SIDE + 1), np.uint8)
    for odd in (
        A._replace(test=(Pair(long, None),)),
        A._replace(train=(Pair(A.train[0].input, long),)),
    ):
        found = {"train": [odd], "shown": [B]} if where == "train" else {"train": [B], "shown": [odd]}
        with pytest.raises(
            UserError, match=r"task a has a grid with a side of 5, but the canvas has 4: raise"
        ):
            prepare(**found)


def test_validation_files_are_not_silently_ignored():
    other = write(Path("other.json"), [B])
    with pytest.raises(UserError, match=r"data\.validation"):
        prepare([A], validation=other)


def test_ids_are_counted_for_the_table():
    for task, count in ((TASK, 13), (BY_TASK, 3)):
        data = prepare_run(sources([A, B]), task, 0, Path("none"), lambda found: None)
        assert data.puzzles == count
        assert data.variants is not None
        assert data.seen is not None
        assert int(data.augment(torch.device("cpu"))(*some_rows(data.train))[2].max()) < count


def some_rows(train: Puzzles) -> tuple[torch.Tensor, ...]:
    index_B = torch.arange(200) % len(train)
    tokens, answers = (torch.from_numpy(each)[index_B].long() for each in (train.tokens_NL, train.answers_NL))
    return torch.arange(200), index_B, tokens, answers


# --- what is drawn


@pytest.mark.parametrize("ids", ["variant", "task"])
def test_drawn_rows_are_what_their_ids_say(ids):
    task = Arc(STILL.config.model_copy(update={"ids": ids}))
    tasks = [A, B, C]
    config = sources([A, B], [C])
    data = arc_puzzles.prepare(config, task, 0)
    possible: dict[tuple[int, bytes, bytes], tuple[int, int]] = {}
    for i, each in enumerate(tasks):
        pairs = each.train + (each.test if each is not C else ())
        for puzzle, (n, pair) in itertools.product(data.variants.ids(each.name), enumerate(pairs)):
            number = puzzle if ids == "variant" else i + 1
            possible[(number, *canvases(pair, data, puzzle))] = (i, n)
    assert len(possible) == 6 * (4 + 4 + 3)
    counts = Counter(bytes_of(drawn(data, config, task)))
    assert counts.keys() == possible.keys()  # every pair under every variant of its own, and nothing else
    # 1280 rows over 66 kinds: about 19.4 each, with a standard deviation of 4.4.
    assert max(abs(count - 1280 / 66) for count in counts.values()) < 5 * 4.4


def test_moved_rows_are_what_their_ids_say():
    config = sources([A, B], [C])
    data = arc_puzzles.prepare(config, TASK, 0)
    possible, places = set(), list(itertools.product(range(2), repeat=2))  # sides of 3 on a canvas of 4
    for name, pairs in (("a", A.train + A.test), ("b", B.train + B.test), ("c", C.train)):
        for puzzle, (question, answer) in itertools.product(data.variants.ids(name), pairs):
            way = data.variants.dihedral_P[puzzle], data.variants.colours_PC[puzzle]
            images = [transform(each, *way) for each in (question, answer) if each is not None]
            possible |= {
                (puzzle, *(to_canvas(e, SIDE, *place).tobytes() for e in images)) for place in places
            }
    found = set(bytes_of(drawn(data, config, TASK, count=60)))
    assert found <= possible
    # One of the pairs of every variant never moves: it has one place in place of four.
    assert len(possible) == 4 * 6 * (4 + 4 + 3)
    assert len(found) == len(possible) - 3 * 18


def test_the_pair_that_stays_is_counted_within_its_task():
    """A task that lost all its pairs lies between two others: numbers of pairs must not shift."""
    gone = ArcTask("b", (image(D.test[0]),), (image(D.test[0], 2, 1),))
    config = sources([A, gone, C], [D])
    data = arc_puzzles.prepare(config, TASK, 0)
    assert data.left_out == 2
    assert data.variants.names == ("a", "b", "c", "d")
    assert rows(data.train) == expected((0, A.train + A.test), (2, C.train + C.test), (3, D.train))
    found = set(bytes_of(drawn(data, config, TASK, count=40)))
    assert not {number for number, _, _ in found} & set(data.variants.ids("b"))
    staying = set()
    for name, pairs in (("a", A.train + A.test), ("c", C.train + C.test), ("d", D.train)):
        for puzzle in data.variants.ids(name):
            still = [n for n, pair in enumerate(pairs) if not was_moved(pair, data, puzzle, found)]
            assert len(still) == 1, "one pair of every variant stays"
            staying.add((name, still[0]))
    assert len(staying) > 6, "and not the same of all"


def was_moved(pair: Pair, data: ArcData, puzzle: int, found: set[tuple[int, bytes, bytes]]) -> bool:
    """Whether a pair under the variant of an id was seen away from the corner."""
    grid = transform(pair.input, data.variants.dihedral_P[puzzle], data.variants.colours_PC[puzzle])
    spots = itertools.product(range(SIDE + 1 - grid.shape[0]), range(SIDE + 1 - grid.shape[1]))
    away = {to_canvas(grid, SIDE, *spot).tobytes() for spot in spots if spot != (0, 0)}
    return any(number == puzzle and question in away for number, question, _ in found)


def test_the_outputs_of_tests_never_enter_training():
    tasks = [made(name, train=2, test=2) for name in "efgh"]
    leaky = ArcTask("leaky", (image(D.test[0]), *A.train), (image(C.test[0], 6, 3),))
    config = sources([*tasks, leaky], [C, D], hold_out=2)
    data = arc_puzzles.prepare(config, STILL, 0)
    held = {each.name for each in (*tasks, leaky)} - data.seen.names
    secret = [pair for each in (*tasks, leaky, C, D) if each.name in {*held, "c", "d"} for pair in each.test]
    assert len(secret) in (5, 6)
    for _, question, answer in set(bytes_of(drawn(data, config, STILL))):
        pair = Pair(*(STILL.grid(np.frombuffer(each, np.uint8)) for each in (question, answer)))
        assert not any(same(pair, each) for each in secret)


def test_what_the_answers_are_changes_nothing_but_the_pairs_left_out():
    known, unknown = (prepare([A], [task]) for task in (D, unanswered(D)))
    assert rows(known.train) == rows(unknown.train)
    assert known.variants.digest() == unknown.variants.digest()


def test_batches_are_pure_functions():
    config = sources([A, B], [C])
    data = arc_puzzles.prepare(config, TASK, 0)

    def equal(one: Batch, other: Batch) -> bool:
        return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))

    one = batches(data, config, TASK)
    first = one.batch(3, 5)
    one.batch(0, 0)
    assert equal(one.batch(3, 5), first)
    again = batches(arc_puzzles.prepare(config, TASK, 0), config, TASK)
    assert equal(again.batch(3, 5), first)
    small = batches(data, config, TASK, size=10).batch(3, 5)
    assert equal(small, Batch(*(part[:10] for part in first)))
    for other in ((4, 5), (3, 6), (5, 3)):
        assert not equal(one.batch(*other), first)


# --- variants held out


def test_held_out_variants_need_ids_by_task():
    with pytest.raises(UserError, match=r"hold_out_variants needs family\.ids task"):
        prepare([A], hold_out_variants=2)


def test_held_out_variants_are_never_drawn_and_validation_is_on_them():
    task = Arc(STILL.config.model_copy(update={"ids": "task"}))
    config = sources([A, B], [C], hold_out_variants=2)
    data = arc_puzzles.prepare(config, task, 0)
    kinds: dict[bool, Counter] = {False: Counter(), True: Counter()}
    for i, (name, pairs) in enumerate((("a", A.train + A.test), ("b", B.train + B.test), ("c", C.train))):
        for place, puzzle in enumerate(data.variants.ids(name)):
            for pair in pairs:
                kinds[place >= 4][(i + 1, *canvases(pair, data, puzzle))] += 1
    assert not kinds[False].keys() & kinds[True].keys()
    found = set(bytes_of(drawn(data, config, task)))
    assert found == kinds[False].keys()
    judged = data.validation
    as_bytes = zip(
        judged.puzzle_N.tolist(),
        (each.tobytes() for each in judged.tokens_NL),
        (each.tobytes() for each in judged.answers_NL),
        strict=True,
    )
    assert Counter(as_bytes) == kinds[True]
    assert set(judged.puzzle_N[: len(judged) // 2].tolist()) == {1, 2, 3}, "any half holds all tasks"


def test_a_task_with_few_variants_keeps_itself_for_training():
    black = np.zeros((2, 2), np.uint8)
    flat = ArcTask("flat", (Pair(black, black),), (Pair(black, None),))  # all its variants look the same
    config = sources([flat, A], hold_out_variants=100)
    data = arc_puzzles.prepare(config, BY_TASK, 0)
    drawn_ids = Counter(number for number, _, _ in bytes_of(drawn(data, config, BY_TASK, count=3)))
    assert drawn_ids.keys() == {1, 2}
    assert data.validation.puzzle_N.tolist() == [1] * 4 * 5


def test_a_pair_that_training_shows_is_not_held_out():
    """Two colours of ten: most recolourings of a task look like an earlier one to a single pair."""
    plain = Pair(grid("01", "10"), grid("10", "01"))
    coloured = Pair(grid("23", "45"), grid("54", "32"))
    task = ArcTask("t", (plain, coloured), (plain,))
    config = sources([task], hold_out_variants=40)
    many = Arc(STILL.config.model_copy(update={"ids": "task", "variants": 80}))
    data = arc_puzzles.prepare(config, many, 0)
    shown = {(question, answer) for _, question, answer in set(bytes_of(drawn(data, config, many, count=60)))}
    asked = [
        (a.tobytes(), b.tobytes())
        for a, b in zip(data.validation.tokens_NL, data.validation.answers_NL, strict=True)
    ]
    assert len(asked) == len(set(asked)) > 20
    assert not shown & set(asked)
    with pytest.raises(UserError, match="every pair under them looks as under a trained variant"):
        # Only the question that is asked, and never trained on, tells the variants apart.
        black = Pair(grid("00", "00"), grid("00", "00"))
        flat = ArcTask("t", (black,), (Pair(coloured.input, None),))
        arc_puzzles.prepare(sources([flat], hold_out_variants=2), many, 0)
