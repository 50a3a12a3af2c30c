"""Talks in Chromium without a model: what the page shows and sends when devices and the line fail, and of images."""

from __future__ import annotations

import pytest

from tests.serve.web.stub import Stub
from tests.serve.web.test_talk import JS

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


def test_a_dead_line_ends_the_talk(stub: Stub) -> None:
    page = stub.talk()
    page.js("sockets[0].bufferedAmount = 600 << 10; 1")
    page.until("document.querySelector('#notice').textContent.includes('does not reach the server')")
    assert page.js("document.querySelector('#talk').hidden") is True


def test_a_line_is_stuck_when_nothing_gets_through_not_while_images_do(stub: Stub) -> None:
    page = stub.open()
    body = """
      const plain = performance.now;
      let now = 0, buffered = 0;
      performance.now = () => now;
      const socket = new RealtimeSocket({});
      socket.open = true;
      const send = (text) => (buffered += text.length);
      socket.socket = { readyState: 1, send, get bufferedAmount() { return buffered; } };
      const speak = (seconds, delivered) => {
        for (let n = 0; n < seconds * 25; n++) {
          now += 40;
          buffered = Math.max(0, buffered + 2600 - delivered / 25);
          if (socket.isStuck()) return now / 1000;
        }
        return null;
      };
      const begin = () => { now = buffered = 0; socket.isStuck(); };
      const found = { good: speak(30, 1e6), dead: speak(30, 0) };
      begin();
      found.hiccup = [speak(7, 0), speak(5, 1e6)];
      begin();
      found.slow = speak(60, 40e3);
      begin();
      socket.send({ type: 'x', image: 'A'.repeat(4e6) });
      found.images = speak(60, 200e3);
      begin();
      socket.send({ type: 'x', image: 'A'.repeat(4e6) });
      found.deadUnderImages = speak(60, 0);
      performance.now = plain;
      return found;
    """
    found = page.js(JS.format(name="RealtimeSocket", module="talk/socket.js", body=body))
    assert found["good"] is None and found["hiccup"] == [None, None] and found["images"] is None
    assert 37.5 < found["dead"] < 38.5, "8 s after the line went dead at 30 s"
    assert 15 < found["slow"] < 30, "24 kB/s too slow"
    assert 7.5 < found["deadUnderImages"] < 8.5


def test_a_session_that_has_lasted_long_enough_says_so(stub: Stub) -> None:
    page = stub.talk()
    page.js(
        "sockets[0].receive({type: 'error', error: {code: 'session_expired', message: 'The end.'}});"
        "sockets[0].close(); 1"
    )
    page.until("document.querySelector('#talk').hidden")
    assert "as long as the server allows" in page.text("#notice")


def test_sound_that_the_browser_pauses_goes_on(stub: Stub) -> None:
    page = stub.talk()
    state = "document.querySelector('#talk-state').textContent"
    page.js("contexts[0].suspend()")
    page.until("contexts[0].state === 'running'")
    # A browser that wants a click first.
    page.js("contexts[0].resume = () => Promise.reject(new Error('no')); contexts[0].suspend()")
    page.until(f"{state}.includes('click here')")
    page.js("delete contexts[0].resume; 1")
    page.click("#talk-state")
    page.until(f"{state} === 'Listening' && contexts[0].state === 'running'")


def test_a_microphone_that_is_muted_outside_is_shown(stub: Stub) -> None:
    page = stub.talk()
    turn = (
        "(track => {{ Object.defineProperty(track, 'muted', {{value: {}, configurable: true}});"
        " track.dispatchEvent(new Event('{}')); }})(streams[0].getAudioTracks()[0])"
    )
    page.js(turn.format("true", "mute"))
    page.until("document.querySelector('#talk-state').textContent.includes('muted outside')")
    page.js(turn.format("false", "unmute"))
    page.until("document.querySelector('#talk-state').textContent === 'Listening'")


def test_a_camera_that_is_gone_is_sent_no_more(stub: Stub) -> None:
    page = stub.talk()
    page.click("#talk-camera")
    page.until("document.querySelector('#talk-camera').ariaPressed === 'true'")
    page.until("document.querySelector('#preview').videoWidth > 0")
    page.js("streams[1].getTracks()[0].dispatchEvent(new Event('ended'))")
    page.until("document.querySelector('#notice').textContent.includes('camera was disconnected')")
    assert page.js("document.querySelector('#talk-camera').ariaPressed") == "false"
    assert page.js("document.querySelector('#preview').hidden && !document.querySelector('#preview').srcObject") is True
    page.js("sockets[0].receive({type: 'input_audio_buffer.speech_started', audio_start_ms: 0})")
    assert page.js("items()") == []
