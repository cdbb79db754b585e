"""`training.report_to`: training curves also go to TensorBoard, trackio or wandb, by default into `<run>/logs`.

Each training stage is one run of a tracker, named like its step, so a stage that goes on after a kill goes on there;
what the suites measured of each policy is one more, named `policies`.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfimprove.artefacts import explained_write, write_json
from selfimprove.errors import InputError

TRACKERS = ("tensorboard", "trackio", "wandb")  # each is its package's name, too
PROJECT = "selfimprove"


@contextmanager
def tracking(names: Sequence[str], run_folder: Path) -> Iterator[None]:
    """While inside, the trackers of this process and of those it starts write into the run's folder.

    What a person has set in the environment stays. Raises `InputError` for a tracker that is unknown, not installed
    or not logged in: at the start of a run, and not at its first training after an hour of sampling.
    """
    check_trackers(names)
    logs = run_folder.resolve() / "logs"
    wanted = {
        "tensorboard": {"TENSORBOARD_LOGGING_DIR": str(logs / "tensorboard")},
        "trackio": {"TRACKIO_DIR": str(logs / "trackio")},
        "wandb": {"WANDB_DIR": str(logs), "WANDB_PROJECT": PROJECT, "WANDB_RUN_GROUP": run_folder.resolve().name},
    }
    settings = {key: value for name in names for key, value in wanted[name].items() if key not in os.environ}
    if "wandb" in names:
        _check_login()
    if names:
        with explained_write(logs):
            logs.mkdir(parents=True, exist_ok=True)
    os.environ.update(settings)
    try:
        yield
    finally:
        for key in settings:
            os.environ.pop(key, None)


def check_trackers(names: Sequence[str]) -> None:
    """Refuses names that are unknown, and packages that are not installed."""
    for name in names:
        if name not in TRACKERS:
            raise InputError(f"training.report_to: unknown tracker {name!r}; known: {', '.join(TRACKERS)}")
        if find_spec(name) is None:
            raise InputError(f"training.report_to: {name} is not installed here; `pip install {name}`, or leave it out")


def _check_login() -> None:
    """wandb asks for a key in a terminal, and stops where it cannot; both should come before the run's first step."""
    import wandb

    if os.environ.get("WANDB_MODE", "online") != "online" or wandb.setup().settings.mode != "online":
        return
    try:
        wandb.login()
    except Exception as error:
        raise InputError(
            f"training.report_to: wandb has no login ({error}); run `wandb login`, or set WANDB_MODE=offline to keep "
            "everything in the run's folder"
        ) from error


@contextmanager
def tracked(trainer: Any) -> Iterator[None]:
    """One training as one run of each tracker that the trainer reports to."""
    from transformers.integrations import TensorBoardCallback

    names, run = trainer.args.report_to, trainer.args.run_name
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.logging_dir:
            callback.logging_dir = str(Path(callback.logging_dir) / run)
    if "wandb" not in names or not trainer.is_world_process_zero():
        with redirect_stdout(sys.stderr):  # trackio prints; standard output is for results
            yield
        return
    import wandb

    # Made here, since the trainer's integration would put all trainings of this process into one run.
    folder, project, group = (os.environ.get(f"WANDB_{key}") for key in ("DIR", "PROJECT", "RUN_GROUP"))
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", run)
    wandb.init(dir=folder, project=project or PROJECT, group=group, name=run, id=name, resume="allow")
    try:
        yield
    finally:
        wandb.finish()


def tell_figures(names: Sequence[str], figures: dict[str, float], place: int, done: Path) -> None:
    """Sends what a policy came to (`instructions/accuracy`) to the trackers, as a run of its own called `policies`,
    whose steps are the measured policies from 0. `done` keeps what was sent: a run that goes on sends nothing twice."""
    sent = json.loads(done.read_text()) if done.is_file() else []
    new = {name: value for name, value in figures.items() if [name, place] not in sent}
    if not names or not new:
        return
    for name in names:
        with redirect_stdout(sys.stderr):
            _SEND[name](new, place)
    write_json(done, [*sent, *([name, place] for name in new)])


def _tensorboard(figures: dict[str, float], place: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(Path(os.environ["TENSORBOARD_LOGGING_DIR"]) / "policies")) as writer:
        for name, value in figures.items():
            writer.add_scalar(name, value, place)


def _trackio(figures: dict[str, float], place: int) -> None:
    import trackio

    trackio.init(project=PROJECT, name="policies", resume="allow")
    trackio.log(figures, step=place)
    trackio.finish()


def _wandb(figures: dict[str, float], place: int) -> None:
    import wandb

    folder, project, group = (os.environ.get(f"WANDB_{key}") for key in ("DIR", "PROJECT", "RUN_GROUP"))
    id = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{group}-policies")
    wandb.init(dir=folder, project=project or PROJECT, group=group, name="policies", id=id, resume="allow")
    wandb.log({**figures, "policy": place})
    wandb.finish()


_SEND = {"tensorboard": _tensorboard, "trackio": _trackio, "wandb": _wandb}
