"""Libraries speak only when something is wrong."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from selfimprove.errors import Interrupted


def quiet_libraries() -> None:
    """Turns off progress bars, advice and deprecation warnings of the libraries underneath.

    `SELFIMPROVE_VERBOSE=1` leaves everything as the libraries have it.
    """
    if os.environ.get("SELFIMPROVE_VERBOSE"):
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    import logging

    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    for name in ("trl", "accelerate", "peft", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message=".*pin_memory.*")


@contextmanager
def stoppable() -> Iterator[None]:
    """Says how to go on after Ctrl-C, where typer would end without a word."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command goes on from here") from None
