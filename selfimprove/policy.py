"""What a model is here: a base, perhaps an adapter, and a digest that names them in every step's key.

Loading follows Transformers' and PEFT's conventions, so every policy opens with
`AutoModelForCausalLM.from_pretrained` or `AutoPeftModelForCausalLM.from_pretrained`.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.adapters import adapter_config, added_rows, attach, tokenizer_folder
from selfimprove.artefacts import Artefact, digest_of, file_digest, write_json
from selfimprove.builtin import BUILTINS, cache_folder, fetch_builtin
from selfimprove.configuration import without_router_loss
from selfimprove.errors import InputError, RunFailed
from selfimprove.opening import PLAIN, Opening

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TENSOR_FILES = "*.safetensors"
# What of a configuration says where a model came from, not what it does.
_NOT_IN_DIGEST = {
    *("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache"),
    *("base_model_name_or_path", "revision", "inference_mode", "peft_version", "auto_mapping"),
}


@dataclass(frozen=True)
class Policy:
    """A model in the loop.

    `base` is a local folder in Transformers' format, `adapter` a local PEFT folder or None.
    `digest` covers weights, adapter, tokenizer and chat template (with what is given to it), not where they lie.
    """

    name: str
    base: str
    base_digest: str
    adapter: str | None = None
    adapter_digest: str | None = None
    tokenizer_digest: str = ""
    trust_remote_code: bool = False
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def digest(self) -> str:
        return digest_of([self.base_digest, self.adapter_digest, self.tokenizer_digest])

    def named(self, name: str) -> Policy:
        return replace(self, name=name)

    def spec(self) -> dict[str, Any]:
        """What a step's folder needs to load it."""
        return asdict(self)


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
    from selfimprove.chat import template_digest

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
    from selfimprove.chat import render_example

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


def portable_name(base: str) -> tuple[str, str | None]:
    """(name, revision) of a base model's folder as other machines know it: a built-in's name, or a hub id of the cache
    with its commit. A folder that is neither is its own name."""
    folder = Path(base)
    for name, builtin in BUILTINS.items():
        if folder.name == f"{builtin.name}-{builtin.wheel_sha256[:12]}":
            return name, None
    kind, _, hub_id = folder.parent.parent.name.partition("--")
    if folder.parent.name == "snapshots" and kind == "models" and hub_id:
        return hub_id.replace("--", "/"), folder.name
    return base, None


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
        if not list(folder.glob(_TENSOR_FILES)):
            raise InputError(
                f"model: {folder} has no .safetensors file; other weight formats are not read. Where you trust the "
                "file, convert it once: AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder)"
            )
        return folder, None
    if model.startswith("runs/"):  # never the hub's: a run that is not there yet
        raise InputError(f"model: no run {model!r} here{_made_by(model)}")
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


def _made_by(model: str) -> str:
    """Which shipped recipe makes a run, in words for the end of a message."""
    import yaml

    from selfimprove.shipped import recipe_file, shipped_recipes

    run = model.partition("@")[0].rstrip("/")
    for name, file in shipped_recipes().items():
        recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
        if isinstance(recipe, dict) and str(recipe.get("output", "")).rstrip("/") == run:
            short = name.split("/")[1]
            return f"; `selfimprove run {short if recipe_file(short) == file else name}` makes it"
    return "; give the folder of a finished run (`selfimprove run RECIPE` makes one)"


def policies_of_run(run: Path) -> list[str]:
    """`runs/x@M0`, `runs/x@M1`, ...: every policy of a run, as model strings."""
    made = [path.name for path in (run / "policies").glob("M*") if path.name[1:].isdecimal()]
    return [f"{run}@{name}" for name in ["M0", *sorted(made, key=lambda name: int(name[1:]))]]


def adapter_rank(policy: Policy) -> int:
    """The rank of the policy's LoRA adapter, 0 without one."""
    if policy.adapter is None:
        return 0
    return int(json.loads((Path(policy.adapter) / "adapter_config.json").read_text()).get("r", 0))


def weights_digest(folder: Path) -> str:
    """SHA-256 over every tensor's name, type, shape and bytes, in order of name: independent of file layout."""
    import torch
    from safetensors import safe_open

    total = hashlib.sha256()
    with ExitStack() as opened:
        where = {}
        for path in sorted(folder.glob(_TENSOR_FILES)):
            tensors = opened.enter_context(safe_open(path, framework="pt"))
            where.update(dict.fromkeys(tensors.keys(), tensors))
        for name in sorted(where):
            tensor = where[name].get_tensor(name).contiguous()
            total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            total.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


def read_config(folder: Path) -> dict[str, Any]:
    """A model's config.json. Raises InputError for one that is torn or not there."""
    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model: {file} is not readable as JSON ({error}); fetch or save the model again") from error
    if not isinstance(found, dict):
        raise InputError(f"model: {file} is no model's configuration; fetch or save the model again")
    return found


def declared_ends(policy: Policy) -> list[int]:
    """The token ids that the base's generation_config.json says end an answer (Llama 3, Qwen and Gemma 3 name several);
    none where it names none."""
    file = Path(policy.base) / "generation_config.json"
    if not file.is_file():
        return []
    try:
        ends = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"model: {file} is not readable as JSON ({error}); fetch or save the model again") from error
    ids = [] if ends is None else ends if isinstance(ends, list) else [ends]
    if not all(type(id) is int for id in ids):
        raise InputError(f"model: {file}: eos_token_id is {ends!r}, not a token id or a list of them")
    return ids


def longrope_change(config: Mapping[str, Any]) -> int | None:
    """The length (tokens) above which a model with longrope (Phi-3's) takes other rotary factors for the whole text;
    None for all others. Of `config.json`'s keys, or a configuration's as a dict."""
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if isinstance(rope, dict) and (rope.get("rope_type") or rope.get("type")) == "longrope":
            return rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return None


def model_digest(folder: Path) -> str:
    """Digest of a model or an adapter: its tensors, and the configuration that changes what they do."""
    adapter = folder / "adapter_config.json"
    config = adapter_config(folder) if adapter.is_file() else read_config(folder)
    settings = {
        key: sorted(value) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
        for key, value in config.items()
        if key not in _NOT_IN_DIGEST
    }
    code = {path.name: file_digest(path) for path in sorted(folder.glob("*.py"))}
    return digest_of([settings, weights_digest(folder), *([code] if code else [])])


def _cached_digest(folder: Path) -> str:
    """`model_digest`, remembered by the files' sizes and times, since a large base takes long to read."""
    files = [path for pattern in (_TENSOR_FILES, "*.json", "*.py") for path in sorted(folder.glob(pattern))]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    note = cache_folder() / "digests" / f"{digest_of([str(folder), stats])[:32]}.json"
    with suppress(OSError, ValueError, KeyError):
        return str(json.loads(note.read_text())["digest"])
    digest = model_digest(folder)
    with suppress(OSError, RunFailed):  # a cache that cannot be written costs time only
        note.parent.mkdir(parents=True, exist_ok=True)
        write_json(note, {"folder": str(folder), "digest": digest})
    return digest


@lru_cache(maxsize=4)
def _tokenizer(folder: str, trust_remote_code: bool, chat_template_kwargs: str = "{}") -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
    tokenizer.chat_template_kwargs = json.loads(chat_template_kwargs)
    return tokenizer


def load_tokenizer(policy: Policy) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy: its adapter's own where that has one, else its base's."""
    folder = tokenizer_folder(policy)
    try:
        return _tokenizer(folder, policy.trust_remote_code, json.dumps(policy.chat_template_kwargs))
    except (OSError, ValueError) as error:
        raise InputError(f"model: no usable tokenizer in {folder}: {str(error).splitlines()[0]}") from error


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
    from selfimprove.scoring.selftest import check_cache  # scoring needs this module

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


def pick_device(device: str = "auto") -> str:
    """`auto`: the first GPU if there is one, else the CPU."""
    import torch

    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def pick_dtype(dtype: str, device: str) -> torch.dtype:
    """`auto`: bf16 on a GPU, fp32 on the CPU."""
    import torch

    if dtype == "auto":
        return torch.bfloat16 if device.startswith("cuda") else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
