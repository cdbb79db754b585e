"""The kind `rubric`: a language model reads each response, or two of them, under a rubric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.errors import InputError
from selfimprove.judging.asking import ask_judge, find_judge, named_reader, rating_rubric, under
from selfimprove.judging.comparisons import compared
from selfimprove.judging.outcomes import Look, Verdict
from selfimprove.judging.reward_readers import (
    DigitReader,
    PolicyReader,
    ServerReader,
    read_by,
    rubric_as_options,
    rubric_of_options,
)
from selfimprove.judging.rubric import Rubric, load_rubric
from selfimprove.models.journal import Journal
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import Policy, pick_device
from selfimprove.models.server import Server
from selfimprove.recipe.judge_kind import AsReward, JudgeKind
from selfimprove.recipe.judges import JudgeOptions, Reward

if TYPE_CHECKING:
    from selfimprove.data.rows import Responses
    from selfimprove.inference import Inference


def _judge(loop: Inference, judge: JudgeOptions, responses: Responses, policy: Policy) -> dict[str, list[Verdict]]:
    """Of a rubric that compares two, the share of comparisons won in both orders."""
    found = find_judge(loop, judge, str(judge.rubric), policy)
    if found.rubric.options.of == "pair":
        return compared(loop, found, responses)
    asked = {
        f"{prompt.id}#{response.index}": found.rubric.messages(
            {"instruction": prompt.conversation, "response": response.text}
        )
        for prompt, its_responses in responses
        for response in its_responses
    }
    verdicts = ask_judge(loop, found, asked, "rubric").verdicts
    return {
        prompt.id: [verdicts[f"{prompt.id}#{response.index}"] for response in its_responses]
        for prompt, its_responses in responses
    }


def _check_judge(judge: JudgeOptions, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    with under(where):
        rubric = load_rubric(str(judge.rubric), search)
    if judge.server:
        judge.server.connection(f"{where}.server").key()  # said now if it is missing
    named_reader(judge, rubric, where, opening)


def _check_reward(reward: Reward, search: Sequence[Path], where: str, opening: Opening = PLAIN) -> None:
    _rubric_and_reader(reward, search, where, opening)
    if reward.server:
        if find_spec("openai") is None:
            raise InputError(f"{where}.server: needs the openai client: pip install openai")
        reward.server.connection(f"{where}.server").key()  # said now if it is missing


def _rubric_and_reader(
    reward: Reward, search: Sequence[Path], where: str, opening: Opening
) -> tuple[Rubric, Policy | None]:
    """The reward's rubric, and the policy that reads it; None where a server does. InputError where nobody does."""
    rubric = rating_rubric(str(reward.rubric), search, where)
    judge = named_reader(reward, rubric, where, opening)
    if judge is None and reward.server is None:
        raise InputError(
            f"{where}: nobody reads the rubric {reward.rubric}; give `model` (a policy) or `server`, or a judge that "
            "has its own model in its folder (`policy/`), as runs/x/judge"
        )
    return rubric, judge


def _step(
    reward: Reward, search: Sequence[Path], opening: Opening
) -> tuple[dict[str, Any], dict[str, Policy], dict[str, Any]]:
    rubric, judge = _rubric_and_reader(reward, search, "reward", opening)
    options: dict[str, Any] = {"rubric": rubric_as_options(rubric)}
    if judge is not None:
        return options, {"judge": judge.named("judge")}, {}
    if reward.server is not None:
        options |= {"server": reward.server.model, "version": reward.version}
        if rubric.options.parser == "digits":
            options["log_probs"] = reward.log_probs
    return options, {}, {}


def _look(
    options: Mapping[str, Any], policy: Policy | None, execution: Mapping[str, Any], journal: Path | None
) -> Look:
    rubric = rubric_of_options(options["rubric"])
    if policy is None:
        server = Server(**execution["server"], where="reward.server")
        return read_by(ServerReader(rubric, server, Journal(journal), options.get("log_probs", 0)))
    reader = DigitReader if rubric.options.parser == "digits" else PolicyReader
    device = pick_device(execution["device"])
    return read_by(reader(rubric, policy, options["dtype"], device, execution["batch_tokens"]))


def _identity(loop: Inference, judge: JudgeOptions, policy: Policy) -> str:
    """Of the rubric, and of the model that the recipe or its folder names for it."""
    return find_judge(loop, judge, str(judge.rubric), policy).digest


RUBRIC = JudgeKind(
    "rubric",
    _judge,
    bounded=False,
    needs="rubric",
    check=_check_judge,
    identity=_identity,
    reward=AsReward(_step, _look, _check_reward, whole=True),
)
