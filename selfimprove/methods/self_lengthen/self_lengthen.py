"""Self-Lengthen: Generator and Extender teach each other to write long (Quan et al., arXiv 2410.23933; code
github.com/QwenLM/Self-Lengthen).

Both begin as the seed model. In every round

1. self-instruct: instructions for long texts, from two of the pool, kept where the model itself calls them suitable;
2. the Generator answers each of them; short answers are dropped at random;
3. the Extender makes each answer longer, up to three times: it enriches the first half of the text, and two thirds of
   that are the forced beginning of its longer version of the whole text;
4. both are trained further, each from its own weights of the round before (`restart: true`: from the base): the
   Generator on instruction -> longer text, the Extender on instruction and a thinned answer -> longer text. The next
   round's texts are longer, for both begin longer. The last round's Extender has nothing left to extend.

After the last round the Generator may answer `collect` new instructions, whose longest answers join the texts; then a
length demand is written into each instruction, and the final model, from the base, learns to meet it.

Where this differs from the authors' code:
- Their driver is a shell script around a patched server, which ends each stage when 95% of the requests are back and so
  favours short texts. Here none is dropped: a whole batch is asked, and what failed is asked again, at most so often.
- A text of fewer than three paragraphs is cut at sentences, since half of one paragraph is nothing. A text that did not
  end by itself is rejected, whatever its last character.
- Of a new instruction the first line is taken that does not lead to the next, without number and quotes. New ones are
  asked for all at once; those that were kept join the pool, the round's own prompts, between tries and not one by one,
  and it begins anew every `pool_restart` kept ones. Equal lengths are ranked in their order.
- A length demand stands in front, behind, or in a line of its own, in Arabic numerals; theirs is worked in by a model,
  half of the Chinese ones in Chinese numerals. Their Chinese demands have less and more the wrong way round; ours not.
- The wording of the questions is this project's, and they are English in every language: under `language: zh` the
  rules, the unit and the demands are Chinese. Lengths in demands are multiples of `step`.
- Their weight decay is 0 (the recipes say so; the trainer's default is 0.01), their rank and batch are not known.
What does not fit the model's context is left out and counted, never cut. All texts are in the run's `texts.jsonl`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.methods.self_lengthen.cost import cost, preview
from selfimprove.methods.self_lengthen.examples import demanding_examples, extender_examples, generator_examples
from selfimprove.methods.self_lengthen.options import SelfLengthen
from selfimprove.methods.self_lengthen.plan import prepare
from selfimprove.methods.self_lengthen.report import lengths_part
from selfimprove.methods.self_lengthen.texts import (
    collected_texts,
    extended_texts,
    initial_texts,
    instructions_for,
    report_texts,
    write_texts,
)
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop
    from selfimprove.methods.self_lengthen.text import Extended


@method(
    options=SelfLengthen,
    needs=Needs(prompts=True, whole=True),
    reads=("sampling.stop",),
    prepare=prepare,
    preview=preview,
    cost=cost,
    report=(lengths_part,),
)
def self_lengthen(loop: Loop, options: SelfLengthen) -> Policy:
    """The final model. Generator and Extender are M1 and M2, M3 and M4, and so on: two adapters of one base."""
    base = generator = extender = loop.base_policy
    loop.evaluate(base)
    everything: list[Extended] = []

    for round in loop.rounds():
        instructions = instructions_for(loop, base, round)  # 1.
        initial = initial_texts(loop, generator, instructions, round)  # 2.
        extended = extended_texts(loop, extender, initial, round)  # 3.
        report_texts(loop, round, initial, extended)
        everything += extended
        write_texts(loop, everything)
        start = base if options.restart else generator
        generator = loop.sft(start, generator_examples(loop, extended), role="Generator")  # 4.
        if round.number < loop.recipe.rounds:
            start = base if options.restart else extender
            extender = loop.sft(start, extender_examples(loop, extended), role="Extender")
        loop.evaluate(generator, round)

    collected = collected_texts(loop, base, generator)
    write_texts(loop, everything, collected)
    final = loop.sft(base, demanding_examples(loop, everything, collected), role="final")
    loop.evaluate(final)
    return loop.kept(final)
