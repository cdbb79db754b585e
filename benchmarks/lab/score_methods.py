"""SCoRe and its controls on the lab, all at as many samples: 150 updates of 128 samples of two attempts each, or for
single-turn RL twice as many of one, or for STaR and Pair-SFT as many traces."""

from __future__ import annotations

from typing import Any

from benchmarks.lab.tasks import MAX_NEW_TOKENS

# Chosen on seed 100 with development items alone, of SCoRe and plain multi-turn RL; see README.md for what was tried.
SCORE_COMMON: dict[str, Any] = {
    "data.prompts": "prompts.jsonl",
    "sampling": {"backend": "transformers", "n": 8, "temperature": 1.0, "top_p": 1.0, "max_new_tokens": MAX_NEW_TOKENS},
    "training.learning_rate": 2e-4,
    "training.batch_size": 128,
    "training.micro_batch_size": 128,
    "training.scheduler": "constant",
    "training.warmup_ratio": 0.0,
    "training.checkpoint_steps": 1000,
    # a method may fail; the figures show it
    "gates.disabled": ["first_attempt", "change_rate", "copy_rate", "kl", "degeneration"],
}
_RL: dict[str, Any] = {
    "method": "score",
    "score.policy_reduction": "sum",  # as the page's seeds were run; `mean-mean` is the default since
    "score.instruction": "check",
    "score.stage_one.updates": 75,
    "score.stage_two.updates": 75,
    "score.probe_prompts": 8,
}
_ONE_STAGE: dict[str, Any] = {**_RL, "score.stage_one.updates": 0, "score.stage_two.updates": 150}
# 150 x 128 traces: of each prompt as many as SCoRe draws.
_SFT: dict[str, Any] = {
    "method": "star",
    "star.instruction": "check",
    "sft.learning_rate": 3e-4,
    "sft.epochs": 1,
    "training.batch_size": 32,
    "star.most_per_prompt": 8,
}

SCORE_METHODS: dict[str, dict[str, Any]] = {
    "score": _RL,
    "alpha-0": {**_RL, "score.alpha": 0.0},
    "stage-two-only": _ONE_STAGE,
    "multi-turn-rl": {**_ONE_STAGE, "score.alpha": 0.0},
    "single-turn-rl": {**_ONE_STAGE, "score.turns": 1, "sampling.n": 16, "training.batch_size": 256},
    "base-first-attempts": {**_RL, "score.stage_two.base_first_attempts": 0.5},
    "kl-sum": {**_RL, "score.kl_reduction": "sum"},
    "mean-mean": {**_RL, "score.policy_reduction": "mean"},
    "star": {**_SFT, "rounds": 3, "data.prompts_per_round": 800, "star.right_to_right": True},
    "star-corrections": {**_SFT, "rounds": 3, "data.prompts_per_round": 800},
    "pair-sft": {**_SFT, "rounds": 1, "data.prompts_per_round": 2400, "star.traces": "pairs"},
}
# Greedy, as the paper evaluates, and at the temperature of the training.
SCORE_SUITES: tuple[Any, ...] = (
    "evaluation-turns.yaml",
    {"suite": "evaluation-turns.yaml", "name": "lab-evaluation-sampled", "temperature": 1.0},
)
