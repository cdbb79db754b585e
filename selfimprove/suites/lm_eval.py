"""EleutherAI's lm-evaluation-harness on any policy: its tasks, its prompts and its figures, our loading and progress.

The harness scores a model object that `selfimprove.models` loaded, adapter included, through its own hf backend. The
figures are those of `lm_eval --model hf` with the same options. https://github.com/EleutherAI/lm-evaluation-harness
"""

from __future__ import annotations

import copy
import importlib.metadata
import io
import json
import logging
import math
import numbers
import os
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

from jinja2 import TemplateError
from rich.console import Console

from selfimprove.artefacts import digest_of, explained_write, file_digest, write_json
from selfimprove.errors import InputError, RunFailed
from selfimprove.models.chat import TODAY
from selfimprove.models.loading import MODELS
from selfimprove.models.policy import Policy, load_tokenizer, pick_device, pick_dtype
from selfimprove.quiet import quiet_libraries
from selfimprove.report.terminal import Progress

# `done/total [elapsed<left` in what tqdm draws
_BAR = re.compile(r"(\d+)/(\d+) \[(?:(\d+):)?(\d+):(\d+)<")
_SHOWN_AFTER = 2  # seconds


@dataclass(frozen=True)
class TaskFigure:
    """One metric of one task, or of one of its subtasks.

    Attributes:
        task: lm-eval's name of it.
        metric, filter: as lm-eval names them (`acc`, `acc_norm`; `none` unless the task picks answers out of texts).
        value: in the metric's own unit; accuracies are shares of one.
        standard_error: lm-eval's, None where it has none.
        n: documents measured, after the limit; a group's are those of all its tasks.
        higher_is_better: None where the task does not say.
        version: of the task's definition; figures of different versions are not comparable.
        num_fewshot: solved examples before each question.
        truncated: requests longer than the model's context, which lm-eval cuts from the left.
        policy_digest: of the model measured.
    """

    task: str
    metric: str
    filter: str
    value: float
    standard_error: float | None
    n: int
    higher_is_better: bool | None
    version: str | None
    num_fewshot: int | None
    truncated: int
    policy_digest: str

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def run_tasks(
    policy: Policy,
    tasks: Sequence[str],
    *,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include_path: Path | None = None,
    chat: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    batch_size: int = 8,
    seed: int | None = None,
    output: Path | None = None,
) -> list[TaskFigure]:
    """The figures of a policy on tasks, groups or tags of lm-eval, in the order asked; a group's own come first.

    Every task's figures are written to `output` when it is finished and found there by the next call with the same
    policy, options and lm-eval version (batch size apart: it changes rounding only). Progress goes to standard error;
    nothing goes to standard output.

    Args:
        limit: only the first documents of each task, and of each subtask.
        num_fewshot: solved examples before each question, instead of the task's own number. A task that fixes zero
            keeps it, as in lm-eval.
        include_path: a folder of task files (YAML) of the user's own. All its files are part of what a stored figure is
            found by; data elsewhere are not.
        chat: writes prompts with the model's chat template, few-shot examples as turns.
        batch_size: requests at a time; documents of perplexity tasks go one at a time.
        seed: None for lm-eval's own seeds, with which its published few-shot prompts are drawn.
        output: the folder of the results; None keeps nothing.

    Raises InputError where lm-eval is not installed, for tasks that are not there or not to be loaded, and for `chat`
    with a model without template, before the model is loaded; RunFailed where the model or lm-eval cannot go on.
    """
    if find_spec("lm_eval") is None:
        raise InputError("lm-eval is not installed: pip install 'lm-eval>=0.4.13,<0.5'")
    _check(tasks, limit, num_fewshot, batch_size, include_path)
    if chat and not load_tokenizer(policy).chat_template:
        raise InputError(
            f"--chat: the tokenizer of {policy.base} has no chat template; measure it without --chat, or put a "
            "chat_template.jinja file beside its tokenizer.json"
        )
    quiet_libraries()
    device = pick_device(device)
    torch_dtype = pick_dtype(dtype, device)
    included = _folder_digest(include_path) if include_path else None
    options = {
        "limit": limit,
        "num_fewshot": num_fewshot,
        "include_path": included,
        "chat": chat,
        "device": device.partition(":")[0],
        "dtype": str(torch_dtype),
        "seed": seed,
    }
    progress = Progress(Console(file=sys.stderr))  # this one, whatever stands for standard error later
    results, stored = {}, {}
    names = list(dict.fromkeys(tasks))
    for name in names:
        what = {"task": name, "lm_eval": version("lm_eval"), "policy_digest": policy.digest, "options": options}
        stored[name] = _Stored(output, what)
        if (found := stored[name].read(progress)) is not None:
            progress.step_reused(name)
            results[name] = found
    missing = [name for name in names if name not in results]
    if missing:
        progress.note(f"lm-eval {version('lm_eval')}: reading the index of its tasks")
        manager = _task_manager(str(include_path.resolve()) if include_path else None, included)
        for name in missing:
            _check_known(manager, name)
        loaded = {name: _load(manager, name, num_fewshot, seed, progress) for name in missing}
        model, active = MODELS.get(policy, torch_dtype, device)
        with active:
            for name in missing:
                results[name] = _measure(policy, model, name, loaded.pop(name), limit, chat, batch_size, seed, progress)
                stored[name].write(results[name])
    figures = [figure for name in names for figure in results[name]]
    _say_what_differs(figures, num_fewshot, progress)
    return figures


def _check(
    tasks: Sequence[str], limit: int | None, num_fewshot: int | None, batch_size: int, include_path: Path | None
) -> None:
    if not tasks or not all(name.strip() for name in tasks):
        raise InputError("--tasks: name at least one task, for example arc_easy,hellaswag (all: `lm-eval ls tasks`)")
    for option, value, least in (
        ("--limit", limit, 1),
        ("--num-fewshot", num_fewshot, 0),
        ("--batch-size", batch_size, 1),
    ):
        if value is not None and value < least:
            raise InputError(f"{option}: must be {least} or more; found {value}")
    if include_path is not None and not include_path.is_dir():
        raise InputError(f"--include-path: {include_path} is not a folder; give the one that holds the task files")


def _folder_digest(folder: Path) -> str:
    """Of the names and contents of all its files, but for what Python leaves behind."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    return digest_of([[str(path.relative_to(folder)), file_digest(path)] for path in files])


class _Stored:
    """Where the figures of one task are, or will be."""

    def __init__(self, folder: Path | None, what: dict[str, Any]) -> None:
        self.key = digest_of(what)
        self.what = what
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in what["task"])
        self.path = folder / f"{name}-{self.key[:16]}.json" if folder else None

    def read(self, progress: Progress) -> list[TaskFigure] | None:
        """The figures, or None where there are none or not the whole of them."""
        if self.path is None:
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if content["key"] == self.key and content["digest"] == digest_of(content["figures"]):
                return [TaskFigure(**row) for row in content["figures"]]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            pass
        progress.note(f"{self.path}: damaged; {self.what['task']} is measured again")
        return None

    def write(self, figures: list[TaskFigure]) -> None:
        if self.path is None:
            return
        rows = [figure.as_json() for figure in figures]
        with explained_write(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_json(self.path, {**self.what, "key": self.key, "figures": rows, "digest": digest_of(rows)})


def _say_what_differs(figures: list[TaskFigure], num_fewshot: int | None, progress: Progress) -> None:
    """What of the figures is not what was asked or expected: one line for each task."""
    for one in {figure.task: figure for figure in figures}.values():
        if one.truncated:
            progress.note(
                f"{one.task}: {one.truncated} requests were longer than the model's context; lm-eval cut them from the "
                "left"
            )
        if num_fewshot is not None and one.num_fewshot not in (None, num_fewshot):
            progress.note(f"{one.task}: {one.num_fewshot} examples, not {num_fewshot}: its task file fixes the number")


# ---- lm-eval


@lru_cache(maxsize=2)
def _task_manager(include_path: str | None, digest: str | None) -> Any:
    """lm-eval's index of its 14 thousand task files and the user's (6 seconds, so once a process)."""
    from lm_eval.tasks import TaskManager

    _quiet()
    try:
        return TaskManager(include_path=include_path)
    except Exception as error:  # whatever a YAML reader, or code in the user's files, may raise
        raise InputError(
            f"--include-path: {include_path}: not readable as task files ({_first_line(error)})"
        ) from error


def _check_known(manager: Any, name: str) -> None:
    if name not in manager.task_index:
        close = get_close_matches(name, manager.all_tasks, 3)
        near = f"did you mean {', '.join(close)}?" if close else "`lm-eval ls tasks` lists all there are"
        raise InputError(f"--tasks: lm-eval {version('lm_eval')} has no task {name!r}; {near}")


def _load(manager: Any, name: str, num_fewshot: int | None, seed: int | None, progress: Progress) -> dict[str, Any]:
    """lm-eval's {"tasks", "groups", "group_map"} of one name, its data included, with the number of examples set."""
    progress.note(f"{name}: loading the task and its data")
    _set_seeds(seed)
    try:
        with _silenced(None), _sympy_reads_latex():
            loaded = manager.load([name])
    except Exception as error:  # a task's own code runs here, and three libraries that fetch
        source = _data_source(manager, name)
        if isinstance(error, ConnectionError):
            raise InputError(
                f"--tasks: the data of {name} ({source}) cannot be fetched from the Hugging Face hub and are not in "
                f"its cache ({_first_line(error)}). Run once where the hub can be reached; afterwards the cache (see "
                "HF_HOME) serves without it"
            ) from error
        kind = "data are not there" if isinstance(error, FileNotFoundError) else "task cannot be loaded"
        raise InputError(f"--tasks: {name} ({source}): the {kind} ({_first_line(error)})") from error
    for task_name, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise InputError(
                f"--tasks: {task_name} runs code that the model wrote, which is not done here; use lm-eval itself "
                "(--confirm_run_unsafe_code), in a container"
            )
        if getattr(task, "MULTIMODAL", False):
            raise InputError(f"--tasks: {task_name} needs images or sound; policies here read text only")
        # As lm-eval's `simple_evaluate` does; that one cannot be called, as it asks git and the hub about the model.
        own = task.get_config("num_fewshot")
        if num_fewshot is not None and own != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif own is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=1234 if seed is None else seed)
    return loaded


def _data_source(manager: Any, name: str) -> str:
    """What a task's file says of where its data are; its file where that says nothing."""
    entry = manager.task_index[name]
    config = entry.cfg if isinstance(getattr(entry, "cfg", None), dict) else {}
    return str(config.get("dataset_path") or entry.yaml_path or "its own code")


def _measure(
    policy: Policy,
    model: Any,
    name: str,
    loaded: dict[str, Any],
    limit: int | None,
    chat: bool,
    batch_size: int,
    seed: int | None,
    progress: Progress,
) -> list[TaskFigure]:
    import torch
    from lm_eval.evaluator import evaluate

    bars = _Bars(progress, name)
    backend = _backend(model, policy, batch_size, bars)
    _set_seeds(seed)
    try:
        with _silenced(bars):
            found = evaluate(
                lm=backend,
                task_dict=loaded,
                limit=limit,
                log_samples=False,
                apply_chat_template=chat,
                fewshot_as_multiturn=True,
            )
    except torch.OutOfMemoryError as error:
        raise RunFailed(
            f"{name}: the device has no memory for {batch_size} requests; a smaller --batch-size"
        ) from error
    except (AssertionError, NotImplementedError, TemplateError, ValueError) as error:
        raise RunFailed(f"{name}: lm-eval cannot go on ({_first_line(error)})") from error
    for group in loaded["groups"].values():
        backend.cut[group.name] = sum(backend.cut[task.task_name] for task in group.get_all_tasks())
    figures = list(_figures(found, backend.cut, policy.digest, progress))
    if not figures:
        raise RunFailed(f"{name}: lm-eval gave no finite number for it")
    return sorted(figures, key=lambda one: one.task != name)


def _figures(found: dict[str, Any], cut: Counter[str], digest: str, progress: Progress) -> Iterator[TaskFigure]:
    """From lm-eval's results: a task has `acc,none` and `acc_stderr,none`, a group may have neither."""
    for task, metrics in found["results"].items():
        stated = found["versions"].get(task)
        for key, given in metrics.items():
            metric, _, chosen = key.partition(",")
            if not chosen or metric.endswith("_stderr"):
                continue
            value, spread = _finite(given), _finite(metrics.get(f"{metric}_stderr,{chosen}"))
            if value is None:
                progress.note(f"{task}: {metric} is left out, as it is no finite number: {str(given)[:40]}")
                continue
            yield TaskFigure(
                task=task,
                metric=metric,
                filter=chosen,
                value=value,
                standard_error=spread,
                n=int(metrics["sample_len"]),
                higher_is_better=found["higher_is_better"].get(task, {}).get(metric),
                version=None if stated is None else str(stated),
                num_fewshot=found["n-shot"].get(task),
                truncated=cut[task],
                policy_digest=digest,
            )


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else None


def _backend(model: Any, policy: Policy, batch_size: int, bars: _Bars) -> Any:
    """lm-eval's hf backend around a loaded model. What it adds scores nothing: progress, and a look at the results."""
    from lm_eval.api.model import CacheHook
    from lm_eval.models.huggingface import HFLM

    class Counting(CacheHook):
        """lm-eval tells its cache of every finished request."""

        def __init__(self, advance: Callable[[int], None]) -> None:
            super().__init__(None)
            self.advance = advance

        def add_partial(self, attr: str, req: Any, res: Any) -> None:
            self.advance(1)

    class Backend(HFLM):
        def __init__(self) -> None:
            super().__init__(
                pretrained=model,
                tokenizer=copy.deepcopy(load_tokenizer(policy)),  # lm-eval sets its padding
                batch_size=batch_size,
                chat_template_args={"strftime_now": TODAY.strftime, **policy.chat_template_kwargs},
            )
            self.cut: Counter[str] = Counter()
            self.task_of: dict[str, str] = {}

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            with self.shown(requests, "requests"):
                found = super().loglikelihood(requests, disable_tqdm=True)
            self.check(requests, [value for value, _ in found])
            return found

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            found: list[float] = []
            self.batch_size_per_gpu = 1  # windows are as long as the context
            with self.shown(requests, "documents"):
                for request in requests:
                    found += super().loglikelihood_rolling([request], disable_tqdm=True)
            self.batch_size_per_gpu = batch_size
            self.check(requests, found)
            return found

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            with self.shown(requests, "answers"):
                return super().generate_until(requests, disable_tqdm=True)

        @contextmanager
        def shown(self, requests: list[Any], unit: str) -> Iterator[None]:
            self.task_of = {request.args[0]: request.task_name for request in requests}
            with bars.progress.task(bars.name, len(requests), unit) as advance, _silenced(None):
                self.set_cache_hook(Counting(advance))
                try:
                    yield
                finally:
                    self.set_cache_hook(CacheHook(None))
            bars.stage = "standard errors"

        def check(self, requests: list[Any], values: list[float]) -> None:
            """A model that has diverged would get a figure too: every comparison with NaN is false."""
            for request, value in zip(requests, values, strict=True):
                if math.isnan(value):
                    raise RunFailed(
                        f"{request.task_name}: the model's log-likelihoods are not numbers (NaN); its weights are "
                        "damaged or the dtype is too narrow for it"
                    )

        def _loglikelihood_tokens(self, requests: list[Any], *args: Any, **options: Any) -> list[tuple[float, bool]]:
            for texts, context, continuation in requests:
                if texts is not None and len(context) + len(continuation) > self.max_length + 1:
                    self.cut[self.task_of[texts[0]]] += 1
            return super()._loglikelihood_tokens(requests, *args, **options)

        def tok_batch_encode(self, strings: list[str], *args: Any, **options: Any) -> Any:
            if room := options.get("left_truncate_len"):
                for text in strings:
                    if len(self.tok_encode(text)) > room:
                        self.cut[self.task_of[text]] += 1
            return super().tok_batch_encode(strings, *args, **options)

    return Backend()


@contextmanager
def _sympy_reads_latex() -> Iterator[None]:
    """SymPy's parser of LaTeX and the task minerva_math ask for ANTLR's runtime 4.11 by its number; math-verify's
    answers are those of its grammar for 4.13.2 (that for 4.11 reads no percentages), and only one can be installed.
    4.13 runs what 4.11 generated, since both have the serialised form 4, and answers the same (tests/test_lm_eval.py);
    so these two are told what they ask for. Without math-verify nothing is changed."""
    if find_spec("math_verify") is None:
        yield
        return
    import_module("math_verify")  # finds its own grammar by the true number
    parser = import_module("sympy.parsing.latex._parse_latex_antlr")
    true_version = importlib.metadata.version

    def told(name: str) -> str:
        return "4.11" if name == "antlr4-python3-runtime" else true_version(name)

    with patch.object(importlib.metadata, "version", told):
        parser.version = told  # type: ignore[attr-defined]  # asked at every formula
        yield


def _set_seeds(seed: int | None) -> None:
    """lm-eval's own seeds for None. Its few-shot draws have generators of their own; tasks' code may use these."""
    import numpy as np
    import torch

    random.seed(0 if seed is None else seed)
    np.random.seed(1234 if seed is None else seed)
    torch.manual_seed(1234 if seed is None else seed)


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


# ---- quiet, but for what takes long


def _quiet() -> None:
    if not os.environ.get("SELFIMPROVE_VERBOSE"):
        for name in ("lm_eval", "huggingface_hub"):
            logging.getLogger(name).setLevel(logging.ERROR)


@contextmanager
def _silenced(bars: _Bars | None) -> Iterator[None]:
    """Keeps what lm-eval draws and prints off the terminal, and off standard output in any case."""
    _quiet()
    if os.environ.get("SELFIMPROVE_VERBOSE"):
        with redirect_stdout(sys.stderr):
            yield
        return
    sink = bars or io.StringIO()
    with redirect_stdout(sink), redirect_stderr(sink):
        try:
            yield
        finally:
            if bars:
                bars.end()


class _Bars(io.TextIOBase):
    """Stands for standard error while lm-eval works: those of its bars that take long are shown as ours.

    They are the writing of prompts and the bootstrap of standard errors, which lm-eval lets nobody count otherwise.
    """

    def __init__(self, progress: Progress, name: str) -> None:
        self.progress = progress
        self.name = name
        self.stage = "prompts"
        self._open = ExitStack()
        self._advance: Callable[[int], None] | None = None
        self._done = 0

    def write(self, text: str) -> int:
        if bar := _BAR.search(text):
            done, total, hours, minutes, seconds = (int(part or 0) for part in bar.groups())
            if self._advance is not None:
                self._advance(done - self._done)
            elif done < total and 3600 * hours + 60 * minutes + seconds >= _SHOWN_AFTER:
                task = self.progress.task(f"{self.name}, {self.stage}", total - done, "left to do")
                self._advance = self._open.enter_context(task)
            self._done = done
            if done >= total:
                self.end()
        return len(text)

    def end(self) -> None:
        self._advance = None
        self._open.close()
