"""The pictures of the documentation, taken of real stores in a real browser.

    python -m tools.screenshots STORE --other STORE --out docs/images

Needs Chromium and the extra `dev`. The stores should hold the same documents of real text.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from playwright.sync_api import sync_playwright

import logitstore
from logitstore.serving.catalogue import Catalogue
from logitstore.viewing.comparison import SecondStore
from logitstore.viewing.documents import StoreView
from logitstore.viewing.student import open_student
from tools.served import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

    from logitstore.viewing.comparison import Second

_DESKTOP, _PHONE = {"width": 1200, "height": 760}, {"width": 360, "height": 720}


def main() -> None:
    """Take every picture."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("store")
    parser.add_argument("--other", help="another store of the same documents")
    parser.add_argument("--student", help="a model of the same tokenizer")
    parser.add_argument("--team", help="a folder of stores")
    parser.add_argument("--document", type=int, default=3)
    parser.add_argument("--token", type=int, default=40)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    place = f"document={given.document}&token={given.token}"
    store = logitstore.open(given.store)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        with served(Catalogue.of(StoreView(store))) as url:
            for name, size, scheme in (
                ("desktop", _DESKTOP, "light"),
                ("dark", _DESKTOP, "dark"),
                ("phone", _PHONE, "light"),
            ):
                address = f"{url}#{place}&shade=entropy"
                _take(browser, address, given.out / f"view-{name}.png", size, scheme)
            _take(browser, url, given.out / "view-store.png", _DESKTOP, "light", tab="#tab-store")
        for name, second in _seconds(given, store):
            with served(Catalogue.of(StoreView(store, second))) as url:
                address = f"{url}#{place}&shade={'kl' if name == 'two-stores' else 'gain'}"
                _take(browser, address, given.out / f"view-{name}.png", _DESKTOP, "light")
        if given.team is not None:
            with served(Catalogue.below(given.team)) as url:
                _take(browser, url, given.out / "serve.png", _DESKTOP, "light", wait="#stores li")
        browser.close()


def _seconds(given: argparse.Namespace, store: logitstore.Store) -> Iterator[tuple[str, Second]]:
    """What stands beside the store, in turn."""
    if given.other is not None:
        yield "two-stores", SecondStore.of(logitstore.open(given.other), store)
    if given.student is not None:
        yield "student", open_student(given.student, store, device="cpu", dtype="auto")


def _take(
    browser: Browser,
    url: str,
    path: Path,
    size: Any,
    scheme: Any,
    *,
    tab: str | None = None,
    wait: str = "#text .token",
) -> None:
    context = browser.new_context(viewport=size, color_scheme=scheme, locale="en")
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(url)
    page.locator(wait).first.wait_for()
    if tab is not None:
        page.locator(tab).click()
        page.locator("#store figure").first.wait_for()
    page.wait_for_timeout(1500)
    page.screenshot(path=path)
    context.close()
    print(path, f"{path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
