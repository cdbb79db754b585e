"""`selfimprove eval`: suites on policies, win rates from annotations, judges on labelled pairs, lm-eval's tasks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from selfimprove.data.files import KINDS
from selfimprove.errors import InputError
from selfimprove.quiet import stoppable
from selfimprove.recipe.strict_yaml import load_yaml
from selfimprove.report.narrow import NarrowTable
from selfimprove.report.text import printable


class _SuiteByDefault(TyperGroup):
    """`selfimprove eval words ...` is `selfimprove eval SUITE words ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["SUITE", *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(
    cls=_SuiteByDefault, no_args_is_help=True, help="Measure policies (`eval SUITE --policy P`), or a judge."
)
out = Console()
PolicyOption = Annotated[
    list[str] | None,
    typer.Option(help="Built-in name, hub id, model or adapter folder, runs/x[@M1], or runs/x@all; may be repeated."),
]
JudgeOption = Annotated[
    str | None,
    typer.Option(help="A judge's folder (runs/x/judge) or YAML file, a policy, or http://host:port/v1#model."),
]
RubricOption = Annotated[str | None, typer.Option(help="A judge folder: a shipped name or a path.")]
OutputOption = Annotated[Path | None, typer.Option(help="Folder for its artefacts and report.")]
BackendOption = Annotated[str, typer.Option(help="Sampler: auto, vllm or transformers.")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="Only the first items.")]
MissingOption = Annotated[float | None, typer.Option(min=0, max=1, help="Allowed share of missing judgements.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


@eval_app.command(name="SUITE")
def suite(
    suite: Annotated[str, typer.Argument(help="A shipped suite (`selfimprove ls`) or a YAML file.")],
    changes: Annotated[list[str] | None, typer.Argument(help="key=value: replaces a key of the suite.")] = None,
    policy: PolicyOption = None,
    against: Annotated[
        str | None, typer.Option(help="Opponent: baseline, base (the first policy), a policy, or a file of outputs.")
    ] = None,
    judge: JudgeOption = None,
    rubric: RubricOption = None,
    order: Annotated[str | None, typer.Option(help="What the judge sees first: random, or both in turn.")] = None,
    data: Annotated[Path | None, typer.Option(help="A file with the suite's items, instead of its own.")] = None,
    limit: LimitOption = None,
    annotations: Annotated[Path | None, typer.Option(help="alpaca: a file of preferences, any models.")] = None,
    responses: Annotated[Path | None, typer.Option(help="longen: a file of texts that are there.")] = None,
    corrected: Annotated[
        bool, typer.Option(help="alpaca: length control without the two oddities of the published one.")
    ] = False,
    max_missing: Annotated[
        float | None, typer.Option(min=0, max=1, help="Allowed share of missing judgements.")
    ] = None,
    output: OutputOption = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure policies on a suite; an interrupted evaluation goes on. `alpaca --annotations FILE`: win rates;
    `longen --responses FILE [--judge J]`: lengths of texts, and their quality."""
    unread: dict[str, Any] = {
        "--against": against,
        "--judge": judge,
        "--rubric": rubric,
        "--order": order,
        "--data": data,
    }
    unread |= {"--output": output, "key=value": changes or None}
    if annotations is not None:
        if suite != "alpaca" or policy:
            raise InputError(
                "--annotations belongs to `eval alpaca` and needs no --policy: the file holds the verdicts"
            )
        if useless := _given({**unread, "--limit": limit, "--responses": responses}):
            raise InputError(f"--annotations holds the verdicts already, so {useless} would change nothing")
        _win_rates(annotations, corrected, 0.1 if max_missing is None else max_missing, as_json)
        return
    if responses is not None:
        asked = {"--policy": policy or None, "--corrected": corrected or None}
        of_judge = {"--judge": judge, "--rubric": rubric, "--max-missing": max_missing, "--output": output}
        if useless := _given({name: value for name, value in unread.items() if name not in of_judge} | asked):
            raise InputError(f"--responses holds the texts already, so leave {useless} out")
        if judge is not None:
            chosen: dict[str, Any] = {"suite": suite, "data": str(responses), "judge": judge_of(judge, rubric)}
            chosen |= {} if max_missing is None else {"max_missing": max_missing}
            names = ["eval", Path(suite).stem, responses.stem, f"by-{judge_name(judge)}"]
            values = {
                "method": "evaluate_responses",
                "output": str(output or default_output(*names)),
                "evaluate": [chosen],
                "sampling": {"backend": backend},
            }
            _run(values | ({"evaluate_limit": limit} if limit else {}), as_json)
        elif useless := _given(of_judge):
            raise InputError(f"--responses without --judge reads no model and keeps nothing, so leave {useless} out")
        else:
            _length_scores(suite, responses, limit, as_json)
        return
    if not policy:
        files = {"alpaca": "--annotations FILE.csv,", "longen": "--responses FILE.jsonl,"}
        needed = f"--policy, or {files[suite]}" if suite in files else "--policy"
        raise InputError(f"eval {suite}: {needed} is missing")
    if corrected:
        raise InputError("--corrected belongs to --annotations; write the verdicts of this evaluation there afterwards")
    change = _changes(changes or ())
    given: dict[str, Any] = {"against": against, "order": order, "rubric": rubric}
    given["judge"] = judge_of(judge, rubric) if judge else None
    given |= {"data": str(data) if data else None, "max_missing": max_missing}
    change |= {key: value for key, value in given.items() if value is not None}
    policies = _policies(policy)
    names = [Path(suite).stem, *policies[:1], *([f"and-{len(policies) - 1}-more"] if policies[1:] else [])]
    names += [f"vs-{against}"] if against else []
    names += [f"by-{judge_name(judge)}"] if judge else []
    values = {
        "method": "evaluate",
        "model": policies[0],
        "policies": policies[1:],
        "output": str(output or default_output("eval", *names)),
        "evaluate": [{"suite": suite, **change}],
        "sampling": {"backend": backend},
    }
    _run(values | ({"evaluate_limit": limit} if limit else {}), as_json)


@eval_app.command(name="judge")
def judge_command(
    changes: Annotated[
        list[str] | None, typer.Argument(help="key=value: how the data are read (fields.label=winner), and suite keys.")
    ] = None,
    judge: JudgeOption = None,
    data: Annotated[
        str, typer.Option(help="A suite of kind `judge` (llmbar, human-votes), or a file of pairs.")
    ] = "llmbar",
    rubric: RubricOption = None,
    limit: LimitOption = None,
    max_missing: MissingOption = None,
    output: OutputOption = None,
    backend: BackendOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure a judge on pairs of answers with a known better one, in both orders."""
    if judge is None:
        raise InputError("eval judge: --judge is missing: a judge's YAML file, a policy, or http://host:port/v1#model")
    change: dict[str, Any] = {"judge": judge_of(judge, rubric)}
    suite = data
    if data.endswith(KINDS):
        suite, change = "llmbar", change | {"data": data, "name": Path(data).stem}
    change |= _changes(changes or ())
    change |= {} if max_missing is None else {"max_missing": max_missing}
    names = ["eval-judge", Path(data).stem, f"by-{judge_name(judge)}", *([f"with-{rubric}"] if rubric else [])]
    values = {
        "method": "evaluate_judge",
        "output": str(output or default_output(*names)),
        "evaluate": [{"suite": suite, **change}],
        "sampling": {"backend": backend},
    }
    _run(values | ({"evaluate_limit": limit} if limit else {}), as_json)


@eval_app.command(name="lm-eval")
def lm_eval_command(
    tasks: Annotated[str, typer.Option(help="Tasks, groups or tags of lm-eval, with commas between them.")],
    policy: Annotated[str, typer.Option(help="Built-in name, hub id, model or adapter folder, or runs/x[@M1].")],
    limit: LimitOption = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="Solved examples before each question.")] = None,
    include_path: Annotated[Path | None, typer.Option(help="A folder of task files of your own.")] = None,
    chat: Annotated[bool, typer.Option("--chat", help="Write prompts with the model's chat template.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 8,
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a policy, adapters included, on tasks of EleutherAI's lm-evaluation-harness."""
    from selfimprove.judging.asking import short_name
    from selfimprove.models.resolve import resolve_policy
    from selfimprove.suites.lm_eval import run_tasks

    found = resolve_policy(policy, short_name(policy))
    with stoppable():
        figures = run_tasks(
            found,
            [name.strip() for name in tasks.split(",") if name.strip()],
            limit=limit,
            num_fewshot=num_fewshot,
            include_path=include_path,
            chat=chat,
            batch_size=batch_size,
            output=output or default_output("eval-lm-eval", policy),
        )
    if as_json:
        print(json.dumps([figure.as_json() for figure in figures]))
        return
    table = NarrowTable("task", "metric", box=None, pad_edge=False)
    for name in ("value", "standard error", "n", "few-shot"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in figures:
        metric = one.metric if one.filter == "none" else f"{one.metric}, {one.filter}"
        error = "" if one.standard_error is None else f"{one.standard_error:.4f}"
        shots = "" if one.num_fewshot is None else str(one.num_fewshot)
        table.add_row(Text(printable(one.task)), Text(printable(metric)), f"{one.value:.4f}", error, str(one.n), shots)
    out.print(table)


def _run(values: dict[str, Any], as_json: bool) -> None:
    from selfimprove.recipe.recipe import make_recipe

    recipe = make_recipe(values, where="eval")
    from selfimprove.report.evaluation_json import as_json as objects
    from selfimprove.report.evaluation_tables import evaluation_views
    from selfimprove.runs.execute import run as execute

    with stoppable():
        result = execute(recipe)
    if as_json:
        print(json.dumps(objects(result.events)))
        return
    for view in evaluation_views(result.events):
        out.print(view)
    out.print(f"report: {result.report}", soft_wrap=True, highlight=False)


def judge_of(text: str, rubric: str | None) -> dict[str, Any]:
    """`--judge` as a suite's `judge`: a YAML file with its keys, a judge's folder (`runs/x/judge`), a server
    `http://host:port/v1#model`, or a policy. `--rubric` replaces the file's or the folder's.

    Checked here, before its text becomes part of a folder's name or a file: it may hold a key that belongs in neither.
    """
    from pydantic import ValidationError

    from selfimprove.recipe.judges import Reader, said_of

    values = _judge_values(text) | ({"rubric": rubric} if rubric else {})
    if rubric and is_judge_folder(text):  # the model in it reads the other rubric
        values["model"] = text
    try:
        Reader.model_validate(values)
    except ValidationError as error:
        raise InputError("\n".join(f"--judge: {said_of(one, Reader)}" for one in error.errors())) from None
    return values


def is_judge_folder(text: str) -> bool:
    """Whether `--judge` names a folder with a rubric and, usually, a model in it."""
    return (Path(text).expanduser() / "rubric.yaml").is_file()


def judge_name(text: str) -> str:
    """`--judge` in a folder's name: of a judge's folder also its parent, since every run's is called `judge`."""
    return "-".join(Path(text).expanduser().absolute().parts[-2:]) if is_judge_folder(text) else _short(text)


def _judge_values(text: str) -> dict[str, Any]:
    if text.endswith((".yaml", ".yml")):
        path = Path(text).expanduser()
        try:
            values = load_yaml(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"--judge: {path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise InputError(f"--judge: {path}: a mapping of keys is needed (`model` or `server`, `rubric`, `prices`)")
        own = path.parent / str(values.get("rubric"))
        return values | ({"rubric": str(own.resolve())} if (own / "rubric.yaml").is_file() else {})
    if is_judge_folder(text):
        return {"rubric": str(Path(text).expanduser())}
    if text.startswith(("http://", "https://")):
        url, mark, model = text.partition("#")
        if not mark or not model:
            raise InputError(f"--judge: {url}: which model? Write {url}#MODEL, as the server names it")
        return {"server": {"base_url": url, "model": model}}
    return {"model": text}


def _policies(given: Sequence[str]) -> list[str]:
    """`runs/x@all` becomes every policy of that run."""
    from selfimprove.models.resolve import policies_of_run

    found = []
    for one in given:
        place, _, name = one.partition("@")
        if name == "all" and (Path(place) / "recipe.yaml").is_file():
            found += policies_of_run(Path(place))
        else:
            found.append(one)
    return found


def _changes(texts: Sequence[str]) -> dict[str, Any]:
    """The keys of the suite that `key=value` replaces; `fields.label=winner` and `where.turn=1` add to how its data are
    read."""
    changes: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"{text!r}: expected key=value, for example max_new_tokens=256")
        try:
            read = load_yaml(value)
        except yaml.YAMLError as error:
            raise InputError(f"{text!r}: the value is not valid YAML: {error}") from error
        key = key.removeprefix("data.")
        section, dot, name = key.partition(".")
        if dot and section in ("fields", "where"):
            changes.setdefault(section, {})[name] = read
        else:
            changes[key] = read
    return changes


def _given(options: dict[str, Any]) -> str:
    """The names of the options that were given."""
    return ", ".join(name for name, value in options.items() if value is not None)


def _length_scores(suite: str, responses: Path, limit: int | None, as_json: bool) -> None:
    from selfimprove.report.evaluation_json import as_json as objects
    from selfimprove.report.evaluation_tables import evaluation_views
    from selfimprove.suites.longen import score_responses

    event = score_responses(responses, suite, limit)
    if as_json:
        print(json.dumps(objects([event])))
        return
    for view in evaluation_views([event]):
        out.print(view)


def _win_rates(annotations: Path, corrected: bool, max_missing: float, as_json: bool) -> None:
    from selfimprove.report.terminal import Progress
    from selfimprove.suites.alpaca import measure, read_annotations

    count = len(read_annotations(annotations))
    found = []
    with stoppable(), Progress().task("win rates", count, "models") as advance:
        for one in measure(annotations, corrected, max_missing):
            found.append(one)
            advance(1)
    if as_json:
        print(json.dumps([one.as_json() for one in found]))
        return
    table = NarrowTable("model", keep=2, box=None, pad_edge=False)
    missing = any(one.rate.missing for one in found)
    for name in ("win rate, %", "LC win rate, %", "n", *(["missing"] if missing else []), "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(found, key=lambda one: -one.controlled.win_rate if one.controlled else float("inf")):
        rate, controlled = one.rate, one.controlled
        table.add_row(
            Text(printable(one.model)),
            f"{rate.win_rate:.1f} [{rate.low:.1f}, {rate.high:.1f}]",
            f"{controlled.win_rate:.1f} [{controlled.low:.1f}, {controlled.high:.1f}]" if controlled else "none",
            str(rate.n),
            *([str(rate.missing)] if missing else []),
            f"{one.mean_length:,.0f}",
        )
    out.print(table)
    out.print(
        "\\[95%] over instructions; mean length in characters; LC, at equal lengths: "
        + ("corrected, not comparable with published numbers." if corrected else "as published (docs/evaluation.md)."),
        highlight=False,
    )
    for one in found:
        if warning := one.warning():
            out.print(Text(f"{printable(one.model)}: {warning}"))
        if one.uncontrolled:
            out.print(Text(f"No LC win rate of {printable(one.model)}: {one.uncontrolled}."))


def default_output(*names: str) -> Path:
    """`runs/NAME-NAME`: where a command works if no `--output` says so."""
    return Path("runs") / _slug("-".join(map(_short, names)))


def _short(text: str) -> str:
    return text.rstrip("/").split("/")[-1].removesuffix(".yaml").removesuffix(".json")


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in text).strip("-.")[:100]
