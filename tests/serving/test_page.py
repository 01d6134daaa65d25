"""The page in a real browser: upload, ask, click a moment, and the player is at its second."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sdst import Grounder
from sdst.serving import library_index, service
from tests.serving.running import Running, running

sync_api = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
from playwright.sync_api import Browser, Page, expect  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SENTENCE = "the red square spins"
PATIENCE = 30_000  # ms

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    expect.set_options(timeout=PATIENCE)
    # Node's kernel thread for files never gets its turn where this process has one core and is
    # preferred: the driver would wait forever.
    os.environ.setdefault("UV_USE_IO_URING", "0")
    with sync_api.sync_playwright() as playwright:
        # As root a browser starts without its sandbox only.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        with playwright.chromium.launch(executable_path=found, args=arguments) as browser:
            yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new one; nothing on it may fail unseen."""
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.set_default_timeout(PATIENCE)
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("requestfailed", lambda request: faults.append(f"{request.url} {request.failure}"))
    yield page
    page.close()
    # A player that is sent elsewhere drops what it was loading, and so does a picture.
    assert not [fault for fault in faults if "ERR_ABORTED" not in fault]


def ask(page: Page, sentence: str = SENTENCE) -> None:
    page.keyboard.press("/")
    page.keyboard.type(sentence)
    page.keyboard.press("Enter")


def window(shown: str) -> tuple[float, float]:
    """Seconds of the two clocks of a card, `1:02.5` and `1:10.0`."""
    start, end = (60 * int(m) + float(s) for m, s in re.findall(r"(\d+):([\d.]+)", shown))
    return start, end


def current_time(page: Page) -> float:
    return page.locator("video").evaluate("video => video.currentTime")


def test_from_an_upload_to_the_moment_that_plays(
    page: Page, one_grounder: Grounder, film: Path, tmp_path: Path
) -> None:
    with running(one_grounder, tmp_path / "library") as server:
        page.goto(server.url)
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()
        page.set_input_files("#files", film)
        expect(page.get_by_role("heading", name="film.mp4")).to_be_visible()
        expect(page.locator(".status.ready")).to_be_visible()
        ask(page)
        chosen = page.locator("#ranked .moment").last
        expect(chosen).to_be_visible()
        expect(page.locator(".graph .curve")).to_be_visible()
        start, end = window(chosen.locator(".go").inner_text())
        chosen.locator(".go").click()
        page.wait_for_timeout(300)
        assert start - 0.1 <= current_time(page) <= end + 0.1
        expect(chosen).to_have_class(re.compile("active"))
        expect(page.locator(".span.active")).to_have_text(chosen.locator(".rank").inner_text())

        page.get_by_role("button", name="Delete film.mp4").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_role("heading", name="Find the moment")).to_be_visible()


def test_a_dropped_file_is_uploaded_and_a_fault_shown(
    page: Page, one_grounder: Grounder, tmp_path: Path
) -> None:
    with running(one_grounder, tmp_path / "library") as server:
        page.goto(server.url)
        page.locator("body").evaluate(
            """body => {
                const carried = new DataTransfer();
                carried.items.add(new File(["text"], "notes.mp4"));
                body.dispatchEvent(new DragEvent("drop", {
                    dataTransfer: carried, bubbles: true, cancelable: true }));
            }"""
        )
        expect(page.locator(".toast")).to_contain_text("notes.mp4: not a readable video")


def test_the_keyboard_is_enough(page: Page, server: Running) -> None:
    page.goto(server.url)
    expect(page.locator("video")).to_be_visible()
    ask(page)
    first = page.locator("#ranked .go").first
    expect(first).to_be_visible()
    page.keyboard.press("1")
    page.wait_for_timeout(300)
    start, end = window(first.inner_text())
    assert start - 0.1 <= current_time(page) <= end + 0.1
    page.locator("video").evaluate("video => video.pause()")
    before = current_time(page)
    page.keyboard.press("ArrowLeft")
    assert current_time(page) == pytest.approx(max(before - 1, 0), abs=0.05)
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()


def test_an_address_can_be_shared_and_moments_exported(page: Page, server: Running, vid) -> None:
    page.goto(f"{server.url}/#v={vid}&q={SENTENCE.replace(' ', '+')}")
    expect(page.locator("#ranked .go").first).to_be_visible()
    page.locator("#export summary").click()
    with page.expect_download() as download:
        page.get_by_role("button", name=".srt").click()
    assert download.value.suggested_filename == "moments.srt"
    assert SENTENCE in Path(download.value.path()).read_text()


def test_search_leads_to_the_moment_of_its_video(
    page: Page, one_grounder: Grounder, film: Path, tmp_path: Path
) -> None:
    files = {"a/film.mp4": film, "b/film.mp4": tmp_path / "film.mp4"}
    shutil.copy(film, files["b/film.mp4"])
    with running(one_grounder, tmp_path / "library", files) as server:
        for video in server.service.library.videos():
            server.settled(video.id)
        page.goto(server.url)
        page.get_by_text("All videos").click()
        ask(page)
        first = page.locator("#grid .moment").first
        expect(first).to_be_visible()
        start, _ = window(first.locator(".go").inner_text())
        name = first.locator(".name").inner_text()
        first.locator(".go").click()
        expect(page.get_by_role("heading", name=name)).to_be_visible()
        expect(page.locator("#ranked .go").first).to_be_visible()
        page.wait_for_timeout(300)
        assert current_time(page) >= start - 0.1


def test_the_page_tells_how_many_videos_an_index_rules_out(
    page: Page, one_grounder: Grounder, films: dict[str, Path], tmp_path: Path, monkeypatch
) -> None:
    pytest.importorskip("lancedb", reason="an index needs the extra `index`")
    for module in (library_index, service):
        monkeypatch.setattr(module, "CANDIDATES", 1)
    del films["noise"]
    with running(one_grounder, tmp_path / "library", films, index=tmp_path / "index") as server:
        for video in server.service.library.videos():
            server.settled(video.id)
        page.goto(server.url)
        page.get_by_text("All videos").click()
        ask(page)
        expect(page.locator("#found-facts")).to_have_text("the likeliest 1 of 3 videos searched")


def test_a_least_presence_is_chosen_and_shared(
    page: Page, film: Path, tmp_path: Path, own_cache: Path
) -> None:
    with running(Grounder(device="cpu"), tmp_path / "library", {"film.mp4": film}) as server:
        [video] = server.get("/api/videos").json
        server.settled(video["id"])
        page.goto(f"{server.url}/#v={video['id']}&q=the+invoice+is+due&p=0.9")
        expect(page.locator("#asked")).to_contain_text("No moment of this video fits.")
        expect(page.locator("#least")).to_have_value("0.9")
        page.locator("#least").select_option("0")
        expect(page.locator("#ranked > li").first).to_be_visible()
        assert "p=" not in page.url


def test_a_model_without_presence_offers_none(page: Page, server: Running, vid: str) -> None:
    page.goto(f"{server.url}/#v={vid}&q=the+red+square&p=0.9")
    expect(page.locator("#ranked > li").first).to_be_visible()
    expect(page.locator("#least")).to_be_hidden()


def test_light_and_dark(page: Page, server: Running) -> None:
    def ground() -> str:
        return page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")

    page.emulate_media(color_scheme="dark")
    page.goto(server.url)
    dark = ground()
    page.get_by_role("button", name="Light or dark").click()
    light = ground()
    assert dark != light
    page.reload()
    assert ground() == light  # the choice is kept


def test_everything_that_can_be_pressed_has_a_name(page: Page, server: Running, vid) -> None:
    page.goto(f"{server.url}/#v={vid}&q={SENTENCE.replace(' ', '+')}")
    expect(page.locator("#ranked .go").first).to_be_visible()
    nameless = page.locator("body").evaluate(
        """body => [...body.querySelectorAll("button, a, input, summary, [role=slider]")]
            .filter(x => !x.textContent.trim() && !x.getAttribute("aria-label")
                && !x.labels?.length && x.type !== "file" && !x.hidden)
            .map(x => x.outerHTML)"""
    )
    assert nameless == []


def test_the_page_asks_for_the_token(
    page: Page, one_grounder: Grounder, film: Path, tmp_path: Path
) -> None:
    token = "correct-horse-battery-staple"
    with running(one_grounder, tmp_path / "library", {"film.mp4": film}, token) as server:
        page.goto(server.url)
        page.get_by_label("Token", exact=True).fill("guess")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#login-fault")).to_contain_text("the token is wrong")
        page.get_by_label("Token", exact=True).fill(token)
        page.get_by_role("button", name="Open").click()
        expect(page.get_by_role("heading", name="film.mp4")).to_be_visible()
        duration = page.locator("video").evaluate(
            """video => new Promise(resolve => video.readyState ? resolve(video.duration)
                : video.addEventListener("loadedmetadata", () => resolve(video.duration)))"""
        )
        assert duration > 1  # the player's requests carry the cookie


def test_the_page_of_the_interface_shows_its_routes(page: Page, server: Running) -> None:
    page.goto(f"{server.url}/api")
    expect(page.get_by_text("/api/videos/{vid}/ground")).to_be_visible()
    page.get_by_text("/api/videos/{vid}/ground").click()
    expect(page.locator("details[open] pre")).to_contain_text("curl --json")
