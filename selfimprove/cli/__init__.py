"""The commands; `main` is what the script `selfimprove` calls."""

from __future__ import annotations


def main() -> None:
    """See `selfimprove.cli.app`."""
    from selfimprove.cli.app import main as run

    run()
