"""A judge behind a server that does everything wrong, over real sockets: what is asked, kept, and missing."""

from __future__ import annotations

import json
import math
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from selfimprove.artefacts import write_json, write_rows
from selfimprove.cli import app as cli
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import Judge, _require_same_model
from selfimprove.judging.chat_server import ChatServer
from selfimprove.judging.pairwise import label_preference
from selfimprove.judging.rubric import load_rubric
from selfimprove.models.chat import Message
from selfimprove.models.journal import Journal
from selfimprove.models.server import Server
from selfimprove.recipe.judges import Reader
from selfimprove.recipe.sections import ServerOptions

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the openai client")

KEY = "sk-very-secret-0123456789"
NAMES = [f"q{number:02d}" for number in range(12)]
TOKENS = (7, 1)  # what the server counts, of each question


def turns(text: str) -> list[Message]:
    return [{"role": "system", "content": "You judge."}, {"role": "user", "content": text}]


def answer(
    text: Any = "m", log_probs: dict[Any, Any] | None = None, model: str = "judge-1", **message: Any
) -> dict[str, Any]:
    """A good answer; without `log_probs` the server gives none."""
    listed = [{"token": token, "logprob": value, "bytes": None} for token, value in (log_probs or {}).items()]
    return {
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text, **message},
                "logprobs": {"content": [{"token": text, "logprob": -0.1, "top_logprobs": listed}]} if listed else None,
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1], "total_tokens": sum(TOKENS)},
    }


def weighted(p: float) -> dict[str, float]:
    """Log-probs of a judge that prefers `m` with probability p, beside another token of probability one half."""
    return {"m": math.log(p / 2), "M": math.log((1 - p) / 2), "The": math.log(0.5)}


DROP = "the connection is closed after half of this"


class Loopback:
    """A server on a real socket. `reply(body, question, nth)` may give an answer, or (status, headers, content), for
    the nth time (from 0) that this question is asked; None is the default, `m` with probability 0.75."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], str, int], Any] = lambda body, question, nth: None
        self.bodies: list[dict[str, Any]] = []
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.looked = 0
        self.models: tuple[int, Any] = (200, {"data": [{"id": "judge"}]})
        self.keys: set[str | None] = set()
        self.now = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def say(self, status: int, headers: dict[str, str], content: Any) -> None:
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data) * (2 if content == DROP else 1)))
                self.end_headers()
                self.wfile.write(data)
                self.close_connection = content == DROP

            def do_GET(self) -> None:
                outer.looked += 1
                self.say(outer.models[0], {}, outer.models[1])

            def do_POST(self) -> None:
                try:
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                except ValueError:  # the client has given up half-way
                    return
                assert self.path == "/v1/chat/completions"
                question = body["messages"][-1]["content"]
                with outer._lock:
                    nth = outer.asked.count(question)
                    outer.keys.add(self.headers["Authorization"])
                    outer.asked.append(question)
                    outer.bodies.append(body)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    given = outer.reply(body, question, nth)
                    if given is None:
                        given = answer("m", weighted(0.75) if body.get("logprobs") else None)
                    status, headers, content = given if isinstance(given, tuple) else (200, {}, given)
                    self.say(status, headers, content)
                    if given is content:
                        outer.answered.append(question)
                except OSError:
                    pass  # the client went away
                finally:
                    with outer._lock:
                        outer.now -= 1

        class Http(ThreadingHTTPServer):
            request_queue_size = 64  # of 5, some of 16 connections at once would be refused

        self.http = Http(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def stop(self) -> None:
        self.http.shutdown()
        self.http.server_close()

    def judge(
        self, journal: Path | None = None, new_tokens: int = 1, log_probs: int = 20, **options: Any
    ) -> ChatServer:
        options = {"retries": 0, "timeout_s": 10.0} | options
        server = Server(self.url, "judge", where="judge.server", **options)
        return ChatServer(server, new_tokens, log_probs, Journal(journal))

    def ask(self, names: Sequence[str] = NAMES, journal: Path | None = None, **options: Any) -> list[dict[str, Any]]:
        return ask(self.judge(journal, **options), names)


def ask(judge: ChatServer, names: Sequence[str] = NAMES) -> list[dict[str, Any]]:
    told: list[int] = []
    rows = judge.ask([turns(name) for name in names], told.append)
    assert sum(told) == len(names)
    return rows


def preferences(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    return [label_preference(row["text"], json.loads(row["log_probs"] or "null"))[0] for row in rows]


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    server = Loopback()
    yield server
    server.stop()


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ---- what goes well


def test_rows_come_in_the_order_of_the_questions(loopback: Loopback) -> None:
    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        time.sleep(0.02 * (12 - int(question[1:])))  # the later ones are answered first
        return answer(question)

    loopback.reply = reply
    rows = loopback.ask(new_tokens=5)
    assert [row["text"] for row in rows] == NAMES
    assert {row["model"] for row in rows} == {"judge-1"} and {row["missing"] for row in rows} == {None}
    assert {(row["input_tokens"], row["output_tokens"]) for row in rows} == {TOKENS}
    assert loopback.answered != NAMES and sorted(loopback.asked) == NAMES


def test_what_is_asked(loopback: Loopback) -> None:
    loopback.ask(["hello"], log_probs=0, new_tokens=9)
    loopback.ask(["hello"])
    plain = {"model": "judge", "messages": turns("hello"), "temperature": 0.0}
    assert loopback.bodies == [
        {**plain, "max_tokens": 9},
        {**plain, "max_tokens": 1, "logprobs": True, "top_logprobs": 20},
    ]


def test_the_concurrency_is_used_and_bounded(loopback: Loopback) -> None:
    loopback.reply = lambda body, question, nth: time.sleep(0.2)
    begun = time.monotonic()
    loopback.ask(concurrency=4)
    assert loopback.most == 4
    assert time.monotonic() - begun < 12 * 0.2  # the first alone, then three waves
    loopback.most = 0
    loopback.ask(NAMES[:3], concurrency=1)
    assert loopback.most == 1


def test_the_preference_is_weighted(loopback: Loopback) -> None:
    p = {name: (1 + place) / 14 for place, name in enumerate(NAMES)}
    loopback.reply = lambda body, question, nth: answer("The", weighted(p[question]))
    assert preferences(loopback.ask()) == pytest.approx([p[name] for name in NAMES])


def test_equal_questions_are_asked_once(loopback: Loopback) -> None:
    rows = loopback.ask(["a", "b", "a", "a"])
    assert sorted(loopback.asked) == ["a", "b"] and rows[0] == rows[2] == rows[3]


def test_an_enormous_question_and_an_enormous_answer(loopback: Loopback, journal: Path) -> None:
    loopback.reply = lambda body, question, nth: answer("x" * 2_000_000)
    rows = loopback.ask(["q" * 500_000, ""], journal)
    assert [len(row["text"]) for row in rows] == [2_000_000] * 2
    assert loopback.ask(["q" * 500_000, ""], journal) == rows and len(loopback.asked) == 2


# ---- servers that know less, or other words


def refusing(*rules: tuple[Callable[[dict[str, Any]], bool], str], status: int = 400) -> Any:
    """A server that refuses bodies by these rules, in these words."""

    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        said = next((words for rule, words in rules if rule(body)), None)
        return None if said is None else (status, {}, {"error": {"message": said, "type": "invalid_request_error"}})

    return reply


NO_LOG_PROBS = (lambda body: "logprobs" in body or "top_logprobs" in body, "logprobs is not supported by this model")
NO_MAX_TOKENS = (
    lambda body: "max_tokens" in body,
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
)
NO_TEMPERATURE = (
    lambda body: "temperature" in body,
    "Unsupported value: 'temperature' does not support 0.0 with this model. Only the default (1) value is supported.",
)


def test_a_server_that_ignores_log_probs_is_read_by_what_it_writes(loopback: Loopback) -> None:
    loopback.reply = lambda body, question, nth: answer({"q00": "M", "q01": '"m"', "q02": "either"}.get(question, "m"))
    assert preferences(loopback.ask()) == [0.0, 1.0, None, *[1.0] * 9]


@pytest.mark.parametrize(
    ("rules", "extra", "last"),
    [
        ([NO_LOG_PROBS], 1, {"max_tokens": 1, "temperature": 0.0}),
        (
            [NO_MAX_TOKENS],
            1,
            {"max_completion_tokens": 1, "temperature": 0.0, "logprobs": True, "top_logprobs": 20},
        ),
        ([NO_TEMPERATURE], 1, {"max_tokens": 1, "logprobs": True, "top_logprobs": 20}),
        ([NO_TEMPERATURE, NO_MAX_TOKENS, NO_LOG_PROBS], 3, {"max_completion_tokens": 1}),
    ],
)
def test_an_option_that_is_refused_by_name_is_given_up_once(
    loopback: Loopback, rules: Any, extra: int, last: dict[str, Any]
) -> None:
    loopback.reply = refusing(*rules)
    rows = loopback.ask()
    assert {row["missing"] for row in rows} == {None} and len(loopback.asked) == 12 + extra
    wanted = {"model": "judge", **last}
    assert all({k: v for k, v in body.items() if k != "messages"} == wanted for body in loopback.bodies[extra:])
    assert preferences(rows) == pytest.approx([0.75 if "logprobs" in last else 1.0] * 12)


@pytest.mark.parametrize(
    "said",
    [
        "Requested sample logprobs of 20, which is greater than max allowed: 5",
        "Invalid value for 'top_logprobs': must be less than or equal to 5.",
    ],
)
def test_fewer_log_probs_are_better_than_none(loopback: Loopback, said: str) -> None:
    loopback.reply = refusing((lambda body: body.get("top_logprobs", 0) > 5, said), status=422)
    assert preferences(loopback.ask()) == pytest.approx([0.75] * 12)
    assert [body["top_logprobs"] for body in loopback.bodies] == [20] + [5] * 12


def test_a_refusal_that_quotes_the_question_gives_no_option_up(loopback: Loopback) -> None:
    name = "what temperature do logprobs have"
    too_long = (400, {}, {"error": {"message": f"too long: {name}"}})
    loopback.reply = lambda body, question, nth: too_long if question == name else None
    for names in ([*NAMES, name], [name, *NAMES]):
        loopback.bodies.clear()
        rows = loopback.ask(names)
        assert [row["text"] for row in rows if row["missing"]] == [""]
        answered = [body for body in loopback.bodies if body["messages"][-1]["content"] != name]
        assert all(body["temperature"] == 0.0 and body["top_logprobs"] == 20 for body in answered)


# ---- nonsense

HTML = "<html>\n<h1>Welcome to the hotel</h1></html>"
GARBLED: dict[str, Any] = {
    "html": (200, {"Content-Type": "text/html"}, HTML),
    "html as json": (200, {}, HTML),
    "truncated": (200, {}, json.dumps(answer())[:60]),
    "empty": (200, {}, ""),
    "a list": (200, {}, [1, 2]),
    "null": (200, {}, "null"),
    "no choices": (200, {}, {**answer(), "choices": []}),
    "choices null": (200, {}, {**answer(), "choices": None}),
    "an error with 200": (200, {}, {"error": {"message": "overloaded"}}),
    "message null": (200, {}, {**answer(), "choices": [{"index": 0, "message": None}]}),
    "dropped": (200, {}, DROP),
    "500": (500, {}, "boom"),
    "503": (503, {}, {"detail": "busy"}),
    "409": (409, {}, {}),
}


def test_an_answer_that_is_none_is_asked_for_again(loopback: Loopback) -> None:
    loopback.reply = lambda body, question, nth: GARBLED.get(question) if nth == 0 else None
    rows = loopback.ask(["fine", *GARBLED], retries=1)
    assert preferences(rows) == pytest.approx([0.75] * len(rows))
    assert sorted(loopback.asked) == sorted(["fine", *GARBLED, *GARBLED])


LISTED: list[tuple[dict[str, Any], float]] = [
    ({"m": float("nan"), "M": -0.1}, 1.0),
    ({"m": -0.5, "M": float("inf")}, 1.0),
    ({"m": 5.0, "M": -0.1}, 1.0),
    ({"m": "many", "M": -0.1}, 1.0),
    ({"m": None, "M": -0.1}, 1.0),
    ({"m": 10**400, "M": -0.1}, 1.0),
    ({"m": float("-inf"), "M": -0.1}, 0.0),
    ({"m": -9999.0, "M": -0.1}, 0.0),
    ({"The": -0.1, "A": -3.0}, 1.0),
    ({" m": -1.0, " M": -1.0}, 0.5),
    ({"\ud800": -0.5, "M": -1.0}, 0.0),
]


def test_log_probs_that_are_none(loopback: Loopback, journal: Path) -> None:
    """One number that is no log-prob, and none of the list is believed: what was written counts."""
    loopback.reply = lambda body, question, nth: answer("m", LISTED[int(question)][0])
    names = [str(place) for place in range(len(LISTED))]
    rows = loopback.ask(names, journal)
    assert preferences(rows) == [preference for _, preference in LISTED]
    assert loopback.ask(names, journal) == rows and len(loopback.asked) == len(names)


def test_log_probs_of_another_shape(loopback: Loopback) -> None:
    shapes: list[Any] = [[], "none", {"content": None}, {"content": []}, {"content": [{"token": "m"}]}, 5]
    shapes += [{"content": [{"top_logprobs": given}]} for given in ([1], [], None)]
    shapes += [{"tokens": ["m"], "top_logprobs": [{"m": -0.1}]}]

    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        good = answer("M")
        good["choices"][0]["logprobs"] = shapes[int(question)]
        return good

    loopback.reply = reply
    assert preferences(loopback.ask([str(place) for place in range(len(shapes))])) == [0.0] * len(shapes)


def test_a_token_that_is_listed_twice_counts_as_the_likelier(loopback: Loopback) -> None:
    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        good = answer("m", {"m": -1.0, "M": -1.0})
        good["choices"][0]["logprobs"]["content"][0]["top_logprobs"].append({"token": "m", "logprob": -9999.0})
        return good

    loopback.reply = reply
    assert preferences(loopback.ask(["q"])) == [0.5]


def test_an_answer_without_a_readable_text(loopback: Loopback, journal: Path, tmp_path: Path) -> None:
    texts = [None, ["m"], 5, "half \ud83d of it\x00"]
    loopback.reply = lambda body, question, nth: answer(texts[int(question)])
    rows = loopback.ask(["0", "1", "2", "3"], journal)
    assert [row["text"] for row in rows] == ["", "", "", "half ? of it\x00"]
    assert preferences(rows) == [None] * 4  # and not asked again: these are answers, and paid for
    assert {(row["missing"], row["input_tokens"]) for row in rows} == {(None, 7)}
    write_rows(tmp_path / "rows.arrow", rows)


def test_usage_that_is_none_counts_nothing(loopback: Loopback, tmp_path: Path) -> None:
    given = [None, [], "7", *({"prompt_tokens": count} for count in (-1, "7", 10**30, 1.5, True))]
    loopback.reply = lambda body, question, nth: {**answer(), "usage": given[int(question)]}
    rows = loopback.ask([str(place) for place in range(len(given))])
    assert {(row["input_tokens"], row["output_tokens"]) for row in rows} == {(0, 0)}
    write_rows(tmp_path / "rows.arrow", rows)


# ---- what may pass


def test_retry_after_is_waited_for(loopback: Loopback) -> None:
    slow = (429, {"Retry-After": "1"}, {"error": {"message": "slow down"}})
    loopback.reply = lambda body, question, nth: slow if (question, nth) == ("q00", 0) else None
    begun = time.monotonic()
    assert preferences(loopback.ask(retries=1)) == pytest.approx([0.75] * 12)
    assert time.monotonic() - begun >= 1 and len(loopback.asked) == 13


def failing(*names: str, reply: Any = (500, {}, {"error": {"message": "boom 17"}})) -> Any:
    return lambda body, question, nth: reply if question in names else None


@pytest.mark.parametrize("bad", ["q00", "q05", "q11"])
def test_a_question_that_fails_in_two_starts_is_missing(loopback: Loopback, journal: Path, bad: str) -> None:
    loopback.reply = failing(bad)
    with pytest.raises(RunFailed, match=r"500: boom 17; 11 of 12 .*only the others are asked again.*fails again"):
        loopback.ask(journal=journal)
    assert sorted(loopback.answered) == sorted(set(NAMES) - {bad})
    loopback.asked.clear()
    rows = loopback.ask(journal=journal)
    assert loopback.asked == [bad]
    assert {row["missing"] for row in rows} == {None, "the server gave no answer (500): boom ..."}
    assert [row["missing"] is None for row in rows] == [name != bad for name in NAMES]


def test_a_question_that_comes_right_in_the_second_start(loopback: Loopback, journal: Path) -> None:
    loopback.reply = lambda body, question, nth: GARBLED["html"] if (question, nth) == ("q03", 0) else None
    with pytest.raises(RunFailed, match="without choices: <html>"):
        loopback.ask(journal=journal)
    assert preferences(loopback.ask(journal=journal)) == pytest.approx([0.75] * 12)
    assert loopback.asked[12:] == ["q03"]


def test_a_slow_question(loopback: Loopback, journal: Path) -> None:
    loopback.reply = lambda body, question, nth: time.sleep(4) if question == "q04" else None
    with pytest.raises(RunFailed, match=r"did not answer within 1\.5 s; 11 of 12"):
        loopback.ask(journal=journal, timeout_s=1.5, concurrency=2)
    rows = loopback.ask(journal=journal, timeout_s=1.5)
    assert rows[4]["missing"] == "the server gave no answer: did not answer within ... s"
    assert loopback.asked.count("q04") == 2 and len(loopback.asked) == 13


def test_a_server_that_drips_does_not_hold_it_for_ever(loopback: Loopback) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def drip() -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n")
            try:
                while time.monotonic() < until:
                    connection.sendall(b" ")
                    time.sleep(0.1)
            except OSError:
                pass
            connection.close()

    threading.Thread(target=drip, daemon=True).start()
    loopback.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    begun = time.monotonic()
    with pytest.raises(RunFailed, match=r"did not answer within 0\.5 s"):
        loopback.ask(timeout_s=0.5)
    assert time.monotonic() - begun < 5


def test_more_than_a_tenth_without_an_answer_ends_it(loopback: Loopback, journal: Path) -> None:
    bad = {"q05", "q06", "q07"}
    loopback.reply = failing(*bad)
    for _ in range(3):  # more often than one question may fail
        with pytest.raises(RunFailed, match="boom"):
            loopback.ask(journal=journal, concurrency=2)
    good = set(NAMES) - bad
    assert sorted(loopback.answered) == sorted(good)  # each once, whatever the order
    loopback.reply = lambda body, question, nth: None
    loopback.asked.clear()
    assert preferences(loopback.ask(journal=journal)) == pytest.approx([0.75] * 12)
    assert set(loopback.asked) == bad and len(loopback.asked) == 3


def test_failing_questions_do_not_keep_the_others_from_being_asked(loopback: Loopback, journal: Path) -> None:
    loopback.reply = failing("q00", "q01", "q02")
    with pytest.raises(RunFailed):
        loopback.ask(journal=journal, concurrency=1)
    with pytest.raises(RunFailed):
        loopback.ask(journal=journal, concurrency=1)
    assert set(loopback.answered) == set(NAMES[3:]) and len(loopback.answered) == 9


def test_a_server_that_always_fails_is_left_soon(loopback: Loopback, journal: Path) -> None:
    names = [f"q{number}" for number in range(100)]
    loopback.reply = failing(*names)
    for _ in range(2):
        with pytest.raises(RunFailed, match="500: boom 17; 0 of 100 questions are answered"):
            loopback.ask(names, journal, concurrency=2)
    assert len(loopback.asked) <= 2 * 4
    for _ in range(3):  # nothing shows that it can answer at all
        with pytest.raises(RunFailed, match="0 of 1 questions"):
            loopback.ask(["q0"], journal)


def test_a_rate_limit_is_never_the_questions_fault(loopback: Loopback, journal: Path) -> None:
    loopback.reply = failing("q11", reply=(429, {}, {"error": {"message": "quota"}}))
    for _ in range(3):
        with pytest.raises(RunFailed, match=r"429: quota; 11 of 12 .*lower judge\.server\.concurrency, or wait"):
            loopback.ask(journal=journal)
    loopback.reply = lambda body, question, nth: None
    assert preferences(loopback.ask(journal=journal)) == pytest.approx([0.75] * 12)


@pytest.mark.parametrize("way", ["down", "unavailable"])
def test_a_server_that_is_gone_makes_nothing_missing(loopback: Loopback, journal: Path, way: str) -> None:
    loopback.reply = failing("q11")
    with pytest.raises(RunFailed):
        loopback.ask(journal=journal)
    url = loopback.url
    for _ in range(2):
        if way == "down":
            loopback.url = f"http://127.0.0.1:{free_port()}/v1"
        else:
            loopback.reply, loopback.models = failing("q11", reply=(503, {}, "no")), (503, "no")
        with pytest.raises(RunFailed, match="11 of 12"):
            loopback.ask(journal=journal)
    loopback.url, loopback.reply, loopback.models = url, lambda body, question, nth: None, (200, {})
    assert preferences(loopback.ask(journal=journal)) == pytest.approx([0.75] * 12)


def test_a_server_that_is_down_is_said_promptly(loopback: Loopback) -> None:
    loopback.url = f"http://127.0.0.1:{free_port()}/v1"
    begun = time.monotonic()
    with pytest.raises(RunFailed, match=f"{loopback.url} cannot be reached .*0 of 12.*whether it runs.*base_url"):
        loopback.ask(retries=1)
    assert time.monotonic() - begun < 3


def test_a_server_that_never_answers(loopback: Loopback) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        loopback.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        begun = time.monotonic()
        with pytest.raises(RunFailed, match=r"did not answer within 0\.3 s; 0 of 12.*timeout_s"):
            loopback.ask(timeout_s=0.3, retries=1)
        assert time.monotonic() - begun < 4


# ---- what will not pass


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "api_key_env"), (403, "api_key_env"), (404, "base_url .*and model"), (402, "log")]
)
def test_no_leave_to_ask_ends_it_at_once(loopback: Loopback, journal: Path, status: int, advice: str) -> None:
    loopback.reply = lambda body, question, nth: (status, {}, {"error": {"message": "no such luck"}})
    with pytest.raises(InputError, match=f"answered {status}: no such luck; 0 of 12.*{advice}"):
        loopback.ask(journal=journal, retries=3)
    assert loopback.asked == ["q00"]
    loopback.reply = lambda body, question, nth: (status, {}, {}) if len(loopback.asked) == 5 else None
    with pytest.raises(RunFailed, match=f"answered {status}: .*3 of 12 questions are answered and kept in {journal}"):
        loopback.ask(journal=journal, retries=3, concurrency=1)
    loopback.reply = lambda body, question, nth: None
    loopback.asked.clear()
    loopback.ask(journal=journal)
    assert sorted(loopback.asked) == NAMES[3:]


def too_long(*names: str) -> Any:
    """Every refusal in other numbers."""

    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        said = f"This model's maximum context length is 4096 tokens. However, you requested 50{question[1:]} tokens."
        return (400, {}, {"error": {"message": said}}) if question in names else None

    return reply


def test_questions_that_are_too_long_are_missing_for_one_reason(loopback: Loopback, journal: Path) -> None:
    long = ["q00", "q03", "q04", "q11"]
    loopback.reply = too_long(*long)
    rows = loopback.ask(journal=journal)
    assert [name for name, row in zip(NAMES, rows, strict=True) if row["missing"]] == long
    reason = "the server refused it (400): This model's maximum context length is ... tokens. However, you requested"
    assert {row["missing"] for row in rows} == {None, f"{reason} ... tokens."}
    assert len(loopback.asked) == 12


def test_a_server_that_refuses_everything_is_found_out_soon(loopback: Loopback, journal: Path) -> None:
    names = [f"q{number:03d}" for number in range(805)]
    loopback.reply = too_long(*names)
    with pytest.raises(InputError, match=r"answered 400: This model's .*0 of 805.*knows the model 'judge'"):
        loopback.ask(names, journal)
    assert len(loopback.asked) == 8
    with pytest.raises(InputError, match="0 of 5"):
        loopback.ask(names[:5], journal)
    loopback.reply = lambda body, question, nth: None
    assert {row["missing"] for row in loopback.ask(names[:40], journal)} == {None}  # no refusal was kept


def test_another_models_answers_stop_it(loopback: Loopback, journal: Path) -> None:
    loopback.reply = lambda body, question, nth: answer(model="other-2" if len(loopback.asked) > 4 else "judge-1")
    with pytest.raises(RunFailed, match=r"as model other-2 and not as judge-1.*`version`.*4 of 12"):
        loopback.ask(journal=journal, concurrency=1)
    with pytest.raises(RunFailed, match="as model other-2 and not as judge-1"):  # a restart in between changes nothing
        loopback.ask(journal=journal)
    assert len(journal.read_text().splitlines()) == 4


# ---- what is kept


def test_nothing_that_was_answered_is_asked_again(loopback: Loopback, journal: Path) -> None:
    rows = loopback.ask(journal=journal)
    assert loopback.ask(journal=journal) == rows and len(loopback.asked) == 12
    loopback.ask([*NAMES, "another"], journal)
    assert loopback.asked[12:] == ["another"]
    loopback.ask(["q00"], journal, new_tokens=2)  # another question, though in the same words
    assert loopback.asked[13:] == ["q00"]


def step_folder(folder: Path, server: dict[str, Any], names: Sequence[str] = NAMES) -> Path:
    """A step for `python -m selfimprove.steps.worker`, as the loop makes it."""
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    rows = [{"prompt_id": name, "messages": json.dumps(turns(name))} for name in names]
    write_rows(folder / "inputs" / "questions.arrow", rows)
    task = {"step": "ask_server", "options": {"max_new_tokens": 1, "log_probs": 5}, "execution": {"server": server}}
    write_json(folder / "step.json", {**task, "shard_groups": 256})
    return folder


def started(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "selfimprove.steps.worker", str(folder), "0"],
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )


def wait_until(ready: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < until
        time.sleep(0.02)


def journaled(folder: Path) -> list[str]:
    path = folder / "journal.jsonl"
    return path.read_text().splitlines() if path.is_file() else []


def test_a_killed_process_has_lost_nothing(loopback: Loopback, tmp_path: Path) -> None:
    loopback.reply = lambda body, question, nth: time.sleep(30) if len(loopback.asked) > 7 else None
    folder = step_folder(tmp_path / "step", {"base_url": loopback.url, "model": "judge", "concurrency": 2})
    process = started(folder)
    try:
        wait_until(lambda: len(journaled(folder)) == 7)
    finally:
        process.kill()
        process.communicate()
    before = list(loopback.answered)
    assert len(before) == 7
    loopback.asked.clear()
    loopback.reply = lambda body, question, nth: None
    again = started(folder)
    _, error = again.communicate(timeout=60)
    assert again.returncode == 0, error
    assert sorted(loopback.asked) == sorted(set(NAMES) - set(before))
    assert (folder / "rows-00000.arrow").is_file() and not (folder / "journal.jsonl").exists()


def test_ctrl_c_ends_it_at_once(loopback: Loopback, tmp_path: Path) -> None:
    loopback.reply = lambda body, question, nth: time.sleep(30) if len(loopback.asked) > 3 else None
    folder = step_folder(tmp_path / "step", {"base_url": loopback.url, "model": "judge", "concurrency": 4})
    process = started(folder)
    try:
        wait_until(lambda: len(loopback.asked) >= 6 and len(journaled(folder)) == 3)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
        assert time.monotonic() - begun < 5
        assert b"KeyboardInterrupt" in error and b"never retrieved" not in error
    finally:
        process.kill()
    assert len(journaled(folder)) == 3


# ---- the key


def files_with(text: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_the_key_is_sent_and_nowhere_else(loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where the server says it back."""
    monkeypatch.setenv("MY_KEY", KEY)
    journal, listed = tmp_path / "journal.jsonl", {"m": -0.5, KEY: -1.0}
    loopback.reply = lambda body, question, nth: answer(f"your key is {KEY}", listed, model=f"judge-{KEY}")
    judge = loopback.judge(journal, api_key_env="MY_KEY")
    rows = ask(judge)
    assert loopback.keys == {f"Bearer {KEY}"}
    assert KEY not in repr(rows) and KEY not in repr(judge) and KEY not in repr(vars(judge))
    loopback.reply = failing("new", reply=(401, {}, {"error": {"message": f"Incorrect API key provided: {KEY}"}}))
    with pytest.raises(RunFailed, match=r"Incorrect API key provided: \[key\]") as error:
        loopback.ask([*NAMES, "new"], journal, api_key_env="MY_KEY")
    assert KEY not in repr(error.value) and error.value.__cause__ is None
    folder = step_folder(
        tmp_path / "step", {"base_url": loopback.url, "model": "judge", "api_key_env": "MY_KEY"}, ["new"]
    )
    _, said = started(folder).communicate(timeout=60)
    assert KEY.encode() not in said and (folder / "error.json").is_file()
    assert files_with(KEY, tmp_path) == []


def test_no_other_key_is_sent(loopback: Loopback, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    loopback.ask(["q"])
    assert not any(KEY in (sent or "") for sent in loopback.keys)


# ---- the whole command

WORDS = ["cat", "dog", "sun", "map", "pen", "cup", "hat", "box", "car", "bee"]
# How much the judge prefers the policy's output where it is shown second, and where it is shown first.
PREFERS = {word: ((1 + place) / 20, (9 + place) / 20) for place, word in enumerate(WORDS)}
ENORMOUS = "long " * 40_000


def output_of(word: str) -> str:
    return {"dog": "", "sun": ENORMOUS}.get(word, f"baseline {word}")


def judged(body: dict[str, Any], question: str, nth: int) -> Any:
    """The judge of `PREFERS`, which reads the rubric alpaca-eval's prompt."""
    asked = question.split("## Instruction")[1]
    word = next(word for word in WORDS if f'"""Name {word}"""' in asked)
    straight = f'"m",\n        "output": """{output_of(word)}"""' in asked
    assert straight or f'"M",\n        "output": """{output_of(word)}"""' in asked
    second, first = PREFERS[word]
    return answer("m", weighted(1 - second if straight else first))


class Done:
    """What a command left: its exit code, and what it wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def figures(self) -> dict[str, Any]:
        assert self.code == 0, self.err
        (one,) = json.loads(self.out)
        return dict(one)

    def failed_with(self, code: int, *parts: str) -> None:
        assert self.code == code, self.err
        message = self.err[self.err.index("error: ") :]
        assert all(part in message for part in parts), message
        assert "Traceback" not in self.err and self.out == ""


@pytest.fixture
def duel(
    loopback: Loopback, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> Callable[..., Done]:
    """`duel(**changes of judge.yaml)`: the tiny model against outputs.json on ten instructions, in both orders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MY_KEY", KEY)
    loopback.reply = judged
    write_json(tmp_path / "items.json", [{"instruction": f"Name {word}"} for word in WORDS])
    write_json(tmp_path / "outputs.json", [{"instruction": f"Name {w}", "output": output_of(w)} for w in WORDS])
    suite = {"name": "duel", "kind": "preference", "data": "items.json", "order": "both", "max_new_tokens": 6}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))

    def call(*arguments: str, server: Any = (), **judge: Any) -> Done:
        options = {"base_url": loopback.url, "model": "judge", "api_key_env": "MY_KEY", "retries": 0, **dict(server)}
        judge = {"server": options, "prices": {"input": 10, "output": 30, "currency": "EUR"}, **judge}
        (tmp_path / "judge.yaml").write_text(yaml.safe_dump(judge))
        command = ["eval", "suite.yaml", "--policy", str(tiny_model), "--against", "outputs.json"]
        command += ["--judge", "judge.yaml", "--output", "run", "--backend", "transformers", "--json", *arguments]
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["selfimprove", *command])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as ending:
            code = ending.code or 0
        written = capsys.readouterr()
        return Done(int(code), written.out, written.err)

    return call


def test_a_duel_counts_as_by_hand(duel: Callable[..., Done], loopback: Loopback, tmp_path: Path) -> None:
    """One baseline output is empty, one enormous; the key is in no file of the run."""
    found = duel().figures
    assert found["win_rate"] == pytest.approx(100 * sum(map(sum, PREFERS.values())) / 20)
    assert (found["n"], found["missing"], found["missing_reasons"]) == (10, 0, {})
    cost = {"requests": 20, "input_tokens": 140, "output_tokens": 20, "cost": (140 * 10 + 20 * 30) / 1e6}
    assert found["preference"]["cost"] == {**cost, "currency": "EUR"}
    assert found["preference"]["against"] == "outputs" and len(loopback.asked) == 20
    assert max(map(len, loopback.asked)) > 200_000
    assert loopback.keys == {f"Bearer {KEY}"} and files_with(KEY, tmp_path) == []
    assert "no log-probs" not in (tmp_path / "run" / "metrics.jsonl").read_text()
    again = duel().figures  # nothing is asked again, whatever the judge's server is now
    assert again == found and len(loopback.asked) == 20


def test_a_judgement_is_paid_for_once_whatever_the_limit_the_order_and_the_folder(
    duel: Callable[..., Done], loopback: Loopback, tmp_path: Path
) -> None:
    duel("--limit", "4")
    assert len(loopback.asked) == 8
    whole = duel().figures
    assert len(loopback.asked) == 20 and whole["preference"]["cost"]["requests"] == 20
    assert duel("--output", "other").figures == whole
    duel("--output", "coin", "--order", "random")
    duel("--output", "other", "--limit", "3")
    assert len(loopback.asked) == 20 and list(tmp_path.glob(".judgements/judge-*.jsonl"))
    duel("--output", "anew", version=2)  # raised where the same name serves something else
    assert len(loopback.asked) == 40


def test_two_runs_that_ask_at_once_share_what_they_pay_for(loopback: Loopback, tmp_path: Path) -> None:
    paid, options = tmp_path / "paid.jsonl", {"base_url": loopback.url, "model": "judge"}
    folders = [step_folder(tmp_path / name, options, names) for name, names in (("a", NAMES[:8]), ("b", NAMES[4:]))]
    for folder in folders:
        task = json.loads((folder / "step.json").read_text())
        write_json(folder / "step.json", {**task, "execution": {**task["execution"], "paid": str(paid)}})
    for process in [started(folder) for folder in folders]:
        assert process.wait(60) == 0
    loopback.asked.clear()
    last = step_folder(tmp_path / "c", options)
    task = json.loads((last / "step.json").read_text())
    write_json(last / "step.json", {**task, "execution": {**task["execution"], "paid": str(paid)}})
    assert started(last).wait(60) == 0 and loopback.asked == []


def test_without_log_probs_the_duel_says_so(duel: Callable[..., Done], loopback: Loopback, tmp_path: Path) -> None:
    loopback.reply = lambda body, question, nth: answer("M")  # always the second
    found = duel("--order", "both")
    assert found.figures["win_rate"] == 50
    assert "gave no log-probs for 20 of 20 questions" in found.err
    assert "gave no log-probs for 20 of 20 questions" in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_missing_judgements_are_counted_up_to_the_allowed_share(duel: Callable[..., Done], loopback: Loopback) -> None:
    def reply(body: dict[str, Any], question: str, nth: int) -> Any:
        if '"""Name pen"""' in question:
            return answer("The", {"The": -0.1, "A": -2.5})  # its tokens lack the labels
        return (
            (400, {}, {"error": {"message": "4711 tokens are too many"}})
            if ENORMOUS in question
            else judged(body, question, nth)
        )

    loopback.reply = reply
    unlisted = "neither label is among the judge's first tokens: 1"
    too_many = "the server refused it (400): ... tokens are too many: 1"
    duel().failed_with(1, "2 of 10 judgements are missing", unlisted, too_many, "10% are allowed")
    asked = len(loopback.asked)
    found = duel("--max-missing", "0.2").figures
    assert len(loopback.asked) == asked == 20  # what was answered is kept
    left = [sum(PREFERS[word]) / 2 for word in WORDS if word not in ("pen", "sun")]
    assert found["win_rate"] == pytest.approx(100 * sum(left) / 8)
    assert (found["n"], found["missing"]) == (8, 2)
    assert {f"{why}: {count}" for why, count in found["missing_reasons"].items()} == {unlisted, too_many}
    assert found["preference"]["cost"]["input_tokens"] == 18 * 7  # what was refused was not counted


def test_a_server_that_is_down_and_up_again(duel: Callable[..., Done], loopback: Loopback) -> None:
    loopback.reply = lambda body, question, nth: (
        (500, {}, "boom") if len(loopback.asked) > 15 else judged(body, question, nth)
    )
    duel(server={"concurrency": 1}).failed_with(1, "500: boom; 15 of 20 questions are answered and kept in")
    before = list(loopback.answered)
    down = {"base_url": f"http://127.0.0.1:{free_port()}/v1"}
    duel(server=down).failed_with(1, down["base_url"], "cannot be reached", "15 of 20", "see whether it runs")
    loopback.asked.clear()
    loopback.reply = judged
    found = duel().figures
    assert len(before) == 15 and set(loopback.asked).isdisjoint(before) and len(loopback.asked) == 5
    assert found["win_rate"] == pytest.approx(100 * sum(map(sum, PREFERS.values())) / 20)
    assert found["preference"]["cost"]["input_tokens"] == 140


def test_instructions_that_are_there_twice(duel: Callable[..., Done], loopback: Loopback, tmp_path: Path) -> None:
    rows = [{"instruction": f"Name {word}"} for word in [*WORDS, "cat", "cat"]]
    write_json(tmp_path / "items.json", rows)
    found = duel().figures
    values = [sum(PREFERS[word]) / 2 for word in [*WORDS, "cat", "cat"]]
    assert found["n"] == 12 and found["win_rate"] == pytest.approx(100 * sum(values) / 12)
    assert len(loopback.asked) == found["preference"]["cost"]["requests"] == 20  # paid for once
    outputs = json.loads((tmp_path / "outputs.json").read_text())
    write_json(tmp_path / "outputs.json", [*outputs, {"instruction": "Name cat", "output": "another"}])
    duel().failed_with(2, "two different outputs for one instruction ('Name cat')")
    write_json(tmp_path / "outputs.json", [{"instruction": f"Tell {word}", "output": word} for word in WORDS])
    duel().failed_with(2, "no output for 12 of 12 instructions", "'Name cat'", "other instructions")
    write_json(tmp_path / "outputs.json", outputs[1:])  # one of ten is lacking, and counts as missing
    write_json(tmp_path / "items.json", rows[:10])
    found = duel().figures
    assert (found["n"], found["missing"]) == (9, 1) and len(loopback.asked) == 20  # these were paid for above


def test_what_is_wrong_is_said_before_anything_is_asked(
    duel: Callable[..., Done], loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    duel(sever={}).failed_with(2, "--judge: unknown key `sever`", "did you mean `server`")
    duel(server={"bas_url": "x"}).failed_with(2, "unknown key `server.bas_url`", "did you mean `base_url`")
    duel(server={"api_key_env": "sk-ant-x"}).failed_with(2, "NAME of an environment variable")
    monkeypatch.delenv("MY_KEY")
    duel().failed_with(2, "judge.server.api_key_env", "MY_KEY is not set", "export it")
    assert loopback.asked == [] and loopback.looked == 0
    assert not list(tmp_path.glob("run/steps/*"))


@pytest.mark.parametrize(
    "judge",
    [
        "server: {base_url: 'http://127.0.0.1:1/v1', model: m, api_key_env: sk-secret-1}",
        "server: {base_url: 'http://127.0.0.1:1/v1', model: m, api_key: sk-secret-1}",
        "http://user:sk-secret-1@127.0.0.1:1/v1#m",
        "http://127.0.0.1:1/v1?key=sk-secret-1#m",
    ],
)
def test_a_key_in_the_wrong_place_is_in_no_file_folder_or_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tiny_model: Path, judge: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if not judge.startswith("http"):
        (tmp_path / "judge.yaml").write_text(judge)
    arguments = ["eval", "mt-bench", "--policy", str(tiny_model), "--judge", "judge.yaml"]
    monkeypatch.setattr(
        "sys.argv", ["selfimprove", *arguments[:-1], judge if judge.startswith("http") else "judge.yaml"]
    )
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    assert ended.value.code == 2 and "sk-secret-1" not in said.err + said.out
    assert not (tmp_path / "runs").exists()


def test_a_server_that_answers_as_another_model_for_the_next_policy_ends_the_evaluation() -> None:
    rubric = load_rubric("pair-plain", [])
    judge = Judge(rubric, Reader(server=ServerOptions(base_url="http://127.0.0.1:1/v1", model="m")), None)
    loop = SimpleNamespace(judges_answer_as={})
    _require_same_model(loop, judge, {"m-1"})
    _require_same_model(loop, judge, {"m-1"})
    with pytest.raises(RunFailed, match=r"several models, m-1, m-2.*raise the judge's `version`"):
        _require_same_model(loop, judge, {"m-2"})
