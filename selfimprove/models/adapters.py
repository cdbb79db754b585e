"""A PEFT adapter's folder, which is more than its weights: the base it names, its kind, perhaps its own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from selfimprove.artefacts import write_json
from selfimprove.errors import InputError
from selfimprove.models.policy import (
    ADAPTER_WEIGHTS,
    Policy,
    adapter_config,
    load_tokenizer,
    portable_name,
    tokenizer_folder,
)


def added_rows(policy: Policy, rows: int) -> int | None:
    """The vocabulary that a base of `rows` embeddings must be resized to before the adapter fits; None where it fits.

    Raises InputError where the adapter has a larger tokenizer and not the embeddings that belong to it.
    """
    if policy.adapter is None or tokenizer_folder(policy) == policy.base:
        return None
    from safetensors import safe_open

    wanted = len(load_tokenizer(policy))
    if wanted <= rows:
        return None
    with safe_open(Path(policy.adapter) / ADAPTER_WEIGHTS, framework="pt") as tensors:
        names = list(tensors.keys())
        held = any("trainable_tokens" in n or tensors.get_slice(n).get_shape()[:1] == [wanted] for n in names)
    if not held:
        raise InputError(
            f"model: the tokenizer in {policy.adapter} has {wanted} tokens, its base {policy.base} has embeddings for "
            f"{rows}, and the adapter holds none for the others; save it with its embeddings (PEFT: modules_to_save)"
        )
    return wanted


def attach(model: Any, policy: Policy, name: str = "default", trainable: bool = False) -> Any:
    """The base with the policy's adapter on it, as PEFT's AutoPeftModel does it: first the base gets the embeddings
    that the adapter's tokenizer needs. Raises InputError where the adapter is none for this base."""
    from peft import PeftModel

    if wanted := added_rows(policy, model.get_input_embeddings().weight.shape[0]):
        model.resize_token_embeddings(wanted, mean_resizing=False)
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(policy.adapter, adapter_name=name, is_trainable=trainable)
        else:
            model = PeftModel.from_pretrained(model, policy.adapter, adapter_name=name, is_trainable=trainable)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        if "out of memory" in str(error):
            raise
        first = str(error).strip().splitlines()
        raise InputError(
            f"model: the adapter {policy.adapter} does not fit its base {policy.base}: {' '.join(first[:2])}"
        ) from error
    # As PEFT reads it for what it saves: here, not where the adapter was made.
    model.peft_config[name].base_model_name_or_path = policy.base
    model.peft_config[name].revision = None
    return model


def check_trainable(policy: Policy, lora: dict[str, Any]) -> None:
    """Raises InputError where the policy's adapter is not what `training.lora` describes, so cannot go on as that."""
    if policy.adapter is None:
        return
    config = adapter_config(Path(policy.adapter))
    if config["peft_type"] != "LORA":
        raise InputError(
            f"model: {policy.adapter} is an adapter of type {config['peft_type']}; only a LoRA adapter can be trained "
            "further. Merge it into its base (PEFT: merge_and_unload), and give that model"
        )
    for key, name in (("r", "r"), ("alpha", "lora_alpha")):
        if config.get(name) != lora[key]:
            raise InputError(
                f"training.lora.{key}: {lora[key]}, but the adapter to go on with has {config.get(name)} "
                f"({policy.adapter})"
            )
    wanted, found = lora["target_modules"], config.get("target_modules")
    as_listed = not config.get("target_parameters")  # else PEFT has put experts, which are parameters now, among those
    if as_listed and isinstance(wanted, list) and isinstance(found, list) and set(wanted) != set(found):
        raise InputError(
            f"training.lora.target_modules: {', '.join(sorted(wanted))}, but the adapter to go on with has "
            f"{', '.join(sorted(found))} ({policy.adapter})"
        )


def name_base(folder: Path) -> None:
    """Writes into a saved adapter the hub's name and commit of its base in place of this machine's cache folder.

    A local folder stays, and so does a built-in's: plain PEFT knows no built-in by name, and `resolve_policy` finds it
    by the folder's name where the cache lies elsewhere.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    name, revision = portable_name(str(config["base_model_name_or_path"]))
    if revision is not None:
        write_json(file, {**config, "base_model_name_or_path": name, "revision": revision})
