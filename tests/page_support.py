"""The live page in a headless Chromium, watched for what it complains of or asks elsewhere for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api_process_support import WAIT_S
from tests.api_support import Served

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
WAIT_MS = WAIT_S * 1000

STICKING_OUT = """() => [...document.querySelectorAll("main *")].filter((one) => {
  const box = one.getBoundingClientRect();
  const hidden = one.closest(".offers, .legend, .scroll, .lanes svg");
  return box.width > 0 && box.right > innerWidth + 1 && !hidden;
}).map((one) => one.outerHTML.slice(0, 100))"""
"""A script: elements beyond the right edge that are not cut off there by their parents."""

SHIFT_MAX = 0.01
SHIFTED = """() => new Promise((resolve) => {
  setTimeout(() => resolve(0), 500);
  new PerformanceObserver((list) =>
    resolve(list.getEntries().reduce((total, entry) => total + entry.value, 0)),
  ).observe({ type: "layout-shift", buffered: true });
})"""
"""A script: the share of the page that has moved by itself since it was opened."""


@contextmanager
def chromium(*more: str) -> Iterator[Any]:
    """Yield a browser, until the block ends; ``more`` are further arguments for it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *more])
        yield browser
        browser.close()


class Watched:
    """An open page, and everything it complained of or asked elsewhere for."""

    def __init__(self, browser: Any, served: Served, width: int = 1280, **more: Any) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 900}, **more)
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.set_default_timeout(WAIT_MS)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.origin = f"http://127.0.0.1:{served.port}/"
        self.page.on("request", self._asked)
        self.page.goto(self.origin)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "data:")):
            self.elsewhere.append(request.url)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def until(self, script: str) -> None:
        """Wait until an expression is true; asked from outside, as the page forbids eval."""
        deadline = time.monotonic() + WAIT_S
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(50)

    def until_text(self, selector: str, text: str) -> None:
        """Wait until an element holds a text."""
        deadline = time.monotonic() + WAIT_S
        while text not in (found := self.text(selector)):
            assert time.monotonic() < deadline, f"{text!r} is not in {selector}: {found!r}"
            self.page.wait_for_timeout(50)

    def close(self) -> None:
        self.page.close()
