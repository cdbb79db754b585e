"""The evidence for Self-J: figures and verdicts with values computed by hand, collecting real runs, and the page."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import yaml
from conftest import write_jsonl
from rich.console import Console

import selfimprove
from selfimprove.errors import InputError, RunFailed
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.judge_tables import BASELINES
from selfimprove.report.terminal import Progress
from selfimprove.suites.calibration import calibration
from selfimprove.suites.judge_scores import Graded, less, measure_scores

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from evidence_self_judge import main  # noqa: E402
from self_judge_evidence import collect as collector  # noqa: E402
from self_judge_evidence import runs as runner  # noqa: E402
from self_judge_evidence.claims import CLAIMS, corrected  # noqa: E402
from self_judge_evidence.figures import Results, mean_of  # noqa: E402
from self_judge_evidence.page import load, page_text, write_page  # noqa: E402
from self_judge_evidence.runs import KINDS, SEEDS, recipe_of, run_all  # noqa: E402

DOCS = ROOT / "docs" / "evidence"


def judged(quality: float, seed: int) -> dict[str, Any]:
    """`graded` of an evaluation: 20 questions with four answers each, of which a judge sees `quality`."""
    rng = np.random.default_rng(seed)
    gold, noise = rng.integers(0, 2, 80).astype(float), rng.normal(size=80)
    graded = Graded.of(np.repeat(np.arange(20), 4).tolist(), gold.tolist(), rng.integers(1, 9, 80).tolist())
    scores = np.clip(4.5 + 2 * (quality * gold + noise), 0, 9)
    own = measure_scores(scores.tolist(), graded, resamples=20)
    without = {
        "length": graded.lengths,
        "likelihood": gold + 3 * noise,
        "likelihood_summed": noise,
        "random": np.zeros(80),
        "oracle": gold,
    }
    found = {name: measure_scores(one.tolist(), graded, resamples=20) for name, one in without.items()}
    return {
        "good": int(gold.sum()),
        "truncated": 0,
        "mean_length": 4.0,
        "missing": {},
        "scores": own.figures,
        "calibration": calibration(scores.tolist(), graded, (0, 9), (0, 1), resamples=20),
        "baselines": {name: one.figures for name, one in found.items()},
        "less": {name: less(own, one) for name, one in found.items() if name != "oracle"},
        "spearman_paired": {"difference": 0.5, "low": 0.4, "high": 0.6},
    }


def one_run(quality: float, seed: int) -> dict[str, Any]:
    """A run as the results hold it."""
    evaluations = {
        policy: {"policy_digest": policy, "items": 20, "paired": None, "graded": judged(value, seed)}
        for policy, value in (("M0", 0.1), ("M1", quality))
    }
    labels = {"responses": 100, "examples": 90, "labels": [9] * 10, "missing": {}, "cut": 0, "agreement": 0.25}
    spread = {"low": 1.0, "median": 4.0, "high": 8.5}
    history = {part: [2.0] * 5 + [1.0] * 5 for part in ("ce_reference", "ce_plain", "kl", "error/plain")}
    return {
        "git": "abcdefgh",
        "device": "cpu",
        "warnings": ["A 4-bit conversion."],
        "evaluations": evaluations,
        "labels": labels | {"self_evaluation": spread, "similarity": None},
        "training": {"seconds": 60.0, "history": history},
    }


def made_up(**qualities: float) -> dict[str, Any]:
    return {
        kind.replace("_", "-"): {str(seed): one_run(quality, seed) for seed in SEEDS}
        for kind, quality in qualities.items()
    }


def with_spearman(*trained: float, before: tuple[float, ...] = (0.1, 0.1, 0.1)) -> dict[str, Any]:
    """Runs by seed with nothing but rank correlations."""

    def graded(value: float) -> dict[str, Any]:
        return {"scores": {"spearman": {"value": value, "low": value - 0.1, "high": value + 0.1}}, "calibration": None}

    return {
        str(seed): {
            "git": "abcdefgh",
            "device": "cpu",
            "evaluations": {
                "M0": {"graded": graded(old)},
                "M1": {
                    "graded": graded(new) | {"spearman_paired": {"low": new - old - 0.05, "high": new - old + 0.05}}
                },
            },
        }
        for seed, (new, old) in enumerate(zip(trained, before, strict=False))
    }


def verdict(results: Results, number: str) -> str:
    return next(one for one in CLAIMS if one.number == number).verdict(results)


def test_differences_are_paired_by_seed() -> None:
    runs = {"self-j": with_spearman(0.3, 0.4, 0.5), "cosine-only": with_spearman(0.2, 0.6, 0.1)}
    del runs["cosine-only"]["1"]
    results = Results(runs)
    # .3 - .2 and .5 - .1; mean .25, half width t(.975, 1 degree) = 12.706 times half the range, .15
    found = mean_of(results.less("spearman", "cosine-only"))
    assert found
    assert (found.value, found.low) == pytest.approx((0.25, 0.25 - 12.706 * 0.15), abs=1e-4)
    before = results.less("spearman", "untrained")
    assert before[0] == pytest.approx((0.2, 0.15, 0.25))
    claim = CLAIMS[0]
    assert claim.in_every_seed(results)
    assert not CLAIMS[2].in_every_seed(results)  # two trained judges have no interval over prompts


def test_figures_are_those_of_the_events() -> None:
    run = one_run(1.0, 0)
    results = Results({"self-j": {"0": run}})
    graded = run["evaluations"]["M1"]["graded"]
    assert results.values("self-j", "mean_length")[0][0] == graded["scores"]["best_of_n"]["mean_length"]
    assert results.values("self-j", "calibration")[0][0] == graded["calibration"]["error"]
    assert results.values("length", "calibration") == {}
    assert results.values("random", "spearman") == {}  # all its scores are equal
    for figure, than in (("best_of_n", "shortest"), ("length_controlled", "random")):
        expected = graded["scores"][figure][f"minus_{than}"]
        assert results.less(figure, than)[0] == (expected["value"], expected["low"], expected["high"])
    # the other side of length: 1 - AUROC, and the shortest of each question's four
    own, shortest, longer = (results.values(name, "auroc")[0] for name in ("self-j", "shortest", "length"))
    assert shortest == pytest.approx((1 - longer[0], 1 - longer[2], 1 - longer[1]))
    assert results.less("auroc", "shortest")[0][0] == pytest.approx(own[0] - shortest[0])
    best = results.values("self-j", "best_of_n")[0][0] - results.values("shortest", "best_of_n")[0][0]
    assert best == pytest.approx(graded["scores"]["best_of_n"]["minus_shortest"]["value"])
    assert results.values("shortest", "area") == {}
    area = results.less("area", "likelihood")[0]
    assert area[0] == pytest.approx(results.values("self-j", "area")[0][0] - results.values("likelihood", "area")[0][0])


def test_verdicts_follow_from_the_interval() -> None:
    runs = {
        "self-j": with_spearman(0.4, 0.41, 0.42),
        "cosine-only": with_spearman(0.3, 0.5, 0.4),  # .1, -.09, .02
        "no-distillation": with_spearman(0.6, 0.62, 0.61),
    }
    results = Results(runs)
    assert [verdict(results, number) for number in ("1a", "2", "3", "4")] == [
        "holds",
        "cannot be told apart",
        "not run",
        "contradicted",
    ]
    assert verdict(results, "5a") == "too few seeds"  # its figure is undefined in every seed
    p = corrected(results)
    assert {*p} == {"1a", "2", "4"}
    assert p["1a"] < p["4"] < 0.05 < p["2"]
    del runs["self-j"]["2"]
    assert verdict(Results(runs), "1a") == "not finished"
    runs["self-j"]["2"] = {"stopped": "gate judge_health:\nno", "git": "abcdefgh", "device": "cpu"}
    assert verdict(Results(runs), "1a") == "too few seeds"


def test_the_page_says_what_the_figures_say(tmp_path: Path) -> None:
    runs = made_up(self_j=1.2, cosine_only=2.0, self_evaluation_only=0.0, no_distillation=6.0)
    runs["cosine-only"]["2"] = {"stopped": "gate judge_health:\nno", "git": "abcdefgh", "device": "cpu"}
    used = [{"title": "In CREAM.", "text": "It was the reward."}]
    text = write_page(tmp_path, {"runs": runs, "used": used}).read_text()
    flat = " ".join(text.split())
    assert "nan" not in text
    said = dict(re.findall(r"\*\*([A-Z][a-z ]+)\*\*: (.*?)\.(?= \*\*)", flat[: flat.index("Spearman:")]))
    assert "Self-J ranks better than untrained self-evaluation (1a)" in said["Holds"]
    assert "Self-J ranks better than without self-distillation (4)" in said["Contradicted"]
    assert said["Too few seeds"] == "2"
    assert "cosine labels only, seed 2 (gate judge_health: no)" in flat
    assert "2.00 to 1.00" in text
    assert "| 90 | 9 9 9 9 9 9 9 9 9 9 | 0 | 0 | 25.0 | 1.00, 4.00, 8.50 |  |" in text
    assert "**In CREAM.** It was the reward." in text
    assert "A 4-bit conversion." in flat
    assert {file.name for file in (tmp_path / "self_judge").iterdir()} == {"coverage.svg", "spearman.svg"}
    assert max(map(len, (line for line in text.splitlines() if not line.startswith("|")))) <= 120


def test_a_page_of_nothing_and_of_one_seed_is_a_page(tmp_path: Path) -> None:
    assert "**Not run**: 1a; 1b; 2" in write_page(tmp_path, load(tmp_path / "none.json")).read_text()
    text = page_text(Results({"self-j": {"0": one_run(1.0, 0)}}), [])
    assert "nan" not in text
    assert "**Holds**" not in text
    assert "Self-J 1, cosine labels only 0" in text
    stopped = {"self-j": {"0": {"stopped": "x", "git": None, "device": "cpu"}}}
    assert "## Limits" in write_page(tmp_path, {"runs": stopped}).read_text()


def test_the_judges_that_are_compared(tmp_path: Path) -> None:
    assert [*KINDS] == ["self-j", "cosine-only", "self-evaluation-only", "no-distillation"]
    recipes = {kind: recipe_of(kind, 1, tmp_path) for kind in KINDS}
    changed = {kind: (one.self_judge.self_evaluation, one.self_judge.distillation) for kind, one in recipes.items()}
    assert [*changed.values()] == [(0.5, 2.0), (0.0, 2.0), (1.0, 2.0), (0.5, 0.0)]
    assert len({one.store for one in recipes.values()}) == 1
    assert len({one.output for one in recipes.values()}) == 4
    assert {one.seed for one in recipes.values()} == {1}


def test_a_run_that_stops_does_not_keep_others_from_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def fake(recipe: Recipe) -> None:
        ran.append(Path(recipe.output).name)
        if recipe.seed == 1:
            raise RunFailed("no disk")

    monkeypatch.setattr(runner, "run", fake)
    assert run_all(tmp_path, "self-j-*") == ["self-j-1"]
    assert ran == ["self-j-0", "self-j-1", "self-j-2"]
    assert "self-j-1 stopped: no disk" in capsys.readouterr().out


@pytest.fixture
def make_recipe(tiny_recipe: Callable[..., Recipe], tiny_data: Path) -> Callable[[str, int, Path], Recipe]:
    """`recipe_of` on the tiny model, which judges given answers."""
    rng = np.random.default_rng(0)
    rows = [{"prompt": f"Say {word} {n}", "answer": f"{word} {n}"} for word in ("cat", "dog", "sun") for n in range(4)]
    write_jsonl(tiny_data / "labelled.jsonl", rows)
    answers = [
        {"prompt": f"Name {n}", "response": "ab"[: 1 + k] * (1 + n), "score": float(rng.integers(2))}
        for n in range(6)
        for k in range(2)
    ]
    write_jsonl(tiny_data / "answers.jsonl", answers)
    suite = {"name": collector.SUITE, "kind": "graded", "data": "answers.jsonl", "checker": "score"}
    (tiny_data / "suite.yaml").write_text(yaml.safe_dump(suite))

    def make(kind: str, seed: int, folder: Path) -> Recipe:
        changes = [one.removeprefix("self_judge.").split("=") for one in KINDS[kind]]
        return tiny_recipe(
            "self_judge",
            seed=seed,
            output=str(folder / f"{kind}-{seed}"),
            store=str(folder / f"store-{seed}"),
            data={"prompts": "labelled.jsonl", "prompts_per_round": 6},
            sampling={"n": 2, "max_new_tokens": 6},
            rounds=1,
            training={"batch_size": 8, "micro_batch_size": 4, "learning_rate": 5e-3, "epochs": 2, "max_length": 512},
            gates={"disabled": ["degeneration"]},
            evaluate=["suite.yaml"],
            self_judge={key: float(value) for key, value in changes},
        )

    return make


def test_collecting_runs(
    make_recipe: Callable[[str, int, Path], Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr(collector, "recipe_of", make_recipe)
    runs, file = tmp_path / "runs", tmp_path / "results.json"
    selfimprove.run(make_recipe("self-j", 0, runs), Progress(Console(quiet=True)))
    events = (runs / "self-j-0" / "metrics.jsonl").read_text()
    (runs / "cosine-only-0").mkdir()  # as if it had learnt the same
    changed = events.replace('"self_evaluation": 0.5', '"self_evaluation": 0.0')
    (runs / "cosine-only-0" / "metrics.jsonl").write_text(changed)
    assert main(["--results", str(file), "collect", f"self-j-0={runs / 'self-j-0'}"]) == 0
    kept = json.loads(file.read_text()) | {"used": [{"title": "Here.", "text": "Once."}]}
    file.write_text(json.dumps(kept))
    assert main(["--results", str(file), "collect", f"cosine-only-0={runs / 'cosine-only-0'}"]) == 0
    found = json.loads(file.read_text())
    assert [*found["runs"]] == ["self-j", "cosine-only"]
    assert found["used"] == [{"title": "Here.", "text": "Once."}]
    run = found["runs"]["self-j"]["0"]
    assert {*run["evaluations"]} == {"M0", "M1"}
    assert run["evaluations"]["M0"]["graded"] == found["runs"]["cosine-only"]["0"]["evaluations"]["M0"]["graded"]
    assert {"ce_plain", "ce_reference", "kl"} <= {*run["training"]["history"]}
    assert sum(run["labels"]["labels"]) == run["labels"]["examples"] > 0
    assert {*run["evaluations"]["M1"]["graded"]["baselines"]} == {*BASELINES}
    results = Results(found["runs"])
    for claim in CLAIMS:  # every claim reads what the events really hold
        if claim.than not in ("self-evaluation-only", "no-distillation"):
            assert [*claim.by_seed(results)] == [0], claim.number
    assert main(["--results", str(file), "page", "--docs", str(tmp_path)]) == 0
    assert "nan" not in (tmp_path / "self_judge.md").read_text()

    # what is not what its name says, not finished, or of other answers is refused
    assert main(["--results", str(file), "collect", f"no-distillation-0={runs / 'self-j-0'}"]) == 1
    assert "self_judge.distillation: 0.0 -> 2.0" in capsys.readouterr().err
    other = json.loads(file.read_text())
    other["runs"]["self-j"]["0"]["evaluations"]["M0"]["graded"]["good"] = -1
    with pytest.raises(RunFailed, match="do not judge the same answers"):
        collector.collect({}, other)
    metrics = runs / "self-j-0" / "metrics.jsonl"
    lines = [line for line in metrics.read_text().splitlines(keepends=True) if '"event": "done"' not in line]
    metrics.write_text("".join(lines))
    with pytest.raises(RunFailed, match="not finished"):
        collector.one_run("self-j", 0, runs / "self-j-0")
    gate = {"event": "gate", "gate": "judge_health", "passed": False, "message": "no"}
    metrics.write_text("".join([*lines, json.dumps(gate) + "\n"]))
    assert collector.one_run("self-j", 0, runs / "self-j-0")["stopped"] == "gate judge_health: no"


def test_names_of_runs() -> None:
    found = collector.named_runs(["self-evaluation-only-2=runs/x"])
    assert found == {("self-evaluation-only", 2): Path("runs/x")}
    for wrong in ("self-j=runs/x", "self-j-0", "star-0=runs/x", "self-j-a=runs/x"):
        with pytest.raises(InputError, match="KIND-SEED=RUN_FOLDER"):
            collector.named_runs([wrong])


def test_committed_page_is_what_results_give(tmp_path: Path) -> None:
    results = load()
    if not results["runs"]:
        pytest.skip("no results yet")
    assert write_page(tmp_path, results).read_text() == (DOCS / "self_judge.md").read_text()
    pinned = re.search(r"^matplotlib==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if matplotlib.__version__ == pinned[1]:  # another version draws the same values in other bytes
        for file in (tmp_path / "self_judge").iterdir():
            assert file.read_text() == (DOCS / "self_judge" / file.name).read_text()
