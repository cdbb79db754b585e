"""Kills a run with SIGKILL at random moments, restarts it each time, and compares it with an undisturbed one.

    python tests/kill_and_resume.py RECIPE WORK_FOLDER [--kills 10] [--longest 20] [--seed 0] [key=value ...]

Prints what every kill hit. Fails if the final weights differ, or if anything that was whole before a kill (a
finished step, a shard, a marked checkpoint) was made again.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path


def whole_work(steps: Path) -> dict[str, int]:
    """Every file that must never be made again, by step, name and modification time."""
    found = {}
    for path in [*steps.glob("*/rows-*.arrow"), *steps.glob("[!.]*/manifest.json")]:
        found[f"{path.parent.name.removeprefix('.partial-')}/{path.name}"] = path.stat().st_mtime_ns
    return found


def checkpoints(steps: Path) -> dict[str, int]:
    """The newest whole checkpoint of every training step under way."""
    found: dict[str, int] = {}
    for mark in steps.glob(".partial-*/checkpoints/checkpoint-*/whole"):
        name = mark.parents[2].name.removeprefix(".partial-")
        found[name] = max(found.get(name, 0), int(mark.parent.name.split("-")[1]))
    return found


def reached(steps: Path, label: str, what: str) -> bool:
    """Whether a step with `label` in its label has `begun` and goes on, has a whole `shard`, or is `done`."""
    kept = {"begun": ".partial-*/step.json", "shard": ".partial-*/rows-00000.arrow", "done": "[!.]*/manifest.json"}
    for path in steps.glob(kept[what]):
        with suppress(FileNotFoundError):  # it was finished since
            task = path.with_name("manifest.json" if what == "done" else "step.json")
            if label in json.loads(task.read_text())["label"]:
                return True
    return False


def command(words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen([sys.executable, "-m", "selfimprove", *words], stdout=file, stderr=subprocess.STDOUT)


def kill_when(moment: Callable[[], bool], words: Sequence[str], log: Path) -> bool:
    """Starts a command and kills it as soon as `moment()` is true; whether it was before the command's end."""
    process = command(words, log)
    while process.poll() is None and not moment():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    code = process.wait()
    assert code in (0, -signal.SIGKILL), f"exit code {code}:\n{log.read_text()[-3000:]}"
    return code != 0


def start(recipe: str, output: Path, overrides: list[str], log: Path) -> subprocess.Popen[bytes]:
    return command(["run", recipe, f"output={output}", *overrides], log)


def finish(recipe: str, output: Path, overrides: list[str]) -> str:
    """Runs to the end; the final policy's digest."""
    log = output.with_suffix(".log")
    output.parent.mkdir(parents=True, exist_ok=True)
    if start(recipe, output, overrides, log).wait() != 0:
        raise SystemExit(f"the run failed:\n{log.read_text()[-3000:]}")
    events = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert len({(e["event"], e["id"]) for e in events}) == len(events), "an event was written twice"
    return str(next(e for e in events if e["event"] == "done")["digest"])


def kill_once(recipe: str, output: Path, overrides: list[str], delay: float) -> str | None:
    """Starts the run, kills it `delay` seconds after it took its lock; what was going on, or None if it was done."""
    steps, lock = output / "steps", output / "lock"
    before = whole_work(steps)
    process = start(recipe, output, overrides, output.with_suffix(".log"))
    while process.poll() is None and (not lock.exists() or lock.read_text().strip() != str(process.pid)):
        time.sleep(0.05)
    try:
        process.wait(timeout=delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    code = process.wait()
    after = whole_work(steps)
    redone = {name for name, written in before.items() if after.get(name) != written}
    assert not redone, f"made again although whole: {redone}"
    if code == 0:
        return None
    assert code == -signal.SIGKILL, f"exit code {code}:\n{output.with_suffix('.log').read_text()[-3000:]}"
    under_way = [path.name.removeprefix(".partial-") for path in steps.glob(".partial-*")]
    return ", ".join(under_way) or "between steps"


def check_resumed(output: Path, expected: dict[str, list[int]]) -> None:
    """Training went on from the newest whole checkpoint each time, so at most one interval was done again."""
    for name, steps in expected.items():
        note = output / "steps" / name / "resumed-from.json"
        found = json.loads(note.read_text()) if note.is_file() else []
        assert set(steps) <= set(found), f"{name}: resumed from {found}, whole checkpoints were {steps}"


def kill_and_compare(
    recipe: str,
    work: Path,
    kills: int,
    longest: float,
    seed: int,
    overrides: list[str],
    undisturbed: Path | None = None,
) -> tuple[str, str]:
    """(digest of the killed run, digest of the undisturbed run)."""
    chance = random.Random(seed)
    killed = work / "killed"
    work.mkdir(parents=True, exist_ok=True)
    expected: dict[str, list[int]] = {}
    for number in range(kills):
        delay = chance.uniform(0, longest)
        hit = kill_once(recipe, killed, overrides, delay)
        print(f"kill {number + 1} after {delay:.1f} s: {hit or 'the run was done'}", flush=True)
        if hit is None:
            break
        for name, step in checkpoints(killed / "steps").items():
            expected.setdefault(name, []).append(step)
    digest = finish(recipe, killed, overrides)
    check_resumed(killed, expected)
    return digest, finish(recipe, undisturbed or work / "undisturbed", overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("work", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--longest", type=float, default=20.0, help="seconds a start lives at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=Path, help="a finished run of the same recipe to compare with")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    killed, undisturbed = kill_and_compare(
        given.recipe, given.work, given.kills, given.longest, given.seed, given.overrides, given.undisturbed
    )
    print(f"killed:      {killed}\nundisturbed: {undisturbed}")
    sys.exit(killed != undisturbed)


if __name__ == "__main__":
    main()
