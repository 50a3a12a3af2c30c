"""The settings and the composer in Chromium, without a model: Enter, devices, a storage that is off, asking again."""

from __future__ import annotations

import pytest

from tests.serve.web.chromium import Page
from tests.serve.web.stub import Stub

pytestmark = pytest.mark.slow  # a browser

# As with all site data blocked: naming the storage throws.
NO_STORAGE = """
for (const name of ["sessionStorage", "localStorage"])
  Object.defineProperty(globalThis, name, { get() { throw new DOMException("blocked", "SecurityError"); } });
"""
FAILS_ONCE = (
    "answer = () => ({ status: asked.length === 1 ? 500 : 200, text: asked.length === 1 ? 'Broken.' : 'Yes.' })"
)


def ask(page: Page, text: str, count: int) -> None:
    page.type(text)
    page.key("Enter")
    page.until(f"document.querySelectorAll('.assistant[aria-busy=false]').length === {count}")


def test_enter_in_the_settings_saves_them(stub: Stub) -> None:
    page = stub.open()
    page.click("#open-settings")
    page.type("a-key", into="#key")
    page.key("Enter")
    page.until("!document.querySelector('#settings').open")
    page.until("sessionStorage.getItem('vita.key') === 'a-key'")


def test_the_cross_closes_the_settings_and_changes_nothing(stub: Stub) -> None:
    page = stub.open()
    page.click("#open-settings")
    page.type("a-key", into="#key")
    page.js("document.querySelector('#tokens').value = '0'")  # what cannot be saved
    page.click("#settings-close")
    page.until("!document.querySelector('#settings').open")
    assert page.js("sessionStorage.getItem('vita.key') || localStorage.getItem('vita.settings')") is None


def test_a_device_that_is_not_found_stays_chosen(stub: Stub) -> None:
    page = stub.open("localStorage.setItem('vita.settings', JSON.stringify({ microphone: 'unplugged', tokens: 64 }))")
    page.click("#open-settings")
    page.until("document.querySelector('#microphone').options.length > 1")
    assert page.js("document.querySelector('#microphone').selectedOptions[0].text") == "Chosen before (not found)"
    assert page.js("document.querySelector('#talk-video').selectedOptions[0].text") == "Automatic"
    page.click("#settings .primary")
    page.until("!document.querySelector('#settings').open")
    assert page.js("JSON.parse(localStorage.getItem('vita.settings')).microphone") == "unplugged"


def test_without_storage_the_page_answers_and_keeps_the_key(stub: Stub) -> None:
    page = stub.open(NO_STORAGE)
    ask(page, "Hello!", 1)
    ask(page, "And now?", 2)
    page.click("#open-settings")
    page.type("a-key", into="#key")
    page.click("#settings .primary")
    page.until("!document.querySelector('#settings').open")
    ask(page, "And with the key?", 3)
    assert page.js("asked.map(body => body.headers.Authorization ?? '')") == ["", "", "Bearer a-key"]
    assert page.js("document.querySelectorAll('.error:not([hidden])').length") == 0


def test_enter_that_confirms_an_input_method_sends_nothing(stub: Stub) -> None:
    page = stub.open()
    page.type("Hello!")
    press = (
        "document.querySelector('#question').dispatchEvent(new KeyboardEvent('keydown',"
        " {{key: 'Enter', keyCode: {}, bubbles: true, cancelable: true}}))"
    )
    assert page.js(press.format(229)) is True, "the input method gets it"
    assert page.js("asked.length") == 0
    assert page.js(press.format(13)) is False
    page.until("asked.length === 1")


def test_only_the_newest_failure_is_tried_again(stub: Stub) -> None:
    page = stub.open()
    page.js(f"{FAILS_ONCE}; 1")
    ask(page, "One?", 1)
    assert page.text(".error button") == "Try again"
    ask(page, "Two?", 2)
    assert page.js("document.querySelectorAll('.error button').length") == 0
    assert page.text(".assistant .error") == "Broken."
    page.click(".message:nth-child(3) [aria-label='Edit and ask again']")
    page.until("document.querySelectorAll('.message').length === 2")
    page.click(".error button")
    page.until("document.querySelector('.assistant .text').innerText === 'Yes.'")


def test_nothing_is_asked_again_while_a_talk_runs(stub: Stub) -> None:
    page = stub.open()
    page.js(f"{FAILS_ONCE}; 1")
    ask(page, "One?", 1)
    page.click("#start")
    page.until("document.querySelector('#talk').dataset.state === 'listening'")
    for button in (".error button", "[aria-label='Edit and ask again']"):
        page.js("document.querySelector('#notice').textContent = ''")
        page.click(button)
        page.until("document.querySelector('#notice').textContent.includes('End the talk first')")
    assert page.js("asked.length") == 1 and page.js("document.querySelectorAll('.message').length") == 2
    page.click("#end-talk")
    page.click(".error button")
    page.until("asked.length === 2")
