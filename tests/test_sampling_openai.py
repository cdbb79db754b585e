"""The openai sampler against a server that does everything wrong, over real sockets, and against vLLM's own server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import torch
from conftest import save_served_model
from transformers import AutoModelForCausalLM

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.chat_server import ChatServer
from selfimprove.models.chat import render_prompt
from selfimprove.models.journal import Journal
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS
from selfimprove.models.log_probs import Group
from selfimprove.models.policy import Policy, load_tokenizer
from selfimprove.models.resolve import resolve_policy
from selfimprove.sampling.openai import OpenAISampler, Server
from selfimprove.sampling.sampler import Decoding, Request, Sampled

pytestmark = pytest.mark.skipif(find_spec("openai") is None, reason="needs the openai client")

END = 2
KEY = "sk-very-secret-0123456789"
BASE = Policy("M0", "/models/base", "b" * 64)
DECODING = Decoding(1.0, 0.9, 4, (END,))
REQUESTS = [Request((1, 10 + i), 2, 1000 + 10 * i) for i in range(6)]


def good(body: dict[str, Any]) -> dict[str, Any]:
    """What vLLM answers: response i of seed s is [s + i, END], the stop token kept."""
    most = body["max_tokens"]
    ids = [[body["seed"] + i, END][:most] for i in range(body["n"])]
    return {
        "model": body["model"],
        "choices": [
            {
                "index": i,
                "finish_reason": "stop" if one[-1] == END else "length",
                "stop_reason": END if one[-1] == END else None,
                "token_ids": one,
                "prompt_token_ids": body["prompt"],
                "logprobs": {"token_logprobs": [-0.5, -0.25][: len(one)]},
            }
            for i, one in enumerate(ids)
        ],
    }


def expected(request: Request) -> list[Sampled]:
    return [Sampled([request.seed + i, END], "stop", -0.75, [-0.5, -0.25]) for i in range(request.n)]


Reply = tuple[int, dict[str, str], Any]


class Loopback:
    """A server on a real socket. `reply(body, count)` may return (status, headers, body) for the count-th completion
    (0 is the handshake's); None answers as vLLM would."""

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], int], Any] = lambda body, count: None
        self.asked: list[dict[str, Any]] = []
        self.loaded: list[dict[str, Any]] = []
        self.load: Reply = (200, {"Content-Type": "text/plain"}, "Success: LoRA adapter added")
        self.models_type = "application/json"
        self.models: Any = {"data": [{"id": "tiny", "max_model_len": 64}]}
        self.keys: set[str | None] = set()
        self.now = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, reply: Reply) -> None:
                status, headers, content = reply
                data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
                self.send_response(status)
                for name, value in ({"Content-Type": "application/json"} | headers).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_GET(self) -> None:
                assert self.path == "/v1/models"
                self.answer((200, {"Content-Type": outer.models_type}, outer.models))

            def do_POST(self) -> None:
                try:
                    body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                except ValueError:  # the client has given up half-way
                    return
                outer.keys.add(self.headers["Authorization"])
                if self.path == "/v1/load_lora_adapter":
                    outer.loaded.append(body)
                    return self.answer(outer.load)
                with outer._lock:
                    count = len(outer.asked)
                    outer.asked.append(body)
                    outer.now += 1
                    outer.most = max(outer.most, outer.now)
                try:
                    reply = outer.reply(body, count)
                    self.answer(reply if isinstance(reply, tuple) else (200, {}, reply or good(body)))
                except OSError:
                    pass  # the client went away
                finally:
                    with outer._lock:
                        outer.now -= 1

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    def sampler(self, journal: Path | None = None, needs_log_probs: bool = True, **options: Any) -> OpenAISampler:
        options = {"retries": 1, "timeout_s": 10.0} | options
        return OpenAISampler(Server(self.url, "tiny", **options), BASE, journal, needs_log_probs)

    @property
    def paid(self) -> list[tuple[int, ...]]:
        """The prompts of all completions but handshakes."""
        return [tuple(body["prompt"]) for body in self.asked if body["max_tokens"] > 1]


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Loopback()
    yield server
    server.http.shutdown()
    server.http.server_close()


def draw(sampler: OpenAISampler, requests: list[Request] = REQUESTS, decoding: Decoding = DECODING) -> Any:
    return sampler.sample(requests, decoding, lambda n: None)


# ---- what goes well


def test_responses_come_back_in_order_with_what_was_asked(loopback: Loopback) -> None:
    told: list[int] = []
    assert loopback.sampler().sample(REQUESTS, DECODING, told.append) == [expected(r) for r in REQUESTS]
    assert sum(told) == 12
    assert loopback.paid and sorted(loopback.paid) == [r.prompt_ids for r in REQUESTS]
    body = next(b for b in loopback.asked if b["prompt"] == [1, 13] and b["max_tokens"] == 4)
    assert (body["n"], body["seed"], body["temperature"], body["top_p"]) == (2, 1030, 1.0, 0.9)
    assert (body["stop_token_ids"], body["ignore_eos"], body["return_token_ids"], body["logprobs"]) == (
        [END],
        True,
        True,
        0,
    )
    # A model's generation_config.json must have no say.
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_the_check_is_made_once_for_a_model_and_costs_one_token(loopback: Loopback) -> None:
    sampler = loopback.sampler()
    sampler.check(REQUESTS, DECODING)
    assert [(b["max_tokens"], b["n"]) for b in loopback.asked] == [(1, 1)]
    draw(sampler)
    draw(sampler, [REQUESTS[0]])
    assert len(loopback.asked) == 1 + 6 + 1


def test_greedy_asks_for_one_response_and_gives_n(loopback: Loopback) -> None:
    first, second = draw(loopback.sampler(), REQUESTS[:1], replace(DECODING, temperature=0.0))[0]
    assert first == second and {b["n"] for b in loopback.asked} == {1}


def test_a_server_that_drops_the_stop_token_gets_it_appended(loopback: Loopback) -> None:
    def reply(body: dict[str, Any], count: int) -> Any:
        answer = good(body)
        for choice in answer["choices"]:
            if choice["finish_reason"] == "stop":
                choice["token_ids"].pop()
                choice["logprobs"]["token_logprobs"].pop()
        return answer

    loopback.reply = reply
    assert draw(loopback.sampler(), REQUESTS[:1]) == [
        [replace(one, log_prob=None, log_probs=None) for one in expected(REQUESTS[0])]
    ]


def test_a_server_without_log_probs_is_refused_unless_the_gate_is_off(loopback: Loopback) -> None:
    def reply(body: dict[str, Any], count: int) -> Any:
        answer = good(body)
        for choice in answer["choices"]:
            choice["logprobs"] = None
        return answer

    loopback.reply = reply
    with pytest.raises(InputError, match=r"gives no log-probs.*gates\.disabled=\[sampler_agrees\]"):
        draw(loopback.sampler())
    assert loopback.paid == []
    assert {one.log_prob for group in draw(loopback.sampler(needs_log_probs=False)) for one in group} == {None}


def test_requests_run_in_parallel_and_are_bounded(loopback: Loopback) -> None:
    loopback.reply = lambda body, count: time.sleep(0.3)
    begun = time.monotonic()
    draw(loopback.sampler(concurrency=3))
    assert loopback.most == 3
    assert time.monotonic() - begun < 6 * 0.3  # handshake and two waves


def test_it_works_where_a_loop_runs_already(loopback: Loopback) -> None:
    async def notebook() -> Any:
        return draw(loopback.sampler())

    assert asyncio.run(notebook()) == [expected(r) for r in REQUESTS]


# ---- what goes wrong


def failing(status: int, headers: dict[str, str] | None = None, content: Any = None, times: int = 1) -> Any:
    """A reply that fails `times` times after the handshake, then is good."""
    return lambda body, count: (status, headers or {}, content or {}) if 0 < count <= times else None


def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(RunFailed, match=f"{url} cannot be reached .* nothing was sampled yet.*whether it runs"):
        draw(OpenAISampler(Server(url, "tiny", retries=1), BASE))


def test_a_slow_server_times_out_and_ends_the_others_at_once(loopback: Loopback) -> None:
    loopback.reply = lambda body, count: time.sleep(3) if count else None
    begun = time.monotonic()
    with pytest.raises(RunFailed, match=r"did not answer within 0\.5 s; 0 of 6 requests are done.*timeout_s"):
        draw(loopback.sampler(timeout_s=0.5, retries=0, concurrency=2))
    assert time.monotonic() - begun < 2


def test_retry_after_is_waited_for(loopback: Loopback) -> None:
    loopback.reply = failing(429, {"Retry-After": "1"}, {"error": {"message": "slow down"}})
    begun = time.monotonic()
    assert draw(loopback.sampler()) == [expected(r) for r in REQUESTS]
    assert time.monotonic() - begun >= 1


@pytest.mark.parametrize(
    "reply",
    [
        failing(500, content="boom"),
        failing(200, {"Content-Type": "text/html"}, "<html>\nproxy</html>"),
        failing(200, content=" "),
        failing(200, content='{"choices": [{"ind'),
        failing(200, content={"choices": []}),
        lambda body, count: {**good(body), "choices": good(body)["choices"][:1]} if count == 1 else None,
    ],
)
def test_what_may_pass_is_asked_again(loopback: Loopback, reply: Any) -> None:
    loopback.reply = reply
    assert draw(loopback.sampler()) == [expected(r) for r in REQUESTS]
    assert len(loopback.paid) == 7


def spoiled(**changes: Any) -> Any:
    """A reply whose last choice is changed, after the handshake."""

    def reply(body: dict[str, Any], count: int) -> Any:
        answer = good(body)
        if count:
            answer["choices"][-1].update(changes)
        return answer

    return reply


@pytest.mark.parametrize(
    ("reply", "said", "asked"),
    [
        (failing(503, content={"error": {"message": "busy\n\x1b[31mred"}}, times=9), "answered 503: busy; 0 of 1", 2),
        (failing(401, content={"detail": "who are you"}), "answered 401: who are you; .*api_key_env", 1),
        (failing(200, {"Content-Type": "text/html"}, "\n<html>x", 9), "without choices: <html>x; 0 of 1", 2),
        (failing(200, content=" ", times=9), "damaged JSON", 2),
        (failing(200, content={"choices": []}, times=9), "without choices", 2),
        (spoiled(index=7), r"gave choices \['0', '7'\] where 2 were", 2),
        (spoiled(index=[0]), "gave choices", 2),
        (spoiled(token_ids=["5", 2]), "token ids that are none", 1),
        (spoiled(token_ids=[True, 2]), "token ids that are none", 1),
        (spoiled(token_ids=[-1, 2]), "token ids that are none", 1),
        (spoiled(token_ids="52"), "token ids that are none", 1),
        (spoiled(token_ids=[9, 9, 9, 9, 2]), "log-probs for 5 tokens", 1),
        (spoiled(token_ids=[9, 9, 9, 9, 2], logprobs=None), "gave 5 tokens where 4", 1),
        (spoiled(logprobs={"token_logprobs": [float("nan"), -1.0]}), "no finite numbers", 1),
        (spoiled(logprobs={"token_logprobs": [None, -1.0]}), "no finite numbers", 1),
        (spoiled(logprobs={"token_logprobs": [-1.0]}), "1 log-probs for 2 tokens", 1),
        (spoiled(finish_reason="length"), "cut a response at 2 tokens where 4.*max-model-len", 1),
        (spoiled(finish_reason="abort"), "the reason abort, neither", 1),
        (spoiled(finish_reason=None), "the reason null", 1),
        (spoiled(token_ids=[5, 9], stop_reason=9), r"stopped at 9 after the ids \[5, 9\]", 1),
        (spoiled(token_ids=[5, 9], stop_reason=None), "stopped at null", 1),
        (spoiled(prompt_token_ids=[0, 1, 10]), "changed the prompt's token ids", 1),
    ],
)
def test_what_stays_wrong_stops_the_run_and_says_what_it_was(
    loopback: Loopback, reply: Any, said: str, asked: int
) -> None:
    loopback.reply = reply
    with pytest.raises(RunFailed, match=said) as error:
        draw(loopback.sampler(), REQUESTS[:1])
    assert loopback.url in str(error.value) and "\x1b" not in str(error.value) and "\n" not in str(error.value)
    assert len(loopback.paid) == asked


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (lambda b, c: (401, {}, {"error": {"message": "bad key"}}), "answered 401: bad key; nothing was.*api_key_env"),
        (lambda b, c: (404, {}, {"detail": "Not Found"}), "answered 404: Not Found; .*base_url .it ends before"),
        (lambda b, c: (400, {}, {"error": {"message": "return_token_ids?"}}), "answered 400: .*vLLM .0.10.2 or newer"),
    ],
)
def test_a_refusal_of_the_check_is_the_recipes_fault_and_nothing_is_paid(
    loopback: Loopback, reply: Any, said: str
) -> None:
    loopback.reply = reply
    with pytest.raises(InputError, match=said):
        draw(loopback.sampler())
    assert len(loopback.asked) == 1 and not loopback.paid


def test_a_server_without_token_ids_is_refused_before_anything_is_paid(loopback: Loopback) -> None:
    def reply(body: dict[str, Any], count: int) -> Any:
        answer = good(body)
        for choice in answer["choices"]:
            del choice["token_ids"]
        return answer

    loopback.reply = reply
    with pytest.raises(InputError, match=f"{loopback.url} gives no token ids; .*return_token_ids.*sampling.backend"):
        draw(loopback.sampler())
    assert not loopback.paid


def test_a_server_without_the_model_or_the_room_is_refused(loopback: Loopback) -> None:
    with pytest.raises(InputError, match=r"room for 64 tokens.*longest prompt's 2 and sampling.max_new_tokens 63"):
        draw(loopback.sampler(), decoding=replace(DECODING, max_new_tokens=63))
    loopback.models = {"data": [{"id": "other"}]}
    with pytest.raises(InputError, match="does not serve 'tiny'; it serves other"):
        draw(loopback.sampler())
    loopback.models, loopback.models_type = "<html>", "text/html"
    with pytest.raises(InputError, match="lists no models at /models"):
        draw(loopback.sampler())
    assert not loopback.asked


def test_another_model_in_an_answer_stops_the_run(loopback: Loopback, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    loopback.reply = lambda body, count: {**good(body), "model": "tiny-2026" if count < 4 else "tiny-2027"}
    with pytest.raises(RunFailed, match=r"answered as model tiny-2027 and not as tiny-2026.*3 of 6"):
        draw(loopback.sampler(journal, concurrency=1))
    # After a restart too: what is in the journal came from the other one.
    with pytest.raises(RunFailed, match=r"answers as model 'tiny-2027', earlier ones were \['tiny-2026'\]"):
        draw(loopback.sampler(journal))


# ---- the key


def test_the_key_is_sent_and_is_in_no_error_journal_or_repr(
    loopback: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    journal = tmp_path / "answers.jsonl"
    loopback.reply = lambda body, count: (
        (401, {}, {"error": {"message": f"bad key {KEY}"}}) if count == 3 else {**good(body), "echo": KEY}
    )
    sampler = loopback.sampler(journal, api_key_env="MY_KEY", concurrency=1)
    with pytest.raises(RunFailed, match=r"bad key \[key\]") as error:
        draw(sampler)
    assert loopback.keys == {f"Bearer {KEY}"}
    shown = f"{error.value!r}{error.value.__cause__}{sampler._server!r}{sampler!r}{vars(sampler)}{journal.read_text()}"
    assert KEY not in shown and KEY not in "".join(capfd.readouterr())


def test_without_api_key_env_the_users_openai_key_stays_at_home(
    loopback: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    draw(loopback.sampler())
    assert not any(KEY in str(sent) for sent in loopback.keys)


def test_a_missing_key_or_one_in_the_url_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(InputError, match="the environment variable NOT_THERE is not set"):
        OpenAISampler(Server("http://127.0.0.1:1/v1", "tiny", api_key_env="NOT_THERE"), BASE)
    monkeypatch.setenv("MY_KEY", f"{KEY}\nx")
    with pytest.raises(InputError, match="MY_KEY holds no usable key") as error:
        OpenAISampler(Server("http://127.0.0.1:1/v1", "tiny", api_key_env="MY_KEY"), BASE)
    assert KEY not in str(error.value)
    with pytest.raises(InputError, match="give the NAME of an environment variable") as error:
        Server("http://127.0.0.1:1/v1", "tiny", api_key_env="sk-proj-abc")
    assert "sk-proj" not in str(error.value)
    for url in (f"http://u:{KEY}@host/v1", f"http://host/v1?key={KEY}"):
        with pytest.raises(InputError, match="no place for a key") as error:
            Server(url, "tiny")
        assert KEY not in str(error.value)
    for options in ({"base_url": "host/v1"}, {"timeout_s": 0}, {"concurrency": 0}, {"retries": -1}):
        with pytest.raises(InputError, match=r"sampling\.server"):
            Server(**{"base_url": "http://host/v1", "model": "tiny", **options})


def test_without_the_client_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfimprove.sampling.openai.find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install openai"):
        OpenAISampler(Server("http://127.0.0.1:1/v1", "tiny"), BASE)


# ---- the journal


def test_nothing_that_was_paid_is_asked_again(loopback: Loopback, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    loopback.reply = lambda body, count: (401, {}, {}) if count == 4 else None
    with pytest.raises(RunFailed, match=f"3 of 6 requests are done and kept in {journal}"):
        draw(loopback.sampler(journal, concurrency=1))
    assert len(journal.read_text().splitlines()) == 3
    loopback.reply = lambda body, count: None
    told: list[int] = []
    again = loopback.sampler(journal).sample(REQUESTS, DECODING, told.append)
    assert again == [expected(r) for r in REQUESTS] and sum(told) == 12 and told[0] == 6
    assert len(loopback.paid) == 3 + 1 + 3
    asked = len(loopback.asked)
    assert draw(loopback.sampler(journal)) == again
    assert len(loopback.asked) == asked  # not even the check


def test_anything_that_changes_the_answer_is_asked_anew(loopback: Loopback, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    one = REQUESTS[:1]
    draw(loopback.sampler(journal), one)
    for requests, decoding in (
        ([replace(one[0], seed=5)], DECODING),
        ([replace(one[0], n=3)], DECODING),
        ([replace(one[0], prompt_ids=(1, 11))], DECODING),
        (one, replace(DECODING, temperature=0.5)),
        (one, replace(DECODING, top_p=1.0)),
        (one, replace(DECODING, max_new_tokens=5)),
    ):
        before = len(loopback.paid)
        draw(loopback.sampler(journal), requests, decoding)
        assert len(loopback.paid) == before + 1
    sampler = OpenAISampler(Server(loopback.url, "tiny"), replace(BASE, base_digest="c" * 64), journal)
    before = len(loopback.paid)
    draw(sampler, one)
    assert len(loopback.paid) == before + 1


def test_equal_requests_are_asked_once(loopback: Loopback) -> None:
    told: list[int] = []
    twice = loopback.sampler().sample([REQUESTS[0]] * 2, DECODING, told.append)
    assert twice[0] == twice[1] and len(loopback.paid) == 1 and sum(told) == 4


@pytest.mark.parametrize("torn", ['{"key": "0', "", "\x00\x00"])
def test_a_torn_last_line_is_cut_off_and_spoils_nothing(loopback: Loopback, tmp_path: Path, torn: str) -> None:
    journal = tmp_path / "answers.jsonl"
    draw(loopback.sampler(journal), REQUESTS[:2])
    journal.write_text(journal.read_text() + torn)
    draw(loopback.sampler(journal))
    assert len(loopback.paid) == 6
    assert len(journal.read_text().splitlines()) == 6
    draw(loopback.sampler(journal))
    assert len(loopback.paid) == 6


def test_a_torn_only_line(loopback: Loopback, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    journal.write_text('{"key"')
    draw(loopback.sampler(journal), REQUESTS[:1])
    assert len(journal.read_text().splitlines()) == 1


@pytest.mark.parametrize(
    "spoil", [lambda line: line.replace("-0.75", "-0.5"), lambda line: "[]", lambda line: "{}", lambda line: line[:40]]
)
def test_a_damaged_line_is_named(loopback: Loopback, tmp_path: Path, spoil: Callable[[str], str]) -> None:
    journal = tmp_path / "answers.jsonl"
    draw(loopback.sampler(journal), REQUESTS[:3])
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], spoil(lines[1]), lines[2]]) + "\n")
    with pytest.raises(RunFailed, match=r"line 2 is damaged.*delete that line"):
        draw(loopback.sampler(journal))


STUCK = """
import sys
from selfimprove.models.policy import Policy
from selfimprove.sampling.sampler import Decoding, Request
from selfimprove.sampling.openai import OpenAISampler, Server
sampler = OpenAISampler(Server(sys.argv[1], "tiny"), Policy("M0", "/x", "b" * 64))
sampler.sample([Request((1, i), 2, i) for i in range(9)], Decoding(1.0, 1.0, 4, (2,)), lambda n: None)
"""


def test_ctrl_c_ends_it_at_once(loopback: Loopback) -> None:
    loopback.reply = lambda body, count: time.sleep(20) if count else None
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, loopback.url], stderr=subprocess.PIPE, cwd=Path(__file__).parents[1]
    )
    try:
        until = time.monotonic() + 60
        while len(loopback.asked) < 5 and time.monotonic() < until:
            time.sleep(0.05)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=10)
        assert time.monotonic() - begun < 5
        assert b"KeyboardInterrupt" in error and b"never retrieved" not in error
    finally:
        process.kill()


# ---- new weights


ADAPTER = replace(BASE, name="M1", adapter="adapters/one", adapter_digest="a" * 64)


def test_an_adapter_is_loaded_under_a_name_of_its_own_and_asked_for(loopback: Loopback) -> None:
    sampler = loopback.sampler()
    sampler.set_weights(ADAPTER)
    name = ADAPTER.digest[:16]
    assert loopback.loaded == [{"lora_name": name, "lora_path": str(Path("adapters/one").absolute())}]
    draw(sampler)
    assert {b["model"] for b in loopback.asked} == {name}
    sampler.set_weights(BASE.named("again"))
    draw(sampler, REQUESTS[:1])
    assert loopback.asked[-1]["model"] == "tiny" and len(loopback.loaded) == 1


def test_an_adapter_that_is_there_already_is_fine(loopback: Loopback) -> None:
    loopback.load = (400, {}, {"error": {"message": "The lora adapter 'x' has already been loaded."}})
    loopback.sampler().set_weights(ADAPTER)
    loopback.models["data"].append({"id": ADAPTER.digest[:16], "parent": "tiny"})
    loopback.sampler().set_weights(ADAPTER)
    assert len(loopback.loaded) == 1


@pytest.mark.parametrize(
    ("load", "said"),
    [
        ((404, {}, {"detail": "Not Found"}), "answered 404: Not Found"),
        ((500, {}, {"error": {"message": "LoRA rank 32 is greater than max_lora_rank 8."}}), "rank 32 is greater"),
    ],
)
def test_a_server_that_takes_no_adapter(loopback: Loopback, load: Reply, said: str) -> None:
    loopback.load = load
    with pytest.raises(InputError, match=f"cannot take the weights of M1 .*{said}.*--enable-lora.*vllm or transform"):
        loopback.sampler().set_weights(ADAPTER)
    assert len(loopback.loaded) == 1


@pytest.mark.parametrize(
    "policy", [replace(BASE, base_digest="c" * 64), replace(ADAPTER, base_digest="c" * 64)], ids=["full", "other base"]
)
def test_full_weights_and_other_bases_are_refused_unasked(loopback: Loopback, policy: Policy) -> None:
    with pytest.raises(InputError, match="cannot take the weights"):
        loopback.sampler().set_weights(policy)
    assert not loopback.loaded


def test_an_adapter_on_a_served_adapter_is_refused(loopback: Loopback) -> None:
    sampler = OpenAISampler(Server(loopback.url, "tiny"), ADAPTER)
    sampler.set_weights(ADAPTER)
    with pytest.raises(InputError, match="cannot take the weights"):
        sampler.set_weights(replace(ADAPTER, name="M2", adapter_digest="d" * 64))


def test_an_answer_of_the_base_in_place_of_the_adapter_stops_the_run(loopback: Loopback) -> None:
    loopback.reply = lambda body, count: {**good(body), "model": "tiny"}
    sampler = loopback.sampler()
    sampler.set_weights(ADAPTER)
    with pytest.raises(RunFailed, match="answered as model tiny and not as"):
        draw(sampler)
    assert not loopback.paid


# ---- vLLM's own server


FREE = Decoding(1.0, 0.8, 24, (END,))
needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")


@dataclass(frozen=True)
class Vllm:
    server: Server
    policy: Policy
    adapters: list[Policy]


def save_adapter(base: Path, folder: Path, seed: int, rank: int) -> Path:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=rank, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vllm]:
    folder = tmp_path_factory.mktemp("served")
    base = save_served_model(folder / "base")
    adapters = [save_adapter(base, folder / f"adapter-{seed}", seed, rank) for seed, rank in ((1, 4), (2, 4), (3, 32))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--port", port]
    command += ["--model", str(base), "--served-model-name", "tiny", "--dtype", "float32", "--enforce-eager"]
    command += ["--max-model-len", "128", "--max-num-seqs", "16", "--enable-lora", "--max-lora-rank", "8"]
    settings = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
        "NO_PROXY": "127.0.0.1",
    }
    patch = pytest.MonkeyPatch()
    patch.setenv("NO_PROXY", "127.0.0.1")
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=output, env=os.environ | settings, start_new_session=True
        )
    try:
        until = time.monotonic() + 600  # half a minute on an idle machine
        while True:
            try:
                urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"vLLM did not start:\n{log.read_text(errors='replace')[-3000:]}")
                time.sleep(0.5)
        yield Vllm(
            Server(f"http://127.0.0.1:{port}/v1", "tiny", retries=1, timeout_s=120, concurrency=4),
            resolve_policy(str(base)),
            [resolve_policy(str(folder)) for folder in adapters],
        )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        patch.undo()


SERVED = [Request((1, 20 + i, 30, 40), 8, 7 + 100 * i) for i in range(4)]


def ids_of(sampled: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[one.ids for one in group] for group in sampled]


def largest_difference(policy: Policy, requests: list[Request], sampled: list[list[Sampled]]) -> float:
    """Of the sampler's log-prob and the Transformers forward's, nats per token, over all responses."""
    model, as_policy = MODELS.get(policy, torch.float32, "cpu")
    groups = [
        Group(request.prompt_ids, tuple(tuple(one.ids) for one in responses))
        for request, responses in zip(requests, sampled, strict=True)
    ]
    with as_policy:
        scored = summed_log_probs(model, groups, 4096, lambda n: None)
    return max(
        abs((one.log_prob or 0.0) - score) / len(one.ids)
        for responses, scores in zip(sampled, scored, strict=True)
        for one, score in zip(responses, scores, strict=True)
    )


@needs_vllm
@pytest.mark.real_model
def test_vllms_samples_are_the_models_own(vllm: Vllm, tmp_path: Path) -> None:
    journal = tmp_path / "answers.jsonl"
    sampler = OpenAISampler(vllm.server, vllm.policy, journal)
    sampled = draw(sampler, SERVED, FREE)
    responses = [one for group in sampled for one in group]
    # The end of turn asked for is kept, once and last; the server's own is a token like any other.
    stopped = [one for one in responses if one.finish == "stop"]
    assert len(stopped) > 3 and all(one.ids[-1] == END and END not in one.ids[:-1] for one in stopped)
    assert len(stopped) < len(responses) and all(len(one.ids) == 24 for one in responses if one.finish == "length")
    assert any(3 in one.ids[:-1] for one in responses)
    assert largest_difference(vllm.policy, SERVED, sampled) < 1e-3
    # Seeds: response i has seed + i, so that all of any length differ and each can be had again.
    long = [tuple(one.ids) for one in responses if len(one.ids) > 5]
    assert len(set(long)) == len(long) > 16
    again = OpenAISampler(vllm.server, vllm.policy)
    assert ids_of(draw(again, SERVED[::-1], FREE)[::-1]) == ids_of(sampled)
    third = replace(SERVED[0], n=1, seed=SERVED[0].seed + 3)
    assert draw(again, [third], FREE)[0][0].ids == sampled[0][3].ids
    assert draw(sampler, SERVED, FREE) == sampled and len(journal.read_text().splitlines()) == 4


@needs_vllm
@pytest.mark.real_model
def test_vllm_greedy_is_the_most_likely_token(vllm: Vllm) -> None:
    request = SERVED[0]
    first, second = draw(
        OpenAISampler(vllm.server, vllm.policy), [replace(request, n=2)], replace(FREE, temperature=0.0)
    )[0]
    assert first == second and first.log_prob is not None and first.log_prob < -1e-3
    model = AutoModelForCausalLM.from_pretrained(vllm.policy.base, dtype=torch.float32)
    ids = list(request.prompt_ids)
    for token in first.ids:
        assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


@needs_vllm
@pytest.mark.real_model
def test_vllm_takes_adapters_while_it_runs(vllm: Vllm) -> None:
    sampler = OpenAISampler(vllm.server, vllm.policy)
    drawn = []
    for policy in (vllm.policy, vllm.adapters[0], vllm.adapters[1], vllm.policy, vllm.adapters[0]):
        sampler.set_weights(policy)
        drawn.append(draw(sampler, SERVED, FREE))
        assert largest_difference(policy, SERVED, drawn[-1]) < 1e-3
        if policy != vllm.policy:
            assert largest_difference(vllm.policy, SERVED, drawn[-1]) > 1e-2
    ids = [ids_of(sampled) for sampled in drawn]
    assert ids[0] == ids[3] and ids[1] == ids[4] and ids[0] != ids[1] != ids[2]
    with pytest.raises(InputError, match="LoRA rank 32 is greater than max_lora_rank 8"):
        sampler.set_weights(vllm.adapters[2])


@needs_vllm
@pytest.mark.real_model
def test_vllm_refuses_in_words_that_reach_the_person(vllm: Vllm) -> None:
    with pytest.raises(InputError, match="has room for 128 tokens"):
        draw(OpenAISampler(vllm.server, vllm.policy), SERVED, replace(FREE, max_new_tokens=125))
    with pytest.raises(InputError, match="Token id 999999 is out of vocabulary"):
        draw(OpenAISampler(vllm.server, vllm.policy), [Request((1, 999999), 1, 0)], FREE)
    with pytest.raises(InputError, match="does not serve 'other'; it serves tiny"):
        draw(OpenAISampler(replace(vllm.server, model="other"), vllm.policy), SERVED, FREE)


@needs_vllm
def test_vllm_as_a_judge_gives_the_models_own_first_token(vllm: Vllm, tmp_path: Path) -> None:
    # What a served judge is read from must be what the same model read here gives: same template, same numbers.
    questions = [[{"role": "user", "content": f"<a>\n{text}\n</a> m or M?"}] for text in ("yes", "no", "perhaps")]
    told: list[int] = []
    journal = Journal(tmp_path / "answers.jsonl")
    rows = ChatServer(vllm.server, 1, 20, journal).ask(questions, told.append)
    model = AutoModelForCausalLM.from_pretrained(vllm.policy.base, dtype=torch.float32).eval()
    tokenizer = load_tokenizer(vllm.policy)
    for question, row in zip(questions, rows, strict=True):
        prompt = render_prompt(tokenizer, question)
        with torch.inference_mode():
            own = torch.log_softmax(model(torch.tensor([prompt])).logits[0, -1], dim=-1)
        listed = json.loads(row["log_probs"])
        letters = {token: value for token, value in listed.items() if len(token) == 1 and token.isascii()}
        assert letters  # bytes that are no text of their own share a name
        for token, value in letters.items():
            (place,) = tokenizer.encode(token, add_special_tokens=False)
            assert value == pytest.approx(float(own[place]), abs=1e-3)
        assert (row["input_tokens"], row["output_tokens"], row["missing"]) == (len(prompt), 1, None)
    assert sum(told) == 3
    assert (
        ChatServer(replace(vllm.server, base_url="http://127.0.0.1:9/v1"), 1, 20, journal).ask(questions, told.append)
        == rows
    ), "what is in the journal is not asked again"
