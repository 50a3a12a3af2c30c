"""The page without a model: its files over HTTP, and a server of JavaScript in the page that tests steer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from tests.serve.web.chromium import Page
from vita.serve.page import HEADERS, INDEX, read_files

# `answer(body)` of chat completions can be replaced; `asked`, `sockets`, `streams` and `contexts` say what was opened.
SERVER = """
globalThis.asked = []; globalThis.sockets = []; globalThis.streams = []; globalThis.contexts = [];
globalThis.answer = (body) => ({ status: 200, text: `Answer ${asked.length}.` });
globalThis.fetch = async (path, options) => {
  const json = (value, status = 200) => new Response(JSON.stringify(value), { status });
  if (path === "v1/models") return json({ data: [{ id: "stub" }] });
  if (path === "v1/audio/voices") return json({ voices: [] });
  asked.push({ ...JSON.parse(options.body), headers: options.headers });
  const { status, text } = answer(asked.at(-1));
  if (status !== 200) return json({ error: { message: text } }, status);
  const chunk = { choices: [{ delta: { content: text }, finish_reason: "stop" }] };
  return new Response(`data: ${JSON.stringify(chunk)}\\n\\ndata: [DONE]\\n\\n`);
};
globalThis.WebSocket = class {
  static OPEN = 1;
  constructor() {
    Object.assign(this, { readyState: 1, bufferedAmount: 0, sent: [], pieces: 0 });
    sockets.push(this);
    setTimeout(() => this.receive({ type: "session.created" }), 10);
  }
  receive(event) { this.onmessage?.({ data: JSON.stringify(event) }); }
  send(text) {
    const event = JSON.parse(text);
    if (event.type === "input_audio_buffer.append") return void (this.pieces += 1);
    this.sent.push(event);
    if (event.type !== "session.update") return;
    setTimeout(() => this.receive({ type: "session.updated", session: { output_modalities: ["audio"] } }), 10);
  }
  close(reason = "") { this.readyState = 3; this.onclose?.({ reason }); }
};
if (globalThis.AudioContext) globalThis.AudioContext = class extends AudioContext {
  constructor(...given) { super(...given); contexts.push(this); }
};
if (navigator.mediaDevices) {
  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wish) => { streams.push(await open(wish)); return streams.at(-1); };
}
globalThis.items = () => sockets.at(-1).sent.filter((e) => e.type === "conversation.item.create").map((e) => e.item);
"""


class _Files(BaseHTTPRequestHandler):
    files = read_files()

    def do_GET(self) -> None:
        """The page, or one of its files."""
        name = INDEX if self.path == "/" else self.path.removeprefix("/static/")
        file = self.files.get(name)
        self.send_response(200 if file else 404)
        for header in (*HEADERS.items(), ("content-type", file.type if file else "text/plain")):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(file.body if file else b"")

    def log_message(self, *given: object) -> None:
        """Nothing."""


@contextmanager
def files_of_the_page() -> Iterator[str]:
    """The address of a server of the page's files."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Files) as server:
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


class Stub:
    """A tab with the page and its steered server.

    Args:
        page: the tab.
        url: of the page.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url
        self._scripts = [page.call("Page.addScriptToEvaluateOnNewDocument", source=SERVER)["identifier"]]

    def open(self, before: str = "") -> Page:
        """Load the page with nothing stored; `before` runs ahead of its modules."""
        page = self.page
        page.open(self.url)
        page.js("sessionStorage.clear(); localStorage.clear()")
        self._scripts += [page.call("Page.addScriptToEvaluateOnNewDocument", source=before)["identifier"]]
        page.open(self.url)
        page.until("document.querySelector('#model').textContent === 'stub'")
        return page

    def talk(self, before: str = "") -> Page:
        """Load the page and start a talk."""
        page = self.open(before)
        page.click("#start")
        page.until("['listening', 'idle'].includes(document.querySelector('#talk').dataset.state)")
        return page

    def close(self) -> None:
        """Take the scripts out again."""
        for script in self._scripts:
            self.page.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
