"""AlpacaEval 2 from annotations: win rates and length-controlled win rates of the models in a CSV file."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from selfimprove.errors import InputError, RunFailed
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.pairwise import is_switched, stated_preference, weighted_preference
from selfimprove.shipped import suites_folder
from selfimprove.suites.length_control import Floats, Gamed, LengthControlled, contradiction, length_controlled_win_rate
from selfimprove.suites.win_rate import WinRate, win_rate

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("model", "index", "preference", "len_output_1", "len_output_2")
_FOREIGN = -1  # the index of an instruction that is none of AlpacaEval's


@dataclass(frozen=True)
class Measured:
    """One model's figures. Lengths in characters. `controlled` is None, `uncontrolled` says why, where instructions are
    none of AlpacaEval's, which alone have a difficulty."""

    model: str
    rate: WinRate
    controlled: LengthControlled | None
    mean_length: float
    uncontrolled: str | None = None

    def warning(self) -> str | None:
        """Where the length-controlled win rate contradicts the raw one."""
        return contradiction(self.rate.win_rate, self.controlled.win_rate) if self.controlled else None

    def as_json(self) -> dict[str, Any]:
        """For machines: every rate in percent."""
        return {
            "model": self.model,
            "win_rate": self.rate.win_rate,
            "length_controlled_win_rate": self.controlled.win_rate if self.controlled else None,
            "standard_error": self.rate.standard_error,
            "n": self.rate.n,
            "discrete_win_rate": self.rate.discrete,
            "wins": self.rate.wins,
            "losses": self.rate.losses,
            "ties": self.rate.draws,
            "missing": self.rate.missing,
            "win_rate_interval": [self.rate.low, self.rate.high],
            "length_controlled_interval": [self.controlled.low, self.controlled.high] if self.controlled else None,
            "mean_length": self.mean_length,
            "fit": {
                name: value
                for name, value in (asdict(self.controlled) if self.controlled else {}).items()
                if name in ("length", "difficulty", "model", "inverse_strength")
            },
            **({"warning": self.warning()} if self.warning() else {}),
            **({"not_length_controlled": self.uncontrolled} if self.uncontrolled else {}),
        }


@lru_cache
def shipped_gamed() -> tuple[Gamed, Floats]:
    """The gamed annotations, and the difficulty of each of the 805 instructions (CC BY-NC 4.0, eval/alpaca)."""
    import pandas as pd

    rows = pd.read_csv(suites_folder() / "alpaca" / "gamed.csv")
    gamed = Gamed(*(rows[name].to_numpy(float) for name in ("preference", "std_delta_len", "instruction_difficulty")))
    difficulty = rows.drop_duplicates("index").sort_values("index")["instruction_difficulty"]
    return gamed, difficulty.to_numpy(float)


@lru_cache
def _known_instructions() -> dict[str, int]:
    with (suites_folder() / "alpaca" / "instructions.csv").open(newline="") as file:
        return {row["sha256"]: int(row["index"]) for row in csv.DictReader(file)}


def instruction_index(text: str) -> int | None:
    """The instruction's number in AlpacaEval, None where it is none of the 805."""
    return _known_instructions().get(hashlib.sha256(text.encode()).hexdigest()[:16])


def measure(path: Path, corrected: bool = False, max_missing: float = 0.1, resamples: int = 200) -> Iterator[Measured]:
    """The figures of every model in an annotation file, in the file's order, one after another.

    The columns are those of the authors' annotations: `model`; `index`, the instruction's number in AlpacaEval;
    `preference`, 1 if the baseline's output is the better one, 2 if the model's, anything between, 0 for a tie, empty
    for missing; `len_output_1` and `len_output_2`, characters of the baseline's and the model's output; optionally
    `row`, the place of a row in the file that it was taken from (by default its place among the model's rows). A file
    that ends in .json is the authors' `annotations.json`. Where the file holds the `instruction` itself (as that one
    does, and a CSV may), its text decides which it is, whatever the order or the `index`; and without a `row` the rows
    count in AlpacaEval's order. Other instructions than AlpacaEval's have no difficulty, so no
    length-controlled win rate.

    Args:
        corrected: difficulties by instruction instead of by row, and centred length differences.
        max_missing: RunFailed where a larger share of a model's preferences is missing.
        resamples: of instructions, for the interval of the length-controlled win rate.

    Raises InputError for a file that is not of this form, before anything is fitted.
    """
    models = read_annotations(path)
    gamed, difficulty = shipped_gamed()
    for name, rows in models.items():
        preference = rows["preference"].to_numpy(float)
        missing = np.isnan(preference)
        if missing.mean() > max_missing or (~missing).sum() < 2:
            raise RunFailed(
                f"{path}: {name}: {missing.sum()} of {len(rows)} preferences are missing, more than the allowed share "
                f"of {max_missing:g} (--max-missing); a rate of what is left would not be the model's"
            )
        difference = (rows["len_output_1"] - rows["len_output_2"]).to_numpy(float)
        length = float(rows["len_output_2"].mean())
        if foreign := int((rows["index"] == _FOREIGN).sum()):
            why = f"{foreign} of {len(rows)} instructions are none of AlpacaEval's, which alone have a difficulty"
            yield Measured(name, win_rate(preference), None, length, why)
            continue
        place = rows["index" if corrected else "row"].to_numpy(int)
        controlled = length_controlled_win_rate(preference, difference, difficulty[place], gamed, corrected, resamples)
        yield Measured(name, win_rate(preference), controlled, length)


def read_annotations(path: Path) -> dict[str, pd.DataFrame]:
    """Rows by model, checked (see `measure`); `preference` becomes the probability that the model is the better one."""

    rows = _read_json(path) if path.suffix == ".json" else _read_csv(path)
    if by_text := "instruction" in rows.columns:
        found = [instruction_index(text) for text in rows["instruction"]]
        rows["index"] = [str(_FOREIGN if index is None else index) for index in found]
    for name in COLUMNS:
        if name not in rows.columns:
            close = get_close_matches(name, list(rows.columns), 1)
            have = f"did you mean the column {close[0]!r}?" if close else f"it has: {', '.join(rows.columns)}"
            raise InputError(f"--annotations: {path}: no column {name!r}; {have}")
    if rows.empty:
        raise InputError(f"--annotations: {path}: has no rows")
    count = len(shipped_gamed()[1])
    lowest = _FOREIGN if by_text else 0
    valid = f"0 to {count - 1}"
    rows["index"] = _numbers(path, rows, "index", lambda v: (v >= lowest) & (v < count) & (v % 1 == 0), valid)
    if "row" in rows.columns:
        rows["row"] = _numbers(path, rows, "row", lambda v: (v >= 0) & (v < count) & (v % 1 == 0), valid)
    elif by_text:
        rows["row"] = rows.groupby("model", sort=False)["index"].rank(method="first") - 1
    else:
        place = rows.groupby("model", sort=False).cumcount()
        if (place >= count).any():
            raise InputError(f"--annotations: {path}: a model has more than AlpacaEval's {count} rows")
        rows["row"] = place.astype(float)
    for name in ("len_output_1", "len_output_2"):
        rows[name] = _numbers(path, rows, name, lambda v: (v >= 0) & np.isfinite(v), "a number of characters")
    given = _numbers(
        path, rows, "preference", lambda v: np.isnan(v) | (v == 0) | ((v >= 1) & (v <= 2)), "1 to 2, 0 (tie) or empty"
    )
    rows["preference"] = given.replace({0.0: 1.5}) - 1
    twice = rows[rows.duplicated(["model", "instruction" if by_text else "index"])]
    if len(twice):
        first = twice.iloc[0]
        raise InputError(
            f"--annotations: {path}, line {twice.index[0] + 2}: a second row of {first['model']} for instruction "
            f"{first['instruction'][:60]!r}; every instruction counts once"
            if by_text
            else f"--annotations: {path}, line {twice.index[0] + 2}: a second row of {first['model']} for instruction "
            f"{int(first['index'])}; every instruction counts once"
        )
    if by_text:  # the fit's folds go by place, so a file in another order would give another number
        rows = rows.assign(at=rows.groupby("model", sort=False).ngroup())
        rows = rows.sort_values(["at", "index"], kind="stable").drop(columns="at")
    return {str(name): group for name, group in rows.groupby("model", sort=False)}


def _read_csv(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"--annotations: {path}: not readable as CSV ({' '.join(str(error).split())})") from error


def _read_json(path: Path) -> pd.DataFrame:
    """The authors' `annotations.json`, as text in the columns of their CSV. A preference that is not there is read from
    the judge's raw completion: its log-probs, or what it wrote."""
    import pandas as pd

    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--annotations: {path}: not readable as JSON ({' '.join(str(error).split())})") from error
    if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
        raise InputError(f"--annotations: {path}: must be a list of annotations, one object each")
    rows = []
    for number, one in enumerate(given):
        for name in ("generator_2", "instruction", "output_1", "output_2"):
            if not isinstance(one.get(name), str):
                raise InputError(f"--annotations: {path}, annotation {number}: {name!r} must be a text")
        preference = one.get("preference")
        if preference is None and isinstance(one.get("raw_completion"), dict):
            verdict, _ = raw_verdict(one["raw_completion"], one["instruction"])
            preference = None if verdict is None else 1 + verdict
        rows.append(
            {
                "model": one["generator_2"],
                "instruction": one["instruction"],
                "preference": "" if preference is None else str(preference),
                "len_output_1": str(len(one["output_1"])),
                "len_output_2": str(len(one["output_2"])),
            }
        )
    return pd.DataFrame(rows, columns=["instruction", *COLUMNS])


def raw_verdict(completion: Mapping[str, Any], instruction: str) -> Verdict:
    """(probability that the second output is the better one, None), or (None, reason), from a chat completion's choice
    as OpenAI-compatible servers give it. "m" labels the output that was shown first, see `is_switched`."""
    try:
        tokens = completion["logprobs"]["content"][0]["top_logprobs"]
        value, why = weighted_preference({token["token"]: float(token["logprob"]) for token in tokens})
    except (KeyError, IndexError, TypeError, ValueError):
        text = completion.get("text") or (completion.get("message") or {}).get("content") or ""
        value, why = stated_preference(str(text))
    if value is None:
        return None, why
    return (value if is_switched(instruction) else 1 - value), None


def _numbers(path: Path, rows: pd.DataFrame, name: str, valid: Any, wanted: str) -> pd.Series[float]:
    """A column as numbers (empty or nan: NaN). Raises InputError with the line of the first that is not `valid`."""
    import pandas as pd

    text = rows[name].str.strip()
    empty = text.str.lower().isin(["", "nan", "none", "null"])
    values = pd.to_numeric(text.mask(empty), errors="coerce").astype(float)
    wrong = (values.isna() & ~empty) | ~valid(values)
    if wrong.any():
        line = int(np.argmax(wrong.to_numpy()))
        raise InputError(
            f"--annotations: {path}, line {line + 2}: {name} must be {wanted}; found {rows[name].iloc[line]!r}"
        )
    return values
