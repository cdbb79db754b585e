"""What a step is asked for, and the key by which its result is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfimprove.artefacts import Row, digest_of, rows_digest
from selfimprove.models.policy import Policy
from selfimprove.registry import find


@dataclass(frozen=True)
class StepRequest:
    """Everything that can change a step's result, and (`execution`) what cannot beyond rounding.

    `policies` maps a role ("policy", "start") to a policy; `inputs` are rows, written into the step's folder so
    that it can be worked on from there alone.
    """

    step: str
    label: str
    options: Mapping[str, Any]
    inputs: Mapping[str, Sequence[Row]]
    policies: Mapping[str, Policy]
    seed: int
    execution: Mapping[str, Any]
    total: int | None = None
    processes: int = 1
    accelerate: str | None = None

    def key(self) -> str:
        """Content key: step and version, options, digests of inputs and policies, seed. Not: paths, batch sizes,
        devices, number of processes."""
        return digest_of(
            {
                "step": self.step,
                "version": find("step", self.step).version,
                "options": dict(self.options),
                "inputs": {name: rows_digest(rows) for name, rows in self.inputs.items()},
                "policies": {role: policy.digest for role, policy in self.policies.items()},
                "seed": self.seed,
            }
        )
