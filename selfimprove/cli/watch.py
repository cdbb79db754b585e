"""`selfimprove watch`: a run's pages over HTTP, made again from its events while it goes on. It takes no lock."""

from __future__ import annotations

import base64
import errno
import hashlib
import html
import ipaddress
import json
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from selfimprove.errors import InputError, SelfImproveError

PORT = 8642
# What is served, and as what; nothing else is, whatever is asked for.
FILES = {
    "report.html": "text/html",
    "samples.html": "text/html",
    "recipe.yaml": "text/plain",
    "metrics.jsonl": "text/plain",
}
_POLICY = re.compile(r'(<meta http-equiv="Content-Security-Policy" content="[^"]*)"')


def watch(
    folder: Annotated[Path, typer.Argument(help="A run's folder; it may not have begun.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = PORT,
    host: Annotated[str, typer.Option(help="Who may look: by default this machine alone.")] = "127.0.0.1",
) -> None:
    """Serve a run's report and answers, and keep them fresh while it goes on. Ctrl-C ends it, and not the run."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a run's folder")
    try:
        with _server(Watched(folder), host, port) as server:
            print(f"http://{_shown(host)}:{server.server_address[1]}/  shows {folder}; Ctrl-C ends it", flush=True)
            threading.Thread(target=server.serve_forever, args=(0.2,), daemon=True).start()
            said = ""
            while True:
                if (state := server.watched.state()) != said:
                    print(f"{folder}: {_STATES[state]}", flush=True)
                said = state
                time.sleep(1)
    except KeyboardInterrupt:
        print(file=sys.stderr)  # after the ^C


class Watched:
    """A run's folder, with its pages made again when its events have changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._made: tuple[int, int] | None = None  # of which events
        self._read: tuple[int, int] | None = None
        self._done = False
        self._next = 0.0  # not before
        self._problem = ""

    def state(self) -> str:
        """`waiting`, `running`, `done`, or `stopped` before its end."""
        from selfimprove.report.events import read_events
        from selfimprove.runs.folder import Run

        if (stamp := self._stamp()) is None:
            return "waiting"
        if stamp != self._read:
            try:
                self._done = any(event["event"] == "done" for event in read_events(self._events()))
            except (SelfImproveError, OSError):  # set aside just now, or damaged, which the page says
                self._done = False
            self._read = stamp
        if self._done:
            return "done"
        return "running" if Run(self.folder).worker() is not None else "stopped"

    def fresh(self) -> dict[str, Any]:
        """Makes the pages where that is due: at once at a run's end, else so seldom that the run has the machine. Gives
        the state, and the version of the pages."""
        with self._lock:
            state, stamp = self.state(), self._stamp()
            due = time.monotonic() >= self._next or state in ("done", "stopped") or self._made is None
            if stamp is not None and stamp != self._made and due:
                began = time.monotonic()
                self._problem = self._make()
                self._made = stamp
                self._next = time.monotonic() + max(2.0, 10 * (time.monotonic() - began))
            return {"state": state, "said": _STATES[state], "version": f"{self._made} {state}"}

    def page(self, name: str) -> bytes | None:
        """The bytes of one of `FILES`, None where there is none."""
        now = self.fresh()
        path = self.folder / name
        inside = path.is_file() and path.resolve().is_relative_to(self.folder.resolve())
        if name == "report.html" and (self._problem or not inside or now["state"] == "waiting"):
            return _live(_plain(self._problem or f"{self.folder}: {now['said']}"), now).encode()
        if not inside:
            return None
        content = path.read_bytes()
        return _live(content.decode("utf-8", "replace"), now).encode() if name == "report.html" else content

    def _make(self) -> str:
        from selfimprove.report.page import write_report

        try:
            write_report(self.folder)
        except (SelfImproveError, OSError) as error:
            return str(error)
        return ""

    def _events(self) -> Path:
        return self.folder / "metrics.jsonl"

    def _stamp(self) -> tuple[int, int] | None:
        try:
            found = self._events().stat()
        except OSError:
            return None
        return found.st_size, found.st_mtime_ns


_STATES = {
    "waiting": "has not begun; waiting for it",
    "running": "goes on",
    "done": "is finished",
    "stopped": "is not finished, and nobody works on it",
}


def _live(page: str, now: dict[str, Any]) -> str:
    """The page with the script that follows the run, allowed by its hash; as it is where the run is over."""
    if now["state"] not in ("waiting", "running"):
        return page
    script = resources.files("selfimprove.report").joinpath("live.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"; script-src 'sha256-{digest}'; connect-src 'self'\""
    page = _POLICY.sub(lambda found: found[1] + allowed, page, count=1)
    version = html.escape(now["version"])
    refresh = '<noscript><meta http-equiv="refresh" content="10"></noscript></head>'
    page = page.replace("</head>", refresh, 1)
    head, _, rest = page.rpartition("</body>")
    return f'{head}<script data-version="{version}">{script}</script></body>{rest}'


def _plain(said: str) -> str:
    from selfimprove.report.text import visible

    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        "<title>selfimprove</title><style>:root { color-scheme: light dark } body { margin: 2rem; "
        f"font: 16px/1.5 system-ui, sans-serif }}</style></head>"
        f"<body><p>{html.escape(visible(said))}</p></body></html>\n"
    )


class _Server(ThreadingHTTPServer):
    watched: Watched
    names: frozenset[str]  # by which it may be asked for; empty: any

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "selfimprove", ""
    timeout = 30

    def do_GET(self) -> None:
        asked = self.path.partition("?")[0].removeprefix("/") or "report.html"
        # a page elsewhere whose name was turned to this machine may not read the run
        by = (urlsplit(f"//{self.headers.get('Host', '')}").hostname or "").lower()
        if self.server.names and by not in self.server.names:
            return self._answer(403, "text/plain", b"asked for by a name that is not this machine's\n")
        if asked == "state.json":
            return self._answer(200, "application/json", json.dumps(self.server.watched.fresh()).encode())
        content = self.server.watched.page(asked) if asked in FILES else None
        if content is None:
            return self._answer(404, "text/plain", b"not served: see / for the report\n")
        return self._answer(200, FILES[asked], content)

    do_HEAD = do_GET

    def _answer(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        headers = {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal says what the run does."""


def _server(watched: Watched, host: str, port: int) -> _Server:
    """A server that listens. InputError where it cannot, with what to do."""
    kind = type("_Server", (_Server,), {"address_family": socket.AF_INET6 if ":" in host else socket.AF_INET})
    try:
        server: _Server = kind((host, port), _Handler)
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise InputError(
                f"watch: port {port} is taken, perhaps by another watcher: give another one (`--port {port + 1}`; "
                "`--port 0` takes any that is free)"
            ) from error
        raise InputError(
            f"watch: cannot listen on {_shown(host)}, port {port} ({getattr(error, 'strerror', None) or error}): give "
            "a --host of this machine (127.0.0.1), and a --port above 1023"
        ) from error
    server.watched = watched
    server.names = frozenset({"localhost", "127.0.0.1", "::1"}) if _is_loopback(host) else frozenset()
    return server


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
