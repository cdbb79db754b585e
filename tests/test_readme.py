"""What the README shows works for somebody who has only the README."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown(first: str) -> str:
    """The indented block of the README that begins with this line, without its indentation."""
    start = README.index(f"    {first}")
    lines = README[start:].split("\n")
    end = next((place for place, line in enumerate(lines) if line and not line.startswith("    ")), len(lines))
    return "\n".join(line[4:] for line in lines[:end]).rstrip() + "\n"


def test_own_prompts_and_checker_in_one_file_run_as_shown(writing_model: Path, tmp_path: Path) -> None:
    """On a tiny model that ends its sentences; with its words, since it knows no others."""
    code = shown("# mine.py")
    assert len(code.splitlines()) <= 16
    (tmp_path / "mine.py").write_text(code.replace("bees dogs books", "key jar hat"))
    words = shlex.split(shown("selfimprove run quickstart output=runs/mine").replace("\\\n", " "))
    small = [f"model={writing_model}", "sampling.backend=transformers", "sampling.n=2", "data.prompts_per_round=4"]
    off = ["gates.disabled=[degeneration]", "sft.epochs=1", "training.lora.r=4", "training.lora.alpha=8"]
    done = subprocess.run(
        [sys.executable, "-m", "selfimprove", *words[1:], *small, *off],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("mine: M0 ") and "kept M2, the last policy" in done.stdout
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()


def test_the_first_screen_is_short_and_its_links_are_there() -> None:
    assert len(README.split()) < 1200
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
