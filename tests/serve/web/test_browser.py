"""The page in Chromium: questions about images, streams, stop, reload, errors, keys, files, keyboard, screenshots."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import vita
from tests.serve.running import Running, running
from tests.serve.test_chat import ban_the_end
from tests.serve.web.chromium import Page
from vita.serve.options import ServeOptions

pytestmark = pytest.mark.slow  # a browser

ASSETS = Path(__file__).parents[3] / "assets"
LOGO, VIDEO, SPEECH = ASSETS / "vita_logo.png", ASSETS / "moving.mp4", ASSETS / "what_can_you_do.flac"
ANSWERED = "[...document.querySelectorAll('.assistant')].filter(e => e.ariaBusy === 'false').length === {}"
KEY = "a-key-of-the-test"


def start(page: Page, server: Running) -> None:
    page.open(server.url)
    page.until("document.querySelector('#model').textContent")


def attach(page: Page, *files: Path) -> None:
    page.choose("#files", files)
    page.until(f"document.querySelectorAll('#attached li').length === {len(files)}")


def ask(page: Page, text: str, count: int) -> str:
    """Send a question by Enter and wait for the answer, the `count`-th of the page."""
    page.type(text)
    page.key("Enter")
    page.until(ANSWERED.format(count))
    return page.text(".message:last-child .text")


def lengthen(page: Page, server: Running) -> None:
    """Answers do not end by themselves from now on, after a reload too."""
    bias = json.dumps(ban_the_end(server))
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="const plain = fetch; globalThis.fetch = (url, options) => { if (options?.body) options.body ="
        f" JSON.stringify({{...JSON.parse(options.body), logit_bias: {bias}}}); return plain(url, options); }};",
    )  # fmt: skip


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_conversation_about_an_image(served: Running, page: Page) -> None:
    start(page, served)
    attach(page, LOGO)
    assert "VITA" in ask(page, "What do you see in this image?", 1)
    facts = page.text(".assistant .facts")
    assert "first word after" in facts.lower() and "of images" in facts and "token" in facts
    ask(page, "What color is the background?", 2)
    assert "cached" in page.text(".message:last-child .facts"), "the second turn knows the first one"
    assert page.js("document.querySelector('.user img').naturalWidth") == 1400
    outside = [url for url in page.requests if not url.startswith((served.url, "data:", "about:"))]
    assert outside == []


def test_audio_and_video_files(served: Running, page: Page) -> None:
    start(page, served)
    attach(page, SPEECH, VIDEO)
    assert ask(page, "", 1)
    facts = page.text(".assistant .facts")
    assert "of audio" in facts and "of images" in facts
    assert page.js("document.querySelectorAll('.user video, .user audio').length") == 2


def test_stop_frees_the_row_and_keeps_the_text(served: Running, page: Page) -> None:
    lengthen(page, served)
    start(page, served)
    cancelled = served.server.model.stats().cancelled
    page.type("What can you do?")
    page.click("#send")
    page.until("document.querySelector('.assistant .text').innerText.length > 20")
    page.click("#stop")
    page.until(ANSWERED.format(1))
    assert page.text(".assistant .error") == "Stopped." and len(page.text(".assistant .text")) > 20
    wait_for(lambda: served.server.model.stats().cancelled == cancelled + 1 and served.server.active == 0)
    page.click("[aria-label='Answer again']")
    page.until("document.querySelector('.assistant .text').innerText.length > 20")
    page.key("Escape")
    page.until(ANSWERED.format(1))
    wait_for(lambda: served.server.model.stats().cancelled == cancelled + 2 and served.server.active == 0)


def test_a_reload_in_mid_answer(served: Running, page: Page) -> None:
    lengthen(page, served)
    start(page, served)
    cancelled = served.server.model.stats().cancelled
    attach(page, LOGO)
    page.type("What do you see in this image?")
    page.key("Enter")
    page.until("document.querySelector('.assistant .text')?.innerText.length > 20")
    page.reload()
    wait_for(lambda: served.server.model.stats().cancelled == cancelled + 1 and served.server.active == 0)
    page.until("document.querySelectorAll('.message').length === 2")
    assert "reloaded" in page.text(".assistant .error") and len(page.text(".assistant .text")) > 20
    assert page.js("document.querySelector('.user img').naturalWidth") == 1400
    page.click("#new")
    page.reload()
    assert page.js("document.querySelectorAll('.message').length") == 0


def test_without_a_key_the_page_asks_for_it(embedded: vita.Vita, page: Page) -> None:
    with running(embedded, ServeOptions(port=0, api_keys=(KEY,))) as server:
        page.open(server.url)
        page.until("document.querySelector('#settings').open && document.activeElement.id === 'key'")
        page.key("Escape")
        page.type("Hello!")
        page.key("Enter")
        page.until("document.querySelector('.assistant .error').innerText.includes('asks for an API key')")
        page.click(".error button:last-child")
        page.type("not-the-right-key", into="#key")
        page.click("#settings .primary")
        page.until("document.querySelector('#notice').textContent.includes('does not know this API key')")
        page.until("document.querySelector('#settings').open")
        page.js("document.querySelector('#key').value = ''")
        page.type(KEY, into="#key")
        page.click("#settings .primary")
        page.until("document.querySelector('#model').textContent")
        page.click(".error button")
        page.until("document.querySelector('.assistant .facts').textContent")
        assert page.js("Object.values(localStorage).join().includes('key-of-the-test')") is False
        page.reload()
        page.until("document.querySelector('#model').textContent")
        page.complaints.clear()  # the browser logs each 401


def test_a_broken_file_is_one_clear_error_and_the_next_question_works(
    served: Running, page: Page, tmp_path: Path
) -> None:
    broken, notes = tmp_path / "broken.png", tmp_path / "notes.txt"
    broken.write_bytes(b"not an image at all")
    notes.write_text("hello")
    start(page, served)
    page.choose("#files", [notes])
    page.until("document.querySelector('#notice').textContent.includes('“notes.txt” is not an image')")
    attach(page, broken)
    ask(page, "What is it?", 1)
    assert "image" in page.text(".assistant .error") and page.js("!!document.querySelector('.error button')")
    ask(page, "What can you do?", 2)
    assert page.text(".message:last-child .facts") and not page.text(".message:last-child .error")
    page.complaints.clear()  # the browser logs the 400


def test_a_server_that_is_gone(embedded: vita.Vita, page: Page) -> None:
    with running(embedded) as server:
        start(page, server)
    ask(page, "Hello!", 1)
    assert "does not answer" in page.text(".assistant .error")
    page.complaints.clear()  # the browser logs the refused connection


def give(page: Page, event: str, kind: str, field: str, name: str) -> None:
    """An event of the window that carries a PNG file."""
    page.js(
        f"(() => {{ const data = new DataTransfer(); data.items.add(new File([new Uint8Array(3)], {name!r},"
        f" {{type: 'image/png'}})); const options = {{bubbles: true, cancelable: true, {field}: data}};"
        f" window.dispatchEvent(new {kind}({event!r}, options)); }})()"
    )


def test_files_by_drop_and_paste(served: Running, page: Page) -> None:
    start(page, served)
    give(page, "dragenter", "DragEvent", "dataTransfer", "dropped.png")
    assert page.js("document.querySelector('#drop').hidden") is False
    give(page, "drop", "DragEvent", "dataTransfer", "dropped.png")
    give(page, "paste", "ClipboardEvent", "clipboardData", "pasted.png")
    page.until("document.querySelectorAll('#attached li').length === 2")
    assert page.js("document.querySelector('#drop').hidden")
    assert page.text("#attached").split() == ["dropped.png", "pasted.png"]
    page.click("[aria-label='Remove dropped.png']")
    assert page.text("#attached") == "pasted.png"


def test_a_picture_of_the_camera(served: Running, page: Page) -> None:
    start(page, served)
    page.click("#camera")
    page.until("!document.querySelector('#shot-take').disabled")
    page.key("Enter")  # the button has the focus
    page.until("document.querySelectorAll('#attached li').length === 1")
    assert page.js("document.querySelector('#finder').srcObject") is None, "the camera is off"
    assert "of images" in (ask(page, "What do you see in this image?", 1) and page.text(".assistant .facts"))


def test_a_page_that_is_not_secure_says_what_to_do(served: Running, page: Page) -> None:
    page.call(
        "Page.addScriptToEvaluateOnNewDocument",
        source="Object.defineProperty(navigator, 'mediaDevices', {value: undefined});",
    )  # fmt: skip
    start(page, served)
    page.click("#start")
    page.until("document.querySelector('#notice').textContent.includes('--self-signed')")
    assert page.js("document.querySelector('#talk').hidden") is True


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("NotAllowedError", "Allow it for this page"),
        ("NotFoundError", "No microphone was found"),
        ("NotReadableError", "another program"),
    ],
)
def test_a_browser_that_refuses_the_microphone(served: Running, page: Page, error: str, words: str) -> None:
    start(page, served)
    page.js(f"navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('no', '{error}')); 1")
    page.click("#start")
    page.until(f"document.querySelector('#notice').textContent.includes('{words}')")
    assert page.js("document.querySelector('#talk').hidden && !document.querySelector('#start').hidden") is True


def test_a_talk_that_is_ended_while_it_starts_leaves_no_microphone_open(served: Running, page: Page) -> None:
    start(page, served)
    page.js(
        "globalThis.streams = []; const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);"
        "navigator.mediaDevices.getUserMedia = async (wish) => { await new Promise(r => globalThis.go = r);"
        " streams.push(await open(wish)); return streams[0]; }; 1"
    )
    page.click("#start")
    page.until("!!globalThis.go")
    page.click("#end-talk")
    page.js("go()")
    page.until("streams.length === 1 && streams[0].getTracks().every(track => track.readyState === 'ended')")
    assert page.js("document.querySelector('#talk').hidden") is True and page.text("#notice") == ""


def test_by_keyboard_alone(served: Running, page: Page) -> None:
    start(page, served)
    seen = set()
    for _ in range(12):
        page.key("Tab")
        name = "(e => e.id || e.textContent)(document.activeElement)"
        seen.add(page.js(name))
        shown = "document.activeElement.matches(':focus-visible') || document.activeElement === document.body"
        assert page.js(shown), f"the focus on {page.js(name)} is not shown"
    assert {"new", "open-settings", "question", "attach", "camera", "start", "send"} <= seen
    unnamed = (
        "[...document.querySelectorAll('button, input, textarea, select, video, canvas')].filter(e => !(e.ariaLabel"
        " || e.labels?.length || e.innerText?.trim() || e.textContent.trim() || e.getAttribute('aria-hidden')))"
        ".map(e => e.outerHTML)"
    )
    assert page.js(unnamed) == []


def test_edit_asks_again_from_there(served: Running, page: Page) -> None:
    start(page, served)
    ask(page, "What can you do?", 1)
    page.click("[aria-label='Edit and ask again']")
    assert page.js("document.querySelector('#question').value") == "What can you do?"
    assert page.js("document.querySelectorAll('.message').length") == 0
    page.key("Enter")
    page.until(ANSWERED.format(1))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("phone", [False, True], ids=["desk", "phone"])
def test_nothing_sticks_out_and_text_can_be_read(
    served: Running, page: Page, tmp_path: Path, dark: bool, phone: bool
) -> None:
    """Screenshots go to the folder that `VITA_SCREENSHOTS` names."""
    width, height = (390, 780) if phone else (1200, 800)
    page.look(width=width, height=height, dark=dark, phone=phone)
    start(page, served)
    folder = Path(os.environ.get("VITA_SCREENSHOTS", tmp_path))
    name = f"{'phone' if phone else 'desk'}-{'dark' if dark else 'light'}"
    page.screenshot(folder / f"{name}-start.png")
    attach(page, LOGO)
    ask(page, "What do you see in this image?", 1)
    page.screenshot(folder / f"{name}-chat.png")
    assert page.js("document.documentElement.scrollWidth") == width
    assert page.js("document.querySelector('footer').getBoundingClientRect().bottom") <= height
    colours = page.js("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    light = [sum(int(n) for n in c[4:-1].split(",")) / 765 for c in colours]
    assert (light[0] > 0.8 and light[1] < 0.2) if dark else (light[0] < 0.2 and light[1] > 0.8)
    page.click("#open-settings")
    page.screenshot(folder / f"{name}-settings.png")
    assert page.js("document.querySelector('#settings').getBoundingClientRect().right") <= width
