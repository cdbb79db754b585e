"""SCoRe's two steps over a `Loop`: training one stage, and measuring a policy on a few training prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from selfimprove import gates
from selfimprove.data.rows import RenderedPrompt, Response, Responses
from selfimprove.data.turns import next_turn
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.judging.outcomes import Rewarded
from selfimprove.judging.rewarding import reward_step_of, rewarded
from selfimprove.methods.score.figures import is_right
from selfimprove.methods.score.gates import score_gates
from selfimprove.methods.score.sample_log import FOLDER, kept_updates, read_rows_of
from selfimprove.methods.score.trainer import GATE_WINDOW
from selfimprove.models.chat import end_of_turn_id
from selfimprove.models.policy import Policy
from selfimprove.statistics import bounded_interval, share_interval
from selfimprove.training.accelerate_file import find_accelerate_file, read_accelerate_file
from selfimprove.training.stages import read_history

if TYPE_CHECKING:
    from selfimprove.artefacts import Artefact
    from selfimprove.loop.loop import Loop
    from selfimprove.loop.record import Round


def require_trainable(loop: Loop) -> None:
    """Raises InputError where this machine's or the recipe's way of training cannot sample from what it trains."""
    training = loop.recipe.training
    if loop.backend == "vllm" and training.processes > 1:
        raise InputError(
            "training.processes: vllm's one engine would have to sample for several training processes, which `score` "
            "does not do; set training.processes=1, or sampling.backend=transformers"
        )
    if training.accelerate:
        kind = read_accelerate_file(find_accelerate_file(loop.recipe)).distributed_type.value
        if kind in ("FSDP", "DEEPSPEED"):
            raise InputError(
                f"training.accelerate: {kind} cuts the weights into pieces, and `score` samples from whole ones; "
                "use training.lora with training.processes (a whole model on each GPU)"
            )


def train_stage(loop: Loop, start: Policy, stage: Round, of_base: Probe) -> Policy:
    """Stage I or Stage II of SCoRe from `start`, against the run's own model as the reference.

    Args:
        of_base: the base's probe: what the gate on Acc@t1 compares with, and texts whose log-probs must change.
    """
    score, sampling, training = loop.recipe.options, loop.recipe.sampling, loop.recipe.training
    number, prompts = stage.number, stage.prompts
    own = score.stage_one if number == 1 else score.stage_two
    end = end_of_turn_id(loop.tokenizer)
    loop.check(gates.rendering(loop.tokenizer, [(prompt.prompt_ids, (end,)) for prompt in prompts]))
    reward_options, reward_policies, reward_execution = reward_step_of(loop, score.reward)
    options = loop.training_options("training")
    del options["epochs"]
    if options["lora"]:
        options["lora"]["dropout"] = 0.0  # the policy that is trained must be the one that sampled
    options |= {
        "stage": number,
        "updates": own.updates,
        "learning_rate": own.learning_rate or training.learning_rate,
        "base_first_attempts": own.base_first_attempts,
        # What a stage does not read must not change its key: variants of a recipe then share Stage I.
        "alpha": score.alpha if number == 2 else 0.0,
        "beta1": score.beta1,
        "beta2": score.beta2 if number == 1 else 0.0,
        **score.model_dump(
            include={
                *("turns", "kl", "kl_reduction", "policy_reduction", "whiten", "second_baseline", "passes"),
                *("clip_range", "truncated", "keep", "sampler_weights", "redraw"),
            }
        ),
        "sampler_cap": 0.0 if score.sampler_weights == "none" else score.sampler_cap,
        "instruction": score.instruction if score.turns == 2 else "",
        "n": sampling.n,
        "first_attempts": score.first_attempts or sampling.n,
        "temperature": sampling.temperature,
        "max_new_tokens": sampling.max_new_tokens,
        "stop_ids": list(loop.stops),
        "backend": loop.backend,
        "reward": reward_options,
        "right_from": score.reward.right_from,
    }
    if score.keep == "highest_reward":
        options["checkpoint_steps"] = training.checkpoint_steps
    label = f"SCoRe Stage {'I' * number} {start.name} to M{len(loop.made) + 1}"
    try:
        trained, artefact = _trained(loop, start, stage, options, reward_policies, reward_execution, of_base, label)
    except GateError:
        if found := sorted(loop.store.folder.glob(f".partial-score-*/{FOLDER}"), key=lambda one: one.stat().st_mtime):
            _show_samples(loop, number, label, found[-1])
        raise
    _show_samples(loop, number, label, artefact.folder / FOLDER)
    history = read_history(artefact.folder)
    if not any(row.get("telling") for row in history):
        raise RunFailed(
            f"Stage {'I' * number}: no update had anything to learn from: all samples of a prompt "
            f"were rewarded alike. Take prompts that the "
            "policy answers right now and then, raise sampling.n, or look at score.reward. Samples: "
            f"{artefact.folder / FOLDER}"
        )
    last = [row for row in history if "samples" in row][-GATE_WINDOW:]
    for verdict in score_gates(last, of_base.accuracy, of_base.prompts, loop.recipe.gates.model_dump()):
        loop.check(verdict, stop=False)  # the trainer stops at what is enforced; the report shows what passed
    if score.keep == "last":  # the best checkpoint may be a very early one
        texts = of_base.first_attempts
        loop.check_moved(start, trained, texts, loop.log_probs(texts, start), loop.log_probs(texts, trained))
    return trained


def _trained(
    loop: Loop,
    start: Policy,
    stage: Round,
    options: dict[str, Any],
    reward_policies: dict[str, Policy],
    reward_execution: dict[str, Any],
    of_base: Probe,
    label: str,
) -> tuple[Policy, Artefact]:
    """The stage as a durable step."""
    score, sampling = loop.recipe.options, loop.recipe.sampling
    bounds = loop.recipe.gates.model_dump()
    disabled = list(bounds.pop("disabled"))
    reads_all = score.reward.kind in ("rubric", "reward_model")
    seen = (lambda p: p.conversation) if reads_all else (lambda p: p.text)
    return loop.train(
        "score",
        start,
        options,
        "prompts",
        [
            {"prompt_id": p.id, "prompt_ids": list(p.prompt_ids), "text": seen(p), "answer": p.answer}
            for p in stage.prompts
        ],
        label=label,
        steps=options["updates"] * score.passes,
        policies={"base": loop.base_policy, **reward_policies},
        execution={
            **_sampler_of(loop),
            "batch_tokens": sampling.batch_tokens,
            "share_prompt": score.share_prompt,
            "keep_samples": score.keep_samples,
            "reward": reward_execution,
            "gates": {
                "bounds": bounds,
                "disabled": disabled,
                "base_accuracy": of_base.accuracy,
                "base_n": of_base.prompts,
            },
        },
        score_stage=stage.number,
        base_accuracy=of_base.accuracy,
    )


def _show_samples(loop: Loop, stage: int, label: str, folder: Path) -> None:
    """An event with a few samples of the first and the last update whose samples are kept, for the report."""
    updates = kept_updates(folder)
    shown = [row for update in dict.fromkeys([*updates[:1], *updates[-1:]]) for row in read_rows_of(folder, update)[:4]]
    for row in shown:
        for attempt in row["attempts"]:
            del attempt["ids"]
    loop.events.emit("score_samples", f"{label}|{folder}", stage=stage, folder=str(folder), shown=shown)


def _sampler_of(loop: Loop) -> dict[str, Any]:
    """The sampler's own settings. All weights are read in place: as adapters beside a base, each update's weights would
    be another base, and another engine."""
    found = loop.sampler_execution(loop.base_policy, loop.backend)
    if "vllm" in found and loop.recipe.training.lora is None:
        found = {"vllm": {**found["vllm"], "adapters": "merge"}}
    return found


class Probe(NamedTuple):
    """`accuracy`: Acc@t1 over so many `prompts`, None where nothing could be checked; a few of the first attempts."""

    accuracy: float | None
    prompts: int
    first_attempts: Responses


def probe(loop: Loop, policy: Policy, what: str) -> Probe:
    """Both attempts of `policy` at some training prompts, at the training's own temperature, with an event that shows
    what a stage changed."""
    score, sampling = loop.recipe.options, loop.recipe.sampling
    prompts = loop.data.round_prompts[0][: score.probe_prompts]
    n = max(1, sampling.n // 2)
    decoding: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
    }
    drawn = loop.draw(policy, prompts, f"probe of {policy.name}, turn 1", n=n, **decoding)
    firsts = {f"{one.prompt_id}|{one.index}": one for one in drawn.all()}
    attempts = [replace(drawn.prompts[one.prompt_id], id=id) for id, one in firsts.items()]
    found = {id: [one] for id, one in firsts.items()}
    if score.turns == 2:
        read = next_turn(policy, attempts, firsts, score.instruction, sampling.max_new_tokens)
        later = loop.draw(policy, read, f"probe of {policy.name}, turn 2", n=1, **decoding)
        for one in later.all():
            found[one.prompt_id].append(replace(one, index=1))
    both = Responses({one.id: one for one in attempts}, {id: _numbered(id, said) for id, said in found.items()})
    rewards = rewarded(loop, both, score.reward, f"rewards of the probe of {policy.name}")
    figures = probe_figures(attempts, rewards, score.reward.right_from)
    loop.events.emit(
        "probe",
        f"{what}|{policy.digest}",
        stage=what,
        policy=policy.name,
        prompts=len(prompts),
        samples=len(attempts),
        figures=figures,
    )
    first = figures.get("accuracy/turn_1")
    few = {id: drawn.by_prompt[id] for id in list(drawn.by_prompt)[:8]}
    # Samples of one prompt are alike: counted by prompts, the standard error errs on the safe side.
    return Probe(first["value"] if first else None, len(prompts), Responses(drawn.prompts, few))


def _numbered(id: str, said: Sequence[Response]) -> list[Response]:
    return [replace(one, prompt_id=id, index=index) for index, one in enumerate(said)]


def probe_figures(
    attempts: Sequence[RenderedPrompt], rewards: dict[str, list[Rewarded]], right_from: float
) -> dict[str, dict[str, float]]:
    """Accuracies of both turns and their difference, of the attempts whose rewards are known, with 95% intervals."""
    known = [[is_right(one, right_from) for one in rewards[attempt.id]] for attempt in attempts]
    figures = {}
    for turn in (1, 2):
        values = [float(right) for row in known if len(row) >= turn and (right := row[turn - 1]) is not None]
        if values:
            figures[f"accuracy/turn_{turn}"] = _interval(share_interval(values), values)
    both = [(row[0], row[1]) for row in known if len(row) == 2]
    deltas = [float(after) - before for before, after in both if before is not None and after is not None]
    if deltas:
        figures["delta"] = _interval(bounded_interval(deltas, (-1, 1)), deltas)
    return figures


def _interval(found: tuple[float, float, float], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), found, strict=True)) | {"n": len(values)}
