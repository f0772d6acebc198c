"""The pages as people use them: in a real browser, with clicks and keys, wide and narrow."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import logitstore
from logitstore.corpus.tokenizer import tokenizer_fingerprint
from logitstore.serving.catalogue import Catalogue
from logitstore.viewing.comparison import SecondStore
from logitstore.viewing.documents import StoreView
from logitstore.viewing.export import export_page
from logitstore.viewing.student import open_student
from tests.synthetic import store_spec
from tests.viewed_stores import HOSTILE, documents, write_viewed
from tools.served import served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "a-token-of-this-test"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
TEXTS = [*HOSTILE, [72, 105, 257, 258, 259, 256], *(f"document {n} of many" for n in range(30))]

pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"),
        reason="needs a browser: apt-get install chromium",
    ),
    # Playwright's event loop has handles that Python sees closed late.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages") / "team" / "looked-at"
    return write_viewed(folder, documents(TEXTS))


@contextmanager
def opened_page(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page of a fresh browser; at the end: nothing complained, nobody else was asked."""
    complaints: list[str] = []
    context = browser.new_context(**{"viewport": DESKTOP, "locale": "en"} | options)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.on("console", lambda one: complaints.append(f"{one.type}: {one.text}"))
    page.on("pageerror", lambda one: complaints.append(str(one)))
    own = ("data:", "blob:", url.split("?")[0].split("#")[0] if url.startswith("file:") else url)
    origin = "/".join(url.split("/")[:3])
    page.on(
        "request",
        lambda one: None if one.url.startswith((*own, origin)) else complaints.append(one.url),
    )
    try:
        page.goto(url)
        yield page
        assert page.evaluate("window.harmed") is None
        assert complaints == []
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(wide) == 0
    finally:
        context.close()


def shown_details(page: Page) -> str:
    return page.locator("#details").inner_text()


def selected(page: Page) -> int:
    return int(page.locator("#text [aria-selected=true]").get_attribute("data-at") or -1)


@pytest.mark.parametrize(
    ("size", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")], ids=["desktop", "phone"]
)
def test_documents_are_read_by_pointer_and_touch(
    browser: Browser, store: Path, size: dict[str, int], scheme: str
) -> None:
    from playwright.sync_api import expect

    phone = size is PHONE
    with (
        served(Catalogue.below(store)) as url,
        opened_page(browser, url, viewport=size, color_scheme=scheme, has_touch=phone) as page,
    ):
        expect(page.locator("#number")).to_have_value("1")
        tokens = page.locator("#text .token")
        expect(tokens).to_have_count(len(HOSTILE[0]))
        assert "<script>window.harmed = 1</script>" in page.locator("#text").inner_text()
        assert page.locator("#text .uncounted").count() == 2
        act = tokens.nth(5).tap if phone else tokens.nth(5).click
        act()
        expect(tokens.nth(5)).to_have_attribute("aria-selected", "true")
        assert "token 6 of" in shown_details(page)
        assert page.locator(".candidates li").count() >= 9  # eight entries and the rest
        assert page.locator(".candidates .follows").count() == 1
        if not phone:
            tokens.nth(9).hover()
            expect(page.locator("#details")).to_contain_text("token 10 of")
            page.mouse.move(5, 5)
            expect(page.locator("#details")).to_contain_text("token 6 of")
        # Shading follows the switch, in the text and in the curve.
        shade = "one => one.style.getPropertyValue('--amount')"
        before = tokens.nth(5).evaluate(shade)
        page.locator("#measures label", has_text="Loss").click()
        assert tokens.nth(5).evaluate(shade) != before
        box = page.locator("#curve").bounding_box()
        assert box is not None
        page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 5)
        assert selected(page) == pytest.approx(len(HOSTILE[0]) / 2, abs=1)
        # The colours are the scheme's, and text on the deepest shade has the contrast of AA.
        assert _contrast(page, "#text .token") >= 4.5
        assert _contrast(page, ".uncounted") >= 4.5
        page.locator("#next").click()
        expect(page.locator("#number")).to_have_value("2")
        text = page.locator("#text").inner_text()
        for spelled in ("漢", "🙂", "⟨U+202E⟩", "␀", "␛[31m", "⟨U+2028⟩", "⟨E6⟩"):
            assert spelled in text
        page.locator("#number").fill("4")
        page.locator("#number").press("Enter")
        expect(tokens).to_have_count(6)
        assert "</script><script>window.harmed = 1</script>" in page.locator("#text").inner_text()
        page.locator("#number").fill("99999")
        page.locator("#number").press("Enter")
        expect(page.locator("#notice")).to_contain_text("There are documents 1 to 34")


def _contrast(page: Page, selector: str) -> float:
    """Of text on the page's own ground, under the deepest shade that a token can have."""
    return float(
        page.evaluate(
            """selector => {
                const token = document.querySelector(selector);
                const parts = (colour) => {
                    const canvas = document.createElement("canvas").getContext("2d");
                    canvas.fillStyle = getComputedStyle(document.body).backgroundColor;
                    canvas.fillRect(0, 0, 1, 1);
                    canvas.fillStyle = colour;
                    canvas.fillRect(0, 0, 1, 1);
                    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
                };
                const light = (colour) => parts(colour)
                    .map((one) => one / 255)
                    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
                    .reduce((sum, one, at) => sum + one * [0.2126, 0.7152, 0.0722][at], 0);
                const counted = !token.classList.contains("uncounted");
                const before = token.style.getPropertyValue("--amount");
                token.style.transition = "none";
                if (counted) token.style.setProperty("--amount", "1");
                const style = getComputedStyle(token);
                const both = [light(style.color), light(style.backgroundColor)].sort();
                token.style.setProperty("--amount", before);
                return (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05);
            }""",
            selector,
        )
    )


def test_arrows_lead_on_before_anything_has_the_focus(browser: Browser, store: Path) -> None:
    from playwright.sync_api import expect

    with served(Catalogue.below(store)) as url, opened_page(browser, url) as page:
        chosen = page.locator("#text .token[aria-selected=true]")
        before = int(chosen.get_attribute("data-at") or "")
        page.keyboard.press("ArrowRight")
        expect(chosen).to_have_attribute("data-at", str(before + 1))
        expect(chosen).to_be_focused()


def test_all_of_it_is_reached_by_keys_alone(browser: Browser, store: Path) -> None:
    from playwright.sync_api import expect

    with served(Catalogue.below(store)) as url, opened_page(browser, url) as page:
        expect(page.locator("#number")).to_have_value("1")
        press = page.keyboard.press
        press("Tab")
        expect(page.locator(".skip")).to_be_focused()
        for _ in range(30):  # to the text by Tab alone
            press("Tab")
            if page.evaluate("document.activeElement.classList.contains('token')"):
                break
        assert selected(page) == 1
        press("ArrowRight")
        press("ArrowRight")
        assert selected(page) == 3
        assert page.evaluate("document.activeElement.dataset.at") == "3"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        press("ArrowDown")
        below = selected(page)
        assert below > 20
        press("ArrowUp")
        assert abs(selected(page) - 3) <= 2
        press("End")
        assert selected(page) == len(HOSTILE[0]) - 1
        press("Home")
        press(".")
        assert selected(page) > 0
        press("2")
        expect(page.locator("[value=loss]")).to_be_checked()
        press("]")
        expect(page.locator("#number")).to_have_value("2")
        assert page.evaluate("document.activeElement.classList.contains('token')")
        press("/")
        expect(page.locator("#query")).to_be_focused()
        page.keyboard.type("NEEDLE")
        press("Enter")
        expect(page.locator("#results li")).to_have_count(1)
        expect(page.locator("#results mark")).to_have_text("needle")
        expect(page.locator("#found")).to_contain_text("looked through all 34 documents")
        press("Tab")
        press("Tab")
        press("Tab")
        press("Tab")
        press("Enter")
        expect(page.locator("#number")).to_have_value("3")
        assert selected(page) == HOSTILE[2].index("needle")
        press("?")
        expect(page.locator("#help")).to_be_visible()
        press("Escape")
        page.locator("#curve").focus()
        at = selected(page)
        press("ArrowRight")
        assert selected(page) == at + 1
        page.locator("#tab-read").focus()
        press("ArrowRight")
        expect(page.locator("#store")).to_contain_text("From all 34 documents")
        assert page.locator("#store figure").count() == 5
        labels = page.locator("#store svg[role=img]").evaluate_all(
            "all => all.map((one) => one.getAttribute('aria-label'))"
        )
        assert all("mean" in one for one in labels)


def test_documents_are_found_by_how_sure_the_teacher_was(browser: Browser, store: Path) -> None:
    from playwright.sync_api import expect

    opened = logitstore.open(store)
    means = [float(-one.targets.label_logprob_R.mean()) for one in opened]
    longest = [n for n in range(len(opened)) if len(opened[n].targets) >= 8]
    first = max(longest, key=lambda number: means[number])
    with served(Catalogue.below(store)) as url, opened_page(browser, url) as page:
        page.locator("#open-finder").click()
        page.locator("[data-list=loss]").click()
        expect(page.locator("#results li").first).to_contain_text(f"{means[first]:.2f} nats")
        page.locator("#results button").first.click()
        expect(page.locator("#number")).to_have_value(str(first + 1))
        page.locator("#open-finder").click()
        page.locator("#query").fill(opened[20].document.id.hex())
        page.keyboard.press("Enter")
        expect(page.locator("#number")).to_have_value("21")


def test_two_stores_are_seen_side_by_side(browser: Browser, store: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    others = documents(TEXTS, seed=500)
    other = write_viewed(tmp_path / "other", [*others[:3], *others[4:]])
    first = logitstore.open(store)
    view = StoreView(first, SecondStore.of(logitstore.open(other), first))
    with served(Catalogue.of(view)) as url, opened_page(browser, url) as page:
        expect(page.locator("#summary")).to_contain_text("beside store other")
        page.locator("#measures label", has_text="KL").click()
        kl = view.documents([0]).beside[0].kl_R
        assert kl is not None
        expect(page.locator("#details")).to_contain_text(f"KL is {kl[0]:.3f} nats or more")
        assert page.locator(".candidates.two .second").count() >= 9
        page.locator("#measures label", has_text="Difference").click()
        loss = [-one.targets.label_logprob_R[0] for one in (view.store[0], others[0])]
        told = page.locator("#text .token").nth(1).get_attribute("aria-label") or ""
        assert float(told.split()[-2]) == pytest.approx(loss[1] - loss[0], abs=0.2)
        page.goto(f"{page.url.split('#')[0]}#document=4")
        expect(page.locator("#about")).to_contain_text("The second store has no such document")


def test_a_student_is_seen_beside_its_teacher(
    browser: Browser, tokenizer: Any, teacher_folder: Path, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    logitstore.dump(
        teacher=teacher_folder,
        data=["The teacher reads the text once.", "A target is the distribution."],
        out=tmp_path / "store",
        sparsify="topk",
        k=16,
        device="cpu",
    )
    store = logitstore.open(tmp_path / "store")
    assert store.spec.tokenizer.fingerprint == tokenizer_fingerprint(tokenizer)
    student = open_student(str(teacher_folder), store, device="cpu", dtype="auto")
    view = StoreView(store, student)
    # The student is the teacher itself: it differs by what the store rounds.
    (beside,) = view.documents([0]).beside
    assert beside.stored is not None
    assert beside.kl_R is not None
    assert 0 <= beside.kl_R.max() < 2e-3
    loss_R, other_R = store[0].targets.label_logprob_R, beside.stored.targets.label_logprob_R
    assert abs(loss_R - other_R).max() < 0.05
    with served(Catalogue.of(view)) as url, opened_page(browser, url) as page:
        expect(page.locator("#summary")).to_contain_text("beside student")
        expect(page.locator("#text")).to_contain_text("The teacher reads the text once.")
        expect(page.locator(".facts.three .head")).to_have_count(2)


def test_a_page_in_a_file_needs_no_server(browser: Browser, store: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    opened = logitstore.open(store)
    export_page(StoreView(opened), tmp_path / "page.html", documents=34)
    url = (tmp_path / "page.html").as_uri()
    with opened_page(browser, url, viewport=PHONE, reduced_motion="reduce") as page:
        expect(page.locator("#text .token")).to_have_count(len(HOSTILE[0]))
        served_text = page.locator("#details").inner_text()
        page.locator("#open-finder").click()
        page.locator("#query").fill("needle")
        page.keyboard.press("Enter")
        page.locator("#results button").first.click()
        expect(page.locator("#number")).to_have_value("3")
        page.locator("#tab-store").click()
        expect(page.locator("#store")).to_contain_text("From all 34 documents")
        moving = "getComputedStyle(document.querySelector('.token')).transitionDuration"
        assert page.evaluate(moving) == "0s"
    with (
        served(Catalogue.below(store)) as other,
        opened_page(browser, other, viewport=PHONE) as page,
    ):
        expect(page.locator("#text .token")).to_have_count(len(HOSTILE[0]))
        assert page.locator("#details").inner_text() == served_text


def test_a_team_finds_its_stores_with_a_token(browser: Browser, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    spec = store_spec()
    for name, teacher in (("one", "big <b>teacher</b>"), ("deep/two", "small")):
        write_viewed(
            tmp_path / name, documents(TEXTS[2:4]), teacher=replace(spec.teacher, name=teacher)
        )
    with served(Catalogue.below(tmp_path), token=TOKEN) as url:
        context = browser.new_context(viewport=PHONE)
        page = context.new_page()
        page.goto(f"{url}/")
        page.locator("#token").fill("not the token")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This is not the token.")
        page.locator("#token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_have_text("2 stores")
        assert page.evaluate("document.cookie") == ""
        context.close()
        with opened_page(browser, f"{url}/?token={TOKEN}") as page:
            expect(page.locator("#stores li")).to_have_count(2)
            assert page.url == f"{url}/"
            assert "big <b>teacher</b>" in page.locator("#stores").inner_text()
            page.locator("#query").fill("small")
            expect(page.locator("#summary")).to_have_text("1 of 2 stores")
            page.locator("#query").fill("")
            page.locator("#teacher").select_option("small")
            page.locator("#stores a").click()
            expect(page.locator("#name")).to_have_text("two")
            expect(page.locator("#text .token")).to_have_count(len(HOSTILE[2]))
            page.locator("#home").click()
            expect(page.locator("#stores li")).to_have_count(2)
