"""Models in memory: one base in a process, with as many adapters on it as were asked for."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import Artefact
from selfimprove.errors import InputError
from selfimprove.models.adapters import added_rows, attach
from selfimprove.models.configuration import without_router_loss
from selfimprove.models.context import read_config
from selfimprove.models.policy import Policy, adapter_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


def verify_policy(policy: Policy) -> None:
    """Full check of a policy that a step of ours made, on its first use in this process."""
    for place in filter(None, (policy.adapter, policy.base)):
        folder = Path(place).absolute().parent
        if (folder / "manifest.json").is_file() and folder not in _verified:
            artefact = Artefact.read(folder)
            if artefact.readable:  # a model of the user's may lie beside a manifest.json of another kind
                artefact.verify()
            _verified.add(folder)


_verified: set[Path] = set()


def load_base(policy: Policy, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """The policy's base without its adapter, in evaluation mode."""
    import torch
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {
        "dtype": dtype,
        "trust_remote_code": policy.trust_remote_code,
        "use_safetensors": True,
    }
    verify_policy(policy)
    try:
        model = AutoModelForCausalLM.from_pretrained(policy.base, **options)
    except (OSError, ValueError, ImportError, RuntimeError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        if "Unrecognized configuration class" in str(error):
            name = ", ".join(read_config(Path(policy.base)).get("architectures") or ["model"])
            raise InputError(
                f"model: {policy.base} is a {name}, which the installed Transformers does not open as a language model "
                "(AutoModelForCausalLM); use a model of text, or the language model of this one saved by itself"
            ) from error
        said = " ".join(str(error).split())[:500]
        raise InputError(f"model: {policy.base} cannot be loaded: {said}") from error
    model = model.to(device).eval()
    without_router_loss(model)
    from selfimprove.models.selftest import check_cache  # it needs torch, which takes seconds

    check_cache(model, policy)
    return model


class ModelPool:
    """One base in memory, with as many adapters on it as were asked for; switching an adapter loads no base.

    Process-wide (`MODELS`), so that the steps of one process share a load. `free` gives the memory back.
    """

    def __init__(self) -> None:
        self._base_key: tuple[Any, ...] | None = None
        self._model: Any = None
        self._adapters: set[str] = set()
        self._alone: str | None = None  # digest of an adapter that shares its base with no other policy

    def get(self, policy: Policy, dtype: torch.dtype, device: str) -> tuple[Any, AbstractContextManager[Any]]:
        """(model, context in which it is the policy). Use the model only inside the context."""
        import torch

        # Callers may be in inference mode; tensors made there could never be switched to or trained later.
        with torch.inference_mode(False):
            return self._get(policy, dtype, device)

    def _get(self, policy: Policy, dtype: torch.dtype, device: str) -> tuple[Any, AbstractContextManager[Any]]:
        key = (policy.base, policy.base_digest, dtype, device)
        if key != self._base_key or self._alone not in (None, policy.adapter_digest):
            self.free()
            self._model, self._base_key = load_base(policy, dtype, device), key
        if policy.adapter is None:
            return self._model, self._model.disable_adapter() if self._adapters else nullcontext()
        adapter_name = f"a{policy.adapter_digest}"
        if adapter_name not in self._adapters:
            verify_policy(policy)
            # PEFT takes adapters of one type only on a model, and a larger vocabulary changes the base itself.
            rows = self._model.get_input_embeddings().weight.shape[0]
            if adapter_config(Path(policy.adapter))["peft_type"] != "LORA" or added_rows(policy, rows):
                if self._adapters:
                    self.free()
                    self._model, self._base_key = load_base(policy, dtype, device), key
                self._alone = policy.adapter_digest
            try:
                self._model = attach(self._model, policy, adapter_name).eval()
            except BaseException:
                self.free()  # half an adapter may be on it
                raise
            self._adapters.add(adapter_name)
        self._model.set_adapter(adapter_name)
        return self._model, nullcontext()

    def free(self) -> None:
        """Drops the model and returns its memory to the device."""
        import torch

        self._model, self._base_key, self._adapters, self._alone = None, None, set(), None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


MODELS = ModelPool()
