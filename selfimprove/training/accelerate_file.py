"""`training.accelerate`: an accelerate config file (FSDP, ZeRO), read by accelerate's own loader and held against the
recipe.

accelerate ignores a key that it does not know inside `fsdp_config` or `deepspeed_config`, and some files that it
accepts train for hours and then save no policy. Both are errors here, before anything starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from selfimprove.errors import InputError
from selfimprove.recipe.strict_yaml import load_yaml

if TYPE_CHECKING:
    from selfimprove.recipe.recipe import Recipe
    from selfimprove.recipe.sections import Training

KINDS = ("FSDP", "DEEPSPEED", "MULTI_GPU")


def find_accelerate_file(recipe: Recipe) -> Path:
    """`training.accelerate`, looked for beside the recipe, here, and among what the package ships."""
    places = [folder / str(recipe.training.accelerate) for folder in recipe.search_folders()]
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise InputError(f"training.accelerate: no file {recipe.training.accelerate!r}; looked at {looked}")


def read_accelerate_file(path: Path) -> Any:
    """The file as accelerate's `ClusterConfig`. Raises InputError for a file that accelerate could not use."""
    from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
    from accelerate.utils import DistributedType

    where = f"training.accelerate: {path}"
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{where}: not readable as YAML ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{where}: an accelerate config file is a mapping of keys; found {type(values).__name__}")
    unknown = [name for name in values if name not in ClusterConfig.__dataclass_fields__]
    if unknown:
        raise InputError(
            f"{where}: not an accelerate config file: {_unknown(unknown[0], list(ClusterConfig.__dataclass_fields__))}"
        )
    kind, kinds = values.get("distributed_type"), [one.value for one in DistributedType]
    if kind is None:
        raise InputError(f"{where}: `distributed_type` is missing; known here: {', '.join(KINDS)}")
    if kind not in kinds:
        raise InputError(f"{where}: {_unknown(str(kind), kinds, 'distributed_type')}; known here: {', '.join(KINDS)}")
    if kind not in KINDS:
        raise InputError(f"{where}: distributed_type {kind} is not used here; known here: {', '.join(KINDS)}")
    count = values.get("num_processes")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InputError(f"{where}: `num_processes` must say how many processes there are; found {count!r}")
    try:
        config = load_config_from_file(str(path))
    except (ValueError, TypeError) as error:
        raise InputError(f"{where}: accelerate cannot read it: {error}") from error
    _check_sections(where, config)
    return config


def _check_sections(where: str, config: Any) -> None:
    from accelerate.commands.launch import launch_command_parser

    known = {action.dest for action in launch_command_parser()._actions}
    for section, prefix in (("fsdp_config", "fsdp_"), ("deepspeed_config", "")):
        for name in getattr(config, section):
            if name not in known and prefix + name not in known:
                candidates = [one for one in known if one.startswith(prefix or ("zero", "deepspeed", "offload", "gra"))]
                raise InputError(f"{where}: {_unknown(name, candidates, section)} (accelerate would ignore it)")


def _unknown(name: str, known: Sequence[str], section: str = "") -> str:
    close = get_close_matches(name, known, 1, 0.5)
    what = f"{section}: " if section else ""
    return f"{what}unknown `{name}`" + (f"; did you mean `{close[0]}`?" if close else "")


def check_accelerate_file(path: Path, training: Training) -> Any:
    """The file's config, agreed with the recipe. Raises InputError with the key, what was found and what to do."""
    config = read_accelerate_file(path)
    where = f"training.accelerate: {path}"
    if config.num_processes != training.processes:
        raise InputError(
            f"{where}: num_processes is {config.num_processes}, but training.processes is {training.processes}; "
            "the two must be the same"
        )
    if config.num_machines > 1:
        raise InputError(
            f"{where}: num_machines is {config.num_machines}, but selfimprove starts processes on its own machine "
            "only; set it to 1 (docs/scaling.md says what works on several machines)"
        )
    # `auto` is bfloat16 on GPUs, where such a file is used.
    wanted, found = ("no" if training.dtype == "float32" else "bf16"), config.mixed_precision or "no"
    if found != wanted:
        raise InputError(
            f"{where}: mixed_precision is {found}, but with training.dtype {training.dtype} it must be {wanted}, so "
            "that training and scoring have one type"
        )
    _CHECKS.get(config.distributed_type.value, lambda *_: None)(where, config, training)
    return config


def _check_fsdp(where: str, config: Any, training: Training) -> None:
    def of(name: str) -> Any:
        section = config.fsdp_config
        return section.get(f"fsdp_{name}", section.get(name))

    if of("version") != 2:
        raise InputError(
            f"{where}: fsdp_config.fsdp_version is {of('version') or '1 (the default)'}; only 2 is used here"
        )
    if (found := of("state_dict_type") or "SHARDED_STATE_DICT (the default)") != "FULL_STATE_DICT":
        raise InputError(
            f"{where}: fsdp_config.fsdp_state_dict_type is {found}; with it the Trainer saves no policy at the end, so "
            "FULL_STATE_DICT is needed"
        )
    if str(of("activation_checkpointing")).lower() == "true" and training.gradient_checkpointing is not False:
        raise InputError(
            f"{where}: fsdp_activation_checkpointing and training.gradient_checkpointing do the same and exclude each "
            "other; leave the first out, or set the second to false"
        )


def _check_deepspeed(where: str, config: Any, training: Training) -> None:
    section = config.deepspeed_config
    if section.get("zero_stage") == 3 and str(section.get("zero3_save_16bit_model")).lower() != "true":
        raise InputError(
            f"{where}: deepspeed_config.zero3_save_16bit_model must be true with zero_stage 3; without it no policy "
            "can be saved at the end"
        )


_CHECKS = {"FSDP": _check_fsdp, "DEEPSPEED": _check_deepspeed}


def missing_here(config: Any, device: str) -> list[str]:
    """What this machine lacks for the file; empty if a run can use it here."""
    import torch

    missing = []
    kind = config.distributed_type.value
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        missing.append("the file asks for DeepSpeed ZeRO, which is not installed: pip install deepspeed, or use FSDP")
    if config.use_cpu or device == "cpu":
        missing.append(
            "the file is for GPUs (on the CPU accelerate would silently train plain copies); for several "
            "processes on the CPU set training.processes and leave training.accelerate out"
        )
    elif (found := torch.cuda.device_count()) < config.num_processes:
        missing.append(f"the file asks for {config.num_processes} GPUs, there are {found}")
    return missing


def require_here(recipe: Recipe, device: str) -> None:
    """Raises InputError before anything starts if `training.accelerate` cannot work as the recipe has it, or here."""
    path = find_accelerate_file(recipe)
    if missing := missing_here(check_accelerate_file(path, recipe.training), device):
        raise InputError(f"training.accelerate: {path}: {'; '.join(missing)}")
