"""`training/preference.py` overrides private methods of TRL: these tests say when an update has moved them."""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from transformers import Trainer
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from selfimprove.training.preference import PreferenceTrainer

SEEN = "TRL 1.16.0 with Transformers 5.19.0"
HERE = f"seen with {SEEN}; installed: TRL {version('trl')} with Transformers {version('transformers')}"

# What the project was written against: name -> parameters.
PRIVATE = {
    "_prepare_dataset": ["self", "dataset", "processing_class", "args", "dataset_name"],
    "_precompute_ref_logps": ["self", "dataset", "name", "batch_size"],
    "_set_signature_columns_if_needed": ["self"],
    "_compute_loss": ["self", "model", "inputs", "return_outputs"],
}


@pytest.mark.parametrize("name", PRIVATE)
def test_trl_private_method_has_not_moved(name: str) -> None:
    method = vars(DPOTrainer).get(name)
    assert method is not None, f"DPOTrainer.{name} is gone or inherited ({HERE}): see training/preference.py"
    found = list(inspect.signature(method).parameters)
    assert found == PRIVATE[name], f"DPOTrainer.{name} takes {found}, was {PRIVATE[name]} ({HERE})"


def test_every_private_override_of_the_preference_trainer_is_listed_here() -> None:
    overridden = {name for name in vars(PreferenceTrainer) if name.startswith("_") and not name.startswith("__")}
    overridden -= {"_abc_impl"}
    assert overridden == set(PRIVATE), f"list the overrides of training/preference.py in this test ({HERE})"


def test_trl_calls_the_overridden_methods_where_the_override_expects_it() -> None:
    init, compute = inspect.getsource(DPOTrainer.__init__), inspect.getsource(DPOTrainer.compute_loss)
    assert "self._prepare_dataset(train_dataset, processing_class, args" in init, HERE
    assert re.search(
        r"if args\.precompute_ref_log_probs:\s+self\.train_dataset = self\._precompute_ref_logps\(", init
    ), f"reference log-probs are asked for elsewhere than under precompute_ref_log_probs ({HERE})"
    assert "self._compute_loss(model, inputs, return_outputs)" in compute, HERE
    asked = inspect.getsource(Trainer._remove_unused_columns) + inspect.getsource(
        Trainer._get_collator_with_removed_columns
    )
    assert "self._set_signature_columns_if_needed()" in asked, HERE


def test_trl_still_has_the_attributes_that_the_override_reads() -> None:
    init = inspect.getsource(DPOTrainer.__init__)
    for assignment in ("self.beta = args.beta", 'self._metrics = {"train": defaultdict(list)', "self.ref_model = None"):
        assert assignment in init, f"DPOTrainer no longer does `{assignment}` ({HERE})"
    assert 'model.add_adapter("ref"' in init, f"the start adapter's copy has another name than `ref` ({HERE})"
    assert "self._metrics[mode].items()" in inspect.getsource(DPOTrainer.log), HERE


def test_trl_still_divides_the_loss_by_the_accumulation_steps_itself() -> None:
    # `PreferenceTrainer._compute_loss` averages over its own micro-batch only.
    assert DPOTrainer.loss_is_scaled_for_ga is False, HERE
    assert "num_items_in_batch" not in inspect.getsource(DPOTrainer._compute_loss), HERE


def test_trl_options_that_the_stages_set_still_exist() -> None:
    dpo, sft = (set(config.__dataclass_fields__) for config in (DPOConfig, SFTConfig))
    assert {"precompute_ref_log_probs", "beta", "max_length", "disable_dropout"} <= dpo, HERE
    assert {"dataset_kwargs", "max_length", "packing"} <= sft, HERE
    assert "skip_prepare_dataset" in inspect.getsource(SFTTrainer.__init__), HERE


def test_the_pinned_minor_version_is_the_installed_one() -> None:
    pinned = re.search(r'"trl>=(\d+\.\d+)', (Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert pinned and version("trl").startswith(pinned.group(1)), HERE
