"""The worker of a training step with accelerate's FSDP switched on for the CPU: `accelerate launch ... fsdp_on_cpu.py
STEP_DIR SHARD`.

accelerate 1.15 reads an FSDP file on the CPU and then trains plain copies, without a word (`tests/test_fsdp.py` pins
that). torch's FSDP2 itself works over gloo, so this switches it on, and leaves in the step's folder what share of the
weights this process held.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import accelerate.accelerator
import accelerate.state
import torch
from accelerate.utils import DistributedType

from selfimprove.steps import worker

_init = accelerate.state.AcceleratorState.__init__
_prepare = accelerate.accelerator.fsdp2_prepare_model


def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **options: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **options)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin
        accelerate.state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def _noted(accelerator: Any, model: Any) -> Any:
    prepared = _prepare(accelerator, model)
    whole = sum(parameter.numel() for parameter in prepared.parameters())
    held = sum(parameter.to_local().numel() for parameter in prepared.parameters())
    note = Path(sys.argv[1]) / f"share-{torch.distributed.get_rank()}.json"
    note.write_text(json.dumps(held / whole))
    return prepared


if __name__ == "__main__":
    accelerate.state.AcceleratorState.__init__ = _with_fsdp
    accelerate.accelerator.fsdp2_prepare_model = _noted
    worker.main()
