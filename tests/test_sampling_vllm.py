"""The vLLM sampler: a real engine on the CPU, and what is said where there is none to be had."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import save_served_model
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

from selfimprove.artefacts import Store
from selfimprove.errors import InputError, RunFailed
from selfimprove.loop.loop import Loop
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS
from selfimprove.models.log_probs import Group
from selfimprove.models.policy import Policy
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import EventLog
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import _with_backend
from selfimprove.runs.folder import Run
from selfimprove.sampling import backends as sampling
from selfimprove.sampling import vllm as backend
from selfimprove.sampling.backends import choose_backend
from selfimprove.sampling.sampler import Decoding, Request, Sampled
from selfimprove.sampling.vllm import ENGINE, Installed, VllmSampler

needs_vllm = pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make vllm)")
END = 2


# ---- which backend


@pytest.mark.parametrize(
    ("state", "auto", "note"),
    [
        (Installed(None, "vLLM is not installed: pip install"), "transformers", None),
        (Installed("0.32.0", "does not import (ImportError)"), "transformers", "does not import"),
        (Installed("9.9.0", None, "vLLM 9.9.0 is untested here"), "transformers", "untested"),
        (Installed("0.32.0", None), "vllm", None),
    ],
)
def test_auto_takes_a_tested_vllm_and_says_why_not(
    monkeypatch: pytest.MonkeyPatch, state: Installed, auto: str, note: str | None
) -> None:
    monkeypatch.setattr(backend, "installed", lambda device: state)
    chosen, said = choose_backend("auto", "cpu")
    assert chosen == auto
    assert said is None if note is None else note in str(said)


def test_a_wanted_vllm_is_refused_with_the_reason_or_taken_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "installed", lambda device: Installed(None, "vLLM is not installed: pip install x"))
    with pytest.raises(InputError, match=r"not installed: pip install x; or set sampling\.backend=transformers"):
        choose_backend("vllm", "cpu")
    with pytest.raises(InputError, match="this run began with it"):
        choose_backend("auto", "cpu", before="vllm")
    monkeypatch.setattr(backend, "installed", lambda device: Installed("9.9.0", None, "untested here"))
    assert choose_backend("vllm", "cpu") == ("vllm", "untested here")


def test_a_run_that_began_with_a_server_goes_on_without_one_where_the_recipe_has_none(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = tiny_recipe("srlm", sampling={"backend": "auto"})
    place = Run(tmp_path / "run")
    place.folder.mkdir()
    place.recipe_file.write_text("sampling: {backend: openai}\n")
    screen = Console(file=io.StringIO(), width=200)
    chosen = _with_backend(recipe, place, Progress(screen)).sampling.backend
    assert chosen in ("vllm", "transformers")
    assert f"sampling with {chosen}" in screen.file.getvalue()  # type: ignore[attr-defined]


def test_a_continued_run_keeps_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "installed", lambda device: Installed("0.32.0", None))
    assert choose_backend("auto", "cpu", before="transformers") == ("transformers", None)
    assert choose_backend("auto", "cpu", before="vllm") == ("vllm", None)
    assert choose_backend("transformers", "cpu", before="vllm") == ("transformers", None)


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        (
            "raise ImportError('libcudart.so.13: cannot open shared object file')",
            "does not import (ImportError: libcud",
        ),
        ("import os; os._exit(3)", "does not import (exit code 3)"),
        ("__version__ = '0.32.0'", "is a build for cuda, the run is on cpu"),
        ("__version__ = '9.9.1'", None),
    ],
)
def test_a_broken_or_untested_vllm_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, problem: str | None
) -> None:
    device = "cuda" if "0.32" in code else "cpu"
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text(code)
    platforms = f"class current_platform:\n    device_type = {device!r}\n"
    (tmp_path / "vllm" / "platforms.py").write_text(platforms)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(backend, "_version", lambda package: "9.9.1" if package == "vllm" else None)
    backend.installed.cache_clear()
    try:
        found = backend.installed("cpu")
    finally:
        backend.installed.cache_clear()
    if problem is None:
        assert found.problem is None and "untested here (tested: 0.32)" in str(found.untested)
    else:
        assert problem in str(found.problem)


# ---- a real engine, on a tiny model


def save_adapter(base: Path, folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def policies(tmp_path_factory: pytest.TempPathFactory) -> list[Policy]:
    """A base, two adapters on it, and a model with full weights of its own."""
    folder = tmp_path_factory.mktemp("vllm")
    base = save_served_model(folder / "base")
    found = [resolve_policy(str(base), "M0")]
    found += [resolve_policy(str(save_adapter(base, folder / f"a{s}", s)), f"M{s}") for s in (1, 2)]
    full = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    full.save_pretrained(folder / "full")
    for file in base.glob("*token*"):
        (folder / "full" / file.name).write_bytes(file.read_bytes())
    whole = resolve_policy(str(folder / "full"), "M3")
    return [*found, whole]


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the engine writes; ends it after the last test. TQDM_DISABLE, which people set to have it quiet, once made
    vLLM divide by zero."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TQDM_DISABLE", "1")
        yield tmp_path_factory.mktemp("engine") / "engine.log"
        ENGINE.close()


@pytest.fixture
def sampler(log: Path, policies: list[Policy]) -> VllmSampler:
    made = VllmSampler("float32", "cpu", max_model_len=128, log=log)
    made.set_weights(policies[0])
    return made


REQUESTS = [Request((1, 20 + i, 30, 40), 8, 7 + 100 * i) for i in range(6)]
FREE = Decoding(1.0, 0.8, 24, (END,))


def draw(sampler: VllmSampler, requests: list[Request] = REQUESTS, decoding: Decoding = FREE) -> list[list[Sampled]]:
    return sampler.sample(requests, decoding, lambda n: None)


def ids_of(sampled: list[list[Sampled]]) -> list[list[list[int]]]:
    return [[one.ids for one in group] for group in sampled]


def largest_difference(policy: Policy, sampled: list[list[Sampled]], requests: list[Request] = REQUESTS) -> float:
    """Of the sampler's log-prob and the Transformers forward's, nats per token, over all responses."""
    model, as_policy = MODELS.get(policy, torch.float32, "cpu")
    groups = [
        Group(request.prompt_ids, tuple(tuple(one.ids) for one in responses))
        for request, responses in zip(requests, sampled, strict=True)
    ]
    with as_policy:
        scored = summed_log_probs(model, groups, 4096)
    return max(
        abs(float(one.log_prob or 0.0) - score) / len(one.ids)
        for responses, scores in zip(sampled, scored, strict=True)
        for one, score in zip(responses, scores, strict=True)
    )


@needs_vllm
def test_log_probs_are_the_trainers_and_every_response_is_its_own(sampler: VllmSampler, policies: list[Policy]) -> None:
    told: list[int] = []
    sampled = sampler.sample(REQUESTS, FREE, told.append)
    assert largest_difference(policies[0], sampled) < 1e-4
    assert sum(told) == sum(request.n for request in REQUESTS)
    assert len({tuple(ids) for group in ids_of(sampled) for ids in group}) > 40
    every = [one for group in sampled for one in group]
    assert {one.finish for one in every} == {"stop", "length"}
    for one in every:
        assert (one.ids[-1] == END) == (one.finish == "stop")
        assert END not in one.ids[:-1]
        assert len(one.ids) == 24 or one.finish == "stop"
    assert any(3 in one.ids[:-1] for one in every), "the model's own end token ended responses"


@needs_vllm
def test_seeds_decide_and_neighbours_and_earlier_shards_do_not(sampler: VllmSampler) -> None:
    first = ids_of(draw(sampler))
    assert ids_of(draw(sampler)) == first
    assert ids_of(draw(sampler, REQUESTS[2:3])) == first[2:3]
    # response i of a prompt has the noise of seed + i
    moved = dataclasses.replace(REQUESTS[0], seed=REQUESTS[0].seed + 1)
    assert ids_of(draw(sampler, [moved]))[0][:-1] == first[0][1:]
    assert ids_of(draw(sampler, [dataclasses.replace(REQUESTS[0], seed=99)])) != first[:1]


@needs_vllm
def test_greedy_is_the_forwards_argmax(sampler: VllmSampler, policies: list[Policy]) -> None:
    (sampled,) = draw(sampler, [dataclasses.replace(REQUESTS[0], n=2)], Decoding(0.0, 1.0, 8, (END,)))
    assert sampled[0].ids == sampled[1].ids
    model, as_policy = MODELS.get(policies[0], torch.float32, "cpu")
    ids = list(REQUESTS[0].prompt_ids)
    with as_policy, torch.no_grad():
        for token in sampled[0].ids:
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


@needs_vllm
def test_weights_are_swapped_in_place_there_and_back(sampler: VllmSampler, policies: list[Policy]) -> None:
    engine, before = ENGINE.pid, draw(sampler)
    for policy in (policies[1], policies[3], policies[2]):  # the second has full weights of its own
        sampler.set_weights(policy)
        swapped = draw(sampler)
        assert largest_difference(policy, swapped) < 1e-4
        assert ids_of(swapped) != ids_of(before)
    sampler.set_weights(policies[0])
    assert draw(sampler) == before
    assert ENGINE.pid == engine
    assert [entry["what"] for entry in ENGINE.history].count("swap") >= 3


def test_room_is_asked_for_where_rounds_are_sampled(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an evaluation `sampling.max_new_tokens` says nothing: its suites have lengths of their own."""
    monkeypatch.setattr(backend, "installed", lambda device: Installed("0.32.0", None))
    options = {"backend": "vllm", "max_new_tokens": 16, "vllm": {"max_model_len": 16}}
    with EventLog(tmp_path / "events") as events:
        loop = Loop(tiny_recipe("srlm", sampling=options), Store(tmp_path / "steps"), events, Progress())
        with pytest.raises(InputError, match="the engine has room for 16 tokens"):
            loop.check_sampler()
        loop.data.round_prompts.clear()
        loop.check_sampler()


@needs_vllm
def test_what_does_not_fit_the_engine_is_refused_and_not_cut_short(sampler: VllmSampler) -> None:
    fits, long = Decoding(1.0, 1.0, 124, (END,)), Decoding(1.0, 1.0, 125, (END,))
    draw(sampler, REQUESTS[:1], fits)  # 4 + 124 = 128
    with pytest.raises(InputError, match=r"max_model_len: the engine has room for 128 tokens.*prompt's 4 and 125 new"):
        draw(sampler, REQUESTS[:1], long)


@needs_vllm
def test_weights_that_do_not_arrive_are_noticed(sampler: VllmSampler, policies: list[Policy]) -> None:
    sampler.set_weights(policies[1])
    # The same weights under another digest are what an engine that ignored the swap would look like.
    with pytest.raises(RunFailed, match="bit for bit what they were before"):
        sampler.set_weights(dataclasses.replace(policies[1], tokenizer_digest="another", name="M9"))
    sampler.set_weights(policies[0])


@needs_vllm
def test_an_engine_whose_numbers_are_not_the_trainers_is_refused(
    sampler: VllmSampler, policies: list[Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "summed_log_probs", lambda *given: [[-1.0]])
    with pytest.raises(RunFailed, match=r"differ by .* nats per token"):
        sampler.set_weights(policies[2])
    monkeypatch.undo()
    sampler.set_weights(policies[0])


@needs_vllm
@pytest.mark.parametrize("adapters", ["merge", "hot"])
def test_two_adapters_of_one_base_take_turns_in_one_engine(log: Path, policies: list[Policy], adapters: str) -> None:
    """Self-Lengthen's Generator and Extender: neither waits for a start, or leaves anything behind in the other."""
    sampler = VllmSampler("float32", "cpu", max_model_len=128, log=log, max_lora_rank=4, adapters=adapters)
    generator, extender = policies[1:3]
    sampler.set_weights(generator)
    engine, first = ENGINE.pid, draw(sampler)
    sampler.set_weights(extender)
    assert ids_of(draw(sampler)) != ids_of(first)
    sampler.set_weights(generator)
    assert draw(sampler) == first and ENGINE.pid == engine
    assert policies[1].base_digest == policies[2].base_digest


@needs_vllm
def test_adapters_loaded_beside_the_base_sample_as_merged_ones(log: Path, policies: list[Policy]) -> None:
    """What a GPU does, on the CPU: versioned adapters, no merge. And another base means another engine."""
    sampler = VllmSampler("float32", "cpu", max_model_len=128, log=log, max_lora_rank=4, adapters="hot")
    for policy in (policies[1], policies[2], policies[0], policies[1]):
        sampler.set_weights(policy)
        assert largest_difference(policy, draw(sampler)) < 1e-4
    before = ENGINE.pid
    sampler.set_weights(policies[3])
    assert ENGINE.pid != before
    assert largest_difference(policies[3], draw(sampler)) < 1e-4


@needs_vllm
def test_an_engine_that_dies_is_an_error_with_its_log_and_the_next_start_works(
    sampler: VllmSampler, policies: list[Policy], log: Path
) -> None:
    before = draw(sampler)
    os.kill(int(str(ENGINE.pid)), signal.SIGKILL)
    with pytest.raises(RunFailed, match=rf"its process ended by signal 9.*{log}.*sampling\.backend=transformers"):
        draw(sampler)
    sampler.set_weights(policies[0])
    assert draw(sampler) == before


PARENT = """
import sys
from pathlib import Path
from selfimprove.models.resolve import resolve_policy
from selfimprove.sampling.sampler import Decoding, Request
from selfimprove.sampling.vllm import ENGINE, VllmSampler

sampler = VllmSampler("float32", "cpu", max_model_len=512, log=Path(sys.argv[2]))
sampler.set_weights(resolve_policy(sys.argv[1]))
print(ENGINE.pid, flush=True)
requests = [Request((1, 20 + i % 50), 8, i) for i in range(400)]
sampler.sample(requests, Decoding(1.0, 1.0, 500, ()), lambda n: None)
"""


@needs_vllm
def test_no_engine_outlives_a_killed_parent(policies: list[Policy], tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    ENGINE.close()
    command = [sys.executable, str(script), policies[0].base, str(tmp_path / "engine.log")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    engine = int(parent.stdout.readline())
    time.sleep(1)  # it samples now
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    until = time.monotonic() + 30
    while members(engine) and time.monotonic() < until:
        time.sleep(0.1)
    assert not members(engine)


def members(group: int) -> list[int]:
    """Living processes of a process group (an engine leads one)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


# ---- the loop on the real model


SMALL = (
    *("rounds=1", "data.seed_limit=12", "data.prompts_per_round=8", "sampling.n=3", "sft.epochs=2"),
    *("evaluate_limit=6", "gates.disabled=[consistency]", "sampling.backend=vllm"),
)


def cream(output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "selfimprove", "run", "smollm2-135m/cream", f"output={output}", *SMALL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def events_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@needs_vllm
@pytest.mark.real_model
def test_real_model_samples_trains_swaps_and_is_killed_and_goes_on(tmp_path: Path) -> None:
    whole = cream(tmp_path / "whole")
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors[-3000:]
    for noise in ("Warning", "WARNING", "warn(", "it/s", "Loading"):
        assert noise not in errors, errors
    events = events_of(tmp_path / "whole")
    assert next(e for e in events if e["event"] == "run")["backend"] == "vllm"
    engine = [e for e in events if e["event"] == "engine"]
    assert [e["what"] for e in engine] == ["start", "swap", "swap"], "M0, M1, M2 in one engine"
    agreed = next(e for e in events if e["event"] == "gate" and e["gate"] == "sampler_agrees")
    assert agreed["value"] < 1e-4

    killed = cream(tmp_path / "killed")
    steps = tmp_path / "killed" / "steps"
    while killed.poll() is None and not list(steps.glob(".partial-sft-*/step.json")):
        time.sleep(0.05)  # the engine is up, has sampled, and the model trains
    first = next(e for e in events_of(tmp_path / "killed") if e["event"] == "engine")
    assert members(first["pid"])
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    until = time.monotonic() + 30
    while members(first["pid"]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not members(first["pid"])

    resumed = cream(tmp_path / "killed")
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors[-3000:]
    ends = [next(e for e in events_of(tmp_path / name) if e["event"] == "done") for name in ("whole", "killed")]
    assert ends[0]["digest"] == ends[1]["digest"]


def test_no_engine_is_looked_for_where_none_was_used() -> None:
    code = "import sys; from selfimprove.sampling.backends import close_engine; close_engine(); "
    code += "print('vllm' in str(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert sampling.__doc__


@pytest.mark.parametrize(
    ("config", "refused"),
    [
        ({"hidden_size": 576, "num_attention_heads": 9}, None),
        ({"hidden_size": 32, "num_attention_heads": 4}, "heads of size 8"),
        ({"text_config": {"head_dim": 48, "hidden_size": 96, "num_attention_heads": 2}}, "heads of size 48"),
        ({"n_embd": 64, "n_head": 4}, "heads of size 16"),
        ({"hidden_size": 64, "num_attention_heads": 1, "layer_types": ["conv", "full_attention"]}, "kind conv"),
        ({"hidden_size": 64}, None),
    ],
)
def test_auto_samples_a_model_that_vllm_has_no_kernel_for_with_transformers(
    tmp_path: Path, config: dict[str, Any], refused: str | None
) -> None:
    from selfimprove.sampling.backends import beyond_vllm

    (tmp_path / "config.json").write_text(json.dumps(config))
    found = beyond_vllm(tmp_path, "cpu")
    assert found is None if refused is None else found is not None and refused in found
    assert beyond_vllm(tmp_path, "cuda") is None and beyond_vllm(tmp_path / "nowhere", "cpu") is None
