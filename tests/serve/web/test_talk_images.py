"""Images in talks, and large files, in Chromium without a model: what is sent, how large, and with which words."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.web.chromium import Page
from tests.serve.web.stub import Stub

pytestmark = pytest.mark.slow  # a browser

PUSH = "localStorage.setItem('vita.settings', JSON.stringify({ push: true }))"
ALONE = [{"type": "input_text", "text": "Here is an image."}]


def paste(page: Page, width: int, height: int) -> None:
    """Attach a PNG of noise."""
    page.js(
        f"""(async () => {{
          const canvas = new OffscreenCanvas({width}, {height}), context = canvas.getContext('2d');
          const image = context.createImageData({width}, {height});
          for (let n = 0; n < image.data.length; n++) image.data[n] = n % 4 === 3 ? 255 : Math.random() * 256;
          context.putImageData(image, 0, 0);
          attachFile(await canvas.convertToBlob({{ type: 'image/png' }}), 'noise.png', 'image/png');
        }})()"""
    )
    page.until("document.querySelectorAll('#attached li').length === 1")


ATTACH = """
globalThis.attachFile = (part, name, type) => {
  const data = new DataTransfer();
  data.items.add(new File([part], name, { type }));
  dispatchEvent(new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
};
globalThis.hear = (type, more = {}) => sockets.at(-1).receive({ type, item_id: 'item_1', ...more });
"""


def items(page: Page, count: int) -> list[dict[str, Any]]:
    """The items that the newest session was sent, once there are so many."""
    page.until(f"items().length === {count}")
    found: list[dict[str, Any]] = page.js("items()")
    return found


def test_an_attached_image_goes_with_what_is_said(stub: Stub) -> None:
    page = stub.talk(ATTACH)
    paste(page, 64, 48)
    page.js("hear('input_audio_buffer.speech_started', {audio_start_ms: 0})")
    [item] = items(page, 1)
    assert item["role"] == "user" and item["content"][0]["type"] == "input_image" and item["content"][1:] == ALONE
    assert page.js("document.querySelectorAll('#attached li').length") == 0
    page.js("hear('input_audio_buffer.speech_stopped', {audio_end_ms: 2000}); hear('input_audio_buffer.committed')")
    page.js("hear('conversation.item.input_audio_transcription.completed', {transcript: 'What is it?'})")
    page.until("document.querySelector('.user img') && document.querySelector('.user .text').innerText")
    # The next talk is told both.
    page.click("#end-talk")
    assert page.js("document.querySelectorAll('#attached li').length") == 0
    page.click("#start")
    page.until("sockets.length === 2")
    [item] = items(page, 1)
    assert item["content"][1:] == [{"type": "input_text", "text": "What is it?"}]


def test_images_with_a_cough_stay_in_the_conversation(stub: Stub) -> None:
    page = stub.talk(ATTACH)
    paste(page, 64, 48)
    page.js("hear('input_audio_buffer.speech_started', {audio_start_ms: 0}); hear('input_audio_buffer.committed')")
    page.js("hear('conversation.item.input_audio_transcription.completed', {transcript: ''})")
    assert page.js("document.querySelectorAll('.user img').length") == 1


def test_images_come_back_if_the_talk_ends_before_the_turn_does(stub: Stub) -> None:
    page = stub.talk(ATTACH)
    paste(page, 64, 48)
    page.js("hear('input_audio_buffer.speech_started', {audio_start_ms: 0})")
    items(page, 1)
    page.click("#end-talk")
    page.until("document.querySelectorAll('#attached li').length === 1")


def test_push_to_talk_sends_the_image_before_the_words(stub: Stub) -> None:
    page = stub.talk(f"{ATTACH}; {PUSH}")
    paste(page, 1800, 1200)
    page.js("document.querySelector('#talk').focus()")
    page.key(" ", up=False)
    page.until("sockets[0].pieces > 10")
    page.key(" ", down=False)
    page.until("sockets[0].sent.some(event => event.type === 'response.create')")
    sent = page.js("sockets[0].sent.map(event => event.type)")
    assert sent[-3:] == ["conversation.item.create", "input_audio_buffer.commit", "response.create"]


def test_a_frame_of_the_camera_stays_alone(stub: Stub) -> None:
    page = stub.talk(ATTACH)
    page.click("#talk-camera")
    page.until("document.querySelector('#preview').videoWidth > 0")
    page.js("hear('input_audio_buffer.speech_started', {audio_start_ms: 0})")
    [item] = items(page, 1)
    assert [part["type"] for part in item["content"]] == ["input_image"]


def test_photos_of_a_talk_are_made_smaller(stub: Stub) -> None:
    """The server closes a connection that sends 24 MiB in one event."""
    page = stub.talk(ATTACH)
    paste(page, 1800, 1200)
    page.key("Enter") if page.js("document.activeElement.id") == "question" else page.click("#send")
    [item] = items(page, 1)
    page.until("sockets[0].sent.at(-1).type === 'response.create'")
    width = (
        "(async () => { const image = new Image(); image.src = items()[0].content[0].image_url; await image.decode();"
    )
    assert page.js(f"{width} return image.naturalWidth; }})()") == 1344 and item["content"][1:] == ALONE
    page.click("#end-talk")
    assert page.js("document.querySelector('.user img').naturalWidth") == 1800, "the conversation keeps it as it was"
    page.click("#start")
    page.until("sockets.length === 2")
    assert items(page, 1) == [item]


def test_files_that_are_too_large_together_are_refused_in_words(stub: Stub) -> None:
    page = stub.open(ATTACH)
    for n in (1, 2):
        page.js(f"attachFile(new Uint8Array(30 << 20), '{n}.mp4', 'video/mp4')")
        page.until(f"document.querySelectorAll('#attached li').length === {n}")
    page.click("#send")
    page.until("document.querySelector('#notice').textContent.includes('60 MB together; 45 MB can be sent')")
    assert page.js("asked.length") == 0 and page.js("document.querySelectorAll('.message').length") == 0
    assert page.js("document.querySelectorAll('#attached li').length") == 2
