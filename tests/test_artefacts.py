"""Finished work survives crashes, full disks and damage: whole or not there, and never wrong without a word."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove.artefacts import (
    Artefact,
    DamagedArtefact,
    Store,
    canonical_json,
    digest_of,
    explained_write,
    read_rows,
    rows_digest,
    write_file,
    write_json,
    write_rows,
)
from selfimprove.errors import GateError, RunFailed

KEY = "0123456789abcdef" * 4
ROWS = [{"prompt_id": "a", "index": 0, "ids": [1, 2]}, {"prompt_id": "b", "index": 0, "ids": []}]


@pytest.fixture(autouse=True)
def _free_models() -> None:
    """No model is loaded here, and collecting garbage after every test takes longer than the tests."""


def refuse(number: int) -> Callable[..., NoReturn]:
    def fail(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return fail


def make(store: Store, rows: list[dict[str, Any]] | None = None, key: str = KEY) -> Artefact:
    """A finished artefact as a step leaves one: rows, a policy folder, a digest."""
    rows = ROWS if rows is None else rows
    partial = store.begin("sample", key)
    write_rows(partial / "rows-00000.arrow", rows)
    (partial / "policy").mkdir()
    (partial / "policy" / "weights.bin").write_bytes(bytes(range(64)))
    return store.finish(partial, "sample", key, {"digest": rows_digest(rows), "label": "sample M0"})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- single files


def test_a_crash_while_a_file_is_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "figures.json"
    write_json(path, {"round": 1})
    before = path.read_bytes()

    def crash(handle: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", crash)
    with pytest.raises(KeyboardInterrupt):
        write_json(path, {"round": 2})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["figures.json"], "no temporary file may stay behind"


def test_a_crash_before_the_rename_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows-00000.arrow"
    write_rows(path, ROWS)

    def crash(self: Path, target: Path) -> NoReturn:
        raise RuntimeError("killed")

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(RuntimeError, match="killed"):
        write_rows(path, ROWS[:1])
    assert read_rows(path) == ROWS
    assert names(tmp_path) == ["rows-00000.arrow"]


def test_rows_that_arrow_cannot_hold_touch_no_file(tmp_path: Path) -> None:
    path = tmp_path / "rows-00000.arrow"
    write_rows(path, ROWS)
    with pytest.raises((pa.ArrowException, TypeError, ValueError)):
        write_rows(path, [{"ids": [1, "two"]}])
    assert read_rows(path) == ROWS
    assert names(tmp_path) == ["rows-00000.arrow"]


def test_a_written_file_is_synced_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, seen = tmp_path / "a.json", []
    real = os.fsync

    def watch(handle: int) -> None:
        seen.append((str(Path(f"/proc/self/fd/{handle}").readlink()), path.exists()))
        real(handle)

    monkeypatch.setattr(os, "fsync", watch)
    write_file(path, b"x")
    (first, there), (second, there_then) = seen
    assert first.endswith(".tmp") and not there, "the content must be on the disk before the name is"
    assert second == str(tmp_path) and there_then, "the rename itself must be synced too"


row = st.fixed_dictionaries(
    {
        "prompt_id": st.text(max_size=8),
        "index": st.integers(0, 2**31),
        "ids": st.lists(st.integers(0, 2**31), max_size=5),
        "log_prob": st.floats(allow_nan=False, allow_infinity=False) | st.none(),
        "text": st.text(max_size=8) | st.none(),
    }
)


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(row, max_size=9), size=st.integers(1, 10))
def test_rows_and_their_digest_do_not_depend_on_shards(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]], size: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    for shard, start in enumerate(range(0, len(rows), size)):
        write_rows(folder / f"rows-{shard:05d}.arrow", rows[start : start + size])
    found = [one for path in sorted(folder.glob("rows-*.arrow")) for one in read_rows(path)]
    assert found == rows
    assert rows_digest(found) == rows_digest(rows)


def test_no_rows_round_trip(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows-00000.arrow", [])
    assert read_rows(tmp_path / "rows-00000.arrow") == []


def test_the_rows_digest_sees_order_content_and_borders_but_not_key_order() -> None:
    a, b = {"id": "a", "n": 1}, {"id": "b", "n": 2}
    assert rows_digest([a, b]) == rows_digest([{"n": 1, "id": "a"}, b])
    assert len({rows_digest(rows) for rows in ([a, b], [b, a], [a], [a, {**b, "n": 2.0}], [])}) == 5


def test_rows_open_with_plain_datasets(tmp_path: Path) -> None:
    from datasets import Dataset

    write_rows(tmp_path / "rows-00000.arrow", ROWS)
    assert Dataset.from_file(str(tmp_path / "rows-00000.arrow")).to_list() == ROWS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1.0, float("-inf")], {"a": {"b": float("nan")}}])
def test_canonical_json_refuses_what_is_no_number(value: Any) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(value)


def test_canonical_json_is_one_text_per_value() -> None:
    assert canonical_json({"b": [1.0, "é"], "a": None}) == '{"a":null,"b":[1.0,"é"]}'
    assert digest_of({"b": 1, "a": 2}) == digest_of({"a": 2, "b": 1})


# ---- artefacts


def test_a_finished_artefact_is_found_again_by_another_process(tmp_path: Path) -> None:
    made = make(Store(tmp_path))
    found = Store(tmp_path).find("sample", KEY)
    assert found is not None
    assert (found.digest, found.rows()) == (made.digest, ROWS)
    assert Store(tmp_path).find("sample", "f" * 64) is None
    assert Store(tmp_path).find("log_probs", KEY) is None


def test_a_folder_without_a_manifest_does_not_exist(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    (store.path("sample", KEY) / "manifest.json").unlink()
    assert Store(tmp_path).find("sample", KEY) is None
    assert Store(tmp_path).all() == []


def test_a_step_is_made_again_where_only_its_manifest_was_lost(tmp_path: Path) -> None:
    store = Store(tmp_path)
    make(store)
    (store.path("sample", KEY) / "manifest.json").unlink()
    fresh = Store(tmp_path)
    assert make(fresh).rows() == ROWS
    assert any(name.startswith(".damaged-sample-") for name in names(tmp_path)), "nothing is deleted without asking"


def test_unfinished_work_does_not_exist_but_is_gone_on_with(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.begin("sample", KEY)
    write_rows(partial / "rows-00000.arrow", ROWS)
    assert Store(tmp_path).find("sample", KEY) is None
    assert Store(tmp_path).all() == []
    assert read_rows(Store(tmp_path).begin("sample", KEY) / "rows-00000.arrow") == ROWS


def flip(folder: Path) -> None:
    path = folder / "rows-00000.arrow"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert path.stat().st_size == stat.st_size


def flip_keeping_the_time(folder: Path) -> None:
    before = (folder / "rows-00000.arrow").stat()
    flip(folder)
    os.utime(folder / "rows-00000.arrow", ns=(before.st_atime_ns, before.st_mtime_ns))


def truncate(folder: Path) -> None:
    os.truncate(folder / "rows-00000.arrow", 100)


def remove(folder: Path) -> None:
    (folder / "policy" / "weights.bin").unlink()


def break_manifest(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_text(path.read_text()[:-20])


def empty_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


def not_an_object(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1, 2]\n")


DAMAGES = [flip, flip_keeping_the_time, truncate, remove, break_manifest, empty_manifest, not_an_object]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_artefact_is_set_aside_and_made_again(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    made = make(Store(tmp_path))
    damage(made.folder)
    store = Store(tmp_path)
    with pytest.raises(DamagedArtefact, match=r"set aside as \.damaged-sample-") as caught:
        found = store.find("sample", KEY)
        assert found is not None
        found.rows()  # a flipped byte under the old size and time is seen where the content is first used
    assert str(made.folder) in str(caught.value), "the message names the file"
    assert not made.folder.exists()
    assert store.find("sample", KEY) is None, "not even this process may use it"
    assert make(store).rows() == ROWS
    assert Store(tmp_path).find("sample", KEY) is not None


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_list_of_artefacts_survives_damage(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    damage(make(Store(tmp_path)).folder)
    (found,) = Store(tmp_path).all()
    assert found.damage() is not None, "`status --verify` reads this list"


def test_new_times_alone_are_no_damage(tmp_path: Path) -> None:
    made = make(Store(tmp_path))
    for path in made.folder.rglob("*"):
        os.utime(path, ns=(1, 1))
    found = Store(tmp_path).find("sample", KEY)
    assert found is not None and found.rows() == ROWS


def test_leftovers_of_a_kill_are_never_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    partial = store.begin("sample", KEY)
    (partial / ".rows-00000.arrow.77.tmp").write_bytes(b"half a")
    (partial / ".rows-00001.arrow.77.tmp").write_bytes(b"half a")
    (partial / "progress.json").write_text('{"done": 3}')
    (partial / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (partial / "checkpoints" / "checkpoint-1" / "big.bin").write_bytes(b"0" * 100)
    made = make(store)
    assert made.rows() == ROWS
    assert names(made.folder) == ["manifest.json", "policy", "rows-00000.arrow"]
    assert set(made.manifest["files"]) == {"policy/weights.bin", "rows-00000.arrow"}


def test_a_kill_before_the_final_rename_finishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)

    def crash(self: Path, target: Path) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            make(store)
    assert Store(tmp_path).find("sample", KEY) is None
    partial = store.begin("sample", KEY)
    made = store.finish(partial, "sample", KEY, {"digest": rows_digest(ROWS)})
    assert made.rows() == ROWS
    assert "manifest.json" not in made.manifest["files"], "the earlier manifest is no content"


# ---- refusals of the disk


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_says_where_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "metrics.json"
    write_json(path, 1)
    monkeypatch.setattr(os, "fsync", refuse(number))
    with pytest.raises(RunFailed, match="the disk is full") as caught:
        write_json(path, 2)
    message = str(caught.value)
    assert str(path) in message and "make room, run again" in message and "Finished steps are kept" in message
    assert caught.value.exit_code == 1
    assert json.loads(path.read_text()) == 1
    assert names(tmp_path) == ["metrics.json"]


def test_a_full_disk_while_an_artefact_is_sealed_finishes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    partial = store.begin("sample", KEY)
    write_rows(partial / "rows-00000.arrow", ROWS)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(RunFailed, match="the disk is full"):
            store.finish(partial, "sample", KEY, {"digest": rows_digest(ROWS)})
    assert Store(tmp_path).find("sample", KEY) is None
    assert store.finish(partial, "sample", KEY, {"digest": rows_digest(ROWS)}).rows() == ROWS


@pytest.mark.parametrize(
    "said",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:664] . PytorchStreamWriter failed writing file data/0: file write failed",
    ],
)
def test_a_full_disk_is_known_by_the_words_of_other_libraries(tmp_path: Path, said: str) -> None:
    with pytest.raises(RunFailed, match="the disk is full"), explained_write(tmp_path / "policy"):
        raise RuntimeError(said)


def test_other_errors_are_not_explained_away(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), explained_write(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(GateError, match="gate x"), explained_write(tmp_path):
        raise GateError("gate x")
    with pytest.raises(FileNotFoundError), explained_write(tmp_path):
        raise FileNotFoundError(errno.ENOENT, "not there")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_without_rights_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(Path, "open", refuse(number))
    with pytest.raises(RunFailed, match=r"cannot be written .*Choose another `output`") as caught:
        write_file(tmp_path / "a", b"")
    assert str(tmp_path / "a") in str(caught.value)


def test_a_file_in_place_of_the_steps_folder_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "steps").write_text("")
    with pytest.raises(RunFailed, match=r"cannot be written .*Choose another `output`"):
        Store(tmp_path / "steps").begin("sample", KEY)
