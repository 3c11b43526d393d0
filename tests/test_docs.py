"""The pages: links and anchors lead somewhere, commands are understood, Python runs, names exist."""

import importlib
import itertools
import re
import shlex
import textwrap
import tomllib
from pathlib import Path

import pytest

import trm
from trm import cli
from trm.recipe import recipe_names

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
# Their examples have tests of their own, or are records of what was run.
ELSEWHERE = {
    "TUTORIAL.md",
    "EXTENDING.md",
    "RESULTS.md",
    "LOG.md",
    "PARITY.md",
    "DESIGN.md",
    "HUB.md",
    "COMMANDS.md",
    "EXPORT.md",
}
NEW = [page for page in PAGES if page not in ELSEWHERE]


def text(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language, also those inside lists."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text(page), flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(code) for _, code in found]


def anchors(path: Path) -> set[str]:
    """Anchors of the headings, by the rule that GitHub and the site share."""
    prose = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", prose, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    found = re.findall(r"\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", prose, flags=re.MULTILINE)
    return [inline or below for inline, below in found]


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *DOCS.rglob("*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path):
    for link in links(path):
        if re.match(r"https?://|mailto:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), f"{path.name}: {link} does not exist"
        if DOCS in path.parents:
            assert DOCS in target.parents, f"{path.name}: {link} leaves the site"
        if anchor:
            assert anchor in anchors(target), f"{path.name}: no heading for {link}"


def pages_of(nav: list) -> list[str]:
    """Files that the navigation names."""
    return [
        page
        for entry in nav
        for value in entry.values()
        for page in (pages_of(value) if isinstance(value, list) else [value])
    ]


def test_every_page_is_in_the_navigation_once():
    site = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(pages_of(site["nav"])) == PAGES
    assert site["theme"]["font"] is False  # nothing comes from the network


def commands() -> list[tuple[str, str]]:
    return [
        (page, line)
        for page in NEW
        for code in blocks(page, "bash")
        for line in code.splitlines()
        if line.startswith("trm ")
    ]


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_are_understood(page: str, line: str):
    words = shlex.split(line.split(" > ")[0], comments=True)
    assert callable(cli._parse(words[1:]))


def test_blocks_of_commands_hold_nothing_else():
    for page in NEW:
        for code in blocks(page, "bash"):
            assert all(line.startswith("trm ") for line in code.splitlines() if line), page


@pytest.mark.parametrize("page", [page for page in NEW if "```python" in text(page)])
def test_python_runs(page: str, capsys):
    for code in blocks(page, "python"):
        exec(compile(code, page, "exec"), {"__name__": "page"})  # our own text, and the point of the test
    assert capsys.readouterr().out


def test_what_the_page_says_of_the_loop_is_so(capsys):
    """Rows count up to the limit, and those that halted begin anew."""
    _, loop = blocks("thinking.md", "python")
    exec(compile(loop, "thinking.md", "exec"), {"__name__": "page"})
    printed = re.findall(r"row: (\[.*?\]) halted: (\[.*?\])", capsys.readouterr().out)
    rows = [(eval(steps), eval(halted)) for steps, halted in printed]
    assert rows[0][0] == [1, 1, 1, 1]
    for (steps, halted), (after, _) in itertools.pairwise(rows):
        assert after == [1 if done else step + 1 for step, done in zip(steps, halted, strict=True)]


def test_ablations_are_options():
    options = re.findall(r"\| `(--(?:model|supervision|ema)\.[^`]*)` \|", text("research.md"))
    assert len(options) == 8
    for each in options:
        assert callable(cli._parse(["train", "sudoku-paper", *each.split()]))


def test_every_recipe_is_described():
    for name in recipe_names():
        assert f"`{name}`" in text("research.md"), name


def test_names_of_the_reference_exist_and_nothing_public_is_missing():
    named = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", text(page), flags=re.MULTILINE)]
    modules = []
    for name in named:
        try:
            importlib.import_module(name)
            modules.append(name)
        except ModuleNotFoundError:
            module, _, last = name.rpartition(".")
            assert hasattr(importlib.import_module(module), last), name
    for name in trm.__all__:
        home = getattr(trm, name).__module__
        assert home in modules or f"{home}.{name}" in named, f"trm.{name} is not in the reference"


def test_pictures_that_are_drawn_are_the_ones_shown():
    script = (DOCS / "pictures.py").read_text(encoding="utf-8")
    drawn = set(re.findall(r'"(\w+)": \w+[,}]', script[script.index("PICTURES =") :]))
    shown = {Path(link).stem for link in links(DOCS / "thinking.md") if link.endswith(".svg")}
    assert drawn == shown
    for name in drawn:
        assert "<svg" in (DOCS / f"{name}.svg").read_text(encoding="utf-8")[:200]
        assert not re.search(r'(href|src)="http|@import|@font-face', (DOCS / f"{name}.svg").read_text())
