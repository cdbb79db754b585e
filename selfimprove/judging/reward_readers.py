"""Models that say how good an answer is, kept ready for call after call: a reward model, a policy or a server that
reads a rubric. What they cannot say is missing with a reason.

Their model is a second one in memory where another is trained, and is never trained itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from selfimprove.chat import Message, merged_system, render_prompt, stop_ids
from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.chat_server import ChatServer
from selfimprove.judging.functions import Verdict
from selfimprove.judging.rubric import Prompts, Rubric, RubricOptions
from selfimprove.policy import Policy, load_tokenizer, pick_dtype
from selfimprove.run_data import context_tokens
from selfimprove.sampling import Decoding, Request
from selfimprove.sampling.journal import Journal
from selfimprove.sampling.server import Server

if TYPE_CHECKING:
    from selfimprove.judging.rewarding import Answered

_TOO_LONG = "longer than the judge's context"

Advance = Callable[[int], None]


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
        self._decoding = Decoding(0.0, 1.0, rubric.max_new_tokens, tuple(stop_ids(self._tokenizer)))
        self._room = context_tokens(policy.base) - rubric.max_new_tokens

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        rendered = [self._rendered(_messages(self._rubric, one)) for one in asked]
        fitting = [place for place, ids in enumerate(rendered) if len(ids) <= self._room]
        with _noise_untouched(self._device):
            sampled = self._sampler.sample(
                [Request(rendered[place], 1, 0) for place in fitting], self._decoding, advance
            )
        found: list[Verdict] = [(None, _TOO_LONG)] * len(asked)
        for place, (one,) in zip(fitting, sampled, strict=True):
            if one.log_prob is None or math.isfinite(one.log_prob):
                verdict = self._rubric.parse(self._tokenizer.decode(one.ids, skip_special_tokens=True))
            else:
                verdict = None, "the judge's log-probs are not finite"
            found[place] = verdict
        return found

    def _rendered(self, messages: list[Message]) -> tuple[int, ...]:
        try:
            return tuple(render_prompt(self._tokenizer, messages))
        except InputError:
            if (merged := merged_system(messages)) == messages:
                raise
            return tuple(render_prompt(self._tokenizer, merged))  # its template takes no system turn


class ServerReader:
    """A rubric that is read by a server; all answers must be one model's, also those of different calls."""

    def __init__(self, rubric: Rubric, server: Server, journal: Journal) -> None:
        self._rubric, self._models = rubric, set[str]()
        self._judge = ChatServer(server, rubric.max_new_tokens, 0, journal)

    def __call__(self, asked: Sequence[Answered], advance: Advance) -> list[Verdict]:
        rows = self._judge.ask([_messages(self._rubric, one) for one in asked], advance)
        self._models |= {row["model"] for row in rows if row["model"]}
        if len(self._models) > 1:
            raise RunFailed(
                f"reward.server: its answers are of several models, {', '.join(sorted(self._models))}, and cannot be "
                "compared; raise the reward's `version` to have all of them judged by the one that is served now"
            )
        return [(None, row["missing"]) if row["missing"] else self._rubric.parse(row["text"]) for row in rows]


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
