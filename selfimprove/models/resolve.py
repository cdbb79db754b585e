"""A policy from what a recipe says: a built-in name, a folder, a hub id, or a run's policy."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from selfimprove.artefacts import digest_of, write_json
from selfimprove.errors import InputError, RunFailed
from selfimprove.models.builtin import BUILTINS, cache_folder, fetch_builtin
from selfimprove.models.context import read_config
from selfimprove.models.opening import PLAIN, Opening
from selfimprove.models.policy import (
    TENSOR_FILES,
    Policy,
    adapter_config,
    load_tokenizer,
    model_digest,
    portable_name,
    tokenizer_folder,
)
from selfimprove.shipped import made_by

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def resolve_policy(model: str, name: str = "M0", opening: Opening = PLAIN) -> Policy:
    """A policy from what a recipe says: a built-in name, a local folder (model, adapter, judge), a hub id, or a run.

    `runs/x` is the final policy of that run, `runs/x@M1` that one, `runs/x@M0` its model. A hub id may carry a revision
    (`org/model@revision`). Weights are read as safetensors only.
    """
    base, adapter = _locate(model)
    if adapter is not None:
        config = adapter_config(adapter)
        named, revision = config["base_model_name_or_path"], config.get("revision")
        if not Path(named).expanduser().is_dir():  # of a cache elsewhere: ours has it, or fetches it
            known, commit = portable_name(named)
            named, revision = known, commit or revision
            named = f"{named}@{revision}" if revision else named
        try:
            base, inner = _locate(named)
        except InputError as error:
            raise InputError(f"{error} (the base of the adapter {adapter})") from error
        if inner is not None:
            raise InputError(f"model: {adapter} is an adapter on another adapter ({inner}); merge that one first")
    from safetensors import SafetensorError

    try:
        policy = Policy(
            name=name,
            base=str(base),
            base_digest=_cached_digest(base),
            adapter=str(adapter) if adapter else None,
            adapter_digest=model_digest(adapter) if adapter else None,
            trust_remote_code=opening.trust_remote_code,
            chat_template_kwargs=opening.chat_template_kwargs,
        )
    except SafetensorError as error:
        where = f"{base}, {adapter}" if adapter else str(base)
        raise InputError(f"model: a .safetensors file in {where} is damaged ({error}); fetch it again") from error
    from selfimprove.models.chat import template_digest

    tokenizer = load_tokenizer(policy)
    _check_vocabulary(policy, tokenizer)
    policy = replace(policy, tokenizer_digest=template_digest(tokenizer))
    start = start_of_run(model)
    if start and start["digest"] != policy.digest:
        raise InputError(
            f"model: {model}: that run began with {start['model']!r}, which is another model now (its weights or its "
            "tokenizer changed); give a model by its own name, or run the recipe again"
        )
    return policy


def _check_vocabulary(policy: Policy, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises InputError where a conversation would have ids that the base has no embeddings for.

    Ids that no conversation uses may lie beyond them (Gemma 3 1B has one, for the pictures of its larger kin).
    """
    from selfimprove.models.chat import render_example

    config = read_config(Path(policy.base))
    rows = config.get("text_config", config).get("vocab_size") or config.get("vocab_size")
    used = [one for one in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) if one is not None]
    with suppress(InputError):  # a reward model may have no template
        for ids in render_example(tokenizer, [{"role": "user", "content": "question"}], "answer"):
            used += ids
    most = max(used, default=0)
    if rows and most >= rows and tokenizer_folder(policy) == policy.base:
        raise InputError(
            f"model: conversations of {policy.base} have the id {most} ({tokenizer.convert_ids_to_tokens(most)!r}), "
            f"its model has embeddings for {rows}: resize them (model.resize_token_embeddings) and save it again"
        )


def start_of_run(model: str) -> dict[str, str] | None:
    """The `model` and `digest` that a run's policies began with, where `model` is that run's M0; None elsewhere."""
    place, _, name = model.partition("@")
    file = Path(place).expanduser() / "policies" / "M0.json"
    return dict(json.loads(file.read_text(encoding="utf-8"))) if name == "M0" and file.is_file() else None


def _locate(model: str) -> tuple[Path, Path | None]:
    """(base folder, None) or (unused, adapter folder) for a model string."""
    if model in BUILTINS:
        return fetch_builtin(model), None
    if of_run := _policy_of_run(model):
        return _locate(of_run)
    folder = Path(model).expanduser()
    if folder.is_dir():
        folder = folder.resolve()
        if (folder / "rubric.yaml").is_file() and (folder / "policy").is_dir():  # a judge: the model in it
            return _locate(str(folder / "policy"))
        if (folder / "adapter_config.json").is_file():
            return folder, folder
        if not (folder / "config.json").is_file():
            raise InputError(
                f"model: {folder} has neither config.json nor adapter_config.json, so it is neither a Transformers "
                "model nor a PEFT adapter"
            )
        if not list(folder.glob(TENSOR_FILES)):
            raise InputError(
                f"model: {folder} has no .safetensors file; other weight formats are not read. Where you trust the "
                "file, convert it once: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            )
        return folder, None
    if model.startswith("runs/"):  # never the hub's: a run that is not there yet
        made = (
            made_by(model.partition("@")[0])
            or "; give the folder of a finished run (`selfimprove run RECIPE` makes one)"
        )
        raise InputError(f"model: no run {model!r} here{made}")
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise InputError(f"model: no folder {model!r}, and not a built-in ({', '.join(BUILTINS)}) or hub id (org/name)")
    from huggingface_hub import snapshot_download

    hub_id, _, revision = model.partition("@")
    patterns = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py"]
    try:
        found = Path(snapshot_download(hub_id, revision=revision or None, allow_patterns=patterns))
    except Exception as error:  # the hub client raises a dozen kinds, all meaning: not to be had
        raise InputError(
            f"model: {model!r} is not a local folder and could not be fetched from the hub "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Offline, give a local folder or a built-in: "
            f"{', '.join(BUILTINS)}"
        ) from error
    return (found, found) if (found / "adapter_config.json").is_file() else (found, None)


def _policy_of_run(model: str) -> str | None:
    """The model string that `runs/x` or `runs/x@M1` means; None where it is no run's."""
    place, _, name = model.partition("@")
    run = Path(place).expanduser()
    if not (run / "recipe.yaml").is_file():
        return None
    found = run / "policies" / (name or "final")
    if found.is_dir():
        return str(found)
    if start := start_of_run(model):
        return start["model"]
    if name == "M0":
        import yaml

        return str(yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["model"])
    have = sorted(path.name for path in (run / "policies").glob("*") if path.is_dir())
    raise InputError(f"model: {place} has no policy {name or 'final'!r}; it has: {', '.join(have) or 'none'}")


def policies_of_run(run: Path) -> list[str]:
    """`runs/x@M0`, `runs/x@M1`, ...: every policy of a run, as model strings."""
    made = [path.name for path in (run / "policies").glob("M*") if path.name[1:].isdecimal()]
    return [f"{run}@{name}" for name in ["M0", *sorted(made, key=lambda name: int(name[1:]))]]


def _cached_digest(folder: Path) -> str:
    """`model_digest`, remembered by the files' sizes and times, since a large base takes long to read."""
    files = [path for pattern in (TENSOR_FILES, "*.json", "*.py") for path in sorted(folder.glob(pattern))]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    note = cache_folder() / "digests" / f"{digest_of([str(folder), stats])[:32]}.json"
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads(note.read_text())["digest"])
    digest = model_digest(folder)
    with suppress(OSError, RunFailed):  # a cache that cannot be written costs time only
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"folder": str(folder), "digest": digest})
    return digest
