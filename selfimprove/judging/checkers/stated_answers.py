r"""Where a response states its mathematical answer, and the answer in the form that math-verify reads: pure text.

Looked at in turn: the last \boxed{}, the last <answer></answer>, what follows the last "####", the last sentence that
says what the answer is ("The answer is 18.", "So 18 is the answer.", "Final answer" over a line of its own), the last
line where it is nothing but a formula. Else the text itself is handed on, for math-verify to search.

A sentence that says what the answer is not states none. Of an answer that is open (`\boxed{18`, `<answer>18`) nobody
knows how it would have gone on, so it is none. Several values ("18 or 19", `\boxed{1} and \boxed{2}`) are a list, which
equals a reference of the same values and no single one.
"""

from __future__ import annotations

import re

_LONGEST = 2000  # characters, from the end, that are searched for an answer that is not marked

# Numbers. A comma parts thousands where groups of three follow it; any other parts the members of a list.
_CURRENCY = "€£¥₹₽₩₪₫฿₺₴"
_APART = r"(?:,|\{,\}|\\,|\\!|,\\!|[ \u00a0\u2009\u202f])"
_NUMBER = rf"(?:[-+\u2212]?\s?(?:[1-9]\d{{0,2}}(?:{_APART}\d{{3}})+(?![\d,])|\d+)(?:\.\d*)?|[-+\u2212]?\.\d+)"
_LATEX_UNIT = r"\\?%|°|\^?\\circ|\\(?:text\w*|mathrm|mbox)\s*\{[^{}\d]*\}"
_AMOUNT = re.compile(rf"((?:[A-Za-z]\s*=\s*)?)({_NUMBER})((?:\s|\\[ ,;!])*(?:{_LATEX_UNIT}|[A-Za-z][A-Za-z ./]*)?)")
_QUANTITY = re.compile(rf"({_NUMBER})(?:\s*/)?\s*[A-Za-z°][^\d\\$=]*[²³]?")  # in prose: "18 eggs", "$5 per day"

# Marks around an answer.
_EMPHASIS = re.compile(r"(?<![\w)\]}*`])(\*{1,3}|_{1,2}|`{1,3})(?=[^\s*`])([^\n]{0,300}?)(?<=[^\s*`])\1(?![\w*`])")
_FORMULA = re.compile(
    r"(?<!\\)\$\$(?:[^$\\]|\\.)+\$\$|(?<![\\\d])\$(?:[^$\\]|\\.)+\$(?!\d)|\\\[.+?\\\]|\\\(.+?\\\)", re.DOTALL
)
_DELIMITED = re.compile(r"(?<!\\)\$|\\\(|\\\[")
_TEXT = re.compile(r"\\(?:text\w*|mathrm|mbox|begin|end)\s*\{[^{}]*\}")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")  # not a command's name
_AND = re.compile(r"\s*,?\s*(?:\\(?:text\w*|mbox)\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![\\A-Za-z])(?:and|or|to)\b)\s*")
_HEDGE = re.compile(r"\b(and|or)\s+(?:also|maybe|perhaps|possibly|even)\s+")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*(\{)?")
_JOINS = re.compile(
    r"(?:\\q?quad|\\[()\[\],; ]|[\s$,;]|\\text\s*\{[^{}]*\}|[A-Za-z](?:_\{?\d\}?)?\s*=|\b(?:and|or)\b)*"
)
_TAG = re.compile(r"<answer>(.*?)(</answer>|$)", re.IGNORECASE | re.DOTALL)

# Sentences that state an answer, and those that deny one.
_FROM = r"(?:\s*(?:\bis\b|[:=]))*\s*"
_STATES = re.compile(
    r"\banswers?\b(?:[^.:=→⇒\n]{0,80}?(?:\b(?:is|are|was|be|equals?)\b|[:=→⇒]|[-=]>)|\s+[-–—]\s+(?=\W*\d|\\))" + _FROM
    + r"|^[^\w\n]*(?:(?:the|my|our|final|correct)\s+)*answers?[^\w\n$\\]*\n" + _FROM
    + r"|^[ \t]*(?:A|Ans)\s*[:=]\s*",
    re.IGNORECASE | re.MULTILINE,
)  # fmt: skip
_IS_ANSWER = re.compile(
    r"[ ,]*\b(?:is|are|(?:must|should|has to) be)\s+(?:indeed\s+)?(?:the|my|our|your)\s+(?:\w+\s+){0,2}answers?\b", re.I
)
_NEVER = r"(?:\bnot\b|n['’]t\b|\bcannot\b|\bnever\b)"
_DENIES = re.compile(
    rf"\banswers?\b[^\d$\\.\n]{{0,60}}?{_NEVER}|{_NEVER}\s+(?:be\s+)?(?:the|my|our|an?)\s+(?:\w+\s+){{0,2}}answers?\b"
    r"|\b(?:know|sure|certain|say|tell)\s+(?:whether|if)\b|^\W*(?:(?:it|that|this)\s+is\s+)?not\W+\d[\d.,]*\W*$",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?](?!\s|$)[^.!?\n]*)*(?:[.!?]+|\n|$)")
_CLAUSE = re.compile(  # what ends an answer within its sentence
    r"\n|[.!?;](?=[\s\"'”)]|$)|,?\s+(?:because|since|as|so|which|where|when|if|but|for|given|after|not|rather|instead)\b"
    r"|\s+\((?=[^)]*[A-Za-z]{2})|,\s+(?=[A-Za-z]{3})|\s+(?:and|or)\s+(?=[A-Za-z]{2})"
)
_FILLER = re.compile(
    r"(?:(?:therefore|thus|then|exactly|simply|just|equal to|given by|only|clearly|also|indeed|now|actually|definitely"
    r"|probably|about|approximately|roughly|around|either|between|from|a total of)\b[\s,:]*)+",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"at (?:least|most)\b|(?:greater|more|larger|less|fewer|smaller) than\b|(?:over|under|above|below)\b"
)
_CONNECTIVE = re.compile(r".*(?:\b(?:so|therefore|thus|hence|then|that|conclude|and|means)\b|[,:])\s+", re.IGNORECASE)


def stated_answer(response: str) -> str:
    """The part of a response that holds its answer, as `$\\boxed{...}$`; the text to be searched where none is marked;
    nothing where it states no answer."""
    boxed = boxed_answer(response)
    if boxed is not None:
        return _as_answer(boxed)
    tags = list(_TAG.finditer(response))
    if tags:
        return stated_answer(tags[-1][1]) if tags[-1][2] else ""
    _, marked, after = response.rpartition("####")
    line = _plain(after.strip().split("\n")[0]).rstrip(" !")
    if marked and line and not _WORD.search(_TEXT.sub("", line)):  # with words it is a heading
        return _as_answer(line)
    text = _plain("".join(_affirmed(sentence) for sentence in _SENTENCE.findall(response)))
    return _statement(text) or _last_line(text) or text[-_LONGEST:]


def reference_answer(answer: str) -> str:
    """The reference, in the same form: what follows its last "####", and of that its boxes or all of it."""
    given = answer.rpartition("####")[2]
    return _as_answer(boxed_answer(given) or given)


def last_boxed(text: str) -> str | None:
    r"""What is inside the last \boxed{...} or \fbox{...}, or after `\boxed `; None where none is, or it is open."""
    boxes = _boxes(text)
    return boxes[-1][2] if boxes else None


def boxed_answer(text: str) -> str | None:
    r"""What is inside the last \boxed{}, with those that it is joined to ("\boxed{1} and \boxed{2}") as a list; nothing
    where it is open; None where none is."""
    boxes = _boxes(text)
    if not boxes:
        return None
    start, _, last = boxes.pop()
    if last is None:
        return ""
    values = [last]
    while boxes and boxes[-1][2] is not None and _joined(text[boxes[-1][1] : start]):
        start, _, value = boxes.pop()
        values.insert(0, str(value))
    return ", ".join(dict.fromkeys(values))


def _boxes(text: str) -> list[tuple[int, int, str | None]]:
    """(start, end, inside) of every box; inside is None where it is open."""
    found: list[tuple[int, int, str | None]] = []
    for match in _BOX.finditer(text):
        if found and match.start() < found[-1][1]:  # within the one before
            continue
        if not match[1]:
            inside = text[match.end() :].split("$")[0].split("\n")[0]
            found.append((match.start(), match.end() + len(inside), inside.strip() or None))
            continue
        depth, end = 0, None
        for brace in re.finditer(r"\\.|[{}]", text[match.end() - 1 :], re.DOTALL):
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0:
                end = match.end() - 1 + brace.start()
                break
        found.append(
            (match.start(), match.end() if end is None else end + 1, None if end is None else text[match.end() : end])
        )
    return found


def _joined(between: str) -> bool:
    """Whether what stands between two boxes makes them one list, where "no:" or a full stop would not."""
    words = _WORD.findall(between.replace("quad", ""))
    return bool(_JOINS.fullmatch(between)) and "\n\n" not in between if not words or "and" in words else False


def _affirmed(sentence: str) -> str:
    """The sentence, without what it denies to be the answer: "not 19 but 18" is 18, "not 18" is nothing."""
    if not _DENIES.search(sentence):
        return sentence
    _, but, rest = sentence.partition(" but ")
    return f"The answer is {rest.removeprefix('it is ')}" if but else ""


def _plain(text: str) -> str:
    """Without Markdown's emphasis, code marks and marks of headings."""
    previous = ""
    while previous != text:
        previous, text = text, _EMPHASIS.sub(r"\2", text)
    return re.sub(r"^#+ *", "", text, flags=re.MULTILINE).strip()


def _statement(text: str) -> str:
    """The last sentence's answer that says what the answer is; nothing where there is none."""
    found = [(match.end(), text[match.end() :]) for match in _STATES.finditer(text)]
    for match in _IS_ANSWER.finditer(text):
        before = re.split(r"[.!?:](?=\s)|\n", text[max(0, match.start() - 300) : match.start()])[-1]
        found.append((match.start(), _subject(before)))
    for _, after in sorted(found, reverse=True):
        value = _value(after)
        if value:
            return value
    return ""


def _subject(before: str) -> str:
    """What "is the answer", of the sentence up to there."""
    formulas = list(_FORMULA.finditer(before))
    if formulas and not before[formulas[-1].end() :].strip():
        return formulas[-1][0]
    return "" if re.search(r"\b(?:this|that|it|which|what)\W*$", before, re.I) else _CONNECTIVE.sub("", before)


def _value(after: str) -> str:
    """The answer at the beginning of a text; nothing where the text begins with none that can be told."""
    after = _FILLER.sub("", after.strip(), count=1) if _FILLER.match(after.strip()) else after.strip()
    formulas, rest = [], after
    while match := _FORMULA.match(rest):
        formulas.append(_bare(match[0]))
        rest = rest[match.end() :]
        join = _AND.match(rest) or re.match(r"\s*,\s*(?=\$|\\[(\[])", rest)
        rest = rest[join.end() :] if join else ""
    if formulas:
        return _as_answer(", ".join(formulas))
    said = _HEDGE.sub(r"\1 ", after)
    said = said[: match.start()] if (match := _CLAUSE.search(said)) else said
    bound = _BOUND.match(said)
    if bound:
        return _as_answer(said.replace(bound[0], "x > " if bound[0][:2] in ("gr", "mo", "la", "ov", "ab") else "x < "))
    said = _bare(_AND.sub(", ", said) if re.search(r"\d", said) else said)
    if not re.search(r"\w", said) or _DELIMITED.search(said):
        return ""
    if not _WORD.search(_TEXT.sub("", said)):
        return _as_answer(said)
    quantity = _QUANTITY.fullmatch(said)
    if quantity:
        return _as_answer(quantity[1])
    return f"$\\boxed{{\\text{{{said}}}}}$" if re.fullmatch(r"[A-Za-z]+(?: [A-Za-z]+)?", said) else ""


def _last_line(text: str) -> str:
    """The last line where it is nothing but a formula or a list of them."""
    line = text.rsplit("\n", 1)[-1]
    line = _bare(_AND.sub(", ", re.sub(r"^(?:[-•] |=>|∴|=)\s*", "", line)))
    bare = re.search(r"\w", line) and not _DELIMITED.search(line) and not _WORD.search(_TEXT.sub("", line))
    return _as_answer(line) if bare else ""


def _bare(text: str) -> str:
    """Without what may stand around a formula: dollars, brackets of LaTeX, quotation marks, a mark at the end."""
    previous = ""
    while previous != text:
        previous = text
        text = re.sub(rf"^[{_CURRENCY}\s\"'“”‘’`*]+|(?<!\\)[\s\"“”‘’`*.,;:?{_CURRENCY}]+$", "", text)
        text = re.sub(r"^\\?\$+\s*(?=[^$]*\$*$)|\\?\$+$", "", text)
        text = re.sub(r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$", r"\1\2", text, flags=re.DOTALL)
        if re.fullmatch(r"'[^']*'?|[^']*\d'", text):
            text = text.strip("'")
    return text


def _as_answer(text: str) -> str:
    bare = re.sub(r"^(-?\d+)\s+(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", _AND.sub(", ", _bare(text)))  # 2 1/2
    amount = _AMOUNT.fullmatch(bare)
    if amount:
        name, number, unit = amount.groups()
        bare = name + re.sub(rf"{_APART}(?=\d)", "", number).replace("\u2212", "-").replace(" ", "") + unit
    return f"$\\boxed{{{bare}}}$" if bare else ""
