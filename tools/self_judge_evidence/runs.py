"""The judges that are compared, fixed before any comparison, and how they are trained and measured."""

from __future__ import annotations

import fnmatch
from pathlib import Path

from selfimprove import Recipe, load_recipe, run
from selfimprove.errors import SelfImproveError

RECIPE, SUITE = "smollm2-135m/self-judge", "judged-words"
SEEDS = (0, 1, 2)
# kind of judge -> what it changes in the recipe
KINDS: dict[str, tuple[str, ...]] = {
    "self-j": (),
    "cosine-only": ("self_judge.self_evaluation=0",),
    "self-evaluation-only": ("self_judge.self_evaluation=1",),
    "no-distillation": ("self_judge.distillation=0",),
}


def recipe_of(kind: str, seed: int, folder: Path) -> Recipe:
    """The resolved recipe. A seed's judges share a store, so that they have the same samples to learn from, with the
    same grades, and the same answers to judge."""
    places = [f"seed={seed}", f"output={folder / f'{kind}-{seed}'}", f"store={folder / f'store-{seed}'}"]
    places += ["sampling.backend=transformers"]  # the same draws wherever vLLM is installed
    places += ["self_judge.held_out=0"]  # all are trained on, as by the runs of the page
    return load_recipe(RECIPE, [*places, f"evaluate=[{SUITE}]", *KINDS[kind]])


def run_all(folder: Path, only: str = "*") -> list[str]:
    """Runs them one after another, seed by seed, going on where an earlier start stopped; the names that failed.

    only: names such as `self-j-*`. A run that stops does not keep the others from running.
    """
    cells = [(kind, seed) for seed in SEEDS for kind in KINDS if fnmatch.fnmatch(f"{kind}-{seed}", only)]
    failed = []
    for number, (kind, seed) in enumerate(cells, start=1):
        name = f"{kind}-{seed}"
        print(f"{number} of {len(cells)}: {name}", flush=True)
        try:
            run(recipe_of(kind, seed, folder))
        except SelfImproveError as error:
            print(f"{name} stopped: {error}", flush=True)
            failed.append(name)
    return failed
