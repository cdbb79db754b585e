"""The commands. Exit codes: 0 done, 1 failed while running, 2 the user's input is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from selfimprove.errors import InputError, RunFailed, SelfImproveError
from selfimprove.reporting.text import printable
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
    from selfimprove.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.execute import run as execute
    from selfimprove.reporting.terminal import rounds_table

    with _stoppable():
        result = execute(resolved)
    table = rounds_table(result.events)
    if table.row_count:
        out.print(table)
    final = result.folder / "policies" / "final"
    out.print(f"policy: {final if final.exists() else result.policy_folder}", soft_wrap=True, highlight=False)
    out.print(f"report: {result.report}", soft_wrap=True, highlight=False)


@app.command()
def check(recipe: RecipeArgument, overrides: Overrides = None) -> None:
    """Validate a recipe and its data, show three rendered examples, estimate cost. Writes nothing."""
    from selfimprove.recipe import load_recipe

    resolved = load_recipe(recipe, overrides or [])
    from selfimprove.checking import check_recipe

    check_recipe(resolved, out)


@app.command()
def status(
    folder: RunFolder,
    verify: Annotated[bool, typer.Option(help="Read every file and compare digests.")] = False,
) -> None:
    """What a run has finished, and whether a process is working on it."""
    from selfimprove.checking import print_status

    print_status(folder, verify, out)


@app.command()
def report(folder: RunFolder) -> None:
    """Write the run's report.html again from its metrics."""
    from selfimprove.reporting.report import write_report

    out.print(str(write_report(folder)), soft_wrap=True, highlight=False)


@app.command(name="eval")
def evaluate(
    suite: Annotated[str, typer.Argument(help="A shipped suite (`selfimprove ls`) or a YAML file; or `alpaca`.")],
    policy: Annotated[
        str | None, typer.Option(help="Built-in name, hub id, model or adapter folder, or runs/x[@M1].")
    ] = None,
    annotations: Annotated[Path | None, typer.Option(help="alpaca: a CSV file of preferences, any models.")] = None,
    corrected: Annotated[
        bool, typer.Option(help="alpaca: length control without the two oddities of the published one.")
    ] = False,
    max_missing: Annotated[float, typer.Option(min=0, max=1, help="alpaca: allowed share of missing ones.")] = 0.1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first items.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for its artefacts.")] = None,
    backend: Annotated[str, typer.Option(help="Sampler: auto, vllm or transformers.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")] = False,
) -> None:
    """Measure a policy on a suite; an interrupted evaluation goes on. `eval alpaca --annotations FILE`: win rates."""
    if annotations is not None:
        if suite != "alpaca" or policy is not None:
            raise InputError(
                "--annotations belongs to `eval alpaca` and needs no --policy: the file holds the verdicts"
            )
        _win_rates(annotations, corrected, max_missing, as_json)
    elif policy is None:
        needed = "--annotations FILE.csv" if suite == "alpaca" else "--policy"
        raise InputError(f"eval {suite}: {needed} is missing")
    else:
        _accuracy(suite, policy, limit, output, backend, as_json)


def _accuracy(suite: str, policy: str, limit: int | None, output: Path | None, backend: str, as_json: bool) -> None:
    from selfimprove.recipe import make_recipe

    folder = output or Path("runs") / f"eval-{Path(suite).stem}-{_slug(policy)}"
    values = {
        "method": "evaluate",
        "model": _policy_folder(policy),
        "output": str(folder),
        "evaluate": [suite],
        "sampling": {"backend": backend},
    }
    resolved = make_recipe(values | ({"evaluate_limit": limit} if limit else {}), where="eval")
    from selfimprove.execute import run as execute

    with _stoppable():
        result = execute(resolved)
    found = [event for event in result.events if event["event"] == "evaluation"][-1]
    if as_json:
        keys = ("suite", "metric", "value", "low", "high", "n", "failures", "groups", "policy_digest")
        print(json.dumps({key: found[key] for key in keys}))
        return
    out.print(
        f"{found['suite']}: {100 * found['value']:.1f}% [{100 * found['low']:.1f}, {100 * found['high']:.1f}] "
        f"of {found['n']} items (95% interval, Wilson)",
        highlight=False,
    )
    for name, group in found["groups"].items():
        out.print(f"  {name}: {100 * group['value']:.1f}% of {group['n']}", highlight=False)
    if found["failures"]:
        out.print(f"  counted as wrong: {found['failures']}", highlight=False)


def _win_rates(annotations: Path, corrected: bool, max_missing: float, as_json: bool) -> None:
    from selfimprove.evaluation.alpaca import measure, read_annotations
    from selfimprove.reporting.terminal import Progress

    count = len(read_annotations(annotations))
    found = []
    with _stoppable(), Progress().task("win rates", count, "models") as advance:
        for one in measure(annotations, corrected, max_missing):
            found.append(one)
            advance(1)
    if as_json:
        print(json.dumps([one.as_json() for one in found]))
        return
    table = Table("model", box=None, pad_edge=False)
    missing = any(one.rate.missing for one in found)
    for name in ("win rate, %", "LC win rate, %", "n", *(["missing"] if missing else []), "length"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in sorted(found, key=lambda one: -one.controlled.win_rate):
        rate, controlled = one.rate, one.controlled
        table.add_row(
            Text(printable(one.model)),
            f"{rate.win_rate:.1f} [{rate.low:.1f}, {rate.high:.1f}]",
            f"{controlled.win_rate:.1f} [{controlled.low:.1f}, {controlled.high:.1f}]",
            str(rate.n),
            *([str(rate.missing)] if missing else []),
            f"{one.mean_length:,.0f}",
        )
    out.print(table)
    out.print(
        "\\[95%] by bootstrap over instructions; mean length in characters; LC, at equal lengths: "
        + ("corrected, not comparable with published numbers." if corrected else "as published (docs/evaluation.md)."),
        highlight=False,
    )


@app.command()
def ls() -> None:
    """List the shipped recipes and evaluation suites."""
    import yaml

    recipes = Table(Column("recipe", no_wrap=True), "method", "model", box=None, pad_edge=False)
    for name, path in shipped_recipes().items():
        values = yaml.safe_load(path.read_text())
        recipes.add_row(name, values["method"], values["model"])
    suites = Table("suite", "about", box=None, pad_edge=False)
    for name, path in shipped_suites().items():
        suites.add_row(name, " ".join(yaml.safe_load(path.read_text()).get("description", "").split()))
    out.print(recipes)
    out.print()
    out.print(suites)


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
    from selfimprove.checking import print_doctor

    if not print_doctor(out):
        raise typer.Exit(1)


@contextmanager
def _stoppable() -> Iterator[None]:
    """Says how to go on after Ctrl-C, where typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise RunFailed("interrupted; the same command goes on from here") from None


def _policy_folder(policy: str) -> str:
    """A model string; `runs/x` means its final policy, `runs/x@M1` that one."""
    place, _, name = policy.partition("@")
    if (Path(place) / "recipe.yaml").is_file():
        found = Path(place) / "policies" / (name or "final")
        if not found.is_dir():
            have = sorted(path.name for path in (Path(place) / "policies").glob("*"))
            raise InputError(
                f"--policy: {place} has no policy {name or 'final'!r}; it has: {', '.join(have) or 'none'}"
            )
        return str(found.resolve())
    return policy


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() or c in "-._" else "-" for c in text).strip("-.")[-60:]


def main() -> None:
    """Entry point of the `selfimprove` command."""
    try:
        app()
    except SelfImproveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
