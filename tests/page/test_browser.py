"""The page in a real browser: what it shows, what it takes, and what it says where something is wrong.

`make test-page` builds the site and runs these; elsewhere they are skipped where site or browser are missing.
"""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from pages import AGREE, ROOT, SITE, SLOW, cell, opened, solved, watched
from PIL import Image

from trm import pretrained
from trm.config import ComputeConfig, Effort
from trm.inference.solver import Solver
from trm.inference.think import never, think
from trm.puzzles.maze.config import MazeConfig

AXE = ROOT / "node_modules/axe-core/axe.min.js"
FOUR = "2.4.......2....3"
SIX = "..15....6.1.2......3.........3.6..21"
FAMOUS = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
HARD = ".7.....9.2...7...1..52..7...5..9.1..6.4.......3.8...4......3....2..5.9....86....3"
# Steps alone have not solved it after three.
SLOWER = "1....7.9..3..2...8..96..5....53..9...1..8...26....4...3......1..4......7..7...3.."
# Nor this one after eight: a search decides.
UNDECIDED = ".......5.2....7..8.4..8..3.8..7....6.5..4.....9..26.....3..42..4...7...1..91....."


def hash_of(page) -> str:
    return page.evaluate("decodeURIComponent(location.hash)")


def test_opens_with_a_puzzle_being_solved_and_needs_no_network_after_that(page):
    opened(page)
    assert "checked by the rules" in solved(page)
    about = json.loads((SITE / "models.json").read_text())[0]["about"]
    assert page.text_content("#parameters") == f"{about['parameters']:,}"
    first = page.evaluate("performance.getEntriesByType('resource').map((each) => each.encodedBodySize)")
    assert sum(first) < 15e6
    page.context.set_offline(True)
    page.select_option("#example", label="6\u00d76, another")
    page.wait_for_function("location.hash.includes('...4...43')")
    assert "checked by the rules" in solved(page)


def test_a_puzzle_is_typed(page):
    solved(opened(page, "sudoku-9x9", FOUR))
    page.click("summary")
    page.click("#blank")
    assert "several solutions" in page.text_content("#verdict")
    page.uncheck("#keep")
    cell(page, 0).focus()
    for key in ("1", "ArrowRight", "2", "ArrowRight", "3", "ArrowDown", "2", "ArrowLeft", "5", "Delete"):
        page.keyboard.press(key)
    page.wait_for_function("document.getElementById('text').value === '123...2.........'")
    for number, key in ((4, "3"), (8, "2"), (15, "2")):
        cell(page, number).focus()
        page.keyboard.press(key)
    page.wait_for_function("location.hash.includes('123.3.2.2......2')")
    solved(page)
    assert cell(page, 0).get_attribute("aria-label") == "row 1, column 1: 1, given"
    assert cell(page, 3).get_attribute("aria-label") == "row 1, column 4: answer 4"


def test_text_is_read_in_many_forms_and_faults_are_named(page):
    solved(opened(page))
    page.click("summary")

    def read(text: str) -> str:
        page.fill("#text", text)
        page.click("#read")
        return page.text_content("#verdict")

    assert "15 cells make no Sudoku" in read("2.4.......2....")
    assert "is not a digit of a 4\u00d74 Sudoku" in read("2.4.......2....x")
    page.fill("#text", "2 . | 4 .\n. . | . .\n----+----\n. . | 2 .\n. . | . 3")
    page.click("#read")
    page.wait_for_function(f"location.hash.includes('{FOUR}')")
    solved(page)
    page.fill("#text", "22" + "." * 14)
    page.click("#read")
    page.wait_for_selector("#verdict.wrong")
    assert "Contradictory clues" in page.text_content("#verdict")
    page.fill("#text", "S..\n.#.\n..G")
    page.click("#read")
    page.wait_for_function("document.getElementById('model').value === 'maze-30x30'")
    page.wait_for_function("document.getElementById('scrubber').max > 0")
    assert "of its answer" in page.text_content("#verdict")


def test_a_wrong_answer_is_called_wrong(page):
    opened(page, "sudoku-9x9", SLOWER)
    page.fill("#depth", "1")
    page.locator("#depth").blur()
    page.wait_for_selector("#verdict.wrong")
    words = page.text_content("#verdict")
    assert re.search(r"Not solved: \d+ cells break the rules", words)
    assert re.search(r"The exact solver's answer differs in \d+ cells", words)
    page.click("#play")  # thinks on, twice as deep
    page.wait_for_function("document.getElementById('where').textContent.startsWith('step 2')")


def test_the_scrubber_goes_through_steps_and_cycles(page):
    solved(opened(page, "sudoku-9x9", HARD))
    frames = int(page.get_attribute("#scrubber", "max"))
    page.locator("#scrubber").fill("0")
    assert page.text_content("#where") == "before the first step"
    assert page.locator("#board text.answer").all_text_contents() == [""] * 58
    page.locator("#scrubber").fill("2")
    assert page.text_content("#where") == "step 1, cycle 2 of 3"
    assert page.locator("#latent-curve .curve").count() == 1
    page.locator("#scrubber").focus()
    page.keyboard.press("ArrowRight")
    assert page.text_content("#where") == "step 1, cycle 3 of 3"
    page.locator("#scrubber").fill(str(frames))
    page.wait_for_selector("#verdict.right")


DRAWN = """async (right) => {
  const { sudoku } = await import("./families/sudoku.js");
  const { board, tokens } = sudoku.parse("2.4.......2....3");
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const answer = sudoku.parse("2341143231244213").tokens;
  const chance = new Float32Array(16 * 6).fill(0.25);
  sudoku.draw(svg, board).show(tokens, { answer, chance, changed: [], verdict: { right, wrong: new Set() } });
  const marks = [...svg.querySelectorAll(".mark")].filter((mark) => Number(mark.getAttribute("opacity")));
  return [[...svg.querySelectorAll(".answer")].map((each) => each.textContent).join(""), marks.length];
}"""


def test_an_unsure_network_shows_marks_until_the_rules_confirm_its_answer(page):
    page.goto("")
    assert page.evaluate(DRAWN, False) == ["", 12 * 4]
    assert page.evaluate(DRAWN, True) == ["311432314421", 0]


def test_pokes_are_recovered_from(page):
    solved(opened(page, "sudoku-9x9", HARD))
    frames = int(page.get_attribute("#scrubber", "max"))
    cell(page, 0).click()  # erases the answer of an open cell
    page.wait_for_function(f"document.getElementById('scrubber').max > {frames}")
    solved(page)
    frames = int(page.get_attribute("#scrubber", "max"))
    page.click("#disturb")
    page.wait_for_function(f"document.getElementById('scrubber').max > {frames}")
    solved(page)
    page.click('[aria-label$=", given"]')
    assert "that is a clue" in page.text_content("#note")


def test_a_maze_is_drawn_and_its_goal_moved_while_it_thinks(page):
    solved(
        opened(page, "maze-30x30", "S......./.######./......../.######./......../.######./......../.......G")
    )
    frames = int(page.get_attribute("#scrubber", "max"))
    cell(page, 56).click()  # the tool to begin with moves the goal
    page.wait_for_function(f"document.getElementById('scrubber').max > {frames}")
    assert hash_of(page).endswith("/G.......")
    page.click('[data-tool="wall"]')
    start, end = cell(page, 32).bounding_box(), cell(page, 34).bounding_box()
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 5, end["y"] + 5, steps=8)
    page.mouse.up()
    page.wait_for_function("decodeURIComponent(location.hash).includes('/###...../')")
    cell(page, 8).focus()
    page.keyboard.press("#")
    page.wait_for_function("decodeURIComponent(location.hash).includes('/#######./')")


def test_rollouts_stand_side_by_side_and_one_is_chosen(page):
    solved(opened(page, "mini", SIX))
    page.fill("#noise", "0.3")
    page.locator("#noise").blur()
    page.select_option("#count", "4")
    page.wait_for_selector("#rollouts button:nth-child(4)")
    page.wait_for_function("document.getElementById('scrubber').max > 0")
    page.wait_for_function("document.getElementById('play').textContent === 'Play'")
    assert re.match(r"Rollout \d is chosen: (the rules confirm|no answer is)", page.text_content("#chosen"))
    page.click("#rollouts button:nth-child(3)")
    assert page.get_attribute("#rollouts button:nth-child(3)", "aria-pressed") == "true"


def test_links_carry_model_and_puzzle_and_damaged_ones_still_open(page):
    solved(opened(page, "mini", SIX))
    assert page.input_value("#model") == "mini"
    page.goto("about:blank")
    page.goto("#model=none&puzzle=12345")
    page.wait_for_function("document.getElementById('note').textContent.includes('The link holds no puzzle')")
    solved(page)


def test_the_picture_is_saved(page, tmp_path):
    solved(opened(page))
    with page.expect_download() as download:
        page.click("#picture")
    download.value.save_as(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_the_thinking_is_saved_as_an_animation(page, tmp_path):
    solved(opened(page, "sudoku-9x9", FOUR))
    steps = int(re.search(r"step (\d+)", page.text_content("#where"))[1])
    with page.expect_download() as download:
        page.click("#animation")
    download.value.save_as(tmp_path / "thinking.gif")
    assert (tmp_path / "thinking.gif").read_bytes().startswith(b"GIF89a")
    with Image.open(tmp_path / "thinking.gif") as animation:
        assert animation.n_frames == steps + 1
        frames = []
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
            assert animation.info["duration"] == (2800 if number == steps else 700)
    assert all(frame.shape == (4 * 36 + 4, 4 * 36 + 4, 3) for frame in frames)
    assert not np.array_equal(frames[0], frames[-1])


PACKED = """async ([width, height, seed]) => {
  const { Gif } = await import("./gif.js");
  let drawn = seed;
  const colours = [[0, 0, 0], [255, 255, 255], [8, 98, 196], [255, 214, 92]];
  const pixels = Uint8ClampedArray.from({ length: width * height }, () => {
    drawn = (drawn * 1103515245 + 12345) % 2147483648;
    return (drawn >> 16) % 4;
  });
  const gif = new Gif(width, height);
  gif.add(Uint8ClampedArray.from([...pixels].flatMap((pixel) => [...colours[pixel], 255])), 100);
  const bytes = new Uint8Array(await gif.blob().arrayBuffer());
  return [[...bytes], [...pixels].map((pixel) => colours[pixel])];
}"""


@pytest.mark.parametrize("size", [(1, 1), (2, 1), (19, 27), (181, 97)])
def test_an_animation_holds_every_pixel(page, size: tuple[int, int]):
    page.goto("")
    for seed in range(6):  # noise fills the table of codes several times, and ends where it will
        data, colours = page.evaluate(PACKED, [*size, seed])
        with Image.open(io.BytesIO(bytes(data))) as picture:
            assert np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist() == colours


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A real `trm serve`, which wants a token."""
    command = [sys.executable, "-m", "trm", "serve", "mini", "--port", "0", "--device", "cpu"]
    environment = {**os.environ, "TRM_SERVE_TOKEN": "secret"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        yield re.match(r"http://\S+:\d+", process.stderr.readline())[0] + "/"
        process.terminate()


def test_the_page_of_a_server_thinks_there(browser, server):
    with watched(browser, server) as page:
        asked: list[str] = []
        page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept("secret")))
        opened(page, "mini", SIX)
        assert asked == ["This server wants a token:"]
        assert "on the server" in page.text_content("#runs")
        solved(page)
        assert re.match(r"step \d+, cycle 1 of 1", page.text_content("#where"))
        page.fill("#noise", "0.3")
        page.locator("#noise").blur()
        page.select_option("#count", "2")
        page.wait_for_selector("#rollouts button:nth-child(2)")
        solved(page)
        frames = int(page.get_attribute("#scrubber", "max"))
        cell(page, 0).click()  # the answer of a cell is erased in the state that goes to the server
        page.wait_for_function(f"document.getElementById('scrubber').max > {frames}")
        solved(page)
        page.click("summary")
        page.fill("#text", "1234")
        page.click("#read")
        assert "4 cells make no Sudoku" in page.text_content("#verdict")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_fits_a_phone_and_has_no_serious_fault_of_accessibility(page, scheme: str):
    if not AXE.is_file():
        pytest.fail("axe-core is not here: npm install")
    page.emulate_media(color_scheme=scheme)
    for width in (360, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        solved(opened(page))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.click("summary")
        page.add_script_tag(path=AXE)
        found = page.evaluate("axe.run()")["violations"]
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, [(each["id"], each["nodes"][0]["html"]) for each in serious]
        page.goto("about:blank")


@pytest.mark.parametrize("name", ["mini", "sudoku-9x9", "maze-30x30"])
def test_the_browser_thinks_as_pytorch_does(page, name: str):
    count, steps = int(os.environ.get("PAGE_PUZZLES", "4")), 4
    boards = MazeConfig(height=12, width=12) if name == "maze-30x30" else None
    found = pretrained.load(name, ComputeConfig(device="cpu", kernels="torch"), boards)
    family = found.family
    generator = found.config.family.data().generator().model_copy(update={"test": count, "train": 0})
    tokens_NL = family.generate(generator, 3, (), lambda done: None)["test"][0]
    tokens_BL = torch.from_numpy(tokens_NL).long()
    *_, last = think(found.model, tokens_BL, torch.zeros(count, dtype=torch.long), steps, never)
    texts = [family.text(tokens_L) for tokens_L in tokens_NL]
    page.goto("")
    got = page.evaluate(AGREE, [f"models/{name}/", texts, steps])
    answers_NL = np.array([answer for answer, _, _ in got])
    alike = (answers_NL == last.answer_AL.numpy()).all(1)
    assert alike.all(), f"{alike.sum()} of {count} answers are the same"
    np.testing.assert_allclose([halt for _, halt, _ in got], last.halt_A.sigmoid(), atol=0.01)
    right = [family.verify(t, a) for t, a in zip(tokens_NL, answers_NL.astype(np.uint8), strict=True)]
    assert [verdict for _, _, verdict in got] == right


SEARCH = """async ([folder, puzzles]) => {
  const { LocalEngine } = await import("./engine.js");
  const { familyOf } = await import("./families/index.js");
  const { Searching } = await import("./search.js");
  const engine = await LocalEngine.open({ folder });
  const family = familyOf(engine.about);
  const found = [];
  for (const puzzle of puzzles) {
    const { board, tokens } = family.parse(puzzle);
    const search = new Searching(engine, family, board, tokens);
    while (!search.ended()) await search.step();
    const { answer, verdict } = search.frames.at(-1).rollouts[0];
    found.push([family.text(board, answer), verdict.right, search.steps, search.decisions, search.takenBack]);
  }
  engine.close();
  return found;
}"""


def test_the_search_is_that_of_the_package(page):
    found = pretrained.load("sudoku-9x9", ComputeConfig(device="cpu", kernels="torch"))
    solver = Solver(found.model, found.family, found.config.steps, found)
    # Short searches: in long ones rounding decides between branches that look alike.
    searched = solver.solve([UNDECIDED, FAMOUS], Effort(search=8))
    assert searched[0].decisions, "choose a harder puzzle: steps alone solve this one"
    page.goto("")
    got = page.evaluate(SEARCH, ["models/sudoku-9x9/", [each.puzzle for each in searched]])
    expected = [
        (each.answer, each.verified, each.steps, each.decisions, each.take_backs) for each in searched
    ]
    assert [tuple(each) for each in got] == expected


def test_a_search_ends_where_there_is_no_answer(page):
    page.goto("")
    # In the second the rules of one house leave open what those of several do not.
    texts = ["123....4........", "24..3..21..3...."]
    for _, right, steps, _, _ in page.evaluate(SEARCH, ["models/sudoku-9x9/", texts]):
        assert not right and steps < 500


def test_the_page_searches(page):
    opened(page, "sudoku-9x9", FAMOUS)
    page.locator("#speed").fill("10")
    page.check("#search")
    page.wait_for_selector("#verdict.right", timeout=6 * SLOW)
    assert re.match(r"step \d+, \d+ decisions, \d+ taken back", page.text_content("#where"))
    page.click('[data-tool="erase"]')
    cell(page, 1).click()
    page.wait_for_function("document.getElementById('note').textContent.includes('poked')")
    page.select_option("#model", "mini")
    page.wait_for_function("location.hash.includes('model=mini')")
    assert page.is_disabled("#search")


def test_every_model_of_the_site_was_checked():
    if not (SITE / "models.json").is_file():
        pytest.fail("no page in the folder site: run make page")
    for entry in json.loads((SITE / "models.json").read_text()):
        check = entry["about"]["check"]
        assert check["answers_alike"] == check["puzzles"], entry["name"]
