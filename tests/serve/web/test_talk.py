"""Talk in Chromium: a microphone that plays a recording, a camera; captions, interruption, push-to-talk, decisions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import vita
from tests.serve.realtime.client import is_question, question, silence
from tests.serve.running import Running, running
from tests.serve.web.chromium import Page, chromium
from vita.serve.options import ServeOptions
from vita.serve.realtime import route
from vita.speech.voice import Voice

pytestmark = pytest.mark.slow  # a browser

RATE = 48_000
KEY = "a-key-of-the-test"
SPEAKING = (
    "document.querySelector('#talk').dataset.state === 'speaking' && !document.querySelector('#interrupt').disabled"
)
ANSWERS = "[...document.querySelectorAll('.assistant')].filter(e => e.ariaBusy === 'false')"
# What the page sends and receives, as [name, event]; audio is left out.
SPY = """
globalThis.events = [];
const note = (name, text) => {
  const event = JSON.parse(text);
  if (event.type === 'input_audio_buffer.append') return;
  if (event.type === 'response.output_audio.delta') event.delta = ''; events.push([name, event]); };
const Plain = WebSocket;
globalThis.WebSocket = class extends Plain {
  constructor(url, protocols) { super(url, protocols); globalThis.protocols = protocols;
    this.addEventListener('message', ({data}) => note('received', data)); }
  send(text) { note('sent', text); super.send(text); }
};
"""


@pytest.fixture(scope="module")
def talking(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:
    """A server whose voice is espeak's, with a key."""
    with running(embedded, ServeOptions(port=0, voice="espeak", api_keys=(KEY,))) as server:
        yield server


@contextmanager
def talk(program: str, folder: Path, server: Running, quiet: float, **settings: Any) -> Iterator[Page]:
    """A page that talks. Its microphone repeats 1.5 s of silence, "What can you do?", `quiet` seconds of silence."""
    recording = np.concatenate([silence(1.5, RATE), question(RATE), silence(quiet, RATE)])
    soundfile.write(folder / "microphone.wav", recording, RATE, subtype="PCM_16")
    with chromium(program, folder / "profile", folder / "microphone.wav") as page:
        page.look()
        stored = json.dumps(json.dumps(settings))
        start = f"sessionStorage.setItem('vita.key', {KEY!r}); localStorage.setItem('vita.settings', {stored});"
        page.call("Page.addScriptToEvaluateOnNewDocument", source=SPY + start)
        page.open(server.url)
        page.until("document.querySelector('#model').textContent")
        page.click("#start")
        page.until("document.querySelector('#talk').dataset.state !== 'connecting'")
        yield page
        page.js("1")
        assert page.complaints == []
        problems = page.js("events.filter(([, e]) => e.type === 'error').map(([, e]) => e.error)")
        assert problems == []


def sent(page: Page, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = page.js(
        f"events.filter(([n, e]) => n === 'sent' && e.type === '{kind}').map(([, e]) => e)"
    )
    return found


def test_a_spoken_question_with_the_camera(talking: Running, program: str, tmp_path: Path) -> None:
    with talk(program, tmp_path, talking, quiet=15) as page:
        page.click("#talk-camera")
        page.until("!document.querySelector('#preview').hidden")
        page.until("Number(document.querySelector('#wave').ariaValueNow) > 20")  # the level meter
        page.until(SPEAKING)
        folder = Path(os.environ.get("VITA_SCREENSHOTS", tmp_path))
        page.screenshot(folder / "desk-light-talk.png")
        page.look(width=390, height=780, dark=True, phone=True)
        page.screenshot(folder / "phone-dark-talk.png")
        assert page.js("document.documentElement.scrollWidth") == 390
        page.look()
        page.until(f"{ANSWERS}.length === 1 && document.querySelector('#talk').dataset.state === 'listening'")
        assert is_question(page.text(".user .text"))
        assert len(page.text(".assistant .text")) > 10 and "First sound after" in page.text(".assistant .facts")
        assert "of images" in page.text(".assistant .facts") and page.js("!!document.querySelector('.user img')")
        assert page.text(".assistant .error") == ""
        protocols = page.js("protocols")
        assert protocols[0] == "realtime" and protocols[1].startswith("openai-insecure-api-key.ek_"), "not the key"
        page.click("#end-talk")
        page.until("document.querySelector('#talk').hidden")
        assert page.js("document.querySelector('#preview').srcObject") is None
        # What was said is known to the written conversation.
        page.type("And what is your name?")
        page.key("Enter")
        page.until(f"{ANSWERS}.length === 2 && document.querySelector('.message:last-child .facts').textContent")


def test_without_a_voice_answers_are_in_writing(
    embedded: vita.Vita, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(route, "available_voices", lambda own: [])
    with (
        running(embedded, ServeOptions(port=0, api_keys=(KEY,))) as server,
        talk(program, tmp_path, server, quiet=15) as page,
    ):
        assert "The server has no voice, so answers are in writing." in page.text("#notice")
        page.until(f"{ANSWERS}.length === 1")
        assert len(page.text(".assistant .text")) > 10 and page.text(".assistant .error") == ""


def test_a_key_interrupts(talking: Running, program: str, tmp_path: Path) -> None:
    with talk(program, tmp_path, talking, quiet=15) as page:
        page.until(SPEAKING)
        page.until("document.querySelector('.assistant .text').innerText.length > 10")
        page.key("Escape")
        page.until("document.querySelector('.assistant .error').innerText === 'Interrupted.'")
        page.until("events.some(([, e]) => e.type === 'conversation.item.truncated')")
        assert page.js("document.querySelector('#interrupt').disabled")
        page.until("events.some(([, e]) => e.type === 'conversation.item.retrieved')")
        page.until("!!document.querySelector('.unheard')", 20)  # what was not spoken is marked
        [truncate] = sent(page, "conversation.item.truncate")
        assert 0 <= truncate["audio_end_ms"] < 5000
        assert page.text("#talk-state") == "Listening"


def test_speech_that_lasts_interrupts(talking: Running, program: str, tmp_path: Path) -> None:
    """The question comes again while its answer plays."""
    with talk(program, tmp_path, talking, quiet=2.5) as page:
        page.js(
            "globalThis.states = []; new MutationObserver(() => states.push(document.querySelector('#talk-state')"
            ".textContent)).observe(document.querySelector('#talk-state'), {childList: true}); 1"
        )
        page.until("[...document.querySelectorAll('.assistant .error')].some(e => e.innerText === 'Interrupted.')")
        assert any("quieter" in state for state in page.js("states")), "before it stops, it gets quieter"
        order = page.js("events.map(([n, e]) => e.type)")
        cut = order.index("conversation.item.truncate")
        assert "input_audio_buffer.speech_started" in order[order.index("response.output_audio.delta") : cut]
        assert page.js("events[0][1].type") == "session.created"
        detection = sent(page, "session.update")[0]["session"]["audio"]["input"]["turn_detection"]
        assert detection["interrupt_response"] is False, "the page decides"


def test_push_to_talk_and_writing(talking: Running, program: str, tmp_path: Path) -> None:
    with talk(program, tmp_path, talking, quiet=1.5, push=True, textOnly=True) as page:
        assert page.js("!document.querySelector('#hold').hidden")
        page.until("Number(document.querySelector('#wave').ariaValueNow) > 20")
        page.until("Number(document.querySelector('#wave').ariaValueNow) < 2")
        page.js("new Promise(resolve => setTimeout(resolve, 600))")  # longer than any gap within the question
        page.until("Number(document.querySelector('#wave').ariaValueNow) < 2")
        page.key(" ", up=False)
        page.until("document.querySelector('#talk').dataset.state === 'hearing'")
        page.until("Number(document.querySelector('#wave').ariaValueNow) > 20")
        page.js("new Promise(resolve => setTimeout(resolve, 2000))")
        page.key(" ", down=False)
        page.until(f"{ANSWERS}.length === 1")
        assert len(page.text(".assistant .text")) > 10 and page.text(".assistant .error") == ""
        assert is_question(page.text(".user .text"))
        assert not page.js("events.some(([, e]) => e.type.includes('output_audio.'))")
        assert len(sent(page, "input_audio_buffer.commit")) == len(sent(page, "response.create")) == 1
        page.key(" ")  # too short
        page.until("document.querySelector('#notice').textContent.includes('Hold it down')")
        page.type("What can you do?")
        page.key("Enter")
        page.until(f"{ANSWERS}.length === 2")
        assert page.text(".message:last-child .text")
        page.click("#end-talk")
        page.js("events.length = 0")
        page.click("#start")  # a new session is told what was said
        page.until("document.querySelector('#talk').dataset.state === 'idle'")
        told = [event["item"] for event in sent(page, "conversation.item.create")]
        assert [item["role"] for item in told][-2:] == ["user", "assistant"]
        assert told[-2]["content"] == [{"type": "input_text", "text": "What can you do?"}]
        page.until(f"events.filter(([, e]) => e.type === 'conversation.item.done').length === {len(told)}")


def test_a_connection_that_breaks(embedded: vita.Vita, espeak: Voice, program: str, tmp_path: Path) -> None:
    with (
        running(embedded, ServeOptions(port=0, voice="espeak", api_keys=(KEY,))) as server,
        talk(program, tmp_path, server, quiet=15) as page,
    ):
        server.listener.force_exit = True
        server.listener.should_exit = True
        page.until("document.querySelector('#notice').textContent.includes('voice connection broke off')")
        assert page.js("document.querySelector('#talk').hidden") is True
        page.complaints.clear()


JS = """(async () => {{
  const {{ {name} }} = await import('/static/{module}');
  {body}
}})()"""


def test_what_speech_over_an_answer_does(served: Running, page: Page) -> None:
    """Quieter at once; an "mm-hm" restores the volume; 500 ms of speech stop the answer."""
    page.open(served.url)
    body = """
      const steps = (levels, playing = true, before = 3) => {
        const machine = new BargeIn();
        for (let n = 0; n < 50; n++) machine.piece(0.002, 40, true);
        const done = [machine.started(playing)];
        levels.forEach((level, n) => done.push(machine.piece(level, 40, playing || n >= before)));
        return { done, machine };
      };
      const loud = (n) => Array(n).fill(0.1), quiet = (n) => Array(n).fill(0.002);
      const short = steps([...loud(4), ...quiet(12)]);
      const long = steps(loud(20)), late = steps(loud(20), false, 15);
      const two = steps([...loud(3), ...quiet(9), ...loud(3)]);
      const deaf = steps(quiet(20));
      return { short: short.done, shortEnd: short.machine.ended(200, true), long: long.done, late: late.done,
               two: two.done, deafEnd: deaf.machine.ended(800, true), after: long.machine.piece(0.1, 40, true) };
    """
    found = page.js(JS.format(name="BargeIn", module="talk/barge_in.js", body=body))
    kept = {name: [step for step in steps if step] for name, steps in found.items() if isinstance(steps, list)}
    assert kept["short"] == ["duck", "restore"] and found["shortEnd"] is None
    assert kept["long"] == ["duck", "stop"] and found["after"] is None
    assert found["long"].index("stop") * 40 + 160 in range(500, 560)
    assert found["late"][:16] == [None] * 16 and kept["late"] == ["stop"], "the answer begins while the user speaks"
    assert kept["two"] == ["duck", "restore", "duck"]
    assert found["deafEnd"] == "stop", "the server's word counts where the microphone is too quiet"


def test_resampling(served: Running, page: Page) -> None:
    page.open(served.url)
    body = """
      const run = (from, to, frequency, block = 128) => {
        const resampler = new Resampler(from, to), out = [];
        for (let n = 0; n < from / 4; n += block)
          out.push(...resampler.feed(Float32Array.from({ length: block }, (_, k) => Math.sin(2 * Math.PI * frequency * (n + k) / from))));
        let error = 0, peak = 0;
        for (let n = 200; n < out.length - 200; n++) {
          error = Math.max(error, Math.abs(out[n] - Math.sin(2 * Math.PI * frequency * n / to)));
          peak = Math.max(peak, Math.abs(out[n]));
        }
        return { error, peak, length: out.length };
      };
      return [run(48000, 24000, 1000), run(44100, 24000, 1000), run(24000, 48000, 3000), run(24000, 44100, 3000, 960),
              run(24000, 24000, 500), run(16000, 24000, 700), run(48000, 24000, 17000)];
    """  # noqa: E501
    found = page.js(JS.format(name="Resampler", module="talk/resample.js", body=body))
    rates = (24_000, 24_000, 48_000, 44_100, 24_000, 24_000)
    for result, rate in zip(found[:6], rates, strict=True):
        assert result["error"] < 0.01 and abs(result["length"] - rate / 4) < 2000
    assert found[6]["peak"] < 0.01, "what 24 kHz cannot hold is gone"


def test_markdown_is_never_html(served: Running, page: Page) -> None:
    page.open(served.url)
    text = (
        "# Title\n\nA **bold** and *thin* `code <b>` with 2*3*4.\n- one\n- two\n\n1. first\n2. second\n"
        "> said\n\n```python\nx = '<i>'\n```\n<img src=x onerror=alert(1)>\n"
        "[good](https://example.com/a) [bad](javascript:alert(1))\n```\nopen"
    )
    body = "const box = document.createElement('div');"
    body += f"box.append(...markdown({json.dumps(text)})); return box.innerHTML;"
    found = page.js(JS.format(name="markdown", module="markdown.js", body=body))
    for part in (
        '<p class="heading" role="heading" aria-level="3">Title</p>', "<strong>bold</strong>", "<em>thin</em>",
        "<code>code &lt;b&gt;</code>", "2*3*4", "<ul><li>one</li><li>two</li></ul>", "<li>second</li>",
        "<blockquote><p>said</p></blockquote>", "x = '&lt;i&gt;'", "&lt;img src=x", 'href="https://example.com/a"',
        "[bad](javascript:alert(1))", "<code>open</code>",
    ):  # fmt: skip
        assert part in found
    assert found.count("<a ") == 1 and "<img" not in found
