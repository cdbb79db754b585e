"""The matrix of runs, fixed before any comparison, and how it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from selfimprove import Recipe, load_recipe, run
from selfimprove.artefacts import Artefact, Store
from selfimprove.errors import SelfImproveError
from selfimprove.loop.loop import Loop
from selfimprove.models.loading import MODELS
from selfimprove.quiet import quiet_libraries
from selfimprove.report.events import EventLog, read_events
from selfimprove.report.summary import of_kind
from selfimprove.report.terminal import Progress
from selfimprove.shipped import suites_folder
from selfimprove.training.stages import made_policy

SEEDS = (2, 3, 4)  # 0 and 1 were used to choose the settings and are not reported
ARMS = ("cream", "srlm", "constant", "random", "verifier")
COMPARED = ("cream", "srlm")  # whose last two models are compared
# arm -> recipe, and what it changes in it
RECIPES = {
    "cream": ("smollm2-135m/cream", ()),
    "srlm": ("smollm2-135m/srlm", ()),
    "constant": ("smollm2-135m/cream", ("cream.weight=constant", "cream.constant=0.85")),
    "random": ("smollm2-135m/iterative-dpo", ("iterative_dpo.judge.kind=random",)),
    "verifier": ("smollm2-135m/iterative-dpo", ()),
}
# setting -> what it changes in every recipe, and the arms run in it
SETTINGS = {
    "paper-beta": (("training.learning_rate=8e-5", "training.beta=0.1"), ARMS),
    "shipped": (("training.learning_rate=2.5e-5", "training.beta=0.4"), ("cream", "srlm")),
}
# Items 103 to 300 of eval/words, which were never used for any choice; FOLDER is where the runs are.
SUITE = "words-103-300"
COMMON = ("rounds=2", "sampling.backend=transformers", f"evaluate=[FOLDER/suite/{SUITE}.yaml]")


@dataclass(frozen=True)
class Cell:
    """One run of the matrix: a recipe (shipped name or file) with overrides, in a setting, with a seed."""

    setting: str
    arm: str
    seed: int
    recipe: str
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.setting}-{self.arm}-seed{self.seed}"

    def load(self, folder: Path) -> Recipe:
        """The resolved recipe, with its output and the shared store below `folder`."""
        folder = folder.resolve()
        places = (f"output={folder / self.name}", f"store={folder / 'store'}", f"seed={self.seed}")
        return load_recipe(self.recipe, [*places, *(one.replace("FOLDER", str(folder)) for one in self.overrides)])


def matrix() -> list[Cell]:
    """All runs, the comparison of CREAM with SRLM at the paper's beta first."""
    order = [("paper-beta", ("cream", "srlm")), ("paper-beta", ("random", "constant", "verifier"))]
    order.append(("shipped", ("cream", "srlm")))
    cells = []
    for setting, arms in order:
        for seed in SEEDS:
            for arm in arms:
                recipe, changes = RECIPES[arm]
                cells.append(Cell(setting, arm, seed, recipe, (*COMMON, *SETTINGS[setting][0], *changes)))
    return cells


def write_suite(folder: Path) -> None:
    """The evaluation suite of the matrix: the last 198 items of the shipped `words`, under its own name."""
    shipped = suites_folder()
    place = folder.resolve() / "suite"
    place.mkdir(parents=True, exist_ok=True)
    items = (shipped / "words" / "test.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[102:]
    (place / f"{SUITE}.jsonl").write_text("".join(items), encoding="utf-8")
    suite = yaml.safe_load((shipped / "words.yaml").read_text(encoding="utf-8"))
    suite |= {"name": SUITE, "data": f"{SUITE}.jsonl"}
    (place / f"{SUITE}.yaml").write_text(yaml.safe_dump(suite, sort_keys=False), encoding="utf-8")


def run_matrix(folder: Path, cells: Sequence[Cell]) -> list[str]:
    """Runs the cells one after another, going on where an earlier start stopped; returns the names that failed.

    A run that stops (a gate, a full disk) does not keep the others from running.
    """
    write_suite(folder)
    return _each(cells, lambda cell: run(cell.load(folder)))


def compare_last(folder: Path, cells: Sequence[Cell]) -> list[str]:
    """For finished runs of CREAM and SRLM: how far the last two models agree on the next slice of prompts.

    The last round trains the last model and compares the two before it, so the last model samples and is scored
    here as one more round would do it, up to its training. Steps go to the same store; events to `compared/`.
    """
    return _each([cell for cell in cells if cell.arm in COMPARED], lambda cell: _compare_last(folder.resolve(), cell))


def _compare_last(folder: Path, cell: Cell) -> None:
    place = folder / cell.name
    if not (place / "metrics.jsonl").is_file():
        return
    events = read_events(place / "metrics.jsonl")
    if not of_kind(events, "done"):
        return
    rounds = int(of_kind(events, "run")[-1]["recipe"]["rounds"])
    changes = (f"rounds={rounds + 1}", f"output={place / 'compared'}", "evaluate=[]")
    recipe = replace(cell, overrides=(*cell.overrides, *changes)).load(folder)
    quiet_libraries()
    made = [step for step in of_kind(events, "step") if step["step"] in ("sft", "dpo")]
    with EventLog(place / "compared") as log:
        loop = Loop(recipe, Store(folder / "store"), log, Progress())
        policies = [loop.base_policy]
        for step in made:
            artefact = Artefact.read(folder / "store" / step["folder"])
            policies.append(made_policy(policies[-1], artefact, f"M{len(policies)}"))
        responses = loop.sample(policies[-1], loop.data.round_prompts[rounds])
        for policy in (policies[-1], policies[0], policies[-2]):
            loop.log_probs(responses, policy)


def _each(cells: Sequence[Cell], do: Callable[[Cell], object]) -> list[str]:
    failed = []
    for number, cell in enumerate(cells, start=1):
        print(f"{number} of {len(cells)}: {cell.name}", flush=True)
        try:
            do(cell)
        except SelfImproveError as error:
            print(f"{cell.name} stopped: {error}", flush=True)
            failed.append(cell.name)
        finally:
            MODELS.free()
    return failed
