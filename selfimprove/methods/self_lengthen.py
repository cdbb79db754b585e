"""Self-Lengthen: Generator and Extender teach each other to write long (Quan et al., arXiv 2410.23933; code
github.com/QwenLM/Self-Lengthen).

Both begin as the seed model. In every round

1. self-instruct: instructions for long texts, from two of the pool, kept where the model itself calls them suitable;
2. the Generator answers each of them; short answers are dropped at random;
3. the Extender makes each answer longer, up to three times: it enriches the first half of the text, and two thirds of
   that are the forced beginning of its longer version of the whole text;
4. both are trained from the base model again: the Generator on instruction -> longer text, the Extender on instruction
   and a thinned answer -> longer text. The next round's texts are longer, for both begin longer.

After the last round a length demand is written into each instruction, and the final model learns to meet it.

The authors' driver is a shell script around a patched server, which ends each stage when 95% of the requests are back
and so favours short texts; here no request waits for another and none is dropped: a whole batch is asked, and what
failed is asked again, at most so often. Named deviation: a text of fewer than three paragraphs is cut at sentences,
since half of one paragraph is nothing. What does not fit the model's context is left out and counted, never cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.lengthening import extended_texts, initial_texts, instructions_for, report_texts
from selfimprove.lengthening_examples import demanding_examples, extender_examples, generator_examples
from selfimprove.policy import Policy

if TYPE_CHECKING:
    from selfimprove.lengthening import Extended
    from selfimprove.loop import Loop


def self_lengthen(loop: Loop) -> Policy:
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
        generator = loop.sft(base, generator_examples(loop, extended))  # 4.
        extender = loop.sft(base, extender_examples(loop, extended))
        loop.evaluate(generator, round)

    final = loop.sft(base, demanding_examples(loop, everything))
    loop.evaluate(final)
    return loop.kept(final)
