"""`selfimprove watch`: the page follows a run, serves nothing else, and stands in no run's way."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from test_samples import a_run

from selfimprove.cli.watch import Watched
from selfimprove.report.events import EventLog
from selfimprove.runs.folder import Run

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@contextmanager
def watcher(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The command and its port; ended by Ctrl-C, quietly."""
    command = [sys.executable, "-m", "selfimprove", "watch", str(folder), *(options or ("--port", "0"))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    try:
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:") and line.endswith("Ctrl-C ends it\n"), process.stderr.read()
        yield process, int(line.split("/")[2].rpartition(":")[2])
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read().strip() == ""
    finally:
        process.kill()
        process.wait()


def get(port: int, path: str, host: str = "127.0.0.1", method: str = "GET") -> tuple[int, str]:
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    line.putrequest(method, path, skip_host=True)
    line.putheader("Host", host)
    line.endheaders()
    answer = line.getresponse()
    return answer.status, answer.read().decode()


def test_a_finished_run_is_shown_as_its_files_are(tmp_path: Path) -> None:
    a_run(tmp_path, items=3)
    (tmp_path / "report.html").unlink()
    with watcher(tmp_path) as (process, port):
        assert process.stdout is not None and process.stdout.readline().endswith("is finished\n")
        status, page = get(port, "/")
        assert status == 200 and page == (tmp_path / "report.html").read_text() and "<script" not in page
        assert get(port, "/samples.html") == (200, (tmp_path / "samples.html").read_text())
        assert get(port, "/report.html?x=1")[0] == 200 and get(port, "/report.html", method="HEAD") == (200, "")
        assert json.loads(get(port, "/state.json")[1])["state"] == "done"
        assert get(port, "/", method="POST")[0] == 501


def test_nothing_else_is_served(tmp_path: Path) -> None:
    folder, secret = tmp_path / "run", tmp_path / "secret.html"
    a_run(folder, items=3)
    secret.write_text("secret")
    (folder / "lock").write_text("secret")
    (folder / "recipe.yaml").symlink_to(secret)
    names = ["lock", "samples", "../secret.html", "steps/../report.html", "etc/passwd"]
    paths = [f"/{name}" for name in ("..", *names[:4])] + [f"//{name}" for name in names]
    paths += ["/%2e%2e/secret.html", "/..%2fsecret.html", "/report.html/", "/./report.html", "/report.html%00", "/%00"]
    paths += [str(secret), f"file://{secret}", "/recipe.yaml", "/\\..\\secret.html", "*", "/" + "a" * 5000]
    with watcher(folder) as (_, port):
        for path in paths:
            status, said = get(port, path)
            assert (status, "secret" in said) == (404, False), path
        assert get(port, "/metrics.jsonl")[0] == 200
        assert get(port, "/", host=f"127.0.0.1:{port}")[0] == get(port, "/", host="LOCALHOST:1")[0] == 200
        for host in ("evil.example", "", "127.0.0.1.evil.example", "[::2]:1"):
            assert get(port, "/", host=host)[0] == 403, host


def test_a_taken_port_and_a_wrong_host_are_said_with_what_to_do(tmp_path: Path) -> None:
    with watcher(tmp_path) as (_, port), watcher(tmp_path) as (_, other):
        assert port != other, "two watchers are fine"
        command = [sys.executable, "-m", "selfimprove", "watch"]
        for options, said in (
            ([str(tmp_path), "--port", str(port)], f"error: watch: port {port} is taken, perhaps by another watcher"),
            ([str(tmp_path), "--host", "203.0.113.7"], "error: watch: cannot listen on 203.0.113.7, port 8642"),
            ([__file__], f"error: {__file__}: is a file; give a run's folder"),
        ):
            done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
            assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith(said), done.stderr
            assert len(done.stderr.splitlines()) == 1


@needs_chromium
def test_the_page_waits_follows_keeps_its_place_and_stops(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with watcher(folder) as (process, port), Browser(600, 500) as page:
        assert process.stdout is not None and process.stdout.readline().endswith("has not begun; waiting for it\n")
        page.open(f"http://127.0.0.1:{port}/")
        assert "has not begun" in page.run("document.body.innerText")
        assert not folder.exists(), "a watcher makes nothing"
        with Run(folder).locked(), EventLog(folder) as log:
            log.emit("run", "r", name="mine", method="sft", recipe={"rows": list(range(300))})
            page.until("document.querySelector('h1')?.textContent === 'mine'", 60)
            page.run("document.querySelector('details').open = true; window.mine = 1; window.scrollTo(0, 333)")
            log.emit("note", "n", text="x")
            log.emit("evaluation", "e", suite="sums", policy="M0", metric="accuracy", value=0.5, n=2, values=[1.0, 0.0])
            page.until("document.body.innerText.includes('sums')", 60)
            assert page.run("window.mine === 1 && document.querySelector('details').open")
            assert page.run("window.scrollY") == 333
            assert "goes on; seen" in page.run("document.querySelector('p[role=status]').textContent")
            log.emit("done", "d", policy="M0", seconds=3.0)
            page.until("document.body.innerText.includes('finished in 3.0 s')", 60)
        page.until("document.querySelector('p[role=status]').textContent.startsWith('is finished')")
        asked = len(page.asked)
        time.sleep(3)
        page.run("1")
        assert len(page.asked) == asked and page.said == []


def test_a_run_is_told_from_its_process_and_its_lock_is_left_alone(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    assert watched.state() == "waiting"
    run = Run(tmp_path)
    assert run.worker() is None
    with run.locked(), EventLog(tmp_path) as log:
        log.emit("run", "r", name="mine")
        assert run.worker() == os.getpid() and watched.state() == "running"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for held in (str(gone.pid), "", "x", "-1"):
        (tmp_path / "lock").write_text(held)
        assert run.worker() is None and watched.state() == "stopped"
    (tmp_path / "lock").write_text(str(os.getpid()))
    os.utime(tmp_path / "lock", (0, 0))
    assert run.worker() is None, "this process is younger than the lock: it only has its number"
    handle = (tmp_path / "lock").open()
    before = Path("/proc/locks").read_text().count(str(os.fstat(handle.fileno()).st_ino))
    for _ in range(100):
        watched.fresh()
    assert Path("/proc/locks").read_text().count(str(os.fstat(handle.fileno()).st_ino)) == before
    with EventLog(tmp_path) as log:
        log.emit("done", "d", policy="M0")
    assert watched.state() == "done"


def test_events_that_cannot_be_read_are_said_on_the_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('<img src=x>\n{"event": "run"}\n')
    page = Watched(tmp_path).page("report.html")
    assert page is not None and b"line 1: not an event" in page and b"<img" not in page
