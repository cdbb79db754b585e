"""`python -m selfimprove.study STUDY.yaml [key=value ...]`. Exit codes: 0 done, 1 a run failed, 2 wrong input."""

from __future__ import annotations

import argparse
import sys

from selfimprove.errors import SelfImproveError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m selfimprove.study",
        description="Runs the arms of one recipe with every seed; run it again to go on where it stopped.",
    )
    parser.add_argument("study", help="a study's YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="replaces a key of the study file")
    given = parser.parse_args()
    from selfimprove.quiet import stoppable
    from selfimprove.study.plan import load_study
    from selfimprove.study.run import run_study

    try:
        study = load_study(given.study, given.overrides)
        with stoppable():
            finished = run_study(study)
    except SelfImproveError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    for sentence in finished.sentences:
        print(sentence)
    print(f"study: {finished.page}")
    if finished.failed:
        print(f"error: {len(finished.failed)} of {finished.runs} runs failed:", file=sys.stderr)
        for name, why in finished.failed.items():
            print(f"  {name}: {why}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
