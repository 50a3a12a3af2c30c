"""Headless Chromium, driven over its DevTools protocol: pages, keys, files, themes, screenshots."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
VARIABLE = "VITA_CHROMIUM"
WAIT = 60.0  # seconds: machines that run tests are slow at times
KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), " ": ("Space", 32, " "), "Tab": ("Tab", 9, "")}


def find_chromium() -> str | None:
    """The program, named by `VITA_CHROMIUM` or found on the path."""
    named = os.environ.get(VARIABLE)
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Page:
    """One tab.

    Args:
        socket: DevTools, of the tab.

    Attributes:
        complaints: errors and warnings of the console, exceptions, violations of the content security policy.
        requests: URLs that were asked for.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "DOM", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command and its result."""
        self._last += 1
        self._socket.send(json.dumps({"id": self._last, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(timeout=WAIT))
            if message.get("id") == self._last:
                assert "error" not in message, f"{method}: {message.get('error')}"
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.complaints.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.complaints.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(str([arg.get("description", arg.get("value")) for arg in params["args"]]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def open(self, url: str) -> None:
        """Go to a page and wait until its modules have run."""
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.protocol !== 'about:'")

    def reload(self) -> None:
        """Load the page again."""
        self.js("globalThis.old = true")
        self.call("Page.reload")
        self.until("!globalThis.old && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression; promises are awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )  # fmt: skip
        assert "exceptionDetails" not in found, f"{expression}: {found['exceptionDetails']}"
        return found["result"].get("value")

    def until(self, condition: str, seconds: float = WAIT) -> Any:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            found = self.call("Runtime.evaluate", expression=condition, returnByValue=True)
            value = found["result"].get("value")
            if "exceptionDetails" not in found and value:
                return value
            assert time.monotonic() < end, f"{condition} is still {value!r}; {self.complaints}; {self.text('body')}"
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return str(self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def click(self, selector: str) -> None:
        """Click the middle of an element, with the mouse."""
        x, y = self._middle(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _middle(self, selector: str) -> tuple[float, float]:
        box = self.until(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); if (!e || e.disabled) return null;"
            " e.scrollIntoView({block: 'nearest'}); const b = e.getBoundingClientRect();"
            " return b.width ? [b.x + b.width / 2, b.y + b.height / 2] : null; })()"
        )
        return box[0], box[1]

    def type(self, text: str, into: str = "#question") -> None:
        """Put the focus on a field and type."""
        self.js(f"document.querySelector({json.dumps(into)}).focus()")
        self.call("Input.insertText", text=text)

    def key(self, name: str, *, down: bool = True, up: bool = True) -> None:
        """Press a key, release it, or both."""
        code, number, text = KEYS[name]
        common = {"key": name, "code": code, "windowsVirtualKeyCode": number}
        if down:
            self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        if up:
            self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def choose(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def look(self, *, width: int = 1200, height: int = 800, dark: bool = False, phone: bool = False) -> None:
        """Size of the window and theme."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self, file: Path) -> None:
        """A PNG of the window."""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(program: str, profile: Path, microphone: Path | None = None, *flags: str) -> Iterator[Page]:
    """A browser with one tab, a fake camera and a fake microphone.

    Args:
        program: Chromium.
        profile: a folder that is empty.
        microphone: WAV that it plays over and over; None: beeps.
        flags: further ones.
    """
    command = [
        program, "--headless=new", f"--user-data-dir={profile}", "--remote-debugging-port=0", "--no-first-run",
        "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--mute-audio",
        "--disable-background-networking", "--disable-component-update", "--autoplay-policy=no-user-gesture-required",
        "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", *flags,
    ]  # fmt: skip
    if microphone is not None:
        command.append(f"--use-file-for-fake-audio-capture={microphone}")
    environment = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    with (profile.parent / "chromium.log").open("wb") as log:
        process = subprocess.Popen([*command, "about:blank"], stdout=log, stderr=log, env=environment)
        try:
            url = _first_tab(process, profile)
            with connect(url, max_size=None, open_timeout=WAIT, compression=None) as socket:
                yield Page(socket)
        except ConnectionClosed as error:
            raise AssertionError("Chromium ended; see chromium.log") from error
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _first_tab(process: subprocess.Popen[bytes], profile: Path) -> str:
    """The DevTools address of the tab, once the browser listens."""
    import httpx

    port_file, end = profile / "DevToolsActivePort", time.monotonic() + WAIT
    while time.monotonic() < end:
        assert process.poll() is None, f"Chromium ended with {process.returncode}; see chromium.log"
        if port_file.is_file() and (lines := port_file.read_text().splitlines()):
            tabs = httpx.get(f"http://127.0.0.1:{lines[0]}/json/list", trust_env=False).json()
            found = [tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"]
            if found:
                return str(found[0])
        time.sleep(0.05)
    raise AssertionError("Chromium does not listen")
