"""A headless Chromium for tests, over its debugging pipe: no driver, no network, no port."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


class Browser:
    """`with Browser() as page: page.open(url); page.run("document.title")`. What the page logs or is refused is in
    `said`; what it asks for over the network, in `asked`."""

    def __init__(self, width: int = 1200, height: int = 900, dark: bool = False) -> None:
        self.size, self.dark = (width, height), dark
        self.said: list[str] = []
        self.asked: list[str] = []
        self._id, self._rest = 0, b""

    def __enter__(self) -> Browser:
        assert CHROMIUM is not None
        self._home = tempfile.TemporaryDirectory(prefix="selfimprove-chromium-", ignore_cleanup_errors=True)
        to_child, self._out = os.pipe()
        self._in, from_child = os.pipe()

        def connect() -> None:  # Chromium reads commands from 3 and answers on 4
            spare = [os.dup(to_child), os.dup(from_child)]
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
        command = [str(CHROMIUM), *options, "--remote-debugging-pipe", f"--user-data-dir={self._home.name}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(
            command, stdin=quiet, stdout=quiet, stderr=quiet, preexec_fn=connect, close_fds=False
        )
        os.close(to_child)
        os.close(from_child)
        target = self._send("Target.createTarget", {"url": "about:blank"}, session=None)["targetId"]
        attach = {"targetId": target, "flatten": True}
        self._session = self._send("Target.attachToTarget", attach, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        width, height = self.size
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **shape)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self.dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._home.cleanup()

    def open(self, url: str | Path) -> None:
        """Goes to an address, or a file, and waits for it to be loaded."""
        where = url.resolve().as_uri() if isinstance(url, Path) else url
        self.send("Page.navigate", url=where)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = 20) -> None:
        """Waits for an expression to be true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"never: {script}"
            time.sleep(0.05)

    def press(self, key: str, code: int) -> None:
        for kind in ("rawKeyDown", "char", "keyUp"):
            text = {"text": key} if kind == "char" and len(key) == 1 else {}
            if kind != "char" or text:
                self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        import base64

        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def send(self, method: str, **fields: Any) -> dict[str, Any]:
        return self._send(method, fields, self._session)

    def _send(self, method: str, fields: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": fields}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._heard(answer)

    def _heard(self, event: dict[str, Any]) -> None:
        fields = event.get("params", {})
        if event.get("method") == "Network.requestWillBeSent":
            self.asked.append(fields["request"]["url"])
        if event.get("method") == "Log.entryAdded":
            self.said.append(fields["entry"]["text"])
        if event.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(fields["exceptionDetails"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            some = os.read(self._in, 65536)
            assert some, "Chromium is gone"
            self._rest += some
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))
