"""What a model is here: a base, perhaps an adapter, and a digest that names them in every step's key.

Loading follows Transformers' and PEFT's conventions, so every policy opens with
`AutoModelForCausalLM.from_pretrained` or `AutoPeftModelForCausalLM.from_pretrained`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfimprove.artefacts import digest_of, file_digest
from selfimprove.errors import InputError
from selfimprove.models.builtin import BUILTINS
from selfimprove.models.context import read_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

TENSOR_FILES = "*.safetensors"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
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
        for path in sorted(folder.glob(TENSOR_FILES)):
            tensors = opened.enter_context(safe_open(path, framework="pt"))
            where.update(dict.fromkeys(tensors.keys(), tensors))
        for name in sorted(where):
            tensor = where[name].get_tensor(name).contiguous()
            total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            total.update(memoryview(tensor.reshape(-1).view(torch.uint8).numpy()))
    return total.hexdigest()


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


# Of one layer each, so that they load on a base that others share, and merge. Prompt tuning and its kin put tokens of
# their own before every prompt, where neither scores nor lengths here would know of them.
_ON_LAYERS = {"LORA", "ADALORA", "IA3", "LOHA", "LOKR", "OFT", "BOFT", "VERA", "FOURIERFT", "HRA", "VBLORA", "BONE"}


def adapter_config(folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` says. Raises InputError where it is no adapter that can be loaded whole and known by
    its digest: torn, naming no base, weights in no safetensors file, or of a kind that is not of single layers."""
    file = folder / "adapter_config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"model: {file} is not readable as JSON ({error}); fetch or save the adapter again") from error
    if not isinstance(config, dict) or not isinstance(config.get("base_model_name_or_path"), str | None):
        raise InputError(f"model: {file} is no adapter's configuration; fetch or save the adapter again")
    if not config.get("base_model_name_or_path"):
        raise InputError(
            f"model: {file} names no base (base_model_name_or_path is {config.get('base_model_name_or_path')!r}); "
            "write there the folder or hub id of the model that it was trained on"
        )
    if (kind := str(config.get("peft_type"))) not in _ON_LAYERS:
        raise InputError(
            f"model: {folder} is an adapter of type {kind}, which is not read; use LoRA, or a model with it merged in"
        )
    if not (folder / ADAPTER_WEIGHTS).is_file():
        old = "adapter_model.bin" if (folder / "adapter_model.bin").is_file() else "no weights at all"
        raise InputError(
            f"model: {folder} has {old} in place of {ADAPTER_WEIGHTS}; only safetensors are read. Convert it once with "
            "`AutoPeftModelForCausalLM.from_pretrained(folder).save_pretrained(folder)` of a PEFT you trust the file to"
        )
    return dict(config)


def tokenizer_folder(policy: Policy) -> str:
    """Where the policy's tokenizer and chat template are: beside its adapter, where it has its own, else its base."""
    if policy.adapter is not None and (Path(policy.adapter) / "tokenizer_config.json").is_file():
        return policy.adapter
    return policy.base
