"""SCoRe end to end on a tiny model: what is trained is what was sampled, with per-turn credit, and a crash, another
micro-batch or a second process changes nothing. The loss itself is tested in test_score_loss.py."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import save_served_model, write_jsonl
from kill_and_resume import kill_and_compare
from peft import LoraConfig, PeftModel, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

import selfimprove
from selfimprove.errors import GateError, InputError, RunFailed
from selfimprove.judging.outcomes import Rewarded
from selfimprove.methods.score import stage as score_stage
from selfimprove.methods.score import trainer as score_trainer
from selfimprove.methods.score.batch import ScoreBatch, micro_batches, trained_logits
from selfimprove.methods.score.figures import FIGURES, rollout_sums
from selfimprove.methods.score.loss import Counts, count
from selfimprove.methods.score.rollouts import Attempt, Episode, Plan, Question, questions_of, roll_out
from selfimprove.methods.score.sample_log import kept_updates, read_rows_of
from selfimprove.methods.score.stage import BestCheckpoint, _as_reference, without_dropout
from selfimprove.methods.score.trainer import batch_loss, episode_advantages
from selfimprove.models.chat import append_turn, render_example
from selfimprove.models.policy import Policy, load_tokenizer, model_digest
from selfimprove.models.resolve import resolve_policy
from selfimprove.recipe.recipe import Recipe, load_recipe
from selfimprove.report.terminal import Progress
from selfimprove.sampling.sampler import Decoding, Request, Sampled
from selfimprove.sampling.transformers import TransformersSampler
from selfimprove.training.stages import Checkpoints

END = 2
STOPS = (END,)
BETAS = (0.2, 0.05)


def half(prompt: str, response: str, answer: str | None) -> float:
    """Right for about half of all texts."""
    return float(zlib.crc32(response.encode()) % 2)


def nothing(prompt: str, response: str, answer: str | None) -> None:
    return None


# ---- rollouts


def plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        **{"samples": 4, "first_attempts": 4, "base_share": 0.0, "turns": 2, "instruction": "Again.", "seed": 0},
        "key": "key",
        "decoding": Decoding(1.0, 1.0, 5, STOPS),
    }
    return Plan(**{**given, **changes})


def questions(count: int) -> list[Question]:
    return [Question(f"p{i}", (1, *range(40, 43 + i)), f"question {i}", "a", f"p{i}|0") for i in range(count)]


@pytest.fixture
def drawn(tiny_policy: Policy) -> Callable[..., list[Episode]]:
    def draw(count: int = 3, update: int = 0, base: Any = None, **changes: Any) -> list[Episode]:
        sampler = TransformersSampler(torch.float32, "cpu", 4096)
        sampler.set_weights(tiny_policy)
        return roll_out(
            plan(**changes), questions(count), update, sampler, base or sampler, load_tokenizer(tiny_policy)
        )

    return draw


class Always(TransformersSampler):
    """Stands for the base model: says the same always."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def sample(self, requests: Any, decoding: Any, advance: Any) -> list[list[Sampled]]:
        self.asked += requests
        return [[Sampled([70, END], "stop", -1.0)] * request.n for request in requests]


def test_the_second_turn_reads_the_very_ids_of_the_first(
    drawn: Callable[..., list[Episode]], tiny_policy: Policy
) -> None:
    asked = questions(3)
    tokenizer = load_tokenizer(tiny_policy)
    episodes = drawn()
    assert [e.prompt for e in episodes] == [0] * 4 + [1] * 4 + [2] * 4
    assert any(e.first.truncated for e in episodes)
    for e in episodes:
        before = [*asked[e.prompt].ids, *e.first.ids]
        assert append_turn(tokenizer, before, "Again.") == [*before, *e.between]
        # a first attempt that was cut off is closed by an end of turn that is no part of it
        assert (e.between[0] == END) == e.first.truncated == (e.first.ids[-1] != END)
        assert e.second is not None and 1 <= len(e.second.ids) <= 5


def test_the_second_attempt_is_drawn_from_prompt_first_attempt_and_instruction(
    tiny_policy: Policy,
) -> None:
    asked: list[Request] = []

    class Watching(TransformersSampler):
        def sample(self, requests: Any, decoding: Any, advance: Any) -> list[list[Sampled]]:
            asked.extend(requests)
            return super().sample(requests, decoding, advance)

    sampler = Watching(torch.float32, "cpu", 4096)
    sampler.set_weights(tiny_policy)
    episodes = roll_out(plan(), questions(2), 0, sampler, sampler, load_tokenizer(tiny_policy))
    second_turns = asked[2:]
    assert [r.prompt_ids for r in second_turns] == [
        (*questions(2)[e.prompt].ids, *e.first.ids, *e.between) for e in episodes
    ]
    assert len({r.seed for r in asked}) == len(asked)


def test_every_update_draws_new_noise_and_the_same_update_the_same(drawn: Callable[..., list[Episode]]) -> None:
    assert drawn(update=3) == drawn(update=3)
    assert drawn(update=3) != drawn(update=4)
    assert drawn(key="another step") != drawn()


def test_one_first_attempt_may_have_several_second_ones(drawn: Callable[..., list[Episode]]) -> None:
    shared = drawn(first_attempts=1)
    assert [e.first_attempt for e in shared] == [0] * 12
    assert all(len({e.first.ids for e in shared[i : i + 4]}) == 1 for i in (0, 4, 8))
    assert any(len({e.second.ids for e in shared[i : i + 4] if e.second}) > 1 for i in (0, 4, 8))
    two = drawn(first_attempts=2)
    assert [e.first_attempt for e in two] == [0, 0, 1, 1] * 3


def test_the_base_writes_its_share_of_first_attempts(drawn: Callable[..., list[Episode]]) -> None:
    base = Always()
    share = [sum(not e.own_first for e in drawn(update=update, base=base, base_share=0.3)) for update in range(40)]
    assert 0.2 < sum(share) / (40 * 12) < 0.4  # 0.3 exactly, in the mean
    assert set(share) <= set(range(3, 7))  # 1.2 a prompt: one or two of four
    episodes = drawn(base=base, base_share=1.0)
    assert all(not e.own_first and e.first.ids == (70, END) for e in episodes)


def test_single_turn_has_no_second_attempt(drawn: Callable[..., list[Episode]]) -> None:
    assert all(e.second is None and not e.between for e in drawn(turns=1))


def test_an_epoch_goes_through_all_prompts_in_an_order_of_its_own() -> None:
    rows = [{"prompt_id": f"p{i}", "prompt_ids": [i], "text": "", "answer": None} for i in range(10)]
    seen = [q for update in range(5) for q in questions_of(rows, update, 4, "0|stage 1")]
    first, second = seen[:10], seen[10:]
    assert {q.id for q in first} == {q.id for q in second} == {f"p{i}" for i in range(10)}
    assert [q.id for q in first] != [q.id for q in second] != sorted(q.id for q in second)
    assert len({q.draw for q in seen}) == 20  # the same prompt again draws other noise
    assert questions_of(rows, 3, 4, "0|stage 1") == seen[12:16]
    assert questions_of(rows, 3, 4, "0|stage 2") != seen[12:16]
    assert len({q.draw for q in questions_of(rows, 0, 25, "x")}) == 25


# ---- batches, logits and the loss against a plain per-sample reference


def random_episodes(
    prompts: int, samples: int, seed: int, turns: int = 2
) -> tuple[list[tuple[int, ...]], list[Episode]]:
    dice = random.Random(seed)

    def ids(longest: int) -> tuple[int, ...]:
        return tuple(dice.randrange(3, 259) for _ in range(dice.randint(1, longest)))

    episodes = []
    for prompt in range(prompts):
        for sample in range(samples):
            first, second = Attempt(ids(6), "one", False), Attempt(ids(7), "two", False) if turns == 2 else None
            own = turns == 1 or dice.random() < 0.7
            episodes.append(Episode(prompt, sample, first, own, ids(4) if turns == 2 else (), second))
    return [(1, *ids(9)) for _ in range(prompts)], episodes


def advantages_of(episodes: list[Episode], seed: int) -> torch.Tensor:
    values = torch.randn(len(episodes), 2, generator=torch.Generator().manual_seed(seed))
    for row, episode in zip(values, episodes, strict=True):
        if not episode.own_first or row[0] < -1:
            row[0] = torch.nan
        if episode.second is None:
            row[1] = torch.nan
    return values


@pytest.fixture
def models(tiny_model: Path) -> tuple[Any, Any]:
    """A policy and a base that differ, without any dropout."""
    base = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    policy = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=noise)
    return policy, base


def loss_of(policy: Any, base: Any, batches: list[ScoreBatch], counts: Counts, share: bool) -> torch.Tensor:
    """The trainer's own loss, over micro-batches."""
    options = {"passes": 1, "kl": "exact", "clip_range": None, "policy_reduction": "sum", "kl_reduction": "mean"}
    options |= {"sampler_weights": "none", "sampler_cap": 0.0}
    total = torch.zeros(())
    for batch in batches:
        reference = trained_logits(base, batch, share).detach()
        total = total + batch_loss(trained_logits(policy, batch, share), reference, batch, BETAS, counts, options)[0]
    return total


def slow_loss(policy: Any, base: Any, prompts: Any, episodes: list[Episode], advantages: torch.Tensor) -> torch.Tensor:
    """Stage-like objective, one sample and one token at a time: -A_t log pi(y_t) averaged over a turn's scored samples,
    beta_t KL averaged over all of a turn's tokens."""
    policy_sum, kl_sum = [torch.zeros(()), torch.zeros(())], [torch.zeros(()), torch.zeros(())]
    scored, tokens = [0, 0], [0, 0]
    for episode, (a1, a2) in zip(episodes, advantages, strict=True):
        ids = [*prompts[episode.prompt]]
        for turn, (attempt, advantage) in enumerate(zip(episode.attempts, (a1, a2), strict=False)):
            if turn == 1:
                ids += episode.between
            if turn == 0 and not episode.own_first:
                ids += attempt.ids
                continue
            known = bool(advantage.isfinite())
            scored[turn] += known
            for token in attempt.ids:
                log_p = policy(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                log_q = base(torch.tensor([ids])).logits[0, -1].log_softmax(-1).detach()
                if known:
                    policy_sum[turn] = policy_sum[turn] - advantage * log_p[token]
                kl_sum[turn] = kl_sum[turn] + (log_p.exp() * (log_p - log_q)).sum()
                tokens[turn] += 1
                ids.append(token)
    total = torch.zeros(())
    for turn, beta in enumerate(BETAS):
        total = total + policy_sum[turn] / max(1, scored[turn]) + beta * kl_sum[turn] / max(1, tokens[turn])
    return total


def gradient_of(loss: torch.Tensor, model: Any) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([w.grad.flatten() if w.grad is not None else torch.zeros(w.numel()) for w in model.parameters()])


@pytest.mark.parametrize("turns", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("share", [True, False])
def test_loss_and_gradient_are_those_of_a_plain_per_sample_loop(
    models: tuple[Any, Any], turns: int, rows: int, share: bool
) -> None:
    policy, base = models
    prompts, episodes = random_episodes(3, 2, seed=5, turns=turns)
    advantages = advantages_of(episodes, seed=6)
    batches = micro_batches(prompts, episodes, advantages, rows, "cpu")
    assert max(len(batch.ids) for batch in batches) <= rows
    counts = [count(batch.turn_mask, batch.advantages) for batch in batches]
    summed = Counts(*(sum(parts) for parts in zip(*counts, strict=True)))  # type: ignore[arg-type]
    ours = loss_of(policy, base, batches, summed, share)
    ours_gradient = gradient_of(ours, policy)
    plain = slow_loss(policy, base, prompts, episodes, advantages)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours_gradient, gradient_of(plain, policy), atol=1e-5, rtol=1e-4)


def test_no_gradient_leaks_across_prompts_of_different_length(models: tuple[Any, Any]) -> None:
    """What stands in one prompt's rows changes nothing in another's, sharing or not."""
    policy, _ = models
    prompts, episodes = random_episodes(2, 2, seed=8)
    prompts = [(1, 5, 6), (1, *range(20, 40))]
    advantages = torch.zeros(4, 2)
    advantages[:2] = torch.tensor([1.0, -0.5])
    changed = [*episodes[:2], *(replace(e, first=Attempt((9, 9), "", False)) for e in episodes[2:])]
    for share in (True, False):
        found = []
        for which in (episodes, changed):
            batches = micro_batches(prompts, which, advantages, 100, "cpu")
            logits = trained_logits(policy, batches[0], share)
            mine = batches[0].spread(logits.log_softmax(-1).gather(1, batches[0].targets[:, None])[:, 0])
            first = [i for i, p in enumerate(batches[0].prompts) for _ in range(batches[0].samples[i]) if len(p) == 3]
            assert first
            rows = [
                r
                for r, p in enumerate(
                    p for p, n in zip(batches[0].prompts, batches[0].samples, strict=True) for _ in range(n)
                )
                if len(p) == 3
            ]
            found.append(gradient_of(mine[rows].sum(), policy))
        torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_sharing_the_prompt_gives_the_logits_of_not_sharing_it(models: tuple[Any, Any]) -> None:
    policy, _ = models
    prompts, episodes = random_episodes(3, 3, seed=11)
    for batch in micro_batches(prompts, episodes, torch.zeros(9, 2), 4, "cpu"):
        torch.testing.assert_close(
            trained_logits(policy, batch, True), trained_logits(policy, batch, False), atol=2e-5, rtol=1e-4
        )


# ---- advantages and figures


OPTIONS = {"stage": 2, "alpha": 10.0, "truncated": "wrong", "second_baseline": "prompt", "whiten": False}


def episode(sample: int, own: bool = True, cut: tuple[bool, bool] = (False, False)) -> Episode:
    first, second = (Attempt((5, END), text, one) for text, one in zip("ab", cut, strict=True))
    return Episode(0, sample, first, own, (6,), second)


def rewards(*values: tuple[float | None, float | None]) -> list[list[Rewarded]]:
    return [[Rewarded(one) for one in row] for row in values]


def test_the_four_transitions_are_worth_11_1_0_and_minus_10() -> None:
    found = episode_advantages([episode(0)] * 1, rewards((0, 1)), 1, OPTIONS)
    assert found.tolist() == [[0.0, 11.0]]  # alone, a sample has no peer and its baseline is 0
    for (first, second), worth in {(1, 1): 1.0, (0, 0): 0.0, (1, 0): -10.0}.items():
        assert episode_advantages([episode(0)], rewards((first, second)), 1, OPTIONS)[0, 1] == worth


def test_a_base_written_first_attempt_has_no_advantage_and_is_in_no_baseline() -> None:
    found = episode_advantages(
        [episode(0), episode(1), episode(2, own=False)], rewards((1, 0), (0, 0), (1, 1)), 1, OPTIONS
    )
    assert found[:2, 0].tolist() == [1.0, -1.0] and found[2, 0].isnan()  # not 0.5 and -1
    assert found[2, 1] == 1 - (-10 + 0) / 2


@pytest.mark.parametrize(("rule", "first", "second"), [("wrong", False, False), ("left_out", True, True)])
def test_truncated_attempts_are_wrong_or_left_out(rule: str, first: bool, second: bool) -> None:
    options = OPTIONS | {"truncated": rule}
    found = episode_advantages(
        [episode(0, cut=(True, False)), episode(1), episode(2)], rewards((0, 1), (1, 1), (0, 0)), 1, options
    )
    assert bool(found[0, 0].isnan()) is first and bool(found[0, 1].isnan()) is second
    assert not found[1:].isnan().any()


def test_what_the_checker_failed_at_is_in_no_baseline() -> None:
    found = episode_advantages([episode(i) for i in range(3)], rewards((None, 1), (1, 1), (0, 0)), 1, OPTIONS)
    assert found[0].isnan().all()  # r2' needs r1
    assert found[1:, 0].tolist() == [1.0, -1.0]


def test_figures_of_an_update() -> None:
    episodes = [
        Episode(0, 0, Attempt((5, END), "a", False), True, (6,), Attempt((5, END), "a", False)),
        Episode(0, 1, Attempt((5, END), "a", False), True, (6,), Attempt((7, 8, END), "bc", False)),
        Episode(0, 2, Attempt((9, 9), "cut", True), False, (6,), Attempt((7, 8, END), "bc", True)),
    ]
    sums = rollout_sums(episodes, rewards((1, 1), (0, 1), (0, None)), 0.5)
    assert set(sums) <= set(FIGURES)
    means = {name: total / number for name, (total, number) in sums.items()}
    assert means["accuracy/turn_1"] == 0.5  # the base's own attempt is not counted
    assert means["accuracy/turn_2"] == 1 and means["delta"] == 0.5
    assert means["incorrect_to_correct"] == 0.5 and means["correct_to_incorrect"] == 0
    assert means["copy_rate"] == means["change_rate"] == 0.5
    assert means["truncated/turn_2"] == pytest.approx(1 / 3) and means["truncated/turn_1"] == 0
    assert means["reward_coverage"] == pytest.approx(5 / 6) and sums["samples"] == (3, 3)


# ---- whole runs


@pytest.fixture(scope="module")
def ending_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model after it has learned to answer with one or two letters and to end its turn: a random one is cut
    off in nearly all its answers, and these are wrong."""
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), AutoModelForCausalLM.from_pretrained(tiny_model)
    dice, optimizer = random.Random(0), torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        loss = torch.zeros(())
        for _ in range(8):
            question = [{"role": "user", "content": f"Say {dice.choice(['cat', 'dog', 'sun'])} 1"}]
            answer = "".join(dice.choices("ab", k=dice.randint(1, 2)))
            prompt, response = render_example(tokenizer, question, answer)
            labels = torch.tensor([[-100] * len(prompt) + response])
            loss = loss + model(torch.tensor([prompt + response]), labels=labels).loss / 8
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    folder = tmp_path_factory.mktemp("models") / "ending"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SCORE: dict[str, Any] = {
    "instruction": "Again.",
    "stage_one": {"updates": 3},
    "stage_two": {"updates": 3},
    "probe_prompts": 4,
}
HALF = {"kind": "function", "function": "test_score:half"}
ONLY_REPORT = {"disabled": ["first_attempt", "change_rate", "copy_rate", "kl"]}


@pytest.fixture
def score_recipe(tiny_recipe: Callable[..., Recipe], ending_model: Path, tiny_data: Path) -> Callable[..., Recipe]:
    rows = [{"prompt": f"Say {word} {n}", "answer": "ab"[n % 2]} for word in ("cat", "dog", "sun") for n in range(8)]
    write_jsonl(tiny_data / "letters.jsonl", rows)

    def make(**changes: Any) -> Recipe:
        given: dict[str, Any] = {
            "model": str(ending_model),
            "data": {"prompts": "letters.jsonl"},
            "sampling": {"n": 2, "max_new_tokens": 5},
            "training": {"batch_size": 8, "checkpoint_steps": 1, "micro_batch_size": 3, "learning_rate": 2e-3},
            "score": SCORE,
            "gates": ONLY_REPORT,
            "evaluate": [],
        }
        for name, value in changes.items():
            given[name] = {**given[name], **value} if isinstance(given.get(name), dict) else value
        return tiny_recipe("score", **given)

    return make


def run(recipe: Recipe, output: Path | None = None) -> Any:
    if output is not None:
        recipe = recipe.model_copy(update={"output": str(output)})
    return selfimprove.run(recipe, Progress(Console(quiet=True)))


def histories(result: Any) -> list[list[dict[str, Any]]]:
    return [event["history"] for event in result.events if event["event"] == "training"]


def weights(result: Any) -> str:
    return str(result.policy.digest)


def test_both_stages_leave_a_policy_their_figures_and_a_report(score_recipe: Callable[..., Recipe]) -> None:
    result = run(score_recipe())
    first, second = histories(result)
    assert [row["step"] for row in first] == [1, 2, 3]
    assert first[0]["kl/turn_1"] == pytest.approx(0, abs=1e-6)  # Stage I begins as the base
    assert first[-1]["kl/turn_2"] > 1e-6 and second[0]["kl/turn_2"] > 1e-6  # Stage II is held against the base too
    for row in (*first, *second):
        assert row["samples"] == 8 and row["reward_coverage"] == 1.0
        assert row["delta"] == pytest.approx(row["incorrect_to_correct"] - row["correct_to_incorrect"])
        assert 0 <= row["accuracy/turn_1"] <= 1
        assert all(row[f"seconds/{part}"] >= 0 for part in score_trainer.TIMES)
    stages = [e["score_stage"] for e in result.events if e["event"] == "training"]
    probes = [e["stage"] for e in result.events if e["event"] == "probe"]
    assert stages == [1, 2] and probes == ["base", "stage 1", "stage 2"]
    opened = AutoModelForCausalLM.from_pretrained(result.policy.base)
    assert PeftModel.from_pretrained(opened, result.policy_folder)
    assert not list(Path(result.policy_folder).glob("reference"))
    page = result.report.read_text()
    assert "Stage II" in page and "Acc@t1" in page


def test_a_stage_learns_what_is_rewarded(score_recipe: Callable[..., Recipe]) -> None:
    """The first attempt of single-turn RL gets better at the letter that is asked for."""
    result = run(
        score_recipe(
            score={"turns": 1, "stage_one": {"updates": 0}, "stage_two": {"updates": 25}, "beta1": 0.0},
            sampling={"n": 8, "max_new_tokens": 2},
            training={
                **{"batch_size": 64, "micro_batch_size": 64, "scheduler": "constant", "warmup_ratio": 0.0},
                "learning_rate": 1e-2,
            },
        )
    )
    (rows,) = histories(result)
    accuracy = [row["accuracy/turn_1"] for row in rows]
    assert sum(accuracy[-5:]) / 5 > sum(accuracy[:5]) / 5 + 0.15
    assert "accuracy/turn_2" not in rows[0] and "kl/turn_2" in rows[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"micro_batch_size": 8}},
        {"score": {**SCORE, "share_prompt": False}},
        {"training": {"processes": 2}},
        {"training": {"gradient_checkpointing": True}},
    ],
    ids=["micro-batches", "no sharing", "two processes", "checkpointing"],
)
def test_how_it_is_done_changes_nothing(
    score_recipe: Callable[..., Recipe], tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain = run(score_recipe(), tmp_path / "plain")
    other = run(score_recipe(**changes), tmp_path / "other")
    # Stage II begins with weights that differ by rounding: another key, and so another draw of noise.
    for row, again in zip(histories(plain)[0], histories(other)[0], strict=True):
        for name in ("accuracy/turn_1", "accuracy/turn_2", "copy_rate", "samples", "tokens/turn_2"):
            assert again[name] == row[name], name
        assert again["loss"] == pytest.approx(row["loss"], rel=1e-3, abs=1e-4)
        assert again["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-3)


def test_killed_and_whole_agree(score_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    recipe = score_recipe(score={**SCORE, "passes": 2, "clip_range": 0.2}, training={"checkpoint_steps": 1})
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.as_yaml())
    killed, undisturbed = kill_and_compare(str(file), tmp_path / "work", 6, 8.0, 0, [])
    assert killed == undisturbed


@pytest.mark.parametrize("stop_after", [1, 2])
def test_resumed_in_the_middle_of_a_stage_and_whole_agree(
    score_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = run(score_recipe(), tmp_path / "whole")
    collect, done = score_trainer.ScoreTrainer._collect, []

    def dies(self: Any, update: int) -> Any:
        if update == stop_after and self.options["stage"] == 2 and not done:
            done.append(update)
            raise KeyboardInterrupt
        return collect(self, update)

    monkeypatch.setattr(score_trainer.ScoreTrainer, "_collect", dies)
    with pytest.raises(KeyboardInterrupt):
        run(score_recipe(), tmp_path / "stopped")
    resumed = run(score_recipe(), tmp_path / "stopped")
    assert done == [stop_after] and weights(resumed) == weights(whole)
    notes = [json.loads(path.read_text()) for path in (tmp_path / "stopped").glob("steps/score-*/resumed-from.json")]
    assert notes == [[stop_after]]
    for before, after in zip(histories(whole), histories(resumed), strict=True):
        ours = [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in after]
        assert ours == [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in before]


def test_several_passes_use_one_batch_and_then_draw_anew(score_recipe: Callable[..., Recipe]) -> None:
    result = run(score_recipe(score={**SCORE, "passes": 3, "clip_range": 0.01}))
    rows, _ = histories(result)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert [("accuracy/turn_1" in row) for row in rows] == [True, False, False] * 3
    assert rows[0]["clip_fraction/turn_2"] == 0 and max(row["clip_fraction/turn_2"] for row in rows) > 0
    assert rows[0]["seconds/sampling"] > 0 == rows[1]["seconds/sampling"]


def test_with_full_weights_and_with_a_base_that_is_an_adapter(
    score_recipe: Callable[..., Recipe], ending_model: Path, tmp_path: Path
) -> None:
    full = run(score_recipe(training={"lora": False, "learning_rate": 1e-4}), tmp_path / "full")
    assert histories(full)[0][0]["kl/turn_1"] == pytest.approx(0, abs=1e-6)
    assert histories(full)[1][0]["kl/turn_1"] > 0
    torch.manual_seed(0)
    adapted = get_peft_model(
        AutoModelForCausalLM.from_pretrained(ending_model),
        LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False),
    )
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            weight.data *= 0.1  # it still ends its turns
    adapted.save_pretrained(tmp_path / "adapter")
    on_adapter = run(score_recipe(model=str(tmp_path / "adapter")), tmp_path / "adapted")
    first, second = histories(on_adapter)
    assert first[0]["kl/turn_1"] == pytest.approx(0, abs=1e-5)  # not against the naked base
    assert second[0]["kl/turn_1"] > 1e-6
    assert not (Path(on_adapter.policy_folder) / "reference").exists()


def test_the_base_writes_first_attempts_in_a_run(score_recipe: Callable[..., Recipe]) -> None:
    share = {"updates": 2, "base_first_attempts": 0.5}
    result = run(score_recipe(score={**SCORE, "stage_two": share, "first_attempts": 2}))
    assert all("accuracy/turn_1" in row for row in histories(result)[1])


def test_the_reference_of_an_adapter_trains_nothing_and_comes_back(tiny_model: Path, tmp_path: Path) -> None:
    base = get_peft_model(
        AutoModelForCausalLM.from_pretrained(tiny_model),
        LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.3),
    )
    base.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path, is_trainable=True)
    model.load_adapter(str(tmp_path), adapter_name="reference")
    model.set_adapter("default")
    without_dropout(model)
    trainable = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable and all(".default." in name for name in trainable)
    with _as_reference(model):
        assert not any(w.requires_grad for n, w in model.named_parameters() if ".reference." in n)
    assert {name for name, weight in model.named_parameters() if weight.requires_grad} == trainable
    model.train()
    ids = torch.tensor([[1, 5, 6]])
    torch.testing.assert_close(model(ids).logits, model(ids).logits)


def test_a_gate_stops_the_training_with_what_to_look_at(score_recipe: Callable[..., Recipe]) -> None:
    recipe = score_recipe(
        score={**SCORE, "stage_one": {"updates": 12}, "reward": {"kind": "function", "function": "test_score:nothing"}},
        gates={"disabled": [], "max_missing": 0.2},
    )
    said = (
        r"gate reward_coverage \(stage 1, optimizer step 10; \d+ times: the function returned None\).*gates.max_missing"
    )
    with pytest.raises(GateError, match=said):
        run(recipe)
    events = selfimprove.report.events.read_events(Path(recipe.output) / "metrics.jsonl")
    (stopped,) = [event for event in events if event["event"] == "training"]
    assert len(stopped["history"]) == 10  # the report of a stopped run shows how it came to that
    (kept,) = [event for event in events if event["event"] == "score_samples"]
    assert len(kept_updates(Path(kept["folder"]))) == 10 and kept["shown"][0]["update"] == 1


def test_nothing_to_learn_is_noticed_when_it_happens(score_recipe: Callable[..., Recipe], tiny_data: Path) -> None:
    recipe = score_recipe(score={**SCORE, "stage_one": {"updates": 30}}, training={"checkpoint_steps": 100})
    rows = [{"prompt": f"Say cat {n}", "answer": "never said"} for n in range(24)]
    write_jsonl(tiny_data / "letters.jsonl", rows)
    with pytest.raises(GateError, match=r"gate telling \(stage 1, optimizer step 10\).*Samples of the last updates: /"):
        run(recipe)


def test_prompts_may_be_redrawn_and_killed_and_whole_agree_then_too(
    score_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    own = {**SCORE, "redraw": 2, "stage_two": {"updates": 0}}
    redrawn = run(score_recipe(score=own), tmp_path / "once")
    (event,) = [event for event in redrawn.events if event["event"] == "score_samples"]
    before, after = [], []
    for update, row in enumerate(histories(redrawn)[0]):
        rows = read_rows_of(Path(event["folder"]), update)
        told = [any(one["attempts"][1]["advantage"] for one in rows[i : i + 2]) for i in range(0, 8, 2)]
        before.append(row["informative"])
        after.append(sum(told) / 4)
    assert all(one >= other for one, other in zip(after, before, strict=True)) and sum(after) > sum(before)
    assert weights(run(score_recipe(score=own), tmp_path / "again")) == weights(redrawn)


def test_the_sampler_is_the_trainer_where_it_is_the_same_model(
    score_recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    plain = run(score_recipe(), tmp_path / "plain")
    for row in [row for history in histories(plain) for row in history]:
        assert row["sampler_kl"] == pytest.approx(0, abs=1e-6)
        assert row["sampler_ratio"] == pytest.approx(1, abs=1e-3)
    (shown, _) = [event["shown"] for event in plain.events if event["event"] == "score_samples"]
    assert len(shown[0]["attempts"]) == 2 and {"reward", "advantage", "text"} <= shown[0]["attempts"][0].keys()
    assert "Some samples, as they were trained" in plain.report.read_text()


def test_full_weights_in_bf16_begin_at_the_base(score_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    """The reference goes through the same autocast as the trained model."""
    own = {"training": {"dtype": "bfloat16", "lora": None, "learning_rate": 1e-4}}
    first, _ = histories(run(score_recipe(**own), tmp_path / "half"))
    assert first[0]["kl/turn_1"] == pytest.approx(0, abs=1e-7) and first[0]["kl/turn_2"] == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"training": {"batch_size": 9}}, "multiple of `sampling.n`"),
        ({"sampling": {"n": 2, "top_p": 0.9}}, "`sampling.top_p` must be 1"),
        ({"score": {**SCORE, "first_attempts": 3}}, "must be a multiple of `score.first_attempts`"),
        ({"score": {**SCORE, "turns": 1}}, "stage_one.updates"),
        ({"score": {**SCORE, "stage_one": {"updates": 0}, "stage_two": {"updates": 0}}}, "nothing would be trained"),
        ({"score": {"reward": {"kind": "code"}}}, "needs `tests`"),
        ({"data": {"prompts": None}}, "needs `data.prompts`"),
        ({"score": {**SCORE, "clip_range": 0.2}}, "`clip_range` needs `passes`"),
        ({"score": {**SCORE, "reward": {"kind": "reward_model", "model": "x", "right_from": 0.5}}}, "left_out"),
        (
            {"score": {"turns": 1, "stage_one": {"updates": 0}, "stage_two": {"base_first_attempts": 0.5}}},
            "the base's first attempts",
        ),
    ],
)
def test_recipes_that_cannot_be_trained_are_refused(
    score_recipe: Callable[..., Recipe], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        score_recipe(**changes)


def test_sharing_with_checkpointing_is_refused(score_recipe: Callable[..., Recipe]) -> None:
    recipe = score_recipe(score={**SCORE, "share_prompt": True}, training={"gradient_checkpointing": True})
    with pytest.raises(InputError, match=r"score\.share_prompt"):
        run(recipe)


def test_highest_reward_keeps_the_best_checkpoint(
    score_recipe: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: dict[int, tuple[int, str]] = {}
    save = score_stage.save_policy

    def watched(trainer: Any, folder: Path) -> None:
        save(trainer, folder)
        kept[trainer.options["stage"]] = trainer.state.global_step, model_digest(folder)

    monkeypatch.setattr(score_stage, "save_policy", watched)
    result = run(score_recipe(score={**SCORE, "keep": "highest_reward", "stage_two": {"updates": 6}}))
    rewards_at = [row["reward/turn_2"] for row in histories(result)[1]]
    step, digest = kept[2]
    assert step == 1 + rewards_at.index(max(rewards_at))  # a checkpoint after every update; the first of equal ones
    assert model_digest(Path(result.policy_folder)) == digest
    callback = BestCheckpoint(tmp_path, {"turns": 2}, lambda n: None)
    rows = [{"step": i + 1, "reward/turn_2": value} for i, value in enumerate([0.1, 0.5, 0.2, 0.2])]
    assert callback.best_step(rows, 2, 2) == callback.best_step(rows, 2, 4) == 2
    assert callback.best_step(rows, 2, 6) == 2  # no reward was known since the last checkpoint
    assert callback.best_step(rows, 1, 4) == 2
    assert callback.best_step([{"step": 3, "reward/turn_2": 0.1}], 2, 3) == 3  # the last window may be short
    assert callback.best_step([], 2, 4) is None


def test_the_best_policy_survives_a_kill_before_the_next_checkpoint_is_whole(tmp_path: Path) -> None:
    """The samples since the older checkpoint are drawn again, and may then be worse than those of the best one."""
    callback = BestCheckpoint(tmp_path, {"turns": 2}, lambda n: None)
    rows = [{"step": step, "reward/turn_2": value} for step, value in enumerate([0.1, 0.5], start=1)]
    callback.trainer = SimpleNamespace(
        model=torch.nn.Identity(),
        is_world_process_zero=lambda: True,
        accelerator=SimpleNamespace(wait_for_everyone=lambda: None),
        save_model=lambda folder: Path(folder).mkdir(),
    )
    args = SimpleNamespace(save_steps=1, output_dir=str(tmp_path / "checkpoints"))

    def save(step: int) -> None:
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True, exist_ok=True)
        state = SimpleNamespace(log_history=rows[:step], global_step=step, is_world_process_zero=True)
        callback.on_save(args, state, None)

    def best() -> list[str]:
        return sorted(one.name for one in tmp_path.glob("policy-best-*"))

    save(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "on_save", _killed)
        with pytest.raises(KeyboardInterrupt):
            save(2)
    assert best() == ["policy-best-1", "policy-best-2"]
    rows[1] = {"step": 2, "reward/turn_2": 0.0}
    save(2)
    assert best() == ["policy-best-1"]


def _killed(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


def test_policies_of_a_run_can_be_the_base_of_the_next(score_recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    first = run(score_recipe(), tmp_path / "first")
    assert resolve_policy(str(tmp_path / "first")).adapter_digest == first.policy.adapter_digest


# ---- vLLM, and the real model


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM (make vllm)")
@pytest.mark.parametrize("lora", [{"r": 4, "alpha": 8, "dropout": 0.0}, False], ids=["adapter", "full weights"])
def test_vllm_samples_from_the_weights_of_every_update(
    score_recipe: Callable[..., Recipe], tmp_path: Path, lora: Any
) -> None:
    """Each swap is checked against the trainer's own model in memory, and fails where it did not arrive."""
    model = save_served_model(tmp_path / "served")
    result = run(
        score_recipe(
            model=str(model),
            sampling={"backend": "vllm", "n": 4},
            training={"lora": lora, "scheduler": "constant", "warmup_ratio": 0.0, "batch_size": 16},
            score={
                **{**SCORE, "reward": HALF, "stage_one": {"updates": 2}},
                "stage_two": {"updates": 1, "base_first_attempts": 0.5},
            },
        )
    )
    first, second = histories(result)
    assert first[0]["kl/turn_2"] == pytest.approx(0, abs=1e-5)
    assert first[1]["kl/turn_2"] > 0
    assert second[0]["kl/turn_2"] > 1e-6
    engine = [event for event in result.events if event["event"] == "engine"]
    assert [event["what"] for event in engine].count("start") == 1
    swapped = [event["policy"] for event in engine if event["what"] == "swap"]
    assert [name for name in swapped if name.startswith("update")] == ["update 1"], "at update 0 it is the start itself"
    assert not list(Path(result.folder).glob("steps/score-*/live"))


@pytest.mark.real_model
def test_the_real_model_through_the_shipped_recipe(tmp_path: Path) -> None:
    """One update a stage of SmolLM2: that what is shipped runs."""
    options = [
        *("model=smollm2-135m-instruct", f"output={tmp_path / 'run'}", f"score.reward={HALF}", "evaluate=[]"),
        *("score.stage_one.updates=1", "score.stage_two.updates=1", "score.probe_prompts=2", "training.batch_size=32"),
        *("sampling.backend=transformers", "sampling.max_new_tokens=16"),
    ]
    changed = load_recipe("smollm2-135m/score", options)
    result = run(changed)
    first, second = histories(result)
    assert first[0]["kl/turn_1"] == pytest.approx(0, abs=1e-4)
    assert len(first) == len(second) == 1 and second[0]["samples"] == 32  # with fewer none may end, and all are wrong
    assert PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(result.policy.base), result.policy_folder)


def test_rewards_that_are_all_the_same_teach_nothing_and_it_is_said(
    score_recipe: Callable[..., Recipe], tiny_data: Path
) -> None:
    recipe = score_recipe()
    rows = [{"prompt": f"Say cat {n}", "answer": "never said"} for n in range(24)]
    write_jsonl(tiny_data / "letters.jsonl", rows)
    with pytest.raises(RunFailed, match="rewarded alike"):
        run(recipe)
