"""Fixtures of the page's tests, which `make test-page` runs; to `make test` they are too slow."""

import os
import shutil
from collections.abc import Iterator

import pytest
from pages import SITE, served, watched

collect_ignore_glob = [] if os.environ.get("PAGE_TESTS") else ["test_*.py"]


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The site of `make page`."""
    if not (SITE / "models.json").is_file():
        pytest.fail("no page in the folder site: run make page")
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="session")
def browser():
    from playwright import sync_api as api

    names = ("chromium", "chromium-browser", "google-chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        pytest.fail("no Chromium on this machine: apt-get install chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    with watched(browser, address) as page:
        yield page
