"""What policies answered to the items of suites: `samples/SUITE-POLICY-ID.jsonl`, and all of them in `samples.html`, a
page to search and compare in, that opens anywhere.

The page's script is allowed by its hash; what models wrote is data beside it and becomes text on the page.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from selfimprove.artefacts import digest_of, write_file
from selfimprove.report.events import Event
from selfimprove.report.summary import dig, evaluations_of, metric_of, number, of_kind, policies_of, text
from selfimprove.report.text import visible

FOLDER, PAGE = "samples", "samples.html"
# The page holds so many bytes of items, the first of each suite, and of one text so many characters.
MOST_BYTES, MOST_CHARACTERS = 20_000_000, 20_000
_STATIC = 10  # items a suite that are shown without a script
_EXAMPLES = {"preference": "preference", "rating": "rating", "length_following": "score"}


@dataclass(frozen=True)
class Sample:
    """An item of a suite and a policy's answer. `value`: None is missing; `why`: why it is wrong or missing; `more`:
    other texts about it, by name."""

    id: str
    prompt: str
    reference: str
    group: str
    text: str
    value: float | None
    why: str = ""
    more: dict[str, str] = field(default_factory=dict)


def samples_file(run_dir: Path, suite: str, policy: str, id: str) -> Path:
    """Where the samples of an evaluation are; `id`: its event's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"{suite}-{policy}").strip("-.")[:80]
    return run_dir / FOLDER / f"{name}-{digest_of(id)[:8]}.jsonl"


def write_samples(run_dir: Path, suite: str, policy: str, id: str, samples: Sequence[Sample]) -> None:
    """Writes the samples of an evaluation, one JSON object a line. Whole or not at all."""
    path = samples_file(run_dir, suite, policy, id)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, "".join(json.dumps(asdict(one)) + "\n" for one in samples).encode("ascii"))


def samples_of(run_dir: Path, evaluation: Event) -> list[Sample]:
    """What is known of the answers of an evaluation: its file, or the few that older runs have in their events. Lines
    that cannot be read are left out."""
    suite, policy, id = (text(evaluation.get(key)) for key in ("suite", "policy", "id"))
    try:
        lines = samples_file(run_dir, suite, policy, id).read_bytes().splitlines()
    except OSError:
        return _in_event(evaluation)
    return [one for line in lines if (one := _parsed(line)) is not None]


def _parsed(line: bytes) -> Sample | None:
    try:
        row = json.loads(line)
        texts = {name: text(row[name]) for name in ("id", "prompt", "reference", "group", "text", "why")}
        more = {text(name): text(said) for name, said in row["more"].items()}
        return Sample(**texts, value=number(row["value"]), more=more)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _in_event(evaluation: Event) -> list[Sample]:
    """The first answers of a checked suite, or the examples of one that a judge decides."""
    kind = metric_of(evaluation).kind
    examples = dig(evaluation, kind, "examples") if kind in _EXAMPLES else None
    if not isinstance(rows := examples or evaluation.get("answers"), list):
        return []
    return [
        Sample(
            f"{place}",
            _joined(dig(row, "prompt")),
            "",
            text(dig(row, "group")),
            _joined(dig(row, "text") or dig(row, "output")),
            number(dig(row, _EXAMPLES.get(kind, "value"))),
            text(dig(row, "why")),
        )
        for place, row in enumerate(rows, 1)
        if isinstance(row, dict)
    ]


def _joined(said: Any) -> str:
    return "\n\n".join(map(text, said)) if isinstance(said, list) else text(said)


def samples_of_run(run_dir: Path, events: Sequence[Event]) -> list[dict[str, Any]]:
    """Every suite that kept answers, as the page reads it: policies in their order, and items in the suite's, each with
    an answer (or None) of every policy."""
    rounds, found = policies_of(events), []
    for suite, by_policy in evaluations_of(events).items():
        policies = [name for name in rounds if name in by_policy]
        samples = {name: samples_of(run_dir, by_policy[name]) for name in policies}
        items: dict[str, dict[str, Any]] = {}
        for place, name in enumerate(policies):
            for one in samples[name]:
                item = items.setdefault(
                    one.id, {"id": _cut(one.id), "prompt": _cut(one.prompt), "answers": [None] * len(policies)}
                )
                item |= {key: _cut(said) for key in ("reference", "group") if (said := getattr(one, key))}
                answer: dict[str, Any] = {"text": _cut(one.text), "value": one.value}
                answer |= {"why": visible(one.why)} if one.why else {}
                more = {visible(key): _cut(said) for key, said in one.more.items() if said}
                item["answers"][place] = answer | ({"more": more} if more else {})
        if items:
            evaluation = by_policy[policies[-1]]
            asked = dig(evaluation, "values")
            found.append(
                {
                    "name": visible(suite),
                    "metric": visible(metric_of(evaluation).name),
                    "marks": _marks(evaluation, list(items.values())),
                    "policies": [{"name": visible(name), "round": rounds[name]} for name in policies],
                    "files": (run_dir / FOLDER).is_dir(),
                    "total": max(len(items), len(asked) if isinstance(asked, list) else 0),
                    "items": list(items.values()),
                }
            )
    return found


def _marks(evaluation: Event, items: Sequence[dict[str, Any]]) -> str:
    """How a value is called: right or wrong, won or lost against an opponent, or its number."""
    kind = metric_of(evaluation).kind
    if kind == "preference":
        return "won"
    values = {answer["value"] for item in items for answer in item["answers"] if answer}
    return "right" if kind == "accuracy" or values <= {0.0, 1.0, None} else "score"


def _cut(said: str) -> str:
    if len(said) > MOST_CHARACTERS:
        said = f"{said[:MOST_CHARACTERS]} … ({len(said) - MOST_CHARACTERS} characters more)"
    return visible(said)


def within(suites: list[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """The suites with their first items, `most` bytes of them in all; what a small suite leaves goes to the others."""
    left, kept = most, {}
    sized = [[len(_json(item)) + 1 for item in suite["items"]] for suite in suites]
    for done, place in enumerate(sorted(range(len(suites)), key=lambda place: sum(sized[place]))):
        share, taken = left // (len(suites) - done), 0
        for size in sized[place]:
            if share < size:
                break
            share, left, taken = share - size, left - size, taken + 1
        kept[place] = taken
    return [{**suite, "items": suite["items"][: kept[place]]} for place, suite in enumerate(suites)]


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def write_samples_page(run_dir: Path, name: str, events: Sequence[Event], most: int = MOST_BYTES) -> Path | None:
    """Writes `samples.html` into a run's folder; None where no suite kept an answer, and then there is no page."""
    target = run_dir / PAGE
    suites = within(samples_of_run(run_dir, events), most)
    if not suites:
        target.unlink(missing_ok=True)
        return None
    write_file(target, _page(name, suites, bool(of_kind(events, "done"))).encode())
    return target


def _page(name: str, suites: list[dict[str, Any]], done: bool) -> str:
    here = resources.files("selfimprove.report")
    style, script, source = (
        here.joinpath(one).read_text(encoding="utf-8") for one in ("samples.css", "samples.js", "samples.html.j2")
    )
    data = _json({"suites": suites}).decode()
    for character in "<>&\u2028\u2029":  # nothing in it can end its element, or be anything but JSON
        data = data.replace(character, f"\\u{ord(character):04x}")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(
        name=visible(name),
        suites=suites,
        done=done,
        static=_STATIC,
        data=data,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _hash(source: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
