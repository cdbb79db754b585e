"""Writes seed.jsonl: what the base model itself wrote and the checker accepted, for studies that begin with SFT.

    python evidence/expert_iteration/make_seed.py

One round of expert iteration on the last 200 training instructions (the studies' rounds use the first 520), seed 100.
No label: the sentences are SmolLM2's.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from selfimprove import load_recipe, run
from selfimprove.artefacts import Store, read_rows
from selfimprove.models.policy import load_tokenizer
from selfimprove.shipped import recipes_folder

HERE = Path(__file__).parent


def main() -> None:
    rows = (recipes_folder() / "data/instructions/train.jsonl").read_text(encoding="utf-8").splitlines()[520:]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prompts.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
        changes = [f"data.prompts={folder}/prompts.jsonl", "data.prompts_per_round=200", "rounds=1", "seed=100"]
        recipe = load_recipe("quickstart", [*changes, f"output={folder}/run", "evaluate=[]"])
        result = run(recipe)
        assert result.policy is not None
        tokenizer, prompts = load_tokenizer(result.policy), {json.loads(row)["prompt"]: row for row in rows}
        (trained,) = (one for one in Store(Path(folder) / "run" / "steps").all() if one.manifest["step"] == "sft")
        kept = []
        for row in read_rows(trained.folder / "inputs" / "examples.arrow"):
            asked, said = (
                tokenizer.decode(row[name], skip_special_tokens=True) for name in ("prompt_ids", "response_ids")
            )
            (prompt,) = (one for one in prompts if one in asked)
            kept.append({"prompt": prompt, "response": said})
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
    (HERE / "seed.jsonl").write_text(text, encoding="utf-8")
    print(f"seed.jsonl: {len(kept)} rows")


if __name__ == "__main__":
    main()
