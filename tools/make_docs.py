"""Writes the pages that are made from the code: `docs/keys.md`, `docs/suites.md`, `docs/cli.md` (`make docs`).

A key's meaning is the text under its field, in the class of its section; an option's is its help.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from selfimprove.cli.app import app, main
from selfimprove.data.sources import DataSource
from selfimprove.recipe import judges, sections
from selfimprove.recipe.contract import Method
from selfimprove.recipe.judges import JudgeOptions, Reader, Reward, SuiteChoice
from selfimprove.recipe.recipe import Recipe
from selfimprove.registry import OURS, find
from selfimprove.suites.suite_kinds import Generated, SuiteOptions

DOCS = Path(__file__).parent.parent / "docs"
MADE = "<!-- Made from the code by `make docs`: change the texts there. -->\n\n"
HEAD = "values | default | meaning |\n|---|---|---|---|\n"

# The sections of keys.md before the methods, and those of suites.md before the kinds.
RECIPE: dict[Any, str] = {
    Recipe: "The recipe",
    sections.Data: "`data`",
    DataSource: "A data source",
    sections.Sampling: "`sampling`",
    sections.VllmOptions: "`sampling.vllm`",
    sections.ServerOptions: "A server",
    sections.Training: "`training`",
    sections.Lora: "`training.lora`",
    sections.Sft: "`sft`",
    SuiteChoice: "A suite",
    sections.Stop: "`stop`",
    sections.Gates: "`gates`",
    Reader: "A reader",
    judges.Prices: "Prices",
    judges._Scores: "What decides",
    JudgeOptions: "A judge",
    Reward: "A reward",
}
SUITES: dict[Any, str] = {SuiteOptions: "Every suite", Generated: "Answers"}
SHARED = (Reader, judges._Scores, SuiteOptions, Generated)  # classes that others refer to for their keys
UNSAID = ("folder", "change")  # no keys that a person writes


def anchor(heading: str) -> str:
    """What GitHub and Python-Markdown make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def linked(text: str) -> str:
    """Text of the code as a page has it, in one line: papers, and pages of docs/, are links."""
    text = re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", " ".join(text.split()))
    return re.sub(r"docs/(([\w-]+)\.md(#[\w-]+)?)", lambda page: f"[{page[2].replace('-', ' ')}]({page[1]})", text)


def texts_of(cls: type[BaseModel]) -> dict[str, str]:
    """The texts under the fields of a class and of its bases."""
    found: dict[str, str] = {}
    for one in reversed(cls.__mro__):
        if BaseModel in one.__mro__[1:]:
            body = ast.parse(inspect.getsource(one)).body[0].body  # type: ignore[attr-defined]
            for field, below in pairwise(body):
                if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                    found[ast.unparse(field.target)] = ast.literal_eval(below.value)
    return found


def number(kind: str, metadata: Any) -> str:
    """A number's kind and its bounds, in words."""
    parts = [part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])]
    keys = ("ge", "gt", "min", "le", "lt", "max")
    limits = {key: limit for one in parts for key in keys if (limit := getattr(one, key, None)) is not None}
    low = limits.get("ge", limits.get("gt", limits.get("min")))
    high = limits.get("le", limits.get("lt", limits.get("max")))
    above, below = "above " if "gt" in limits else "", "below " if "lt" in limits else ""
    if low is not None and high is not None and high < 2**31:
        said = f"{above}{low:g} to {below}{high:g}"
        return said if kind == "number" else f"{kind}, {said}"
    return kind if low is None else f"{kind} above {low:g}" if above else f"{kind}, {low:g} or more"


def values(annotation: Any, page: str, metadata: Any = ()) -> str:
    """What a key or an option may hold, in words."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return values(parts[0], page, [*parts[1:], *metadata])
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return ", ".join(values(part, page, metadata) for part in parts if part is not NoneType)
    if annotation in RECIPE:
        name = RECIPE[annotation]
        return f"[{name[0].lower()}{name[1:]}]({'' if page == 'keys.md' else 'keys.md'}#{anchor(name)})"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return "keys below"
    if origin in (tuple, list):
        return f"{values(parts[0], page)}, or a list" if parts[0] is DataSource else f"list of {values(parts[0], page)}"
    if origin is dict:
        return "mapping" if parts[0] is str else f"mapping of {values(parts[0], page)}"
    if annotation in (int, float):
        return number("whole number" if annotation is int else "number", metadata)
    return {str: "text", bool: "`true`, `false`", Path: "path"}.get(annotation, "any value")


def default(value: Any) -> str:
    if isinstance(value, BaseModel):
        return f"`{value.kind}`" if isinstance(value, JudgeOptions) else ""
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, int | float):
        return re.sub(r"e-0?", "e-", f"{value:.10g}")
    if isinstance(value, tuple):
        return ", ".join(f"`{part}`" for part in value)
    return f"`{value}`" if len(str(value)) < 40 else f'"{" ".join(value.split()[:4])} ..."'


def of_methods(cls: Any, key: str) -> list[str]:
    """Defaults that methods give to a key of a section."""
    dotted = key if cls is Recipe else f"{RECIPE.get(cls, '').strip('`')}.{key}"
    given = {name: find("method", name).defaults for name in OURS["method"]}
    return [f"`{name}`: {default(own[dotted])}" for name, own in given.items() if dotted in own]


def keys_table(cls: type[BaseModel], page: str) -> str:
    """A line for each key that the class itself says, and where those of its bases are."""
    bases = [one for one in cls.__mro__[1:] if one in SHARED][:1]
    theirs = {name: (field.default, field.annotation) for one in bases for name, field in one.model_fields.items()}
    texts, lines = texts_of(cls), []
    for name, field in cls.model_fields.items():
        kind_itself = name == "kind" and SuiteOptions in cls.__mro__[1:]
        if name in UNSAID or kind_itself or theirs.get(name) == (field.default, field.annotation):
            continue
        said = linked(texts.get(name, "")).replace("|", "\\|")
        given = "required" if field.is_required() else default(field.get_default(call_default_factory=True))
        given = "" if given in ("none", "required") and "y default" in said else given
        given = "; ".join(filter(None, [given, *of_methods(cls, name)]))
        lines.append(f"| `{name}` | {values(field.annotation, page, field.metadata)} | {given} | {said} |\n")
    text = f"| key | {HEAD}{''.join(lines)}\n" if lines else ""
    for name in [(RECIPE | SUITES)[one] for one in bases]:
        text += f"{'And' if lines else 'It has'} the keys of [{name.lower()}](#{anchor(name)}).\n\n"
    return text


def section(heading: str, cls: Any, page: str) -> str:
    about = "".join(f"{linked(one)}\n\n" for one in str(inspect.getdoc(cls)).split("\n\n"))
    return f"## {heading}\n\n{about}{keys_table(cls, page)}"


def keys_page() -> str:
    text = f"# Keys of a recipe\n\n{MADE}How a recipe is written, and what goes together: [recipes](recipes.md).\n\n"
    text += " · ".join(f"[{heading}](#{anchor(heading)})" for heading in RECIPE.values()) + "\n\n"
    methods = [find("method", name) for name in OURS["method"]]
    text += " · ".join(f"[`{one.name}`](#{anchor(titled(one))})" for one in methods) + "\n\n"
    text += "".join(section(heading, cls, "keys.md") for cls, heading in RECIPE.items())
    return text + "".join(method_keys(one) for one in methods)


def titled(method: Method) -> str:
    return f"{'Method' if method.trains else 'Task'} `{method.name}`"


def method_keys(method: Method) -> str:
    """What a method needs of the recipe, and its own section. It is introduced by its module's first paragraph."""
    needs = method.needs
    wanted = [f"`data.{role}`" for role in ("seed", "prompts", "pairs") if getattr(needs, role)]
    wanted += [f"`sampling.n` of {needs.responses} or more"] if needs.responses > 1 else []
    wanted += ["`evaluate`"] if needs.suites else []
    said = [f"Needs {', '.join(wanted)}."] if wanted else []
    said += [f"Reads {', '.join(f'`{key}`' for key in sorted(method.reads))} too."] if method.reads else []
    said += [f"`{section}` does nothing." for section in sorted(method.leaves)]
    options: Any = method.options
    said += ["It has no keys of its own."] if options is None else [linked(options.__doc__).partition(". ")[2]]
    about = str(inspect.getmodule(method.run).__doc__).partition("\n\n")[0]
    table = keys_table(method.options, "keys.md") if method.options else ""
    text = f"## {titled(method)}\n\n{linked(about)}\n\n{' '.join(said).strip()}\n\n{table}"
    inner: dict[Any, list[str]] = {}
    for name, field in options.model_fields.items() if options else ():
        if (cls := sections.model_of(field.annotation)) and cls not in RECIPE:
            inner.setdefault(cls, []).append(f"`{name}`")
    return text + "".join(f"Under {' and '.join(at)}:\n\n{keys_table(cls, 'keys.md')}" for cls, at in inner.items())


def suites_page() -> str:
    text = f"# Keys of a suite\n\n{MADE}What suites there are, and how to read them: [evaluation](evaluation.md).\n\n"
    kinds = {find("suite", name).options: f"`{name}`" for name in OURS["suite"]}
    return text + "".join(section(heading, cls, "suites.md") for cls, heading in (SUITES | kinds).items())


def cli_page() -> str:
    codes = str(inspect.getmodule(main).__doc__).partition(". ")[2]
    return f"# Commands\n\n{MADE}{app.info.help} {codes}\n\n{commands(app, 'selfimprove')}"


def commands(group: typer.Typer, before: str) -> str:
    text = ""
    for command in group.registered_commands:
        function: Any = command.callback
        name = command.name or function.__name__
        hints = typing.get_type_hints(function, include_extras=True)
        params = [(one, *get_args(hints[one.name])) for one in inspect.signature(function).parameters.values()]
        usage = [before if name.isupper() else f"{before} {name}"]  # eval SUITE: any name
        usage += [placed(one, kind) for one, kind, info in params if isinstance(info, typer.models.ArgumentInfo)]
        usage += ["[OPTIONS]"] if len(usage) <= len(params) else []
        text += f"## `{before} {name}`\n\n{linked(function.__doc__)}\n\n    {' '.join(usage)}\n\n"
        text += f"| argument or option | {HEAD}" if params else ""
        text += "".join(parameter(*one) for one in params) + "\n" * bool(params)
    return text + "".join(commands(one.typer_instance, f"{before} {one.name}") for one in group.registered_groups)  # type: ignore[arg-type]


def placed(one: inspect.Parameter, kind: Any) -> str:
    name = f"{one.name.upper()}{'...' if 'list' in str(kind) else ''}"
    return name if one.default is one.empty else f"[{name}]"


def parameter(one: inspect.Parameter, kind: Any, info: Any) -> str:
    """The line of an argument or an option."""
    said = [one.name.upper()] if isinstance(info, typer.models.ArgumentInfo) else [info.default, *info.param_decls]
    name = next((word for word in said if isinstance(word, str)), f"--{one.name.replace('_', '-')}")
    can = "flag" if kind is bool else values(kind, "cli.md", [info])
    given = "required" if one.default is one.empty else default(one.default)
    return f"| `{name}` | {can} | {'' if given in ('none', '`false`') else given} | {linked(info.help)} |\n"


PAGES = {"keys.md": keys_page, "suites.md": suites_page, "cli.md": cli_page}


def made(page: str) -> str:
    return PAGES[page]().rstrip() + "\n"


if __name__ == "__main__":
    for page in PAGES:
        (DOCS / page).write_text(made(page), encoding="utf-8")
