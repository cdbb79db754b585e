"""`training.report_to`: curves in the run's folder, and a clear message before anything starts."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from selfimprove.errors import InputError
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.terminal import Progress
from selfimprove.runs.execute import run
from selfimprove.training import trackers
from selfimprove.training.trackers import check_trackers, tracked, tracking

SETTINGS = ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR", "WANDB_PROJECT", "WANDB_RUN_GROUP", "WANDB_MODE")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: object())


class FakeWandb:
    """What of wandb is used here, and how it was used."""

    def __init__(self, mode: str = "online", key: bool = True) -> None:
        self.mode, self.key, self.calls = mode, key, []  # type: ignore[var-annotated]

    def setup(self) -> Any:
        return SimpleNamespace(settings=SimpleNamespace(mode=self.mode))

    def login(self) -> None:
        self.calls.append("login")
        if not self.key:
            raise ValueError("no API key configured")

    def init(self, **given: Any) -> None:
        self.calls.append(given)

    def finish(self) -> None:
        self.calls.append("finish")


def trainer(names: list[str], first: bool = True) -> Any:
    arguments = SimpleNamespace(report_to=names, run_name="DPO M1 to M2 0123abcd")
    handler = SimpleNamespace(callbacks=[])
    return SimpleNamespace(args=arguments, callback_handler=handler, is_world_process_zero=lambda: first)


def test_unknown_and_missing_trackers_are_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="unknown tracker 'mlflow'; known: tensorboard, trackio, wandb"):
        check_trackers(["mlflow"])
    for name in trackers.TRACKERS:
        with pytest.raises(InputError, match=f"{name} is not installed here; `pip install {name}`"):
            check_trackers([name])
    check_trackers([])


def test_a_run_says_so_before_it_makes_a_folder(
    tiny_recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    recipe = tiny_recipe("srlm", training={"report_to": ["trackio"]})
    with pytest.raises(InputError, match="pip install trackio"):
        run(recipe, Progress(Console(file=io.StringIO())))
    assert not Path(recipe.output).exists()


@pytest.mark.usefixtures("all_installed")
def test_everything_is_sent_into_the_runs_folder_and_what_a_person_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb())  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    before = dict(os.environ)
    with tracking(trackers.TRACKERS, tmp_path / "run-7"):
        logs = tmp_path / "run-7" / "logs"
        assert logs.is_dir()
        assert os.environ["TENSORBOARD_LOGGING_DIR"] == str(logs / "tensorboard")
        assert os.environ["TRACKIO_DIR"] == str(logs / "trackio")
        assert (os.environ["WANDB_DIR"], os.environ["WANDB_RUN_GROUP"]) == (str(logs), "run-7")
        assert os.environ["WANDB_PROJECT"] == "mine"
    assert dict(os.environ) == before
    with tracking([], tmp_path / "quiet"):
        assert dict(os.environ) == before
    assert not (tmp_path / "quiet").exists()


@pytest.mark.usefixtures("all_installed")
@pytest.mark.parametrize(
    ("fake", "environment", "asked"),
    [
        (FakeWandb(), {}, True),
        (FakeWandb(mode="offline", key=False), {}, False),
        (FakeWandb(key=False), {"WANDB_MODE": "offline"}, False),
    ],
)
def test_wandb_needs_a_login_only_online(
    fake: FakeWandb, environment: dict[str, str], asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with tracking(["wandb"], tmp_path):
        assert fake.calls == ["login"] * asked


@pytest.mark.usefixtures("all_installed")
def test_wandb_without_a_login_stops_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(key=False))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no API key configured.*WANDB_MODE=offline"), tracking(["wandb"], tmp_path):
        pass
    assert not (tmp_path / "logs").exists()


def test_every_training_is_its_own_wandb_run_and_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setenv("WANDB_DIR", "/somewhere")
    with pytest.raises(KeyError), tracked(trainer(["wandb"])):
        raise KeyError
    (made, end) = fake.calls
    assert (made["id"], made["name"]) == ("DPO-M1-to-M2-0123abcd", "DPO M1 to M2 0123abcd")
    assert (made["dir"], made["project"], made["resume"], end) == ("/somewhere", "selfimprove", "allow", "finish")
    with tracked(trainer(["wandb"], first=False)), tracked(trainer(["tensorboard"])):
        assert len(fake.calls) == 2, "only the first process writes"


def test_tensorboard_files_lie_in_the_runs_folder_one_place_for_each_training(
    tiny_recipe: Callable[..., Recipe],
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny_recipe("srlm", rounds=1, training={"report_to": ["tensorboard"]})
    run(recipe, Progress(Console(file=io.StringIO())))
    *places, policies = sorted((Path(recipe.output) / "logs" / "tensorboard").iterdir())
    told = EventAccumulator(str(policies))
    told.Reload()
    assert policies.name == "policies" and [one.step for one in told.Scalars("tiny/accuracy")] == [0, 1, 2]
    assert [place.name[:-9] for place in places] == ["DPO M1 to M2", "SFT M0 to M1"]
    for place in places:
        written = EventAccumulator(str(place))
        written.Reload()
        assert len(written.Scalars("train/loss")) >= 2


def test_figures_of_a_policy_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[dict[str, float], int]] = []
    monkeypatch.setitem(trackers._SEND, "wandb", lambda figures, place: told.append((figures, place)))
    for place in (0, 1, 1, 0):  # a run that goes on passes by its finished evaluations again
        trackers.tell_figures(["wandb"], {"suite/accuracy": 0.5}, place, tmp_path / "told.json")
    assert told == [({"suite/accuracy": 0.5}, 0), ({"suite/accuracy": 0.5}, 1)]
    trackers.tell_figures([], {"suite/accuracy": 0.5}, 2, tmp_path / "none.json")
    assert not (tmp_path / "none.json").exists()
