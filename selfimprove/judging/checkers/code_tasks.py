"""HumanEval and MBPP: the question, the program a response makes, its tests, and pass@k. Pure; nothing is run here.

A response is untrusted text: it is cut and joined, never parsed or run (that is the sandbox's, beside it).
HumanEval: Chen et al. 2021, arXiv 2107.03374. MBPP: Austin et al. 2021, arXiv 2108.07732.
"""

from __future__ import annotations

import builtins
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*([\w+#.-]*)[^\n`]*$", re.MULTILINE)
# CodeLlama's and others' marks of code (2308.12950, appendix B)
_TAGGED = re.compile(
    r"\[PYTHON\]\n?(.*?)(?:\[/PYTHON\]|\Z)|<(code|python)>\n?(.*?)(?:</\2>|\Z)", re.DOTALL | re.IGNORECASE
)
_CODE_BEGINS = re.compile(
    r"^(?:import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b|@\w|(?:async[ \t]+)?def[ \t]+\w|class[ \t]+\w)", re.M
)
_CODE_LINE = re.compile(  # what a line at the margin may be in code, and is not in a sentence
    r"[ \t)\]}#@'\"]|(?:import|from|return|raise|assert|global|del|async|def|class)\b|(?:pass|else:|try:|finally:)"
    r"|(?:if|elif|for|while|with|except|match)\b.*:[ \t]*(?:#.*)?$|[\w.,\[\] *:]+[-+*/|&^%@]?=(?!=)|[\w.]+\("
)
_PYTHON = ("python", "py", "python3", "")
# Where a continuation of the prompt ends (2107.03374, section 2.1), and what chat models put after it.
_STOPS = re.compile(r"^(?:class|def|#|if|print|@|```|~~~)", re.MULTILINE)
_FUTURE = re.compile(r"^from __future__ import .*$", re.MULTILINE)


def extract_code(text: str, names: Sequence[str] = ()) -> str:
    """The code in a response: a fenced block if there is one, or one that [PYTHON] or <code> marks, else what stands in
    the text like code, else the text itself.

    Of several blocks: the last that defines one of `names`, else the last that defines anything, else the first; blocks
    in another language count only where no other is there. A block that is never closed goes to the end (the response
    was cut). A lone bare fence after text closes a block that the prompt opened: the code is before it.
    """
    text = text.replace("\r\n", "\n")
    fences = list(_FENCE.finditer(text))
    if not fences:
        tagged = [one[1] or one[3] or "" for one in _TAGGED.finditer(text)]
        return _chosen([_flush(one) for one in tagged], names) if tagged else _without_prose(text, names)
    if len(fences) == 1 and not fences[0][1] and text[: fences[0].start()].strip():
        return text[: fences[0].start()]
    blocks: list[tuple[str, str]] = []
    for opening, closing in zip(fences[::2], [*fences[1::2], None], strict=False):
        inside = text[opening.end() + 1 : closing.start() if closing else len(text)]
        blocks.append((opening[1].lower(), inside if opening[1] else inside.lstrip("\n")))
    code = [inside for language, inside in blocks if language in _PYTHON] or [inside for _, inside in blocks]
    return _chosen([_flush(inside) for inside in code], names)


def _chosen(code: Sequence[str], names: Sequence[str]) -> str:
    defining = [one for one in code if names and _defines(one, names)]
    return (defining or [one for one in code if _defines(one, ())] or code[:1])[-1]


def _without_prose(text: str, names: Sequence[str]) -> str:
    """The code among sentences: from the first line that begins some to the first at the margin that is none, of
    several such parts the one that `extract_code` would choose. The text itself where nothing is defined at the
    margin, or the text begins with a continuation."""
    if not _defines(text, ()) or text.lstrip("\n")[:1] in (" ", "\t"):
        return text
    parts: list[list[str]] = []
    within = quoted = False
    for line in text.split("\n"):
        code = quoted or not line.strip() or bool(_CODE_LINE.match(line))
        if not within and _CODE_BEGINS.match(line):
            parts.append([])
            within = True
        elif within and not code:
            within = False
        if within:
            parts[-1].append(line)
            quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
    return _chosen(["\n".join(part).rstrip() + "\n" for part in parts], names)


def humaneval_program(task: Mapping[str, Any], response: str) -> tuple[str, str]:
    """(program, tests) of a HumanEval task.

    The response may be a whole function, with or without the prompt's imports and helpers, or a continuation of the
    prompt's body (cut at the paper's stop sequences; indented again where its indentation was lost). The tests have
    their own copy of the prompt's imports and helpers, so that a response cannot change them.

    Args:
        task: with `prompt`, `test` and `entry_point`.
    """
    prompt, name = str(task["prompt"]), str(task["entry_point"])
    before = prompt[: _start_of(name, prompt)]
    code = extract_code(response, [name])
    if _defines(code, [name]):
        future = "".join(line + "\n" for line in _FUTURE.findall(code))
        program = future + before + "\n" + _FUTURE.sub("", code)
    else:
        program = prompt + ("" if prompt.endswith("\n") else "\n") + _body(code)
    return program, f"{before}\n{task['test']}\n\ncheck({name})\n"


def mbpp_program(task: Mapping[str, Any], response: str) -> tuple[str, str]:
    """(program, tests) of an MBPP task, of the full set (`text`) or the sanitized one (`prompt`, `test_imports`)."""
    names = mbpp_names(task)
    # The sandbox keeps built-ins' names from the tests, and task 126 asks for a function called `sum`.
    own = [f"from program import {name}" for name in names if hasattr(builtins, name)]
    tests = [*own, *task.get("test_imports", ()), str(task.get("test_setup_code") or ""), *task["test_list"]]
    return extract_code(response, names), "\n".join(line for line in tests if line) + "\n"


def mbpp_names(task: Mapping[str, Any]) -> list[str]:
    """What the reference solution defines and the tests use: the functions and classes that are asked for."""
    used = set(re.findall(r"\w+", "\n".join([*task["test_list"], str(task.get("test_setup_code") or "")])))
    return [name for name in re.findall(r"^(?:def|class)\s+(\w+)", str(task["code"]), re.MULTILINE) if name in used]


def humaneval_question(task: Mapping[str, Any]) -> str:
    """What a chat model is asked (zero-shot)."""
    return (
        "Complete the following Python function. Answer with the whole function, its imports included, in one "
        f"```python block.\n\n```python\n{str(task['prompt']).strip()}\n```"
    )


def mbpp_question(task: Mapping[str, Any]) -> str:
    """What a chat model is asked (zero-shot): the paper's prompt with its tests, and the form of the answer."""
    tests = "\n".join(task["test_list"])
    return (
        f"You are an expert Python programmer, and here is your task: {task.get('text') or task['prompt']} "
        f"Your code should pass these tests:\n\n{tests}\n\nAnswer with the code in one ```python block."
    )


QUESTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {"humaneval": humaneval_question, "mbpp": mbpp_question}


def program_of(tests: str, task: Mapping[str, Any], response: str) -> tuple[str, str]:
    """(program, tests) of a task of either kind, `humaneval` or `mbpp`."""
    return {"humaneval": humaneval_program, "mbpp": mbpp_program}[tests](task, response)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """The unbiased estimate of the probability that one of k samples is right, 1 - C(n - c, k) / C(n, k).

    Chen et al. 2021 (arXiv 2107.03374), equation 1. ValueError unless 0 <= correct <= n and 1 <= k <= n.

    Args:
        n: samples drawn for one task.
        correct: how many of them passed (c).
    """
    if not (0 <= correct <= n and 1 <= k <= n):
        raise ValueError(f"pass@{k} needs 0 <= correct <= n and 1 <= k <= n; got n = {n}, correct = {correct}")
    return 1.0 - math.comb(n - correct, k) / math.comb(n, k)


def _defines(code: str, names: Sequence[str]) -> bool:
    """Whether the code defines one of the names (anything, where none is given) at its top level."""
    found = re.findall(r"^(?:async[ \t]+def|def|class)[ \t]+(\w+)", code, re.MULTILINE)
    return any(name in names for name in found) if names else bool(found)


def _start_of(name: str, prompt: str) -> int:
    """Where the function that a HumanEval prompt asks for begins."""
    starts = [match.start() for match in re.finditer(rf"^def[ \t]+{re.escape(name)}\b", prompt, re.MULTILINE)]
    if not starts:
        raise ValueError(f"the prompt does not define {name!r}")
    return starts[-1]


def _flush(code: str) -> str:
    """A block that stands in a list is indented as a whole; a continuation is too, and its reader indents it again."""
    return textwrap.dedent(code) if _defines(textwrap.dedent(code), ()) else code


def _body(code: str) -> str:
    """A continuation of a function's body, indented by four where it lost that, cut where the function ends."""
    lines = code.strip("\n").split("\n")
    if lines[0][:1] not in (" ", "\t"):
        rest = [line for line in lines[1:] if line.strip()]
        indents = [len(line) - len(line.lstrip()) for line in rest]
        # Only the first line lost its indentation, unless the second line says that all did.
        first_only = bool(rest) and min(indents) >= 4 and not (lines[0].rstrip().endswith(":") and indents[0] == 4)
        lines = ["    " + lines[0], *lines[1:]] if first_only else [f"    {line}" if line else "" for line in lines]
    body = "\n".join(lines)
    stop = _STOPS.search(body)
    return body[: stop.start()] if stop else body + "\n"
