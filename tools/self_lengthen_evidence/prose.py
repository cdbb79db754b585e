"""The page's fixed text: what was measured and with what, how to read it, and what it cannot say."""

WHAT = """\
Self-Lengthen (Quan et al., arXiv 2410.23933) lets a Generator write and an Extender lengthen what it wrote; both are
trained on the longer texts, from the base model anew, and the next round begins with them. At the end a final model
learns to write as long as it is asked to. The paper goes from about 1,000 to 8,000 words with models of 7 and 8 billion
parameters in three rounds of 5,000 instructions.

Here it is SmolLM2-135M-Instruct, two rounds of 24 instructions each (`recipes/data/lengthen`), one answer to each and
one longer text of each answer, with up to two micro-iterations and three tries; texts of at most 512 tokens at a time,
of 60 to 399 words for the final model: seeds 0, 1 and 2. A seed draws its own instructions for each round, and
everything else with them. These are the recipe `smollm2-135m/self-lengthen` with the settings it had then: temperature
1, top-p .95, no repetition penalty and no stop texts, both roles trained from the base in every round
(`self_lengthen.restart: true`), the last Extender too, and the length demand always behind the instruction. The recipe
now has the authors' sampling and adapters that go on; that was not measured yet.

The temperature of 1.0 was chosen on training instructions by acceptance alone, before these runs: at 0.7 the model
repeats itself and does not come to an end (12 of 24 answers and none of 12 longer texts passed in one try; at 1.0 17 of
24 and 9 of 17). Nothing was chosen on the suite."""

RULE = """\
Each claim is that a difference is above 0, put down before the suite was run; the words of seed 1's rounds were known
by then. **holds**: its 95% interval lies above 0; **contradicted**: below; **cannot be told apart**: it reaches both.
All intervals are Student's t over the seeds' means, paired where models are compared: with three seeds they are wide,
and say nothing about other items. Words in words, all else in points of 100. The claims are not corrected for their
number."""

TEXTS = """\
Words of the texts that passed the filter: the Generator's answers (in round 1 the untrained model's) and the longer
texts that the Extender made of them. Quantiles are of all seeds together; the mean is that of the seeds' means with
Student's t interval over them. A text that passed has ended by itself, so these are not the lengths of all that was
written. In the plot: median, middle half, 10% to 90%; dashes are the seeds' means."""

FILTERS = """\
All seeds together. *initial*: answers; *extended*: longer texts, each of one answer that was kept. What fails is asked
again, so one text can be rejected several times. *unfinished*: no end within 512 tokens."""

GROWTH = """\
A longer text counts where it has more than 1.2 times the words of its answer. Its growth is *by repetition alone*
where it has not more than 1.2 times as many different runs of four words: that is counted as a failure here, though
the filter lets it pass (it rejects a text in which ten words in a row occur twice). Medians of each seed, then the mean
over seeds."""

SUITE = """\
The suite `longen-short`: 40 requests for texts of 60 to 300 words, ten of each kind of demand, none on a topic of the
training instructions. The score is LonGen's, 100 where the demand is met, less the further it is missed. *Untrained* is
the model before any round, asked for the same lengths. Up to 640 new tokens; a text that does not end in them is scored
as it is and counted as unfinished. Generators never see a length in training; the final model does."""

ASKED = "A cross is a text that did not end by itself. On the line, what is asked for is written."

LIMITS = """\
## Limits

- The scale is another: 135 million parameters (made from weights of 4 bits), 48 texts a run where the paper has some
  60,000, hundreds of words where it has thousands. A negative result here says nothing about the paper's models.
- Three seeds; what cannot be told apart is not equal. The suite's items are the same for all seeds.
- No quality is measured: no judge at hand could be trusted with it (docs/evidence/self_judge.md). Repetition is.
- Self-instruct is off, and both rounds take written instructions: where it was on (seed 0, `instructions: 24`, two
  tries, `suitable_words: 150`), 3 of 24 passed, and most of what the model wrote is no instruction.
- Texts and trainings were made at commit 9c24dc1, their figures at the commit above, which reuses them.
- Seed 1 and the first three models of seed 0 were trained with micro-batches of four examples, the others of one, as
  the recipe has it: the same updates in less memory.
- Examples longer than 1,024 tokens, mostly the Extender's, are left out and counted in each run's report."""

AGAIN = """\
## Made again by

    python tools/evidence_self_lengthen.py runs                      # all seeds, resumable; runs/self-lengthen
    python tools/evidence_self_lengthen.py collect SEED=FOLDER ...   # benchmarks/results/self-lengthen.json
    python tools/evidence_self_lengthen.py page                      # this page and its plots, from that alone"""
