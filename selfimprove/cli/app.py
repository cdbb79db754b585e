"""The commands. Exit codes: 0 done, 1 failed while running, 2 the user's input is wrong, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from selfimprove.cli.evaluate import eval_app
from selfimprove.cli.judge import answer, judge
from selfimprove.cli.watch import watch
from selfimprove.errors import InputError, RunFailed, SelfImproveError
from selfimprove.quiet import stoppable
from selfimprove.report.events import plain
from selfimprove.report.text import visible
from selfimprove.shipped import recipe_file, recipes_folder

app = typer.Typer(
    help="A language model generates, judges its own answers, trains on what it judged, and does it again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe's name: `quickstart`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value: replaces a key of the recipe.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON value instead of tables.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, for example runs/quickstart.")]


@app.command()
def run(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Run a recipe; run it again to go on where it stopped."""
    from selfimprove.recipe.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.report.outcome import outcome_sentences
    from selfimprove.report.terminal import before_after_table, part_tables, rounds_table
    from selfimprove.runs.execute import run as execute

    with stoppable():
        result = execute(resolved)
    for sentence in outcome_sentences(result.events):
        out.print(sentence, style="bold", highlight=False, markup=False, soft_wrap=True)
    for table in (rounds_table(result.events), before_after_table(result.events), *part_tables(result.events)):
        if table.row_count:
            out.print()
            out.print(table)
    out.print()
    for line in result.last_lines():
        out.print(line, soft_wrap=True, highlight=False, markup=False)


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None, json: AsJson = False) -> None:
    """Validate a recipe and its data, say what it needs and whether it fits, show three examples. Writes nothing."""
    from selfimprove.recipe.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.cli.check import check_recipe

    with stoppable():
        figures = check_recipe(resolved, out, json)
    if json:
        print_json(figures)


@app.command()
def status(
    folder: RunFolder,
    verify: Annotated[bool, typer.Option(help="Read every file and compare digests.")] = False,
    json: AsJson = False,
) -> None:
    """What a run has finished, and whether a process is working on it."""
    from selfimprove.cli.status import events_of, status_of, steps_table
    from selfimprove.report.terminal import as_rich, part_tables

    found = status_of(folder, verify)
    damaged = [one["files"] for one in found["steps"] if one["damaged"]]
    if json:
        print_json(found)
    else:
        state = f"process {found['process']} is working on it" if found["process"] else "no process is working on it"
        state += f" (its vLLM engine: process {found['engine']})" if found["engine"] else ""
        said(f"{folder}: method {found['method']}, model {found['model']}; {found['state']}, {state}")
        for sentence in found["outcome"]:
            said(sentence)
        out.print(as_rich(steps_table(found)))
        said(f"folders are in {found['store']}")
        for one in found["under way"]:
            said(f"under way: {one['step']}: {one['shards']} of {one['of']} shards ({one['folder']})")
        for table in part_tables(events_of(folder)):
            out.print(table)
    if damaged:
        raise InputError("\n".join(["damaged (the next `selfimprove run` makes it again):", *damaged]))


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Two runs or more; changes are against the first.")],
    json: AsJson = False,
    page: Annotated[Path, typer.Option(help="Where the page is written.")] = Path("compare.html"),
) -> None:
    """Runs side by side: how their recipes differ, and paired changes on the items that they share."""
    from selfimprove.runs.compare import comparison, read_runs

    runs = read_runs(folders)
    sentences, parts = comparison(runs)
    if json:
        print_json({"outcome": sentences, "parts": [part.values() for part in parts]})
        return
    from selfimprove.report.page import page_of, write_page
    from selfimprove.report.terminal import as_rich

    for sentence in sentences:
        said(sentence, style="bold")
    for table in (table for part in parts for table in part.tables):
        out.print()
        out.print(as_rich(table))
    names = " and ".join(run.name for run in runs)
    written = write_page(page, page_of(f"{names} compared", sentences, parts))
    out.print()
    said(f"page: {written}")


@app.command()
def report(folder: RunFolder) -> None:
    """Write the run's report.html again from its metrics."""
    from selfimprove.report.events import FILE_NAME, read_events
    from selfimprove.report.page import write_report
    from selfimprove.report.terminal import part_tables

    written = write_report(folder)
    for table in part_tables(read_events(folder / FILE_NAME)):
        out.print(table)
    out.print(str(written), soft_wrap=True, highlight=False)


@app.command()
def study(
    file: Annotated[Path, typer.Argument(help="A study's YAML file: arms and seeds of a recipe.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.sub=value: replaces a key of the study.")] = None,
    page_only: Annotated[
        bool, typer.Option("--page-only", help="Run nothing: table and page of what there is.")
    ] = False,
) -> None:
    """Run the arms of a recipe with every seed, or go on with it; a page of paired differences and claims."""
    from selfimprove.study.plan import load_study

    planned = load_study(file, overrides or [])
    from selfimprove.study.run import run_study

    with stoppable():
        finished = run_study(planned, page_only=page_only)
    for sentence in finished.sentences:
        out.print(visible(sentence), highlight=False, markup=False, soft_wrap=True)
    out.print(f"study: {finished.page}", highlight=False, markup=False, soft_wrap=True)
    if finished.failed:
        failed = "".join(f"\n  {name}: {why}" for name, why in finished.failed.items())
        raise RunFailed(f"{len(finished.failed)} of {finished.runs} runs failed:{failed}")


app.command()(watch)
app.add_typer(eval_app, name="eval")
app.command()(judge)
app.command()(answer)


@app.command()
def ls(
    what: Annotated[str, typer.Argument(help="`recipes`, `suites`, `rubrics`, `runs`, or a folder of runs.")] = "",
    json: AsJson = False,
) -> None:
    """List the shipped recipes, suites and rubrics; or the runs in a folder, and what came of them."""
    from selfimprove.cli.listing import runs_below, runs_table, shipped_tables
    from selfimprove.report.terminal import as_rich

    tables = shipped_tables()
    if what and what not in tables:
        if what != "runs" and not Path(what).is_dir():
            raise InputError(f"ls {what}: expected {', '.join(tables)}, runs, or a folder of runs")
        tables = {"runs": runs_table(runs_below(Path(what)))}
    chosen = {name: table for name, table in tables.items() if not what or name == what or name == "runs"}
    if json:
        print_json({name: table.values() for name, table in chosen.items()})
        return
    for table in chosen.values():
        out.print(as_rich(table) if table else "none yet")
        out.print()


@app.command()
def cp(
    name: Annotated[str, typer.Argument(help="A shipped recipe's name.")],
    destination: Annotated[Path, typer.Argument(help="File or folder to copy to.")] = Path(),
) -> None:
    """Copy a shipped recipe here, to own and edit. Its data are still found in the package."""
    source = recipe_file(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists():
        raise InputError(f"{target}: exists already; give another name")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    out.print(
        f"{target} (relative data paths are looked for beside it, here, then in {recipes_folder()})",
        soft_wrap=True,
    )


@app.command()
def doctor(json: AsJson = False) -> None:
    """Say what is installed, which backends work, and what is missing."""
    from selfimprove.cli.doctor import looked_at
    from selfimprove.report.table import Col, Table
    from selfimprove.report.terminal import as_rich

    found = looked_at()
    if json:
        print_json(found)
    else:
        out.print(as_rich(Table("", found, [Col("what"), Col("found"), Col("note")])))
    if not all(row["good"] for row in found):
        raise typer.Exit(1)


def said(line: str, style: str = "") -> None:
    """Prints a line of plain text, whatever is in it."""
    out.print(visible(line), style=style, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Prints what a program reads: one JSON value, NaN as null."""
    print(dumps(plain(value), indent=1, ensure_ascii=False))


def main() -> None:
    """Entry point of the `selfimprove` command."""
    try:
        app()
    except SelfImproveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        print(f"error: {_kept_traceback(error)}", file=sys.stderr)
        sys.exit(1)


def _kept_traceback(error: Exception) -> str:
    """One line about an error that nobody expected, and where its traceback is; SELFIMPROVE_VERBOSE=1 shows it here."""
    if os.environ.get("SELFIMPROVE_VERBOSE"):
        traceback.print_exception(error)
    said = " ".join(str(error).split())
    line = f"{type(error).__name__}: {said[:300]}. This is a fault of selfimprove, or of a library under it"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="selfimprove-", suffix=".txt", delete=False) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return f"{line}; SELFIMPROVE_VERBOSE=1 shows where. Finished steps are kept"
    return f"{line}; its traceback: {file.name}. Finished steps are kept: the same command goes on from them"


if __name__ == "__main__":
    main()
