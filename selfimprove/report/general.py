"""The parts of every report: what was measured, what methods reported, training, and time."""

from __future__ import annotations

from selfimprove.report.part import Maker

GENERAL: tuple[Maker, ...] = ()
