"""The lab's base: a tokenizer, a tiny Llama, and its training on a corpus with known shares of wrong answers."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.lab.tasks import INSTRUCTION, Item, draw, write_splits, wrong_answer

SPECIAL = ("<|pad|>", "<|unknown|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
WORDS = ("sort ", "reverse ", INSTRUCTION)
CHARACTERS = "0123456789abcdefghijklmnopqrstuvwxyz+-=?. "
TEMPLATE = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


Messages = list[dict[str, str]]
Log = Callable[[str], None]


@dataclass(frozen=True)
class Corpus:
    """Shares in the base's corpus. `dialogues`: two-turn transcripts, the rest are single turns. `wrong_single`,
    `wrong_first`: answers that are wrong in either. `fixed`: wrong first answers that the second corrects; `spoilt`:
    right first answers that the second makes wrong. The others are repeated as they are."""

    dialogues: float = 0.4
    wrong_single: float = 0.15
    wrong_first: float = 0.4
    fixed: float = 0.6
    spoilt: float = 0.25


@dataclass(frozen=True)
class Size:
    """Of the model and of its training. `steps` of `batch` sequences; the learning rate falls linearly after a tenth
    of them."""

    hidden: int = 96
    layers: int = 3
    heads: int = 4
    intermediate: int = 256
    steps: int = 600
    batch: int = 64
    learning_rate: float = 4e-3


CORPUS, SIZE = Corpus(), Size()  # what every base is made with


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and one for each of a few whole words."""
    vocabulary = {token: place for place, token in enumerate((*SPECIAL, *WORDS, *CHARACTERS))}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("|".join((*WORDS, r"[\s\S]"))), behavior="isolated")
    inner.decoder = decoders.Fuse()
    inner.add_special_tokens(list(SPECIAL))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>", unk_token="<|unknown|>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_model(size: Size, vocabulary: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=size.hidden,
            intermediate_size=size.intermediate,
            num_hidden_layers=size.layers,
            num_attention_heads=size.heads,
            num_key_value_heads=size.heads,
            max_position_embeddings=64,
            bos_token_id=None,
            eos_token_id=SPECIAL.index("<|end|>"),
            pad_token_id=SPECIAL.index("<|pad|>"),
            tie_word_embeddings=True,
            attn_implementation="eager",
        )
    )


def transcript(item: Item, corpus: Corpus, rng: random.Random) -> Messages:
    """One conversation of the corpus."""
    dialogue = rng.random() < corpus.dialogues
    wrong = rng.random() < (corpus.wrong_first if dialogue else corpus.wrong_single)
    first = wrong_answer(item, rng) if wrong else item.answer
    turns = [{"role": "user", "content": item.prompt}, {"role": "assistant", "content": first}]
    if not dialogue:
        return turns
    second = first
    if wrong and rng.random() < corpus.fixed:
        second = item.answer
    elif not wrong and rng.random() < corpus.spoilt:
        second = wrong_answer(item, rng)
    return [*turns, {"role": "user", "content": INSTRUCTION}, {"role": "assistant", "content": second}]


def encoder() -> Callable[[Messages], tuple[list[int], list[bool]]]:
    """Messages to (ids, whether each is an assistant's): the chat template's own ids, without its cost."""
    ids = {token: place for place, token in enumerate((*SPECIAL, *WORDS, *CHARACTERS))}

    def encode(messages: Messages) -> tuple[list[int], list[bool]]:
        row: list[int] = []
        said: list[bool] = []
        for message in messages:
            text, own = message["content"], message["role"] == "assistant"
            word = next((word for word in WORDS if text.startswith(word)), "")
            content = [ids[w] for w in (word,) if w] + [ids[c] for c in text[len(word) :]]
            row += [ids[f"<|{message['role']}|>"], *content, ids["<|end|>"]]
            said += [False, *[own] * (len(content) + 1)]
        return row, said

    return encode


def train_base(folder: Path, seed: int, corpus: Corpus = CORPUS, size: Size = SIZE, log: Log = print) -> Path:
    """Trains a base from scratch and saves it as a Transformers folder; the same seed gives the same weights."""
    torch.manual_seed(seed)
    rng = random.Random(f"corpus|{seed}")
    tokenizer = make_tokenizer()
    encode = encoder()
    model = make_model(size, len(tokenizer)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=size.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    warmup = size.steps // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / max(1, warmup), (size.steps - step) / max(1, size.steps - warmup))
    )
    started = time.monotonic()
    for step in range(size.steps):
        rows = [encode(transcript(draw("base", rng), corpus, rng)) for _ in range(size.batch)]
        width = max(len(ids) for ids, _ in rows)
        ids = torch.tensor([row + [0] * (width - len(row)) for row, _ in rows])
        own = torch.tensor([said + [False] * (width - len(said)) for _, said in rows])
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[own[:, 1:]], ids[:, 1:][own[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % 200 == 0 or step + 1 == size.steps:
            log(f"step {step + 1} of {size.steps}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s")
    temporary = folder.with_name(f".{folder.name}.saving")
    shutil.rmtree(temporary, ignore_errors=True)
    model.eval().save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    facts = {"seed": seed, "corpus": asdict(corpus), "size": asdict(size), "seconds": round(time.monotonic() - started)}
    (temporary / "lab.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    temporary.replace(folder)  # whole or not at all
    return folder


def make_bases(folder: Path, seeds: Sequence[int], log: Log = print) -> None:
    """`base-<seed>` and `data-<seed>` below `folder`, where they are missing."""
    for seed in seeds:
        write_splits(folder / f"data-{seed}", seed)
        if not (folder / f"base-{seed}").is_dir():
            log(f"training base-{seed}")
            train_base(folder / f"base-{seed}", seed, log=log)
