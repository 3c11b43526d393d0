"""Fixtures of the page's tests."""

import shutil
from collections.abc import Iterator

import pytest
from pages import SITE, missing, served, watched


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site of `make page`."""
    if not (SITE / "models.json").is_file():
        missing("no page in the folder site: run make page")
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        missing("no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with watched(browser, address) as page:
        yield page
