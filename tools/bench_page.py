"""The first document of a store of a million on the screen.

    python -m tools.bench_page [--documents 1000000] [--units 500] [--times 5] [--teacher FOLDER]

The store of a teacher, of a tiny one where none is given, is served by `logitstore view` in a
process of its own; Chromium opens the address as soon as it is printed, or when the server has been
idle for five seconds. A document is on the screen when its first token is there.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import logitstore
from logitstore.store.commit import StoreWriter
from logitstore.store.layout import StoreLayout
from tools.linked_units import link_units
from tools.tiny_teacher import make_teacher, texts


def main() -> int:
    """Make the store, open it as often as asked, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--units", type=int, default=500)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--teacher", default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        teacher = given.teacher or str(make_teacher(Path(folder) / "teacher"))
        each = given.documents // given.units
        out = _store(Path(folder) / "store", teacher, each=each, units=given.units)
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        print("| documents | server | address printed, s | first token on the screen, s |")
        print("|---|---|---|---|")
        for served, pause in (("just started", 0.0), ("idle", 5.0)):
            found = [_first(browser, out, pause) for _ in range(given.times)]
            shown = " | ".join(
                f"{statistics.median(one):.2f} ({min(one):.2f} to {max(one):.2f})"
                for one in zip(*found, strict=True)
            )
            print(f"| {given.documents:,} | {served} | {shown} |", flush=True)
        browser.close()
    return 0


def _store(out: Path, teacher: str, *, each: int, units: int) -> Path:
    """A sealed store of so many units, each with so many documents."""
    logitstore.dump(
        teacher=teacher, data=texts(each), out=out, device="cpu", unit_tokens=1_000_000_000
    )
    StoreWriter(StoreLayout.at(out)).seal(link_units(out, units), check=False)
    return out


def _first(browser: Browser, store: Path, pause: float) -> tuple[float, float]:
    """Seconds to the printed address, and from opening it to the first token."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "logitstore", "view", str(store), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            url = next(word for line in server.stdout for word in line.split() if "://" in word)
            printed = time.perf_counter() - started
            time.sleep(pause)
            page = browser.new_context().new_page()
            opened = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.locator("#text .token").first.wait_for(timeout=60_000)
            seen = time.perf_counter() - opened
            page.context.close()
        finally:
            server.terminate()
    return printed, seen


if __name__ == "__main__":
    sys.exit(main())
