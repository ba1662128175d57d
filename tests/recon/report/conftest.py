"""The page of the example comparison, open in a real headless Chromium."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from recon.report.page import write_page
from tests.recon.report.comparison import pictures, typed

CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """A browser of playwright; skips where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"no browser on the PATH ({', '.join(CHROMIUMS)}); on Debian: apt-get install chromium")
    arguments = ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments, headless=True)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    return write_page(typed(), pictures(), tmp_path_factory.mktemp("page"))


@pytest.fixture
def open_page(chromium):
    """Opens the page; everything that a calm page never does is in `page.complaints`, and fails the test at its end."""
    contexts = []

    def opened(file: Path, **options):
        contexts.append(chromium.new_context(viewport={"width": 1200, "height": 900}, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.complaints = []
        page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:")) or complain(request.url))
        page.on("console", lambda message: complain(message.text))
        page.on("pageerror", lambda error: complain(str(error)))
        page.on("dialog", lambda dialog: (complain(f"dialog: {dialog.message}"), dialog.dismiss()))
        complain = page.complaints.append
        page.goto(file.as_uri())
        page.wait_for_selector("#pictures[data-view]")
        return page

    yield opened
    complaints = [complaint for context in contexts for page in context.pages for complaint in page.complaints]
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def page(open_page, file):
    return open_page(file)
