"""What is compared on the lab: a method is one line, its name and what it changes in the family's recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab.score_methods import SCORE_COMMON, SCORE_METHODS, SCORE_SUITES
from benchmarks.lab.tasks import MAX_NEW_TOKENS
from selfimprove.recipe.recipe import Recipe, make_recipe

Changes = dict[str, Any]  # key.sub -> value


@dataclass(frozen=True)
class Family:
    """Methods that share a recipe, and go into one file of results. `suites` are evaluated after every stage."""

    common: Changes
    methods: dict[str, Changes]
    suites: tuple[Any, ...] = ("evaluation.yaml",)


# Chosen on seeds 100 and 101 with development items alone; see README.md for what was tried.
CREAM_COMMON: Changes = {
    "rounds": 3,
    "data.seed": "sft.jsonl",
    "data.prompts": {"path": "prompts.jsonl", "limit": 1536},
    "data.prompts_per_round": 512,
    "sampling": {
        "backend": "transformers",
        "n": 5,
        "temperature": 1.0,
        "top_p": 0.95,
        "max_new_tokens": MAX_NEW_TOKENS,
    },
    "sft.learning_rate": 3e-4,
    "sft.epochs": 5,
    "training.learning_rate": 1e-4,
    "training.beta": 0.1,
    "training.batch_size": 32,
    "training.micro_batch_size": 32,
    "evaluate_limit": 600,
    "training.checkpoint_steps": 1000,  # a stage takes seconds: it is made again rather than gone on with
    "gates.disabled": ["consistency", "degeneration", "judge_health"],  # a method may fail; the figures show it
}


_MIDDLE: Changes = {"cream.first_round": "sft_middle"}


def _truth(name: str) -> Changes:
    judge = {"kind": "function", "function": f"benchmarks.lab.judges:{name}"}
    return {"method": "iterative_dpo", "iterative_dpo.judge": judge}


CREAM_METHODS: dict[str, Changes] = {
    "cream": {"method": "cream", **_MIDDLE},
    "srlm": {"method": "srlm"},
    "random": {"method": "iterative_dpo", "iterative_dpo.judge": {"kind": "random"}},
    "verifier": {"method": "iterative_dpo", "iterative_dpo.judge": {"kind": "exact_match"}},
    "constant": {"method": "cream", "cream.weight": "constant", "cream.constant": 0.6, **_MIDDLE},
    "cream-likelihood": {"method": "cream", "cream.first_round": "likelihood"},
    "cream-spearman": {"method": "cream", "cream.measure": "spearman", **_MIDDLE},
    "cream-top-order": {"method": "cream", "cream.measure": "top_order", **_MIDDLE},
    "cream-dyn": {"method": "cream", "cream.weight": "dyn", **_MIDDLE},
    # Added when the others were done: C_j of round 1 tells right labels where M0's likelihood is the second ranking.
    "cream-likelihood-dyn": {"method": "cream", "cream.weight": "dyn", "cream.first_round": "likelihood"},
    "truth": _truth("truth"),
    "truth-20": _truth("truth_20"),
    "truth-40": _truth("truth_40"),
}
# Small steps and more of them, chosen by the verifier's gain alone.
SMALL_STEP: Changes = {
    "data.prompts": {"path": "prompts.jsonl", "limit": 3999},
    "data.prompts_per_round": 1333,
    "training.learning_rate": 1e-5,
    "training.batch_size": 8,
    "training.epochs": 2,
}
_SMALL = ("cream", "srlm", "random", "verifier")

FAMILIES = {
    "score": Family(SCORE_COMMON, SCORE_METHODS, SCORE_SUITES),
    "cream": Family(CREAM_COMMON, CREAM_METHODS),
    "cream-small-step": Family({**CREAM_COMMON, **SMALL_STEP}, {name: CREAM_METHODS[name] for name in _SMALL}),
}


def lab_recipe(folder: Path, family: str, method: str, seed: int, changes: Changes | None = None) -> Recipe:
    """The recipe of one run: base and data of `seed` below `folder`, where the run goes too."""
    chosen = FAMILIES[family]
    merged = {**chosen.common, **chosen.methods[method], **(changes or {})}
    values: dict[str, Any] = {
        "model": str((folder / f"base-{seed}").resolve()),
        "output": str((folder / family / f"{method}-{seed}").resolve()),
        "store": str((folder / f"store-{seed}").resolve()),  # one for all families: what they share is made once
        "seed": seed,
        "evaluate": list(chosen.suites),
    }
    for key, value in merged.items():
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return make_recipe(values, folder=(folder / f"data-{seed}").resolve())
