"""Text a model wrote, made safe to look at: nothing invisible, nothing the terminal or the page obeys."""

from __future__ import annotations

import re

# Newline and tab stay. Besides C0 and C1 (which carry ANSI sequences): direction overrides, the separators
# that some readers take for line ends, tag characters, and lone surrogates, which no file can hold.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ud800-\udfff\ufeff"
    "\U000e0000-\U000e007f]"
)
_BRACKET = re.compile(r"(\\*)\[([a-z#/@][^[]*?\])?")
_EMOJI_CODE = re.compile(r"(?<=:)(?=\S+?:)")
_NOTHING = "[none][/none]"


def visible(text: str) -> str:
    """`text` with control, direction and invisible characters written out, as in `\\x1b`."""
    return _HIDDEN.sub(lambda match: match.group().encode("unicode_escape").decode("ascii"), text)


def printable(text: str) -> str:
    """`text` as rich markup that shows it unchanged, apart from what `visible` writes out.

    `rich.markup.escape` is not enough here: it loses the backslash of `\\[1`, which models write around
    formulas, doubles one at the end of the text, and leaves `:smile:` to become a picture.
    """
    return _NOTHING.join(_escape_brackets(part) for part in _EMOJI_CODE.split(visible(text)))


def _escape_brackets(text: str) -> str:
    def escape(match: re.Match[str]) -> str:
        backslashes, tag = match.groups()
        # rich reads backslashes in pairs before a tag, and one by one before any other bracket
        return backslashes * (2 if tag else 1) + "\\[" + (tag or "")

    escaped = _BRACKET.sub(escape, text)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    # at the end of the text a backslash would escape whatever tag the caller puts behind it
    return escaped + "\\" * trailing + _NOTHING if trailing else escaped
