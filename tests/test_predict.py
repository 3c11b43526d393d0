"""Predictions by votes, scores, and learning new tasks: tiny models, and networks told the truth."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny_arc import RECIPE, SIDE, TASK, config, grid, image, made, unanswered, write
from torch import Tensor

from trm import pretrained
from trm.config import ComputeConfig, parse
from trm.contest import predict
from trm.contest.predict import KS, Answers, adapt, count_rows, score
from trm.contest.voting import Candidate, Prediction
from trm.errors import UserError
from trm.inference.evaluate import mean_share, wilson
from trm.inference.think import Thought
from trm.models import Problem, RecursiveModel, build
from trm.pretrained import Pretrained
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.arc.config import ArcConfig
from trm.puzzles.arc.readers import ArcTask, Pair, Seen
from trm.puzzles.arc.variants import Variants, make, transform
from trm.recipe import RunConfig, load_config
from trm.training.loop import train

A, B, C, E = (made(name) for name in "abce")
D = made("d", test=2)
KNOWN = (A, B, C, D)
TABLE = "embed.puzzle.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two whole tasks and the demonstrations of two others."""
    return trained(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def by_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with embeddings by task."""
    return trained(tmp_path_factory.mktemp("by task"), family={"ids": "task"})


def trained(folder: Path, **changes: dict) -> Path:
    settings = recipe(folder, **changes)
    assert train(settings, folder / "run").finished
    return folder / "run"


def recipe(folder: Path, **changes: dict) -> RunConfig:
    data = {
        "train": write(folder / "train.json", [A, B]),
        "demonstrations": write(folder / "shown.json", [C, D]),
    }
    return config(data=data, **changes)


@pytest.fixture
def found(run: Path) -> Pretrained:
    """The model, in a precision in which no answer hangs on rounding, and with something to say."""
    model = pretrained.load(run, ComputeConfig(dtype="float64"))
    torch.manual_seed(0)
    torch.nn.init.normal_(model.model.answer_head.weight)
    return model


def plain(ranked: dict[str, list[list[Candidate]]]) -> dict[str, list[list[tuple[list, int]]]]:
    """Candidates as plain values, without their probabilities."""
    return {
        name: [[(each.grid.tolist(), each.votes) for each in candidates] for candidates in tests]
        for name, tests in ranked.items()
    }


def halts(ranked: dict[str, list[list[Candidate]]]) -> list[float]:
    return [each.halt for tests in ranked.values() for candidates in tests for each in candidates]


def ids(known: Variants, task: ArcTask, by: str) -> list[int]:
    """Puzzle ids of the variants of a task."""
    numbers = known.ids(task.name)
    return list(numbers) if by == "variant" else [known.names.index(task.name) + 1] * len(numbers)


# --- predictions


@pytest.mark.parametrize("votes", [None, 1, 4, 99])
@pytest.mark.parametrize("by", ["variant", "task"])
def test_every_variant_has_one_vote_in_order(run, by_task, monkeypatch, by, votes):
    model, asked, seen = pretrained.load(run if by == "variant" else by_task), [], []

    def answer(found, rows, steps, all_steps):
        """The number of the row, with less and less confidence."""
        assert (found, steps, all_steps) == (model, 2, False)
        numbers = range(len(asked), len(asked) + len(rows))
        asked.extend(rows)
        return [Prediction(grid(f"{number:02}"), 1 - number / 100) for number in numbers]

    monkeypatch.setattr(predict, "_answer", answer)
    monkeypatch.setattr(predict, "chunk_size", lambda model: 5)
    answers = predict.predict(model, [D, A], votes, progress=seen.append)
    voters = min(votes or 6, 6)
    assert len(asked) == count_rows(model, [D, A], votes) == voters * 3
    assert seen == [*range(5, voters * 3, 5), voters * 3]
    known, expected = model.variants(), []
    for task in (D, A):
        for test, pair in enumerate(task.test):
            for puzzle, variant in zip(ids(known, task, by)[:voters], known.ids(task.name), strict=False):
                way = known.dihedral_P[variant], known.colours_PC[variant]
                expected.append((task.name, test, puzzle, transform(pair.input, *way).tolist()))
    assert [(row.task, row.test, row.puzzle, row.grid.tolist()) for row in asked] == expected
    # All answers are different, so they come in the order of their confidence, which is that of the rows.
    ballots = [
        [f"{number:02}" for number in range(first, first + voters)] for first in (0, voters, 2 * voters)
    ]
    for found, expected in ((answers.ranked, ballots), (answers.single, [each[:1] for each in ballots])):
        assert {name: len(tests) for name, tests in found.items()} == {"d": 2, "a": 1}
        texts = [
            ["".join(map(str, each.grid[0])) for each in tests] for name in "da" for tests in found[name]
        ]
        assert texts == expected


def test_one_vote_is_the_single_prediction(found):
    one, all_ = predict.predict(found, KNOWN, votes=1), predict.predict(found, KNOWN)
    assert plain(one.ranked) == plain(one.single) == plain(all_.single)
    assert plain(one.ranked) != plain(all_.ranked)
    assert all(sum(each.votes for each in tests) == 6 for task in all_.ranked.values() for tests in task)


@pytest.mark.parametrize("size", [1, 4, 7, 1000])
def test_answers_do_not_depend_on_the_size_of_the_chunks(found, monkeypatch, size):
    expected = predict.predict(found, KNOWN)
    assert len({str(each) for each in plain(expected.ranked).values()}) == 4
    monkeypatch.setattr(predict, "chunk_size", lambda model: size)
    answers = predict.predict(found, KNOWN)
    assert plain(answers.ranked) == plain(expected.ranked)
    assert plain(answers.single) == plain(expected.single)
    assert halts(answers.ranked) == pytest.approx(halts(expected.ranked))
    assert halts(answers.single) == pytest.approx(halts(expected.single))


def test_answers_do_not_depend_on_the_tasks_beside_them_nor_on_test_outputs(found):
    every = predict.predict(found, KNOWN)
    for task in KNOWN:
        alone = predict.predict(found, [unanswered(task)])
        assert plain(alone.ranked) == {task.name: plain(every.ranked)[task.name]}


def test_steps_and_all_steps_are_handed_on(found, monkeypatch):
    taken = []

    def watched(model, tokens_RL, puzzle_R, steps, leave):
        for thought in think(model, tokens_RL, puzzle_R, steps, leave):
            taken.append(thought.step)
            yield thought

    think = predict.think
    monkeypatch.setattr(predict, "think", watched)
    torch.nn.init.zeros_(found.model.halting_head.weight)
    torch.nn.init.ones_(found.model.halting_head.bias)
    torch.nn.init.zeros_(found.model.answer_head.weight)  # the answer stands still
    predict.predict(found, [A], steps=7)
    assert taken == [1, 2]
    taken.clear()
    predict.predict(found, [A], steps=7, all_steps=True)
    assert taken == [1, 2, 3, 4, 5, 6, 7]
    taken.clear()
    predict.predict(found, [A], all_steps=True)
    assert taken == [1, 2]


class Oracle:
    """Stands in for `think`: the answer to every question, under its variant; rows leave one third a step."""

    def __init__(self, model: Pretrained, tasks: tuple[ArcTask, ...]):
        self.answers: dict[tuple[int, bytes], np.ndarray] = {}
        known, config = model.variants(), model.config.family
        assert isinstance(config, ArcConfig)
        for task in tasks:
            for puzzle, variant in zip(ids(known, task, config.ids), known.ids(task.name), strict=True):
                way = known.dihedral_P[variant], known.colours_PC[variant]
                for question, answer in task.test:
                    tokens, truth = (to_canvas(transform(each, *way), SIDE) for each in (question, answer))
                    self.answers[puzzle, tokens.tobytes()] = truth

    def __call__(
        self, _model: RecursiveModel, tokens_RL: Tensor, puzzle_R: Tensor, _steps: int, _leave: object
    ) -> Iterator[Thought]:
        rows = zip(puzzle_R.tolist(), tokens_RL.numpy().astype(np.uint8), strict=True)
        truth_RL = torch.from_numpy(np.stack([self.answers[puzzle, each.tobytes()] for puzzle, each in rows]))
        row_A = torch.arange(len(truth_RL)).flip(0)
        for step in (1, 2, 3):
            done_A = row_A % 3 == step - 1
            # What has not left may say anything.
            answer_AL = torch.where(done_A[:, None], truth_RL[row_A].long(), 5)
            flat_A = torch.zeros(len(row_A))
            yield Thought(step, row_A, answer_AL, row_A / 100.0, done_A, flat_A, done_A)
            row_A = row_A[~done_A]


@pytest.mark.parametrize("by", ["variant", "task"])
def test_the_truth_under_every_variant_is_the_truth(run, by_task, monkeypatch, by):
    model = pretrained.load(run if by == "variant" else by_task)
    monkeypatch.setattr(predict, "think", Oracle(model, KNOWN))
    answers = predict.predict(model, KNOWN)
    for task in KNOWN:
        for pair, ranked, single in zip(
            task.test, answers.ranked[task.name], answers.single[task.name], strict=True
        ):
            (candidate,), (first,) = ranked, single
            np.testing.assert_array_equal(candidate.grid, pair.output)
            np.testing.assert_array_equal(first.grid, pair.output)
            assert (candidate.votes, first.votes) == (6, 1)
    found = score(answers, KNOWN)
    assert (found.tasks, found.single_pass.value) == (4, 1.0)
    assert {k: share.value for k, share in found.pass_at.items()} == dict.fromkeys(KS, 1.0)


def test_halting_probabilities_stay_with_their_rows(run, monkeypatch):
    model = pretrained.load(run)
    monkeypatch.setattr(predict, "think", Oracle(model, KNOWN))
    monkeypatch.setattr(predict, "chunk_size", lambda model: 100)
    logits = torch.arange(24, 30) / 100.0  # 4 test inputs come before that of a in this order
    (candidate,) = predict.predict(model, [B, C, D, A]).ranked["a"][0]
    assert candidate.halt == pytest.approx(logits.sigmoid().mean().item())


def test_halting_probabilities_do_not_saturate(run, monkeypatch):
    """In float32 they are 1 from a logit of 17 on, and ties between grids would be broken by chance."""
    model = pretrained.load(run)
    oracle = Oracle(model, KNOWN)

    def sure(*arguments) -> Iterator[Thought]:
        for thought in oracle(*arguments):
            yield thought._replace(halt_A=18 + thought.row_A.float())

    monkeypatch.setattr(predict, "think", sure)
    monkeypatch.setattr(predict, "chunk_size", lambda model: 6)
    (candidate,) = predict.predict(model, [A], votes=2).ranked["a"][0]
    doubts = [1 / (1 + np.exp(18.0 + row)) for row in range(2)]
    assert 1 - candidate.halt == pytest.approx(np.mean(doubts), rel=1e-6)


def test_a_task_without_embeddings_is_refused_by_name(found):
    for call in (predict.predict, count_rows):
        with pytest.raises(UserError, match="no puzzle embeddings for task 'e'"):
            call(found, [A, E])


def test_a_grid_larger_than_the_canvas_is_refused(found):
    large = A._replace(test=(Pair(np.zeros((2, 5), np.uint8), None),))
    with pytest.raises(UserError, match="not inside a canvas of side 4"):
        predict.predict(found, [large])


def test_a_model_without_a_table_of_ids_is_refused(found):
    nameless = replace(found, config=found.config.model_copy(update={"puzzle_ids": ""}))
    with pytest.raises(UserError, match="does not say what its puzzle ids stand for"):
        predict.predict(nameless, [A])


# --- scores


def test_score_by_hand():
    right, wrong = grid("12"), grid("21")

    def candidates(*grids: np.ndarray) -> list[Candidate]:
        return [Candidate(each, 2, 0.5) for each in grids]

    def asked(name: str, *outputs: np.ndarray | None) -> ArcTask:
        return ArcTask(name, (), tuple(Pair(right, output) for output in outputs))

    tasks = [asked("two", right, right), asked("one", right), asked("half", right, None), asked("no", None)]
    answers = Answers(
        {
            "two": [candidates(right), candidates(wrong, right)],
            "one": [candidates(*[wrong + n for n in range(5)], right)],
            "half": [candidates(right), candidates(right)],
            "no": [candidates(right)],
        },
        {
            "two": [candidates(right), candidates(wrong)],
            "one": [candidates(wrong)],
            "half": [candidates(right), candidates(right)],
            "no": [candidates(right)],
        },
    )
    found = score(answers, tasks)
    assert (found.tasks, found.single_pass) == (2, mean_share(np.array([0.0, 0.5])))
    values = {k: share.value for k, share in found.pass_at.items()}
    assert values == {1: 0.25, 2: 0.5, 5: 0.5, 10: 1.0, 100: 1.0, 1000: 1.0}
    plain = json.loads(json.dumps(found.as_dict()))
    assert set(plain) == {"tasks", "single_pass", "pass_at"}
    assert plain["pass_at"]["10"] == asdict(wilson(2, 2))
    assert plain["pass_at"]["10"]["low"] == pytest.approx(0.342, abs=1e-3)
    with pytest.raises(UserError, match="nothing to score"):
        score(answers, tasks[2:])


# --- starting from other weights


def fresh(
    tasks: tuple[ArcTask, ...], count: int, seed: int, **changes: dict
) -> tuple[RecursiveModel, Variants, RunConfig]:
    """A new model for tasks, and what its ids mean."""
    settings = config(**{"family": {"variants": count}} | changes)
    assert isinstance(settings.family, ArcConfig)
    variants = make(tasks, count, seed)
    puzzles = len(tasks) + 1 if settings.family.ids == "task" else len(variants)
    torch.manual_seed(seed)
    return build(settings.model, Problem(TASK.vocab_size, TASK.length, puzzles)), variants, settings


@pytest.mark.parametrize("count", [1, 3, 6, 12])
@pytest.mark.parametrize("seed", [0, 1])
def test_embeddings_go_by_the_names_of_tasks_and_the_looks_of_variants(run, count, seed):
    old = pretrained.load(run)
    known, before = old.variants(), old.model.state_dict()
    model, variants, settings = fresh((E, D, A), count, seed)
    seen = pretrained.start_from(model, str(run), settings.family.build(), variants)
    assert seen == old.seen()
    after = model.state_dict()
    for name in before.keys() - {TABLE}:
        assert torch.equal(after[name], before[name]), name
    mean_W, kept = before[TABLE][1:].mean(0), 0
    assert not torch.equal(mean_W, before[TABLE][0])
    expected = {0: mean_W} | dict.fromkeys(variants.ids("e"), mean_W)
    for name in "da":
        for place, puzzle in enumerate(variants.ids(name)):
            number = known.ids(name)[place] if place < 6 else 0
            alike = place < 6 and (
                known.dihedral_P[number] == variants.dihedral_P[puzzle]
                and np.array_equal(known.colours_PC[number], variants.colours_PC[puzzle])
            )
            expected[puzzle] = before[TABLE][number] if alike else mean_W
            kept += alike
    assert kept == (2 * min(count, 6) if seed == 0 else 2)  # with another seed, the tasks themselves
    assert expected.keys() == set(range(len(variants)))
    for puzzle, row_W in expected.items():
        assert torch.equal(after[TABLE][puzzle], row_W), puzzle


def test_embeddings_by_task_go_by_names(by_task):
    before = pretrained.load(by_task).model.state_dict()[TABLE]
    model, variants, settings = fresh((E, D, A), 3, 1, family={"ids": "task"})
    pretrained.start_from(model, str(by_task), settings.family.build(), variants)
    after = model.state_dict()[TABLE]
    mean_W = before[1:].mean(0)
    assert torch.equal(after, torch.stack([mean_W, mean_W, before[4], before[1]]))


def test_what_does_not_fit_is_refused(run, by_task, tmp_path):
    for folder, ids_by, message in (
        (run, "task", "by variant, this model by task"),
        (by_task, "variant", "by task"),
    ):
        model, variants, settings = fresh((A,), 3, 0, family={"ids": ids_by})
        with pytest.raises(UserError, match=message):
            pretrained.start_from(model, str(folder), settings.family.build(), variants)
    model, variants, settings = fresh((A,), 3, 0, model={"width": 32, "puzzle_width": 20})
    with pytest.raises(UserError, match="of another architecture"):
        pretrained.start_from(model, str(run), settings.family.build(), variants)
    model, variants, settings = fresh((A,), 3, 0, model={"puzzle_width": 12})
    with pytest.raises(UserError, match=r"embed\.puzzle\.weight has shape"):
        pretrained.start_from(model, str(run), settings.family.build(), variants)
    model, variants, settings = fresh((A,), 3, 0)
    with pytest.raises(UserError, match="a model of sudoku, not of arc"):
        pretrained.start_from(model, str(tiny.save(tmp_path / "sudoku")), settings.family.build(), variants)


def test_a_single_embedding_is_taken_over(tmp_path):
    """Sudokus share the id 0, and there is no other to take a mean of."""
    settings = tiny.MODEL.model_copy(update={"prefix": 1, "puzzle_width": 8})
    models = [build(settings, Problem(tiny.TASK.vocab_size, tiny.TASK.length)) for _ in range(2)]
    torch.nn.init.normal_(models[0].embed.puzzle.weight)
    about = pretrained.PretrainedConfig(family=tiny.CONFIG, model=settings)
    pretrained.save(tmp_path / "model", about, models[0].state_dict())
    pretrained.start_from(models[1], str(tmp_path / "model"), tiny.TASK, None)
    for name, weight in models[0].state_dict().items():
        assert torch.equal(models[1].state_dict()[name], weight), name


# --- learning new tasks


@pytest.fixture(scope="module")
def adapted(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model trained on for the demonstrations of a new task and of a known one."""
    folder = tmp_path_factory.mktemp("adapted")
    source = write(folder / "new.json", [E, C])
    outcome = adapt(str(run), source, folder / "run", 12, variants=4, device="cpu")
    assert (outcome.finished, outcome.step, outcome.folder) == (True, 12, folder / "run")
    return folder / "run"


def test_an_adapted_model_knows_the_new_tasks(run, adapted):
    model = pretrained.load(adapted)
    assert model.variants().names == ("c", "e")
    assert len(model.variants()) == 1 + 2 * 4
    answers = predict.predict(model, [E, C])
    assert sum(each.votes for each in answers.ranked["e"][0]) == 4
    old, new = (pretrained.load(each).model.state_dict() for each in (run, adapted))
    assert not torch.equal(old["answer_head.weight"], new["answer_head.weight"])
    settings = load_config(adapted / "config.yaml")
    assert settings.name == "adapt small arc"
    assert (settings.data.train, settings.data.hold_out) == ("", 0)
    assert (settings.optimizer.warmup, settings.optimizer.schedule) == (1, "constant")
    assert settings.ema.decay == pytest.approx(1 / 6)  # 1 - 10 / 12
    assert settings.train.start_from == str((run / "last").resolve())


def test_an_adapted_model_remembers_what_was_seen_before(run, adapted):
    first, both = (Seen.load(each / "last" / "seen.json") for each in (run, adapted))
    assert first.names == both.names == {"a", "b"}
    assert first.pairs == both.pairs
    assert all(both.shows(pair) for task in (A, B) for pair in task.train + task.test)
    assert both.leaks([A, B, C, D, E]) == ["a", "b"]
    assert both.leaks([ArcTask("copy", (), (image(A.test[0]),))]) == ["copy"]


def killed_after_its_first_checkpoint(run: Path, folder: Path) -> Path:
    """A run that started from `run`, whose newest weights were never written."""
    write(folder / "new.json", [E])
    settings = config(
        data={"demonstrations": str(folder / "new.json")},
        train={"start_from": str(run), "checkpoint_every": 2},
    )
    assert not train(settings, folder / "killed", stop_after=2).finished
    (folder / "killed" / "last").rename(folder / "last")
    return folder / "killed"


def test_what_was_seen_outlives_a_kill_at_the_first_checkpoint(run, tmp_path):
    folder = killed_after_its_first_checkpoint(run, tmp_path)
    assert train(None, folder).finished
    assert pretrained.load(folder).seen().leaks([A, B, E]) == ["a", "b"]


def test_without_a_record_of_what_was_seen_a_run_does_not_go_on(run, tmp_path):
    folder = killed_after_its_first_checkpoint(run, tmp_path)
    record = (folder / "seen.json").read_bytes()
    (folder / "seen.json").unlink()
    with pytest.raises(UserError, match=r"killed/seen\.json is missing: it says what the weights have seen"):
        train(None, folder)
    (tmp_path / "last").rename(folder / "last")  # where earlier versions kept it
    assert train(None, folder).finished
    assert (folder / "seen.json").read_bytes() == record


@pytest.mark.parametrize("steps", [4, 25])
def test_only_the_puzzle_embeddings_are_learned(run, tmp_path, steps):
    source = write(tmp_path / "new.json", [E])
    folder = tmp_path / "run"
    assert adapt(str(run), source, folder, steps, variants=4, only_puzzles=True, device="cpu").finished
    old, new = (pretrained.load(each).model.state_dict() for each in (run, folder))
    for name in old.keys() - {TABLE}:
        assert torch.equal(old[name], new[name]), name
    mean_W = old[TABLE][1:].mean(0)
    assert new[TABLE].shape == (5, 20)
    assert torch.equal(new[TABLE][0], mean_W), "no row has the id 0"
    assert all(not torch.equal(row_W, mean_W) for row_W in new[TABLE][1:])


@pytest.mark.parametrize("only_puzzles", [False, True])
def test_an_adapted_run_is_resumed_exactly(run, tmp_path, only_puzzles):
    source = write(tmp_path / "new.json", [E])
    adapt(str(run), source, tmp_path / "whole", 12, 4, only_puzzles, device="cpu")
    settings = load_config(tmp_path / "whole" / "config.yaml")
    assert not train(settings, tmp_path / "parts", stop_after=5).finished
    assert train(None, tmp_path / "parts").finished
    for name in ("model.safetensors", "puzzles.safetensors", "seen.json"):
        one, other = (tmp_path / each / "last" / name for each in ("whole", "parts"))
        assert one.read_bytes() == other.read_bytes(), name


def test_the_averaged_weights_alone_are_kept_raw(adapted):
    weights, raw = (load_file(adapted / "last" / name) for name in ("model.safetensors", "raw.safetensors"))
    assert raw.keys() < weights.keys()
    assert TABLE in weights.keys() - raw.keys()
    loaded = pretrained.load(adapted).raw
    assert loaded is not None
    assert loaded.keys() == weights.keys()
    assert torch.equal(loaded[TABLE], weights[TABLE])
    assert not torch.equal(loaded["answer_head.weight"], weights["answer_head.weight"])


def test_models_that_cannot_be_adapted_are_refused(run, tmp_path):
    source = write(tmp_path / "new.json", [E])

    def refused(model: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            adapt(str(model), source, tmp_path / "new", 4, device="cpu")
        assert not (tmp_path / "new").exists()

    refused(tiny.save(tmp_path / "sudoku"), "sudoku is not an ARC model with puzzle embeddings")
    plain_model = trained(tmp_path, model={"puzzle_width": 0, "prefix": 0})
    refused(plain_model, "is not an ARC model with puzzle embeddings")
    old = pretrained.load(run)
    silent = old.config.model_copy(update={"about": {}})
    pretrained.save(tmp_path / "silent", silent, old.model.state_dict(), variants=old.variants())
    refused(tmp_path / "silent", "silent does not say how it was trained")


def test_a_broken_recipe_is_named(run, tmp_path):
    source = write(tmp_path / "new.json", [E])
    old = pretrained.load(run)
    odd = old.config.model_copy(update={"about": {"recipe": {"modle": {}}}})
    pretrained.save(tmp_path / "odd", odd, old.model.state_dict(), variants=old.variants())
    with pytest.raises(UserError, match="odd: unknown option 'modle'"):
        adapt(str(tmp_path / "odd"), source, tmp_path / "run", 4, device="cpu")


def test_only_puzzles_needs_puzzle_embeddings(tmp_path):
    settings = recipe(tmp_path, model={"puzzle_width": 0, "prefix": 0}, optimizer={"only_puzzles": True})
    with pytest.raises(UserError, match=r"only_puzzles needs puzzle embeddings"):
        train(settings, tmp_path / "run")


# --- ids that no longer mean the same


def test_a_run_does_not_go_on_with_other_tasks(tmp_path):
    settings = recipe(tmp_path)
    folder = tmp_path / "run"
    train(settings, folder, stop_after=2)
    digest = pretrained.load(folder).variants().digest()[:8]
    write(tmp_path / "train.json", [A, B, made("aa")])
    with pytest.raises(UserError) as caught:
        train(None, folder)
    message = str(caught.value)
    assert f"they know 24 variants of 4 tasks from a ({digest})" in message
    assert "the data has 30 variants of 5 tasks from a (" in message
    assert message.count(digest) == 1
    assert "restore the data" in message
    write(tmp_path / "train.json", [B, made("z")])
    with pytest.raises(UserError, match="the data has 24 variants of 4 tasks from b"):
        train(None, folder)
    write(tmp_path / "train.json", [A, B])
    assert train(None, folder).finished


def test_a_table_of_another_model_is_refused(run, adapted, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for path in (run / "last").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    assert pretrained.load(folder).variants().names == ("a", "b", "c", "d")
    (folder / "puzzles.safetensors").write_bytes((adapted / "last" / "puzzles.safetensors").read_bytes())
    with pytest.raises(UserError, match=r"is the table \w{8}, but the weights were trained with \w{8}"):
        pretrained.load(folder).variants()
    (folder / "puzzles.safetensors").unlink()
    with pytest.raises(UserError, match=r"puzzles\.safetensors is missing"):
        pretrained.load(folder).variants()
    assert parse(ArcConfig, pretrained.load(folder).config.family.model_dump(), "test").side == SIDE


def test_a_model_of_a_fast_machine_is_adapted_on_any(run, tmp_path, monkeypatch):
    """The recipe of a run on a GPU names kernels and graphs that this machine need not have."""
    folder = tmp_path / "from a GPU"
    shutil.copytree(run / "last", folder)
    values = json.loads((folder / "config.json").read_text())
    values["about"]["recipe"]["compute"] |= {"kernels": "triton", "compile": "cycle", "cuda_graph": True}
    (folder / "config.json").write_text(json.dumps(values))
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "new.json", [E])
    assert adapt(str(folder), "new.json", tmp_path / "adapted", 1, variants=2, device="cpu").finished
    # Source and start are kept as they are found from anywhere.
    assert load_config(tmp_path / "adapted" / "config.yaml").data.demonstrations == str(tmp_path / "new.json")


def test_an_adapted_run_goes_on_without_the_weights_it_started_from(run, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(run / "last", start)
    settings = parse(
        RunConfig,
        recipe(tmp_path).model_dump()
        | {"train": RECIPE["train"] | {"start_from": str(start), "checkpoint_every": 2}},
        "test",
    )
    assert not train(settings, tmp_path / "whole", stop_after=2).finished
    shutil.rmtree(start)
    assert train(None, tmp_path / "whole").finished
    assert Seen.load(tmp_path / "whole" / "last" / "seen.json").names == {"a", "b"}
