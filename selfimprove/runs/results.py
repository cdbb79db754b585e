"""What a run left, to look at from Python: its policy, and its figures, responses and pairs as data frames."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import read_rows
from selfimprove.errors import InputError
from selfimprove.models.policy import Policy
from selfimprove.report.events import read_events
from selfimprove.report.outcome import ORACLE, outcome_sentences
from selfimprove.report.summary import STAGES, fixed, number, of_kind
from selfimprove.report.text import visible

if TYPE_CHECKING:
    from pandas import DataFrame


# (key of a training's log, name, decimals, signed)
_TRAINED = (
    ("loss", "loss", 3, False),
    ("margin", "margin", 2, True),
    ("reward/turn_2", "reward", 3, False),
    ("reward/turn_1", "reward", 3, False),
)


@dataclass(frozen=True)
class Result:
    """A run's folder. `policy_folder` opens with plain Transformers or PEFT."""

    policy: Policy | None  # None where a judge was measured or used, and of a folder that is only read
    folder: Path
    report: Path
    events: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: str | Path) -> Result:
        """The run of a folder, as far as it came. Raises InputError where there is none."""
        place = Path(folder).expanduser()
        if not (place / "metrics.jsonl").is_file():
            raise InputError(f"{place}: no run here (no metrics.jsonl)")
        return cls(None, place, place / "report.html", read_events(place / "metrics.jsonl"))

    @property
    def kept(self) -> str:
        """What was kept and why, in a line; empty where nothing was trained."""
        done: dict[str, Any] = next(reversed(of_kind(self.events, "done")), {})
        oracle = f"; {ORACLE}" if done.get("oracle") else ""
        return f"kept {done['policy']}, {done['why']}{oracle}" if done.get("why") else ""

    @property
    def trained(self) -> str:
        """How the last training went, in a line: its loss, margin or reward, from the first update to the last; empty
        where nothing was trained."""
        event: dict[str, Any] = next(reversed(of_kind(self.events, "training")), {})
        history = event.get("history") or []
        said: list[str] = []
        for key, name, digits, sign in _TRAINED:
            known = [value for row in history if (value := number(row.get(key))) is not None]
            if known and not (name == "reward" and any(one.startswith("reward") for one in said)):
                ends = list(dict.fromkeys(fixed(known[place], digits, sign=sign) for place in (0, -1)))
                said.append(f"{name} {' to '.join(ends)}")
        stage = STAGES.get(str(event.get("stage")), str(event.get("stage")))
        return f"{event.get('policy') or 'not finished'}: {stage}, {', '.join(said)}" if said else ""

    def last_lines(self) -> list[str]:
        """What was kept and how it was trained, and where policy, judge, texts and report are."""
        made = [f"M{place}" for place in range(1, 100) if (self.folder / "policies" / f"M{place}").is_dir()]
        final, judge, texts = (self.folder / name for name in ("policies/final", "judge", "samples.html"))
        lines = [self.kept, self.trained]
        if self.policy_folder:
            policy = final if final.is_dir() else self.policy_folder
            lines.append(f"policy: {policy}" + (f" (beside it {', '.join(made)})" if final.is_dir() and made else ""))
        lines += [f"judge: {judge}"] if judge.is_dir() else []
        lines += [f"texts: {texts}"] if texts.is_file() else []
        return [line for line in [*lines, f"report: {self.report}"] if line]

    @property
    def policy_folder(self) -> Path | None:
        """The kept policy: a model's folder, or an adapter's."""
        if self.policy:
            return Path(self.policy.adapter or self.policy.base)
        final = self.folder / "policies" / "final"
        return final.resolve() if final.is_dir() else None

    def metrics(self) -> DataFrame:
        """A row for each suite and policy, in the order of measuring: `suite`, `policy`, `round`, `metric`, `value`
        with its 95% interval `low` to `high`, `n` items; `change`, `change_low`, `change_high` against the start."""
        from pandas import DataFrame

        names = ("suite", "policy", "round", "metric", "value", "low", "high", "n")
        paired = {"change": "difference", "change_low": "low", "change_high": "high"}
        rows = [
            {name: event.get(name) for name in names}
            | {column: (event.get("paired") or {}).get(name) for column, name in paired.items()}
            for event in of_kind(self.events, "evaluation")
        ]
        return DataFrame(rows, columns=[*names, *paired])

    def responses(self, round: int) -> DataFrame:
        """What was sampled in a round for its training: `policy`, `prompt_id`, `index`, `text`, `finish` (`length` was
        cut off), `tokens`, `log_prob` (summed, in nats, as the sampler gave it)."""
        from pandas import DataFrame

        columns = ["policy", "prompt_id", "index", "text", "finish", "tokens", "log_prob"]
        rows = [
            {**{name: row[name] for name in columns[1:5]}, "tokens": len(row["ids"]), "log_prob": row["log_prob"]}
            | {"policy": step.get("policy")}
            for step in self._steps(round, "sample")
            if step.get("purpose", "sampling") == "sampling"
            for part in sorted(self._folder(step).glob("rows-*.arrow"))
            for row in read_rows(part)
        ]
        return DataFrame(rows, columns=columns)

    def pairs(self, round: int) -> DataFrame:
        """The preference pairs that a round trained on: `prompt_id`, `prompt`, `chosen`, `rejected`, `confidence`."""
        from pandas import DataFrame

        columns = ["prompt_id", "prompt", "chosen", "rejected", "confidence"]
        rows = [
            {name: row[name] for name in columns}
            for step in self._steps(round, "dpo")
            for row in read_rows(self._folder(step) / "inputs" / "pairs.arrow")
        ]
        return DataFrame(rows, columns=columns)

    def _steps(self, round: int, kind: str) -> list[dict[str, Any]]:
        """The round's steps of a kind, each folder once."""
        steps = [one for one in of_kind(self.events, "step") if one.get("round") == round and one.get("step") == kind]
        return list({one["folder"]: one for one in steps}.values())

    def _folder(self, step: dict[str, Any]) -> Path:
        recipe: dict[str, Any] = next(reversed(of_kind(self.events, "run")), {}).get("recipe", {})
        return Path(recipe.get("store") or self.folder / "steps") / str(step["folder"])

    def _repr_html_(self) -> str:
        """What came of it, for a notebook."""
        said = [*outcome_sentences(self.events), self.kept, f"report: {self.report}"]
        lines = "".join(f"<p>{html.escape(visible(line))}</p>" for line in said if line)
        return lines + str(self.metrics().round(3).to_html(index=False))
