"""What tests of the page share: servers of files, a watched page, and how it is read."""

import functools
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "site"
SLOW = 20_000  # milliseconds; the page is quick, but a machine that runs tests may be busy


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server of static files without a log."""

    def log_message(self, format, *args):
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of static files."""
    handler = functools.partial(Quiet, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@contextmanager
def watched(browser, address):
    """A fresh page that may talk to nobody but its own server, and must not complain."""
    with_faults: list[str] = []
    context = browser.new_context(viewport={"width": 1200, "height": 900}, base_url=address)
    page = context.new_page()
    page.set_default_timeout(SLOW)
    page.on("console", lambda said: with_faults.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: with_faults.append(str(error)))
    page.on("request", lambda asked: None if local(asked.url, address) else with_faults.append(asked.url))
    yield page
    context.close()
    # A browser calls it an error that a server asks for a token.
    assert not [fault for fault in with_faults if "401 (Unauthorized)" not in fault]


def local(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def opened(page, model: str = "", puzzle: str = ""):
    """The page at a puzzle of one's own, or as it opens."""
    page.goto(f"#model={model}&puzzle={puzzle}" if puzzle else "")
    page.wait_for_function("document.getElementById('scrubber').max > 0")
    return page


def solved(page) -> str:
    page.wait_for_selector("#verdict.right")
    page.wait_for_function("document.getElementById('play').textContent === 'Play'")
    return page.text_content("#verdict")


def cell(page, number: int):
    return page.locator(f'[data-cell="{number}"]')


AGREE = """async ([folder, puzzles, steps]) => {
  const { LocalEngine } = await import("./engine.js");
  const { familyOf } = await import("./families/index.js");
  const { Thinking } = await import("./thinking.js");
  const engine = await LocalEngine.open({ folder });
  const family = familyOf(engine.about);
  const answers = [];
  for (const puzzle of puzzles) {
    const { board, tokens } = family.parse(puzzle);
    const thinking = new Thinking(engine, family, board, tokens);
    for (let step = 0; step < steps; step++) await thinking.step();
    const last = thinking.frames.at(-1).rollouts[0];
    answers.push([Array.from(last.answer), last.halt, last.verdict.right]);
  }
  engine.close();
  return answers;
}"""
