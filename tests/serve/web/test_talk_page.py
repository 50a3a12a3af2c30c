"""Talks in Chromium without a model: what the page shows and sends when devices and the line fail, and of images."""

from __future__ import annotations

import pytest

from tests.serve.web.stub import Stub

pytestmark = pytest.mark.slow  # a browser


def test_a_new_talk_shows_that_the_microphone_is_live(stub: Stub) -> None:
    page = stub.talk()
    shown = "document.querySelector('#mute use').getAttribute('href') + document.querySelector('#mute').ariaPressed"
    page.click("#mute")
    page.until(f"{shown} === '#i-mic-offtrue'")
    page.click("#end-talk")
    page.click("#start")
    page.until("sockets.length === 2 && document.querySelector('#talk').dataset.state === 'listening'")
    assert page.js(shown) == "#i-micfalse"
