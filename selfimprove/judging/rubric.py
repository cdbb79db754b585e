"""A rubric: a folder with `prompt.txt` and `rubric.yaml`, which names a parser. It holds no code. One with a model in
it (`policy/`) is a whole judge, as `self_judge` makes them.

`eval/judges/README.md` describes the files. What is judged cannot leave its place in the prompt: see `_unclosed`.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from selfimprove.errors import InputError
from selfimprove.judging.digits import expected_digit, stated_digit
from selfimprove.judging.named_scores import named_scores
from selfimprove.judging.outcomes import Verdict
from selfimprove.judging.pairwise import label_preference, named_winner
from selfimprove.models.chat import Message
from selfimprove.models.thoughts import answer_of
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.shipped import made_by, suites_folder

# The end of a file's name (`prompt-turn-2.txt`), and what its prompt may and what it must hold.
VARIANTS = ("", "turn-2", "reference", "reference-turn-2")
_OUTPUTS = {"one": ("response", "response_2"), "pair": ("output_1 output_2", "output_1_turn_2 output_2_turn_2")}
_JUDGES = {"score": "one", "rating": "one", "json": "one", "digits": "one", "verdict": "pair", "labels": "pair"}
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")

# What a delimiter's characters become in a text that holds the delimiter. None of these is made ASCII again by NFKC,
# which some tokenizers apply: the full-width forms, nearer to the eye, would be.
_LOOKALIKES = str.maketrans("<>[]{}()\"'`#|*=~-:", "‹›⁅⁆❴❵❨❩”’‘♯¦∗═∼‐∶")
# The turn of a conversation is a delimiter too: a tokenizer reads these as its special tokens wherever they stand.
_CHAT_MARKS = (
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>",  # ChatML, Llama 3, Phi, Zephyr, DeepSeek
    r"<(?:start|end)_of_turn>|</?s>|<[be]os>|\[/?INST\]|<</?SYS>>",  # Gemma, Llama 2, Mistral
)
_GAP = r"[\s\u00ad\u200b-\u200f\u2060\ufeff]*"  # white space, and what takes no room
# A key that came later is in no digest where it is not used, so that rubrics without it keep theirs.
_NEW = ("names",)
_CUT = "the verdict was cut off by the length limit"
# Part of every digest. Raise it when a parser here, or what is done to texts, changes.
_READING = 2


class RubricOptions(BaseModel):
    """`rubric.yaml`.

    parser `score`: the last "Score: N"; `rating`: the first [[N]], as in MT-Bench; both within `low` and `high`.
    `json`: the mean of the whole numbers under `names` in a JSON object. `digits`: the expected value of a first token
    that is a digit, 0 to 9. `verdict`: [[A]], [[B]] or [[C]] (tie), as in MT-Bench. `labels`: which of two `labels` is
    the judge's first token.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    parser: Literal["score", "rating", "json", "digits", "verdict", "labels"]
    of: Literal["one", "pair"] = "one"  # follows from the parser
    low: float | None = None
    high: float | None = None
    labels: tuple[str, str] | None = None  # of the output that is shown first, and of the second
    names: tuple[str, ...] | None = None  # of the numbers of parser json
    max_new_tokens: int = Field(default=128, ge=1)
    delimiters: tuple[str, ...] | None = None  # what a text must not hold; None: the tags (<response>) of the prompt
    description: str = ""
    source: str = ""  # where the prompt is from, and its licence

    @model_validator(mode="before")
    @classmethod
    def _judges_what_its_parser_reads(cls, values: Any) -> Any:
        if isinstance(values, dict):
            own = {"low": 0, "high": 9, "max_new_tokens": 1} if values.get("parser") == "digits" else {}
            return {"of": _JUDGES.get(str(values.get("parser")), "one"), **own, **values}
        return values

    @model_validator(mode="after")
    def _whole(self) -> RubricOptions:
        if self.of != _JUDGES[self.parser]:
            raise ValueError(
                f"key `of`: found {self.of!r}, but parser {self.parser!r} reads the verdict on "
                f"{'two outputs' if self.of == 'one' else 'one response'}; leave `of` out, or take another parser"
            )
        if self.parser in ("score", "rating", "json"):
            if self.low is None or self.high is None:
                raise ValueError(f"parser {self.parser!r} needs the keys `low` and `high`, the bounds of its number")
            if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
                raise ValueError(f"`low` must be below `high`, both finite; found {self.low:g} and {self.high:g}")
        elif self.parser == "digits":
            if (self.low, self.high, self.max_new_tokens) != (0, 9, 1):
                raise ValueError(
                    "parser 'digits' reads one token from 0 to 9; leave `low`, `high`, `max_new_tokens` out"
                )
        elif self.low is not None or self.high is not None:
            raise ValueError(f"parser {self.parser!r} reads no number; leave the keys `low` and `high` out")
        if (self.parser == "labels") != (self.labels is not None):
            raise ValueError("the key `labels` (two words) belongs to parser 'labels', which needs it")
        if (self.parser == "json") != bool(self.names):
            raise ValueError("the key `names` (a list of words) belongs to parser 'json', which needs it")
        if self.labels is not None and (
            self.labels[0] == self.labels[1] or any(not re.fullmatch(r"\w+", label) for label in self.labels)
        ):
            raise ValueError(f"`labels` must be two different words without spaces or signs; found {self.labels!r}")
        for one in self.delimiters or ():
            if one == one.translate(_LOOKALIKES):
                signs = " ".join(map(chr, _LOOKALIKES))
                raise ValueError(f"a delimiter of `delimiters` must hold one of the signs {signs} ; found {one!r}")
        return self


class Prompts(NamedTuple):
    """The texts of one variant, with placeholders."""

    system: str | None
    user: str


@dataclass(frozen=True)
class Rubric:
    """What a judge is asked about one response or a pair of outputs, and how its verdict is read.

    Attributes:
        prompts: by variant: "" (the first turn), "turn-2", "reference", "reference-turn-2".
        digest: sha256 (hex) of all that changes what is asked or how it is read; not of description, source and name.
        policy: model string of the judge's own model, None where anyone may read the rubric. Not in the digest.
    """

    name: str
    options: RubricOptions
    prompts: Mapping[str, Prompts]
    digest: str
    policy: str | None = None

    @property
    def max_new_tokens(self) -> int:
        return self.options.max_new_tokens

    def has(self, variant: str) -> bool:
        return variant in self.prompts

    def messages(self, values: Mapping[str, str], variant: str = "") -> list[Message]:
        """The conversation that a judge answers: a system turn where the rubric has one, and the user's turn.

        Args:
            values: what the placeholders stand for; others than the prompt's are ignored. Of one response:
                `instruction`, `response`; of a pair: `instruction`, `output_1` (shown first), `output_2`. Second turn:
                also `instruction_2` and `response_2` or `output_1_turn_2`, `output_2_turn_2`. With a reference:
                `reference`, in the second turn also `reference_2`.

        A value keeps to its place: a delimiter or a chat template's mark in it is broken by signs that look like it,
        and a placeholder in it stays as it is. A value without them is in the prompt to the byte. Raises InputError
        for a variant that the rubric lacks and for a value that is not given.
        """
        if variant not in self.prompts:
            have = ", ".join(repr(one) for one in self.prompts)
            raise InputError(f"rubric {self.name!r} has no prompt for {variant!r}; it has {have}")
        prompts = self.prompts[variant]
        closing = _closing(self.options.delimiters, f"{prompts.system or ''}\n{prompts.user}")

        def filled(template: str) -> str:
            return _PLACEHOLDER.sub(lambda found: _unclosed(self._value(values, found[1], variant), closing), template)

        user = filled(prompts.user)
        if prompts.system is None:
            return [{"role": "user", "content": user}]
        return [{"role": "system", "content": filled(prompts.system)}, {"role": "user", "content": user}]

    def _value(self, values: Mapping[str, str], name: str, variant: str) -> str:
        if name not in values:
            given = ", ".join(values) or "none"
            raise InputError(
                f"rubric {self.name!r}: {_file('prompt', variant)} needs a value for the placeholder {{{name}}}; "
                f"given: {given}"
            )
        return values[name]

    def question(self, instruction: str, response: str) -> str:
        """The user's turn about one response, without the system text. InputError for a rubric that compares two."""
        if self.options.of != "one":
            raise InputError(
                f"rubric {self.name!r} compares two outputs (parser {self.options.parser!r}); to judge one response "
                f"take a rubric with parser 'score' or 'rating'"
            )
        return self.messages({"instruction": instruction, "response": response})[-1]["content"]

    def parse(self, verdict: str, log_probs: Mapping[str, float] | None = None, cut: bool = False) -> Verdict:
        """(value, None), or (None, reason): a verdict that cannot be read is missing, not a low score.

        Of one response: its score, within `low` and `high`. Of a pair: the probability that the output shown first is
        the better one: 1.0, 0.5 (tie) or 0.0; with parser `labels` and `log_probs` anything between, as with `digits`.

        Args:
            verdict: the judge's answer.
            log_probs: log-probability (nats) of the likeliest first tokens of that answer, by token.
            cut: whether the length limit ended the answer: then it is missing, but where its first token is all, or it
                holds a whole JSON object.

        A verdict is what follows the judge's thoughts; what it weighed there is none.
        """
        options = self.options
        answer = answer_of(verdict)
        if options.labels is not None:
            return label_preference(answer or "", log_probs, *options.labels)
        if options.parser == "digits":
            return expected_digit(log_probs) if log_probs else stated_digit(answer or "")
        if cut and options.names is None:  # a JSON object shows by itself whether it is whole
            return None, _CUT
        if answer is None:
            return None, "the verdict ends within a thought"
        verdict = answer
        if options.parser == "verdict":
            return named_winner(verdict)
        if options.names is not None:
            scores, why = self.named(verdict)
            if scores is None:
                return None, _CUT if cut else why
            return sum(scores.values()) / len(scores), None
        value = _last_score(verdict) if options.parser == "score" else _first_rating(verdict)
        if value is None:
            return None, f"the verdict has no {options.parser}"
        assert options.low is not None and options.high is not None
        if not options.low <= value <= options.high:
            return None, f"the {options.parser} is out of bounds"
        return value, None

    def named(self, verdict: str) -> tuple[dict[str, int] | None, str | None]:
        """(score by name, None), or (None, reason), of a rubric with parser `json`."""
        options = self.options
        assert options.names is not None and options.low is not None and options.high is not None
        return named_scores(verdict, options.names, options.low, options.high)


def _last_score(verdict: str) -> float | None:
    found = re.findall(r"score[\s*_]*[:=][\s*_]*(-?\d+(?:[.,]\d+)?)", verdict, flags=re.IGNORECASE)
    if not found or re.search(r",\d{3}", found[-1]):  # "4,500": thousands here, thousandths there
        return None
    return float(found[-1].replace(",", "."))


def _first_rating(verdict: str) -> float | None:
    """As FastChat reads MT-Bench's single-answer grades (llm_judge/common.py): the first [[N]], else the first [N]."""
    # FastChat's \d+\.?\d* in other words: that one needs quadratic time for a long row of digits.
    found = re.search(r"\[\[(\d+(?:\.\d*)?)\]\]", verdict) or re.search(r"\[(\d+(?:\.\d*)?)\]", verdict)
    return float(found[1]) if found else None


@lru_cache(maxsize=256)
def _closing(delimiters: tuple[str, ...] | None, prompt: str) -> re.Pattern[str]:
    """Matches what no text in this prompt may hold: the delimiters that the prompt has, and chat templates' marks.

    A delimiter is found in upper and lower case and with any white space between its words and signs. Those that only
    another variant's prompt has do not count: they would change texts for nothing.
    """
    if delimiters is None:
        # Without the ">": a tag with attributes closes too.
        delimiters = tuple(re.findall(r"</?[A-Za-z][\w-]*(?=\s*/?>)", prompt))
    patterns = [_spelled(one) for one in dict.fromkeys(delimiters)]
    own = [one for one in patterns if re.search(one, prompt, re.IGNORECASE)]
    return re.compile("|".join([*own, *_CHAT_MARKS]), re.IGNORECASE)


def _spelled(delimiter: str) -> str:
    """A pattern of the delimiter and its variants. Runs of one sign stay together: `" ""` is no `\"\"\"`."""
    parts = [found[0] for found in re.finditer(r"[^\W_]+|([^\w\s]|_)\1*", delimiter)]
    begin, end = ((r"\b" if re.match(r"\w", side) else "") for side in (delimiter.strip()[:1], delimiter.strip()[-1:]))
    return begin + _GAP.join(re.escape(part) for part in parts) + end


def _unclosed(text: str, closing: re.Pattern[str]) -> str:
    """The text, with the signs of whatever could close its place replaced by others that look like them."""
    # Again until there is none: two delimiters can share a word, which is not replaced.
    while closing.search(text):
        text = closing.sub(lambda found: found[0].translate(_LOOKALIKES), text)
    return text


def shipped_rubrics() -> dict[str, Path]:
    """Name to folder of every shipped rubric."""
    return {path.parent.name: path.parent for path in sorted((suites_folder() / "judges").glob("*/rubric.yaml"))}


def load_rubric(name: str, search: Sequence[Path]) -> Rubric:
    """A rubric by folder (looked for in `search`) or by the name of a shipped one.

    Raises InputError for a folder that is not there, and with file and key for one that is not a rubric.
    """
    shipped = shipped_rubrics()
    places = [*(folder / name for folder in search), shipped.get(name, suites_folder() / "judges" / name)]
    folder = next((place for place in places if (place / "rubric.yaml").is_file()), None)
    if folder is None:
        close = difflib.get_close_matches(name, shipped, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise InputError(
            f"rubric: no folder {name!r} with a rubric.yaml{made_by(name)}; {hint}shipped: {', '.join(shipped)}; "
            f"looked at {', '.join(map(str, places))}"
        )
    options = _options(folder / "rubric.yaml")
    prompts = _prompts(folder, options)
    for one in options.delimiters or ():
        if not any(re.search(_spelled(one), text or "", re.IGNORECASE) for pair in prompts.values() for text in pair):
            raise InputError(
                f"{folder / 'rubric.yaml'}: key `delimiters`: {one!r} is in none of the prompts; write it as it is "
                f"there, or leave it out"
            )
    asked = {
        "reading": _READING,
        "options": options.model_dump(mode="json", exclude={"description", "source", *(() if options.names else _NEW)}),
        "prompts": {variant: list(pair) for variant, pair in prompts.items()},
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    own = folder / "policy"
    return Rubric(name, options, prompts, digest, str(own.resolve()) if own.is_dir() else None)


def write_rubric(rubric: Rubric, folder: Path) -> None:
    """The rubric as files in an existing folder, which `load_rubric` reads with the same digest."""
    options = rubric.options.model_dump(mode="json", exclude_defaults=True)
    own = ("low", "high", "max_new_tokens") if rubric.options.parser == "digits" else ()
    kept = {key: value for key, value in options.items() if key not in ("of", *own)}
    (folder / "rubric.yaml").write_text(yaml.safe_dump(kept, sort_keys=False, allow_unicode=True), encoding="utf-8")
    for variant, (system, user) in rubric.prompts.items():
        (folder / _file("prompt", variant)).write_text(f"{user}\n", encoding="utf-8")
        if system is not None or rubric.prompts[""].system is not None:
            (folder / _file("system", variant)).write_text(f"{system or ''}\n", encoding="utf-8")


def _options(file: Path) -> RubricOptions:
    text = _text(file)
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise InputError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise InputError(f"{file}: not a rubric: must be a mapping of keys; found {type(values).__name__}")
    try:
        return RubricOptions.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"{file}: not a rubric: {_explain(one)}" for one in error.errors())) from None


def _explain(error: Any) -> str:
    """One validation error in words: the key, what was found, the nearest known key."""
    key = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        known = list(RubricOptions.model_fields)
        close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"unknown key `{key}`; " + (f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}")
    if error["type"] == "missing":
        return f"key `{key}` is missing"
    message = error["msg"].removeprefix("Value error, ")
    quote = "; put it in quotes" if error["type"] == "string_type" else ""  # YAML reads 1 and yes as no text
    return f"key `{key}`: {message}; found {error['input']!r}{quote}" if key else message


def _prompts(folder: Path, options: RubricOptions) -> dict[str, Prompts]:
    """The folder's prompts by variant, checked."""
    known = {_file(kind, variant): (kind, variant) for kind in ("prompt", "system") for variant in VARIANTS}
    for path in sorted([*folder.glob("prompt*.txt"), *folder.glob("system*.txt")]):
        if path.name not in known:
            raise InputError(f"{path}: no rubric reads a file of this name; known: {', '.join(known)}")
        kind, variant = known[path.name]
        if kind == "system" and not (folder / _file("prompt", variant)).is_file():
            raise InputError(f"{path}: there is no {_file('prompt', variant)} beside it, which it would go with")
    prompts = {}
    for variant in VARIANTS:
        file = folder / _file("prompt", variant)
        if variant and not file.is_file():
            continue
        own = folder / _file("system", variant)
        own = own if own.is_file() else folder / "system.txt"
        system = _text(own) if own.is_file() else ""
        prompts[variant] = Prompts(system if system.strip() else None, _text(file))
        _check(own, system, options, variant)
        _check(file, prompts[variant].user, options, variant, complete=True)
    return prompts


def _file(kind: str, variant: str) -> str:
    return f"{kind}-{variant}.txt" if variant else f"{kind}.txt"


def _text(file: Path) -> str:
    """The file's text without the line break at its end, which editors put there."""
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {error}") from error


def _check(file: Path, text: str, options: RubricOptions, variant: str, complete: bool = False) -> None:
    """InputError for a placeholder that the variant does not have, or for one that a `complete` prompt lacks."""
    first, second = (names.split() for names in _OUTPUTS[options.of])
    allowed, needed = ["instruction", *first], first
    if variant.endswith("turn-2"):
        allowed, needed = [*allowed, "instruction_2", *second], second
    if variant.startswith("reference"):
        own = "reference_2" if variant.endswith("turn-2") else "reference"
        allowed, needed = list(dict.fromkeys([*allowed, "reference", own])), [*needed, own]
    found = _PLACEHOLDER.findall(text)
    for name in found:
        if name not in allowed:
            close = difflib.get_close_matches(name, allowed, n=1)
            hint = f"did you mean {{{close[0]}}}? " if close else ""
            raise InputError(
                f"{file}: unknown placeholder {{{name}}}; {hint}"
                f"known here: {', '.join(f'{{{one}}}' for one in allowed)}"
            )
    for name in needed if complete else ():
        if name not in found:
            raise InputError(f"{file}: has no {{{name}}} placeholder")
