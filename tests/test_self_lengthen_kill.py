"""SIGKILL in the extension of Self-Lengthen: what was accepted stays, and the end is an undisturbed run's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kill_and_resume import finish, kill_when, reached, whole_work
from rich.console import Console

import selfimprove
from selfimprove.artefacts import read_rows
from selfimprove.recipe.recipe import Recipe, load_recipe
from selfimprove.report.events import read_events
from selfimprove.report.terminal import Progress

# (a part of a step's label, what it must have come to), in the order in which they come
MOMENTS = [
    ("sample first halves enriched by M0, round 1, try 1, iteration 1", "begun"),
    ("sample texts extended by M0, round 1, try 1, iteration 1", "shard"),
    ("sample texts extended by M0, round 1, try 2, iteration 1", "begun"),
]


def accepted(output: Path) -> dict[str, Any]:
    """By the folder of each training: the token ids of what was trained."""
    return {file.parents[1].name: read_rows(file) for file in (output / "steps").glob("sft-*/inputs/examples.arrow")}


def test_kills_in_the_extension_lose_no_accepted_text(lengthen_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    changes = {"initial": 8, "initial_tries": 2, "extension_tries": 2}  # enough texts for two shards
    recipe = lengthen_recipe(self_lengthen=changes, data={"prompts_per_round": 12})
    file, log = tmp_path / "recipe.yaml", tmp_path / "killed.log"
    file.write_text(recipe.as_yaml())
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    steps = killed / "steps"
    for label, what in MOMENTS:
        before = whole_work(steps)
        assert kill_when(lambda: reached(steps, label, what), ["run", str(file), f"output={killed}"], log)  # noqa: B023
        after = whole_work(steps)
        assert all(after.get(name) == written for name, written in before.items()), "made again although whole"
        assert len(after) > len(before) and not list(steps.glob("sft-*")), f"not killed at {label}, {what}"
    before = whole_work(steps)
    digest = finish(str(file), killed, [])
    whole = selfimprove.run(load_recipe(str(file), [f"output={undisturbed}"]), Progress(Console(quiet=True)))
    assert whole.policy is not None and digest == whole.policy.digest
    after = whole_work(steps)
    assert all(after.get(name) == written for name, written in before.items()), "made again although whole"

    texts = accepted(killed)
    assert len(texts) == 2 and all(texts.values()) and texts == accepted(undisturbed)
    ends = [read_events(folder / "metrics.jsonl") for folder in (killed, undisturbed)]
    for kind in ("filter", "lengths"):
        first, second = ([plain(event) for event in events if event["event"] == kind] for events in ends)
        assert first and first == second


def plain(event: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "time"}
