"""Every family on the page: untrained models draw, think as PyTorch does, and are judged by the rules."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_arc
import torch
from pages import AGREE, cell, opened, served

from trm import page as building
from trm import pretrained
from trm.config import ComputeConfig, FamilyConfig, ModelConfig
from trm.errors import UserError
from trm.inference.think import never, think
from trm.models import build
from trm.pretrained import Pretrained, PretrainedConfig
from trm.puzzles.arc.canvas import to_canvas
from trm.puzzles.futoshiki.config import FutoshikiConfig
from trm.puzzles.grid.config import GridConfig, GridRules
from trm.puzzles.maze.config import MazeConfig
from trm.puzzles.sudoku.config import SudokuConfig
from trm.training.loop import train

LATIN = GridConfig(
    height=4,
    width=4,
    symbols=(".", "1", "2", "3", "4"),
    permute=("1", "2", "3", "4"),
    blanks=(".",),
    rules=GridRules(rows="all_different", columns="all_different"),
)
WORDS = GridConfig(height=3, width=5, symbols=("on", "off", "?"), blanks=("?",), dihedral=True)
SMALL = {
    "width": 8,
    "heads": 2,
    "layers": 1,
    "inner": 8,
    "T": 2,
    "n": 2,
    "expansion": 0.1,
    "halting": "every",
}
CANDIDATES = {**SMALL, "kind": "candidates", "mixing": "relations", "conflict_head": True}
MODELS = {
    "latin": (LATIN, CANDIDATES),
    "words": (WORDS, SMALL),
    "futoshiki": (FutoshikiConfig(side=4), {**SMALL, "prefix": 2}),
}
PUZZLES = {
    "latin": [".4.3\n42..\n1.2.\n....", "." * 16, "1234341.21434321"],
    "words": ["on ? off / ? on ? / off ? on", "? ? ? ? ?"],
    "futoshiki": [".-.-.-./-------/.-.-.-./--^-^--/.>.-.-./--v----/.-.-.-."],
}
TASK = tiny_arc.made("a")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Pretrained]:
    torch.manual_seed(1)
    made = {}
    for name, (family, options) in MODELS.items():
        config = PretrainedConfig(family=family, model=ModelConfig(**options), steps=3)
        model = build(config.model, family.build().problem()).eval()
        for head in model.modules():
            if isinstance(head, torch.nn.Linear) and head.bias is not None:
                torch.nn.init.normal_(head.weight)
        made[name] = Pretrained(config, model, family.build(), None, Path())
    folder = tmp_path_factory.mktemp("arc")
    data = {"train": tiny_arc.write(folder / "train.json", [TASK, tiny_arc.made("b")])}
    assert train(tiny_arc.config(data=data), folder / "run").finished
    made["arc"] = pretrained.load(folder / "run", ComputeConfig(device="cpu", kernels="torch"))
    torch.nn.init.normal_(made["arc"].model.answer_head.weight)
    return made


@pytest.fixture(scope="module")
def address(models, tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site")
    try:
        building.build(models.items(), folder, check=3)
    except UserError as error:
        pytest.fail(str(error))
    with served(folder) as address:
        yield address


def as_json(task, name: str = "a") -> str:
    def plain(pair) -> dict:
        return {"input": pair.input.tolist(), "output": pair.output.tolist()}

    return json.dumps({name: {"train": [*map(plain, task.train)], "test": [*map(plain, task.test)]}})


@pytest.mark.parametrize("name", [*MODELS, "arc"])
def test_it_thinks_as_pytorch_does(page, models, name: str):
    found, steps = models[name], 3
    if name == "arc":
        texts, ids = [as_json(TASK)], [found.variants().ids("a")[0]]
        tokens_NL = np.stack([to_canvas(TASK.test[0].input, tiny_arc.SIDE)])
    else:
        texts, ids = PUZZLES[name], [0] * len(PUZZLES[name])
        tokens_NL = np.stack([found.family.parse(text) for text in texts])
    tokens_BL = torch.from_numpy(tokens_NL).long()
    same = found.family.same_cells
    *_, last = think(found.model, tokens_BL, torch.tensor(ids), steps, never, same_cells=same)
    page.goto("")
    got = page.evaluate(AGREE, [f"models/{name}/", texts, steps])
    np.testing.assert_array_equal([answer for answer, _, _ in got], last.answer_AL.numpy())
    np.testing.assert_allclose([halt for _, halt, _ in got], last.halt_A.sigmoid(), atol=0.01)
    if name != "arc":
        answers_NL = last.answer_AL.numpy()
        right = [found.family.verify(*each) for each in zip(tokens_NL, answers_NL, strict=True)]
        assert [verdict for _, _, verdict in got] == right


@pytest.mark.parametrize("name", MODELS)
def test_a_puzzle_is_shown_typed_and_thought_about(page, models, name: str):
    opened(page, name, PUZZLES[name][0])
    page.wait_for_function("document.getElementById('play').textContent === 'Play'")
    page.wait_for_function("document.getElementById('where').textContent.startsWith('step')")
    assert "sure of its answer" in page.text_content("#verdict")
    page.locator("#scrubber").fill("0")
    family = models[name].family
    signs = family.signs()
    tokens_L = family.parse(PUZZLES[name][0])
    open_cells = [at for at, token in enumerate(tokens_L) if signs[token].text in (".", "?")]
    key = {"latin": "3", "words": "?", "futoshiki": "3"}[name]
    tokens_L[open_cells[1]] = next(i for i, sign in enumerate(signs) if sign.text == key)
    cell(page, open_cells[1]).focus()
    page.keyboard.press(key)
    asked = "text => new URLSearchParams(location.hash.slice(1)).get('puzzle') === text"
    page.wait_for_function(asked, arg=family.text(tokens_L))
    page.select_option("#count", "2")
    page.wait_for_selector("#rollouts button:nth-child(2)")


def test_an_arc_task_is_pasted(page):
    page.goto("")
    page.wait_for_selector('[data-cell="0"]')
    page.select_option("#model", "arc")
    page.click("summary")
    page.wait_for_function("location.hash.includes('model=arc')")
    says = "text => document.getElementById('verdict').textContent.includes(text)"
    odd = '{"train": [], "test": [{"input": [[10]]}]}'
    for text, fault in (("{", "no JSON"), ("{}", "no ARC task"), (odd, "0 to 9")):
        page.fill("#text", text)
        page.click("#read")
        page.wait_for_function(says, arg=fault)
    page.fill("#text", as_json(TASK))
    page.click("#read")
    page.wait_for_selector("#aside figure")
    assert page.locator("#aside figcaption").all_text_contents() == [
        *("pair 1", "becomes", "pair 2", "becomes", "pair 3", "becomes"),
        "the question",
    ]
    page.wait_for_selector("#verdict.wrong")  # a model of four steps has learned nothing
    assert "not those of the task's answer" in page.text_content("#verdict")
    assert "learned the rule of this task" not in page.text_content("#verdict")
    page.fill("#text", as_json(TASK, "unknown"))
    page.click("#read")
    page.wait_for_function("document.getElementById('text').value.includes('unknown')")
    page.locator("#scrubber").fill("0")
    assert "was not trained on this task" in page.text_content("#verdict")
    page.click('[data-tool="green"]')
    cell(page, 0).click()
    page.wait_for_function("document.getElementById('text').value.includes('\"input\":[[3')")
    page.wait_for_function(says, arg="not known here")


RULES = """async ([config, cases]) => {
  const family = (await import("./families/index.js")).familyOf({ family: config });
  return cases.map(([puzzle, answer]) => {
    const { board, tokens } = family.parse(puzzle);
    return family.verdict(board, tokens, Uint8Array.from(answer)).right;
  });
}"""
KNOWN = {
    "sudoku": (SudokuConfig(box_rows=2, box_cols=3), None),
    "maze": (MazeConfig(height=9, width=9), None),
    "futoshiki": (FutoshikiConfig(side=5), None),
    "latin": (
        LATIN,
        [(".4.3/42../1.2./....", "2413/4231/1324/3142"), ("1.../..../..../....", "1234/2143/3412/4321")],
    ),
    "words": (WORDS, [("on ? off/? ? on", "on on off/off on on")]),
}


def cases_of(config: FamilyConfig, given: list[tuple[str, str]] | None) -> tuple[np.ndarray, np.ndarray]:
    """Puzzles with right answers."""
    family = config.build()
    if given is not None:
        return tuple(np.stack([family.parse(text) for text in texts]) for texts in zip(*given, strict=True))
    generator = config.data().generator().model_copy(update={"test": 6, "train": 0})
    if config.name == "maze":
        generator = generator.model_copy(update={"min_path": 5})
    return family.generate(generator, 1, (), lambda done: None)["test"][:2]


@pytest.mark.parametrize("name", KNOWN)
def test_the_page_judges_as_the_rules_do(page, name: str):
    config, given = KNOWN[name]
    family = config.build()
    draw = np.random.default_rng(0)
    cases, right = [], []
    for tokens_L, answer_L in zip(*cases_of(config, given), strict=True):
        for wrong in range(4):
            given_L = answer_L.copy()
            where = draw.choice(len(given_L), wrong, replace=False)
            given_L[where] = draw.integers(1, family.vocab_size, wrong)
            cases.append((family.text(tokens_L), given_L.tolist()))
            right.append(family.verify(tokens_L, given_L))
    page.goto("")
    assert page.evaluate(RULES, [config.model_dump(mode="json"), cases]) == right
    assert set(right) == ({None, False} if name == "words" else {True, False})


SOLVED = """async ([config, puzzles]) => {
  const family = (await import("./families/index.js")).familyOf({ family: config });
  return puzzles.map((puzzle) => {
    const { board, tokens } = family.parse(puzzle);
    const { fine, words, solution } = family.examine(board, tokens);
    return [fine, words, solution ? Array.from(solution) : null];
  });
}"""


@pytest.mark.parametrize("name", ["sudoku", "futoshiki", "latin"])
def test_exact_search_finds_the_solution(page, name: str):
    config, given = KNOWN[name]
    family = config.build()
    tokens_NL, answers_NL = cases_of(config, given)
    page.goto("")
    texts = [family.text(tokens_L) for tokens_L in tokens_NL]
    got = page.evaluate(SOLVED, [config.model_dump(mode="json"), texts])
    found = 0
    for (fine, words, solution), answer_L in zip(got, answers_NL, strict=True):
        assert fine == ("one solution" in words) == (solution is not None)
        assert fine or "several solutions" in words
        if fine:
            assert solution == answer_L.tolist()
            found += 1
    assert found
