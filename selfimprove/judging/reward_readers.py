"""Models that say how good an answer is, kept ready for call after call: a reward model (the kind stands here too), a
policy or a server that reads a rubric. What they cannot say is missing with a reason.

Their model is a second one in memory where another is trained, and is never trained itself.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.asking import under
from selfimprove.judging.chat_server import ChatServer
from selfimprove.judging.digits import DIGITS, digit_tokens
from selfimprove.judging.outcomes import Advance, Look, Verdict, reward_of
from selfimprove.judging.rubric import Prompts, Rubric, RubricOptions
from selfimprove.judging.scored import scored_texts
from selfimprove.models.chat import Message, accepted_turns, render_prompt, stop_ids
from selfimprove.models.context import context_tokens
from selfimprove.models.journal import Journal
from selfimprove.models.loading import MODELS
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy, declared_ends, load_tokenizer, pick_device, pick_dtype
from selfimprove.models.resolve import resolve_policy
from selfimprove.models.server import Server
from selfimprove.recipe.judge_kind import AsReward, JudgeKind
from selfimprove.sampling.sampler import Decoding, Request

if TYPE_CHECKING:
    from selfimprove.data.rows import Responses
    from selfimprove.inference import Inference
    from selfimprove.judging.outcomes import Answered
    from selfimprove.recipe.judges import JudgeOptions, Reward

_TOO_LONG = "longer than the judge's context"


class RewardModelReader:
    """A reward model's score of question and answer. A conversation longer than its context is missing."""

    def __init__(self, policy: Policy, dtype: str, device: str, batch_tokens: int) -> None:
        from selfimprove.judging.reward_model import RewardModel

        with _noise_untouched(device):
            self._model = RewardModel(policy, dtype, device, "reward.model")
        self._room, self._batch_tokens = context_tokens(policy.base), batch_tokens

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        rendered = [self._model.rendered([{"role": "user", "content": one.prompt}], one.text) for one in asked]
        fitting = [place for place, ids in enumerate(rendered) if len(ids) <= self._room]
        verdicts = self._model.verdicts([rendered[place] for place in fitting], self._batch_tokens, advance)
        found: list[Verdict] = [(None, _TOO_LONG)] * len(asked)
        for place, verdict in zip(fitting, verdicts, strict=True):
            found[place] = verdict
        return found


class PolicyReader:
    """A policy that reads a rubric and writes its verdict, greedily. It stays in `policy.MODELS` between calls, beside
    whatever model is trained."""

    def __init__(self, rubric: Rubric, policy: Policy, dtype: str, device: str, batch_tokens: int) -> None:
        from selfimprove.sampling.transformers import TransformersSampler

        self._rubric, self._device, self._tokenizer = rubric, device, load_tokenizer(policy)
        self._sampler = TransformersSampler(pick_dtype(dtype, device), device, batch_tokens)
        self._sampler.set_weights(policy)
        self._decoding = Decoding(
            0.0, 1.0, rubric.max_new_tokens, tuple(stop_ids(self._tokenizer, declared_ends(policy)))
        )
        self._room = context_tokens(policy.base) - rubric.max_new_tokens

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        rendered = [_question(self._tokenizer, self._rubric, one) for one in asked]
        fitting = [place for place, ids in enumerate(rendered) if len(ids) <= self._room]
        with _noise_untouched(self._device):
            sampled = self._sampler.sample(
                [Request(rendered[place], 1, 0) for place in fitting], self._decoding, advance
            )
        found: list[Verdict] = [(None, _TOO_LONG)] * len(asked)
        for place, (one,) in zip(fitting, sampled, strict=True):
            if one.log_prob is None or math.isfinite(one.log_prob):
                text = self._tokenizer.decode(one.ids, skip_special_tokens=True)
                verdict = self._rubric.parse(text, cut=one.finish == "length")
            else:
                verdict = None, "the judge's log-probs are not finite"
            found[place] = verdict
        return found


class DigitReader:
    """A policy whose score is the expected value of one digit, its first token (`judging/digits.py`): nothing is
    sampled. It stays in `policy.MODELS`, as `PolicyReader`'s does."""

    def __init__(self, rubric: Rubric, policy: Policy, dtype: str, device: str, batch_tokens: int) -> None:
        self._rubric, self._policy, self._tokenizer = rubric, policy, load_tokenizer(policy)
        self._dtype, self._device, self._batch_tokens = pick_dtype(dtype, device), device, batch_tokens
        self._opening, self._digits = digit_tokens(self._tokenizer)
        self._room = context_tokens(policy.base) - 1

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        from selfimprove.models.likelihood import summed_log_probs
        from selfimprove.models.log_probs import Group

        rendered = [(*_question(self._tokenizer, self._rubric, one), *self._opening) for one in asked]
        fitting = [place for place, ids in enumerate(rendered) if len(ids) <= self._room]
        groups = [Group(rendered[place], tuple((digit,) for digit in self._digits)) for place in fitting]
        with _noise_untouched(self._device):
            model, as_policy = MODELS.get(self._policy, self._dtype, self._device)
            with as_policy:
                scored = summed_log_probs(model, groups, self._batch_tokens, lambda n: advance(n // len(DIGITS)))
        found: list[Verdict] = [(None, _TOO_LONG)] * len(asked)
        for place, log_probs in zip(fitting, scored, strict=True):
            found[place] = self._rubric.parse("", dict(zip(DIGITS, log_probs, strict=True)))
        return found


class ServerReader:
    """A rubric that is read by a server; all answers must be one model's, also those of different calls. `log_probs`:
    how many of its likeliest first tokens a digit is read from; 0 reads what was written."""

    def __init__(self, rubric: Rubric, server: Server, journal: Journal, log_probs: int = 0) -> None:
        self._rubric, self._models = rubric, set[str]()
        self._judge = ChatServer(server, rubric.max_new_tokens, log_probs, journal)

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        rows = self._judge.ask([_messages(self._rubric, one) for one in asked], advance)
        self._models |= {row["model"] for row in rows if row["model"]}
        if len(self._models) > 1:
            raise RunFailed(
                f"reward.server: its answers are of several models, {', '.join(sorted(self._models))}, and cannot be "
                "compared; raise the reward's `version` to have all of them judged by the one that is served now"
            )
        return [(None, row["missing"]) if row["missing"] else self._read(row) for row in rows]

    def _read(self, row: Mapping[str, Any]) -> Verdict:
        return self._rubric.parse(
            row["text"], json.loads(row["log_probs"]) if row["log_probs"] else None, cut=bool(row.get("cut"))
        )


def _question(tokenizer: Any, rubric: Rubric, one: Answered) -> tuple[int, ...]:
    return tuple(render_prompt(tokenizer, accepted_turns(tokenizer, _messages(rubric, one))))


def _messages(rubric: Rubric, one: Answered) -> list[Message]:
    """What the judge is asked: with the reference where there is one and the rubric can show it."""
    values = {"instruction": one.prompt, "response": one.text}
    if one.answer is not None and rubric.has("reference"):
        return rubric.messages(values | {"reference": one.answer}, "reference")
    return rubric.messages(values)


def rubric_as_options(rubric: Rubric) -> dict[str, Any]:
    """All of a rubric that changes what is asked or how it is read, so that a step's folder is enough to judge."""
    options = rubric.options.model_dump(mode="json", exclude={"description", "source"})
    prompts = {variant: list(texts) for variant, texts in rubric.prompts.items()}
    return {"digest": rubric.digest, "options": options, "prompts": prompts}


def rubric_of_options(given: Mapping[str, Any]) -> Rubric:
    """The rubric that `rubric_as_options` made these of."""
    prompts = {variant: Prompts(*texts) for variant, texts in given["prompts"].items()}
    return Rubric("reward.rubric", RubricOptions.model_validate(given["options"]), prompts, given["digest"])


@contextmanager
def _noise_untouched(device: str) -> Iterator[None]:
    """Loading a model or an adapter draws numbers. A training that goes on after a kill loads it at another time than
    an undisturbed one, and must meet the same noise."""
    import torch

    with torch.random.fork_rng([] if device == "cpu" else [device]):
        yield


def read_by(reader: Callable[[Sequence[Answered], Advance], list[Verdict]]) -> Look:
    """A reader's verdicts as rewards."""
    return lambda asked, advance: [reward_of(verdict) for verdict in reader(asked, advance)]


# ---- the kind `reward_model`


def _judge(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    model = resolve_policy(str(judge.model), "judge", loop.recipe.opening)
    name, policies = Path(str(judge.model)).name, {"reward_model": model}
    return scored_texts(loop, "reward_model", name, responses, {"dtype": loop.dtype}, {}, policies)


def _check(section: JudgeOptions | Reward, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    with under(where):
        model = resolve_policy(str(section.model), "judge", opening)
    if model.adapter:
        raise InputError(f"{where}.model: {section.model} is an adapter; merge it into its base first")
    _check_one_label(model, where)


def _check_one_label(model: Policy, where: str) -> None:
    """Raises InputError for a classifier whose head gives several numbers: none of them is known to be the reward."""
    from safetensors import safe_open

    for file in sorted(Path(model.base).glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - no mapping
                rows = (
                    tensors.get_slice(name).get_shape()[0]
                    if name.endswith(("score.weight", "classifier.weight"))
                    else 1
                )
                if rows != 1:
                    raise InputError(
                        f"{where}.model: {model.base} is a classifier with {rows} labels; a reward model has one"
                    )


def _step(
    reward: Reward, search: Sequence[Path], opening: Opening
) -> tuple[dict[str, Any], dict[str, Policy], dict[str, Any]]:
    return {}, {"judge": resolve_policy(str(reward.model), "judge", opening)}, {}


def _look(options: Mapping[str, Any], policy: Policy | None, execution: Mapping[str, Any], *rest: Any) -> Look:
    assert policy is not None
    device = pick_device(execution["device"])
    return read_by(RewardModelReader(policy, options["dtype"], device, execution["batch_tokens"]))


REWARD_MODEL = JudgeKind(
    "reward_model",
    _judge,
    bounded=False,
    needs="model",
    check=_check,
    reward=AsReward(_step, _look, whole=True),
)
