"""This machine's matrix speed, kept by `selfimprove doctor`: what `check` measures beside other work is too low."""

from __future__ import annotations

import json
import platform
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from selfimprove.artefacts import write_json
from selfimprove.errors import RunFailed
from selfimprove.models.builtin import cache_folder
from selfimprove.steps.floor import Speed, machine_speed


def speed_here(dtype: str, device: str) -> Speed:
    """The kept one, else measured now (half a second)."""
    with suppress(OSError, ValueError, TypeError):
        return Speed(**json.loads(_file(dtype, device).read_text()))
    return machine_speed(dtype, device)


def keep_speed(dtype: str, device: str) -> Speed:
    """Measures it now, and keeps it where the cache can be written."""
    speed = machine_speed(dtype, device)
    with suppress(OSError, RunFailed):
        _file(dtype, device).parent.mkdir(parents=True, exist_ok=True)
        write_json(_file(dtype, device), asdict(speed))
    return speed


def _file(dtype: str, device: str) -> Path:
    return cache_folder() / "speed" / f"{platform.node()}-{device.replace(':', '-')}-{dtype}.json"
