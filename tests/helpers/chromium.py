"""Headless Chromium over its DevTools protocol (a WebSocket, RFC 6455), with the standard library alone."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

LONGEST_S = 40.0
_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_OPTIONS = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--no-proxy-server", "--mute-audio", "--hide-scrollbars", "--ignore-certificate-errors",
)  # fmt: skip


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile in ``folder``; the test is skipped where there is none, or it does not start."""
    program = next((path for name in _NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("Chromium is not installed")
    sandbox = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    command = [program, *_OPTIONS, *sandbox, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    browser: Browser | None = None
    try:
        browser = Browser(_port(folder, process))
        yield browser
    finally:
        for tab in browser.tabs if browser is not None else ():
            tab.hang_up()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Browser:
    """`open` tabs of it."""

    def __init__(self, port: int) -> None:
        self._port, self.tabs = port, []

    def open(self, url: str = "about:blank", *, width: int = 1280, height: int = 900, dark: bool = False) -> Tab:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=LONGEST_S)
        connection.request("PUT", "/json/new?about:blank")
        target = json.loads(connection.getresponse().read())
        connection.close()
        tab = Tab(self._port, target["webSocketDebuggerUrl"].split(str(self._port), 1)[1])
        self.tabs.append(tab)
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            tab.call(f"{domain}.enable")
        tab.size(width, height)
        tab.scheme("dark" if dark else "light")
        if url != "about:blank":
            tab.go(url)
        return tab


class Tab:
    """One tab; ``events`` has everything that DevTools told of it."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), LONGEST_S)
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        self._socket.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._exactly(1)
        assert b" 101 " in head.split(b"\r\n")[0], head
        self._number, self.events = 0, []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command; its result."""
        self._number += 1
        self._send(json.dumps({"id": self._number, "method": method, "params": parameters}).encode())
        while True:
            message = json.loads(self._receive())
            if message.get("id") == self._number:
                assert "error" not in message, (method, message["error"])
                return message.get("result", {})
            self.events.append(message)

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def size(self, width: int, height: int) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def until(self, condition: str, seconds: float = LONGEST_S) -> Any:
        """Wait for a JavaScript expression to become true; its value."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(AssertionError):  # of a page that is being left
                if value := self.run(condition):
                    return value
            assert time.monotonic() < end, f"waited for {condition}; the page says: {self.text()}"
            time.sleep(0.05)

    def text(self) -> str:
        """What is to be read on the page."""
        return str(self.run("document.body ? document.body.innerText : ''"))

    def shows(self, identity: str) -> bool:
        return bool(self.run(f"(e => Boolean(e) && e.checkVisibility())(document.getElementById('{identity}'))"))

    def wait_for(self, identity: str) -> None:
        self.until(f"(e => Boolean(e) && e.checkVisibility())(document.getElementById('{identity}'))")

    def click(self, selector: str) -> None:
        """With the mouse, in the middle of what ``selector`` finds first."""
        script = (
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); "
            "e.scrollIntoView({block: 'center'}); "
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        x, y = self.run(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, code: int, *, text: str = "", modifiers: int = 0) -> None:
        """A key, e.g. ``Tab``, 9."""
        shared = {
            "key": key,
            "code": "Space" if key == " " else key,
            "windowsVirtualKeyCode": code,
            "modifiers": modifiers,
        }
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def give(self, *files: Path) -> None:
        """Choose files in the page's file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector="#file")["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])

    def drop(self, path: Path) -> None:
        """Drag a file onto the page and let it go."""
        x, y = self.run(
            "(() => { const r = document.getElementById('drop').getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def picture(self, path: Path, *, whole: bool = True) -> Path:
        """A screenshot as PNG."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))
        return path

    def requested(self) -> list[str]:
        """Every URL that was asked for."""
        self.run("0")  # so that what is under way has been told
        sent = (event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [parameters["request"]["url"] for parameters in sent]

    def complaints(self) -> list[str]:
        """What the browser found wrong: exceptions, violations of the policy."""
        self.run("0")
        texts = []
        for event in self.events:
            if event["method"] == "Runtime.exceptionThrown":
                texts.append(str(event["params"]["exceptionDetails"].get("exception", {}).get("description")))
            if event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                texts.append(event["params"]["entry"]["text"])
        return texts

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Page.close")
        self.hang_up()

    def hang_up(self) -> None:
        """Let go of the tab, which goes on."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        length = len(data)
        size = bytes([0x80 | length]) if length < 126 else (
            bytes([0x80 | 126]) + struct.pack(">H", length) if length < 65536 else bytes([0x80 | 127])
            + struct.pack(">Q", length)
        )  # fmt: skip
        mask = secrets.token_bytes(4)
        self._socket.sendall(b"\x81" + size + mask + bytes(b ^ mask[i % 4] for i, b in enumerate(data)))

    def _receive(self) -> bytes:
        message = b""
        while True:
            first, second = self._exactly(2)
            length = second & 127
            if length >= 126:
                length = int.from_bytes(self._exactly(2 if length == 126 else 8), "big")
            part = self._exactly(length)
            if first & 15 in (0, 1):
                message += part
                if first & 0x80:
                    return message

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            piece = self._socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("the browser has ended")
            data += piece
        return bytes(data)


def _port(folder: Path, process: subprocess.Popen[bytes]) -> int:
    """Where DevTools listens: Chromium writes it into its profile."""
    file, end = folder / "DevToolsActivePort", time.monotonic() + LONGEST_S
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(file.read_text().splitlines()[0])
        time.sleep(0.05)
    pytest.skip("Chromium is installed, and does not start here")
