"""Where prompts, examples and preferences come from: a data source, and three ways to load it."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from reprlib import repr as shown
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from selfimprove.data.files import file_rows, locate
from selfimprove.data.forms import TURN_KEYS, dialogue, number_as_text, plain_value, turn_of, unlearned
from selfimprove.errors import InputError
from selfimprove.models.chat import Message
from selfimprove.registry import find_code, is_code_file, load_code

Messages = tuple[Message, ...]
Role = Literal[
    "prompt", "messages", "turns", "response", "answer", "references", "group", "choices", "chosen", "rejected",
    "confidence", "output_1", "output_2", "label", "score", "id",
]  # fmt: skip
_USUAL = {
    "prompt": ("prompt", "instruction", "question", "input", "query"),
    "messages": ("messages", "conversations", "conversation"),
    "response": ("response", "output", "completion"),
    "references": ("references", "reference"),
    "label": ("label", "preference"),
}
_LISTED = ("choices", "label")  # what several columns may hold
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_SYSTEM = ("system", "system_prompt")
_LETTERS = list("ABCDEFGHIJKLMNOPQRSTUVWXYZ")


@dataclass(frozen=True)
class Prompt:
    """A question to a policy. `messages` end with a user turn; `answer` is the reference, if known.

    `right_choice` is the place of the answer among `choices`, where it is one of them or the label of one.
    `later_turns` are what the user says after the policy's answers (MT-Bench), `references` an answer to each turn,
    `output` somebody's answer that the data hold (AlpacaEval's baseline), `row` all columns as they were.
    """

    id: str
    messages: Messages
    answer: str | None = None
    group: str | None = None
    choices: tuple[str, ...] | None = None
    right_choice: int | None = None
    later_turns: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    output: str | None = None
    row: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Example:
    """A prompt and the response to imitate."""

    prompt: Prompt
    response: str


@dataclass(frozen=True)
class Preference:
    """Two responses; `confidence`, from 0 to 1, is the probability that `chosen` is the better one."""

    prompt: Prompt
    chosen: str
    rejected: str
    confidence: float = 1.0


class DataSource(BaseModel):
    """Where rows come from. Bare text means `path`. Exactly one of `path` and `hub` is needed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    path: str | None = None
    """A file (.jsonl, .json, .parquet, .csv, .tsv, .txt with a prompt a line), a folder of such files, a `save_to_disk`
    folder, a pattern (`parts/*.parquet`), or a list in a Python file (`mine.py:prompts`: texts, rows, or a function
    that returns them)."""
    hub: str | None = None
    """A data set on the hub, with Parquet files."""
    file: str | None = None
    """Of `hub`: one file of the data set's repository."""
    config: str | None = None
    """Of `hub`."""
    split: str = "train"
    """Of `hub`."""
    revision: str | None = None
    """Of `hub`."""
    limit: int | None = Field(default=None, ge=1)
    """The first rows, of those that `where` keeps."""
    where: dict[str, str | int | float | bool | None] = {}
    """Keeps the rows equal on these columns."""
    fields: dict[Role, str | list[str]] = {}
    """Which column holds what, where it is not the column of that name or a usual one; "" means no column (`id: ""`:
    ids from the content). `choices`, and several annotators' `label`, may be a list of columns."""
    template: str | None = None
    """The prompt, with {column} placeholders, replaced as plain text."""

    @model_validator(mode="before")
    @classmethod
    def _bare_text_is_a_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _consistent(self) -> DataSource:
        if bool(self.path) == bool(self.hub):
            raise ValueError("give exactly one of `path` (a local file) and `hub` (a data set on the hub)")
        if self.path and (extra := {"config", "split", "revision", "file"} & self.model_fields_set):
            raise ValueError(f"{', '.join(sorted(extra))}: only for `hub`, a local file has none")
        if lists := [role for role, column in self.fields.items() if isinstance(column, list) and role not in _LISTED]:
            raise ValueError(
                f"fields.{lists[0]}: one column is needed; only `choices` and `label` may be lists of them"
            )
        ways = [self.template, self.fields.get("prompt"), self.fields.get("messages"), self.fields.get("turns")]
        if sum(bool(way) for way in ways) > 1 or (ways[2] and self.fields.get("response")):
            raise ValueError("keep one of `template`, `fields.prompt`, `fields.messages` and `fields.turns`")
        return self


Note = Callable[[str], None]


def load_prompts(source: DataSource, search: Sequence[Path], note: Note | None = None) -> list[Prompt]:
    """The prompts in file order; a relative path is looked for in each folder of `search`. `note` takes a line on what
    of the rows was not read, here and below.

    A conversation that ends with an assistant turn gives the turns before it. Raises InputError for
    anything wrong in the source.
    """
    prompts, ids, reading = [], Ids(), Reading()
    for row in source_rows(source, search, reading):
        asked = row.conversation() if row.is_conversation("prompt") else row.asked()
        prompts.append(row.prompt(asked[:-1] if asked[-1]["role"] == "assistant" else asked, ids))
    reading.say(note)
    return prompts


def load_examples(
    source: DataSource, search: Sequence[Path], may_be_empty: bool = False, note: Note | None = None
) -> list[Example]:
    """Prompts with responses in file order; a conversation's last assistant turn is the response.

    Raises InputError for anything wrong in the source, an empty response included, unless it `may_be_empty`.
    """
    examples, ids, reading = [], Ids(), Reading()
    for row in source_rows(source, search, reading):
        if row.is_conversation("prompt", "response"):
            turns = row.conversation()
            last = max((i for i, turn in enumerate(turns) if turn["role"] == "assistant"), default=0)
            asked, response = turns[:last], turns[last]["content"]
        else:
            head, response = row.completion("response")
            asked = row.asked_before(head, "response")
            if not may_be_empty and row.is_bad():
                raise row.wrong(
                    "`label: false` marks an answer that is not to be imitated (KTO); keep the others by `where: "
                    '{label: true}` (of CSV "True"), or give `fields: {label: ""}` if it says something else'
                )
        if not response.strip() and not may_be_empty:
            raise row.wrong("the response is empty; remove the row")
        examples.append(Example(row.prompt(asked, ids), response))
    reading.say(note)
    return examples


def load_preferences(source: DataSource, search: Sequence[Path], note: Note | None = None) -> list[Preference]:
    """Pairs in file order, in TRL's plain or conversational form; the latter may repeat the prompt's turns.

    Raises InputError for anything wrong in the source, an empty `chosen` included.
    """
    preferences, ids, reading = [], Ids(), Reading()
    contrary = 0
    for row in source_rows(source, search, reading):
        (head, chosen), (other, rejected) = row.completion("chosen"), row.completion("rejected")
        if head != other or not chosen.strip():
            raise row.wrong("chosen is empty, or differs from rejected before the last turn")
        preferences.append(
            Preference(row.prompt(row.asked_before(head, "chosen"), ids), chosen, rejected, row.confidence())
        )
        contrary += row.is_contrary()
    if contrary and note:
        note(f"{reading.origin}: in {contrary} of {len(preferences)} pairs the rejected answer has the higher score")
    reading.say(note)
    return preferences


@dataclass
class Ids:
    places: dict[str, str] = field(default_factory=dict)
    repeats: Counter[str] = field(default_factory=Counter)

    def of(self, messages: Messages) -> str:
        canonical = json.dumps([[turn["role"], turn["content"]] for turn in messages])
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:16]
        self.repeats[digest] += 1
        return digest if self.repeats[digest] == 1 else f"{digest}-{self.repeats[digest]}"


@dataclass
class Reading:
    """What of a source's rows was read, so that the rest is named."""

    origin: str = ""
    columns: dict[str, None] = field(default_factory=dict)  # those with a value, in their order
    read: set[str] = field(default_factory=set)
    keys: dict[str, None] = field(default_factory=dict)  # of turns

    def say(self, note: Note | None) -> None:
        for what, names in (("columns", [n for n in self.columns if n not in self.read]), ("keys of turns", self.keys)):
            if names and note:
                note(f"{self.origin}: {what} that are not read: {', '.join(f'`{name}`' for name in names)}")


@dataclass(frozen=True)
class Row:
    source: DataSource
    place: str  # "file, line 3"
    values: dict[str, Any]
    reading: Reading = field(default_factory=Reading, repr=False, compare=False)

    def get(self, column: str | None) -> Any:
        """What a column holds, which is thereby read."""
        self.reading.read.add(column or "")
        return self.values.get(column or "")

    def wrong(self, what: str) -> InputError:
        return InputError(f"{self.place}: {what}")

    def column(self, role: Role) -> str | None:
        """The column that holds `role`: the named one, or the first usual one with a value."""
        named = self.source.fields.get(role)
        if named is None or isinstance(named, list):
            names = _USUAL.get(role, (role,))
            return next((name for name in names if self.values.get(name) is not None), None)
        if named and named not in self.values:
            raise _no_column(self.place, named, f"fields.{role}", self.values)
        return named or None

    def value(self, role: Role) -> Any:
        column = self.column(role)
        if column is None and role in self.values:
            raise self.wrong(f"{role} is null")
        if column is None:
            raise _no_column(self.place, role, f"set fields.{role} to the one that holds it", self.values)
        return self.get(column)

    def text(self, value: Any, what: str) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self.wrong(f"{what} must be text, found {shown(value)}")
        if re.search("[\ud800-\udfff]", str(value)):
            raise self.wrong(f"{what} has half a surrogate pair, which is no character; correct or remove it")
        return value if isinstance(value, str) else number_as_text(value)

    def optional(self, role: Role) -> str | None:
        value = self.get(self.column(role))
        return None if value is None else self.text(value, role)

    def is_conversation(self, *instead: Role) -> bool:
        """Whether the turns come from the messages column and not from the columns `instead`."""
        if self.source.fields.get("messages"):
            return True
        if self.source.template is not None or any(role in self.source.fields for role in instead):
            return False
        return self.column("messages") is not None and None in [self.column(role) for role in instead]

    def turns(self, role: Role) -> Messages:
        value = self.value(role)
        if not isinstance(value, list) or not value:
            raise self.wrong(f"{role} must be a list of turns, found {shown(value)}")
        turns = []
        for turn in value:
            read, why_not = turn_of(turn)
            if read is None:
                raise self.wrong(f"{role}: {why_not}")
            turns.append(read)
            more = (key for key, value in turn.items() if key not in TURN_KEYS and value not in (None, "", [], {}))
            self.reading.keys.update(dict.fromkeys(more))
        if mark := unlearned(value):
            raise self.wrong(f"{role}: the last answer has `{mark}`, it is not to be learned; remove the row")
        return tuple(turns)

    def conversation(self) -> Messages:
        return self.told(self.turns("messages"))

    def completion(self, role: Role) -> tuple[Messages, str]:
        """(turns before the answer, answer) of a plain or conversational column."""
        if not isinstance(value := self.value(role), list):
            text = self.text(value, role)
            if (said := dialogue(text)) is None:
                return (), text
            turns: Messages = tuple(said)
        else:
            turns = self.turns(role)
        if turns[-1]["role"] != "assistant":
            raise self.wrong(f"{role} must end with an assistant turn")
        return turns[:-1], turns[-1]["content"]

    def asked(self) -> Messages:
        """The prompt's turns, from the template or the prompt column."""
        if self.source.template is not None:
            # One pass over the template: what a row holds is never itself read as a placeholder.
            text = _PLACEHOLDER.sub(lambda found: self.filled(found[1]), self.source.template).strip()
            return ({"role": "user", "content": text},)
        if turns := self.texts("turns"):
            return ({"role": "user", "content": turns[0]},)
        if isinstance(self.value("prompt"), list):
            return self.told(self.turns("prompt"))
        text = self.text(self.value("prompt"), "prompt")
        if said := dialogue(text):  # HH-RLHF
            return self.told(tuple(said))
        usual = "prompt" not in self.source.fields
        # The material that an instruction speaks of: Alpaca's, Dolly's
        more = {"instruction": ("input", "context"), "question": ("context",)}.get(str(self.column("prompt")), ())
        for name in more if usual else ():
            if not isinstance(self.values.get(name), dict | list) and str(self.values.get(name) or "").strip():
                text += "\n\n" + self.text(self.get(name), name)
        asked: Messages = ({"role": "user", "content": text},)
        return self.told(self.history() + asked) if usual else asked

    def asked_before(self, head: Messages, role: Role) -> Messages:
        """The prompt of a row whose answers come with the turns `head` before them: these go on from it, or repeat it
        (its last turn, or all but a system turn). Raises InputError where they are of another question."""
        if not head or head[0]["role"] == "assistant":
            return self.asked() + head
        if self.source.template is not None:
            return self.asked()
        if self.column("prompt") is None:
            return self.told(head)
        asked = self.asked()
        own = tuple(turn for turn in asked if turn["role"] != "system")
        theirs = tuple(turn for turn in head if turn["role"] != "system")
        users = [turn["content"].strip() for turn in theirs if turn["role"] == "user"]
        if own != theirs and not (len(own) == 1 and own[0]["content"].strip() in (users[:1] + users[-1:])):
            raise self.wrong(
                f"the prompt ({shown(own[-1]['content'])}) is not what the turns of {role} repeat "
                f"({shown(theirs[-1]['content'] if theirs else '')}); correct the row, or leave the prompt's column "
                "out by `fields: {prompt: ''}`"
            )
        systems = [turn for turn in (*head, *asked) if turn["role"] == "system"]
        if len({turn["content"] for turn in systems}) > 1:
            raise self.wrong(f"prompt and {role} have different system turns; keep one")
        return (*systems[:1], *theirs)

    def told(self, turns: Messages) -> Messages:
        """The turns under the system turn that a column of its own holds: Orca's `system`."""
        own = [turn["content"] for turn in turns if turn["role"] == "system"]
        found = [self.text(self.get(name), name) for name in _SYSTEM if self.values.get(name) is not None]
        texts = list(dict.fromkeys(text for text in (*own, *found) if text.strip()))
        if any(text.strip() for text in found) and len(texts) > 1:
            raise self.wrong(f"two system texts, {shown(texts[0])} and {shown(texts[1])}; keep one")
        if own or not texts:
            return turns
        return ({"role": "system", "content": texts[0]}, *turns)

    def history(self) -> Messages:
        """The turns before the prompt in a column of their own: LLaMA-Factory's `history` of [user, assistant]."""
        turns: list[Message] = []
        history = self.get("history")
        if history is not None and not isinstance(history, list):
            raise self.wrong(f"history must be a list of [user, assistant] texts, found {shown(history)}")
        for pair in history or ():
            if not isinstance(pair, list) or len(pair) != 2:
                raise self.wrong(f"history must be a list of [user, assistant] texts, found {shown(pair)}")
            turns.append({"role": "user", "content": self.text(pair[0], "history")})
            turns.append({"role": "assistant", "content": self.text(pair[1], "history")})
        return tuple(turns)

    def filled(self, column: str) -> str:
        if column not in self.values:
            raise _no_column(self.place, column, "template", self.values)
        options = _options(value := self.get(column))
        return "\n".join(f"{label}. {text}" for label, text in options) or self.text(value, column)

    def texts(self, role: Role) -> tuple[str, ...]:
        """A column that holds a list of texts (a single text counts as one); nothing where there is none."""
        value = self.get(self.column(role))
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            value = [self.text(value, role)]
        return tuple(value)

    def is_bad(self) -> bool:
        """Whether `label` marks the response as a bad one, as KTO's rows do."""
        value = self.values.get(self.column("label") or "")
        if isinstance(value, bool):
            self.get(self.column("label"))
        return value is False or (self.column("response") == "completion" and str(value).lower() == "false")

    def is_contrary(self) -> bool:
        """Whether the data's own scores are against its labels (UltraFeedback's `score_chosen`)."""
        if not {"score_chosen", "score_rejected"} <= self.values.keys():
            return False
        chosen, rejected = self.get("score_chosen"), self.get("score_rejected")
        return isinstance(chosen, int | float) and isinstance(rejected, int | float) and chosen < rejected

    def confidence(self) -> float:
        column = self.source.fields.get("confidence", "confidence" if "confidence" in self.values else "")
        if not column:
            return 1.0
        value = self.get(str(column)) if self.column("confidence") else None
        with suppress(ValueError):
            value = float(value) if isinstance(value, str) else value  # a table of text, CSV
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise self.wrong(f"confidence must be a number from 0 to 1, found {shown(value)}")
        return float(value)

    def prompt(self, messages: Messages, ids: Ids) -> Prompt:
        if not messages or messages[-1]["role"] != "user":
            raise self.wrong("the turns before the answer must end with a user turn")
        if any(turn["role"] == "user" and not turn["content"].strip() for turn in messages):
            raise self.wrong("the prompt is empty; remove the row")
        name = self.optional("id") or ids.of(messages)
        if name in ids.places:
            raise self.wrong(f'id {name!r} is that of {ids.places[name]}; `fields: {{id: ""}}` makes new ids')
        ids.places[name] = self.place
        (options, labelled), answer = self.options(), self.optional("answer")
        labels, texts = [label for label, _ in options], [text for _, text in options]
        # "3" is the choice of that label, be "3" the text of another one; of a bare list the labels are ours
        names = labels if answer in labels and (labelled or answer not in texts) else texts
        output = self.get(self.column("response"))
        return Prompt(
            name,
            messages,
            answer,
            self.optional("group"),
            tuple(texts) or None,
            names.index(answer) if answer in names else None,
            self.texts("turns")[1:],
            self.texts("references"),
            self.text(output, "response") if isinstance(output, str) else None,
            self.values,
        )

    def options(self) -> tuple[list[tuple[str, str]], bool]:
        """(label, text) of every choice, from one column or from several, and whether the labels are the data's own."""
        named = self.source.fields.get("choices")
        if isinstance(named, list):
            missing = [column for column in named if column not in self.values]
            if missing:
                raise _no_column(self.place, missing[0], "fields.choices", self.values)
            numbers = map(str, range(1, len(named) + 1))
            texts = [self.text(self.get(column), "choices") for column in named]
            return list(zip(numbers, texts, strict=True)), True
        value = self.get(self.column("choices"))
        options = _options(value)
        if value is not None and not options:
            raise self.wrong(f"choices must be a list of texts, found {shown(value)}")
        return options, isinstance(value, dict)


def _options(value: Any) -> list[tuple[str, str]]:
    """(label, text) of a list of texts or of ARC's {"text": [...], "label": [...]}, else nothing."""
    texts, labels = (value.get("text"), value.get("label")) if isinstance(value, dict) else (value, _LETTERS)
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) > len(labels):
        return []
    if not all(isinstance(text, str | int | float) for text in texts):
        return []
    pairs = zip(labels, texts, strict=False)
    return [(_label(label), _label(text)) for label, text in pairs]


def _label(value: Any) -> str:
    return number_as_text(value) if isinstance(value, int | float) else str(value)


def source_rows(source: DataSource, search: Sequence[Path], reading: Reading | None = None) -> Iterator[Row]:
    """The rows that `where` and `limit` keep: at least one, else InputError. `reading` learns what was read of them."""
    code = source.path if source.path and is_code_file(source.path) else None
    hub = f"{source.hub} [{source.file or source.split}]" if source.hub else None
    files = [] if hub or code else locate(str(source.path), search)
    origin = hub or code or (str(files[0]) if len(files) == 1 else str(source.path))
    reading = reading or Reading()
    reading.origin, reading.read = origin, set(source.where)
    kept = read = 0
    columns: dict[str, None] = {}  # a set that keeps its order
    found = _hub_rows(source) if hub else _code_rows(code, search) if code else _rows_of(files)
    for place, values in found:
        if not isinstance(values, dict):
            raise InputError(f"{origin}, {place}: a row must be an object, found {shown(values)}")
        values = plain_value(values)
        read += 1
        columns.update(dict.fromkeys(values))
        if all(name in values and _same(values[name], wanted) for name, wanted in source.where.items()):
            kept += 1
            full = (name for name, value in values.items() if value not in (None, "", [], {}))
            reading.columns.update(dict.fromkeys(full))
            yield Row(source, f"{origin}, {place}", values, reading)
            if kept == source.limit:
                return
    if read == 0:
        raise InputError(f"{origin}: there are no rows in it")
    unknown = [name for name in source.where if name not in columns]
    if unknown:
        raise _no_column(origin, unknown[0], "where", columns)
    if kept == 0:
        raise InputError(f"{origin}: none of the {read} rows matches where: {source.where}")


def _rows_of(files: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    for path in files:
        part = "" if len(files) == 1 else f"{path.name}, "
        yield from ((f"{part}{place}", row) for place, row in file_rows(path))


def _same(found: Any, wanted: Any) -> bool:
    return bool(found == wanted) and isinstance(found, bool) == isinstance(wanted, bool)  # here True is not 1


def _code_rows(name: str, search: Sequence[Path]) -> Iterator[tuple[str, Any]]:
    made = load_code(find_code(name, search, "data"), "data")
    if callable(made):
        try:
            made = made()
            made = made if isinstance(made, str | dict | set) else list(made)
        except (Exception, SystemExit) as error:  # the user's code may raise anything
            raise InputError(f"{name}: raised {type(error).__name__}: {error}") from error
    if not isinstance(made, list | tuple):
        raise InputError(f"{name}: expected a list of texts or of rows, found {type(made).__name__}")
    for number, row in enumerate(made, 1):
        values = {"prompt": row} if isinstance(row, str) else row
        try:
            values = json.loads(json.dumps(values, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}, row {number}: holds what JSON cannot ({error})") from error
        yield f"row {number}", values


def _hub_rows(source: DataSource) -> Iterator[tuple[str, Any]]:
    import datasets

    if source.file:
        yield from file_rows(_hub_file(source))
        return
    try:
        data = datasets.load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except Exception as error:  # dozens of kinds, and all of them mean: not to be had here
        raise InputError(
            f"hub data set {source.hub!r} (config {source.config}, split {source.split}, revision "
            f"{source.revision}) could not be loaded: {type(error).__name__}: {error}\nWithout network: save "
            "it elsewhere by `load_dataset(...).to_parquet('data.parquet')` and give `path: data.parquet`"
        ) from error
    yield from ((f"row {n}", row) for n, row in enumerate(data, 1))


def _hub_file(source: DataSource) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(str(source.hub), str(source.file), repo_type="dataset", revision=source.revision))
    except Exception as error:  # as above
        raise InputError(
            f"{source.file} of the hub data set {source.hub!r} (revision {source.revision}) could not be loaded: "
            f"{type(error).__name__}: {error}\nWithout network: fetch it elsewhere and give its path as `data`"
        ) from error


def _no_column(place: str, name: str, why: str, columns: Iterable[str]) -> InputError:
    close = [f"; did you mean {match!r}?" for match in get_close_matches(name, list(columns), 1)]
    found = ", ".join(columns) + "".join(close)
    return InputError(f"{place}: no column {name!r} ({why}); columns found: {found}")


def content(prompt: Prompt) -> str:
    """The prompt's last user turn."""
    return prompt.messages[-1]["content"]
