"""A real browser for tests: Chromium of the system, headless, and what its pages did.

Import the fixture by loading this file (see `tests/test_track_run.py`) and naming `browser` in the test module.
"""

import shutil
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HERE = ("127.0.0.1", "localhost", "")


class Watched:
    """A page, with what went wrong on it and what it asked of other machines."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        """Messages of the console at level error, and exceptions of scripts."""
        self.outside: list[str] = []
        """Addresses of other machines that were asked for; none is reached."""
        page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.route("**/*", self._route)

    def _route(self, route: Any) -> None:
        address = urlsplit(route.request.url)
        if address.scheme in ("data", "blob", "file", "about") or address.hostname in HERE:
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A function that opens a new, watched page of a given size; skipped, with the reason, where there is no browser."""
    api = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install playwright")
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=executable, args=["--no-sandbox"])

        def open_page(width: int = 1400, height: int = 1000) -> Watched:
            return Watched(chromium.new_context(viewport={"width": width, "height": height}).new_page())

        yield open_page
        chromium.close()
