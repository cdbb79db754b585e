"""The commands. Exit codes: 0 done, 1 failed while running, 2 the user's input is wrong, 130 interrupted."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table

from selfimprove.cli.evaluate import eval_app
from selfimprove.cli.judge import answer, judge
from selfimprove.errors import InputError, RunFailed, SelfImproveError
from selfimprove.quiet import stoppable
from selfimprove.report.text import visible
from selfimprove.shipped import recipe_file, recipes_folder, shipped_recipes, shipped_suites

app = typer.Typer(
    help="A language model generates, judges its own answers, trains on what it judged, and does it again.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
out = Console()
RecipeArgument = Annotated[str, typer.Argument(help="A YAML file, or a shipped recipe's name: `quickstart`.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.sub=value: replaces a key of the recipe.")]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder, for example runs/quickstart.")]


@app.command()
def run(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Run a recipe; run it again to go on where it stopped."""
    from selfimprove.recipe.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.report.outcome import never_accepted, outcome_sentences
    from selfimprove.report.terminal import before_after_table, rounds_table, stages_table
    from selfimprove.runs.execute import run as execute

    with stoppable():
        result = execute(resolved)
    for sentence in outcome_sentences(result.events):
        out.print(sentence, style="bold", highlight=False, markup=False, soft_wrap=True)
    for table in (
        rounds_table(result.events),
        before_after_table(result.events),
        stages_table(result.events),
    ):
        if table.row_count:
            out.print()
            out.print(table)
    if never := never_accepted(result.events):
        out.print(never, highlight=False, markup=False, soft_wrap=True)
    out.print()
    final = result.folder / "policies" / "final"
    if result.policy_folder:
        out.print(f"policy: {final if final.exists() else result.policy_folder}", soft_wrap=True, highlight=False)
    out.print(f"report: {result.report}", soft_wrap=True, highlight=False)
    if result.kept:
        out.print(result.kept, soft_wrap=True, highlight=False, markup=False)


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Validate a recipe and its data, show three rendered examples, estimate cost. Writes nothing."""
    from selfimprove.recipe.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.cli.check import check_recipe

    with stoppable():
        check_recipe(resolved, out)


@app.command()
def status(
    folder: RunFolder,
    verify: Annotated[bool, typer.Option(help="Read every file and compare digests.")] = False,
) -> None:
    """What a run has finished, and whether a process is working on it."""
    from selfimprove.cli.check import print_status

    print_status(folder, verify, out)


@app.command()
def report(folder: RunFolder) -> None:
    """Write the run's report.html again from its metrics."""
    from selfimprove.report.events import FILE_NAME, read_events
    from selfimprove.report.page import write_report
    from selfimprove.report.terminal import stages_table

    written = write_report(folder)
    if (table := stages_table(read_events(folder / FILE_NAME))).row_count:
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


app.add_typer(eval_app, name="eval")
app.command()(judge)
app.command()(answer)


@app.command()
def ls() -> None:
    """List the shipped recipes, evaluation suites and judges' rubrics."""
    import yaml

    from selfimprove.judging.rubric import load_rubric, shipped_rubrics

    recipes = Table(Column("recipe", no_wrap=True), "method", "model", box=None, pad_edge=False)
    for name, path in shipped_recipes().items():
        values = yaml.safe_load(path.read_text())
        recipes.add_row(name, values["method"], values["model"])
    suites = Table("suite", "about", box=None, pad_edge=False)
    for name, path in shipped_suites().items():
        suites.add_row(name, " ".join(yaml.safe_load(path.read_text()).get("description", "").split()))
    rubrics = Table(Column("rubric", no_wrap=True), "of", "about", box=None, pad_edge=False)
    for name in shipped_rubrics():
        options = load_rubric(name, ()).options
        rubrics.add_row(name, options.of, " ".join(options.description.split()))
    for table in (recipes, suites, rubrics):
        out.print(table)
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
def doctor() -> None:
    """Say what is installed, which backends work, and what is missing."""
    from selfimprove.cli.check import print_doctor

    if not print_doctor(out):
        raise typer.Exit(1)


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
