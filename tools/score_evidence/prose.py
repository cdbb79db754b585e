"""The page's fixed text: what was measured and with what, how to read it, and what it cannot say."""

WHAT = """\
SCoRe (Kumar et al., arXiv 2409.12917) trains a model to correct its own answer: it answers, reads a fixed instruction
that does not say whether the answer was right, and answers again. **Acc@t1** and **Acc@t2** are the shares of right
first and second attempts, **Delta** is Acc@t2 minus Acc@t1, **i->c** and **c->i** are the shares of all problems whose
answer went from wrong to right and from right to wrong (Delta is their difference), and **copies** is the share of
second attempts that repeat the first to the letter. A right first attempt is best copied, so many copies are not bad in
themselves.

**The lab.** A Llama of 338 thousand parameters, trained from scratch on additions, sorting and reversing letters, whose
corpus holds dialogues of two turns, with corrections and with right answers spoilt: `benchmarks/lab/README.md` says how
it is made. Exact match is the reward and the measure, on 800 evaluation items. Five seeds, 0 to 4, each with its own
base, data and training. Settings were chosen on seed 100, with development items, for SCoRe and plain multi-turn RL,
and then used for all; no seed of this page was used for a choice.

**Methods**, one line each in `benchmarks/lab/score_methods.py`, all at as many samples, all weights trained, from the
same base. *SCoRe*: Stage I and Stage II of 75 updates, 128 samples of two attempts an update, alpha 10, beta1 .01,
beta2 .1, KL to the base averaged per token beside a summed reward term, so that with answers of about six tokens the
betas in force are about a sixth of these (see the section on reductions). *alpha 0*: Stage II without the bonus. *Stage
II only*: 150 updates of it. *Plain multi-turn RL*: Stage II only, with alpha 0. *Single-turn RL*: 150 updates of twice
as many single attempts. *STaR*: SFT on the model's own corrections that ended right, in three rounds, with traces that
were right twice; once more with *corrections only*. *Pair-SFT*: SFT on its own wrong attempts with a right one of the
same problem behind. Ours: SCoRe *with base first attempts*, which are half of those that Stage II's second attempts
read; and *with summed KL*, over an answer's tokens, of which there are about six, so about six times as strong. The
last policy of a run is measured, whatever it was like. Self-Refine is not on the lab: its one-token vocabulary cannot
ask for feedback. It is a suite for real models (`selfimprove eval self-refine`).

**Two ways to answer.** Greedy, as the paper evaluates; and drawn at temperature 1, as training draws. What training
improves is the second."""

RULE = """\
Orderings of SCoRe's tables (MATH500, Gemini 1.5 Flash) and one finding of PAG (arXiv 2506.10406), which trained SCoRe
again on open models. The orderings are the literature's; they were put into quantities when two of the five seeds were
known. A verdict follows from the 95% interval alone. **holds**: it lies wholly on the claimed side of 0;
**contradicted**: wholly on the other; **cannot be told apart**: it reaches both, which refutes nothing. p (Holm) allows
for the number of claims in its column: below .05 a verdict stands even so. There is no verdict before every seed of the
methods in it is finished, or was stopped."""

READING = """\
Mean over seeds with Student's t interval over the seeds (so that of a share near 0 or 100% may reach beyond). The
seeds' bases differ much, and with them the intervals of a method alone; the differences further down are paired by seed
and are what methods should be compared by."""

DIFFERENCES = """\
Paired by seed, in points, with Student's t interval over the seeds. The last column of the first table asks whether all
of it pays: the trained model's second attempt against the first attempt that the base makes anyway."""

OWN_READING = """\
Our own comparisons. No direction was claimed, so the words only say where the interval lies. KL of turn 1: nats per
token to the base, mean of the last 10 updates. Nothing is allowed for the number of these comparisons."""

PLOT = """\
Above the dashed line second attempts are better than first ones. A mark is the base's mean plus the method's mean
difference to it, its cross the 95% interval of that difference, paired by seed; the plot may cut it off."""

TRAINING = """\
Figures of what training itself drew in its last 10 updates, mean over seeds. KL in nats per token to the base; STaR and
Pair-SFT have no such updates."""

REDUCTIONS = """\
The formula has the reward's gradient and the KL of whole responses, both summed over an answer's tokens. Averaging both
over a turn's tokens keeps their ratio and makes a step independent of the answers' length: that is the default. The
runs above sum the one and average the other, so that beta in force is beta over the answer's length (here about six
tokens; at 400 tokens it would be a four-hundredth). The same five seeds on bases that were made again on another
machine, and so compared with nothing above. Differences are paired by seed; Student's t, nothing allowed for their
number."""

LIMITS = """\
## Limits

- The scale is another: 338 thousand parameters and answers of at most eight characters instead of reasoning by a large
  model; 150 updates of 128 samples instead of 3000 of 512. An ordering that fails here may hold there, and the other
  way round. Nothing here is a figure of SCoRe on MATH.
- An answer of one token per character leaves no room to think again: the second attempt can correct only what the model
  knows without writing it down.
- Five seeds see differences of a few points, not of one; what cannot be told apart is not equal.
- One step size and one KL for all RL, chosen for SCoRe and plain multi-turn RL. The other controls might do better
  with their own; so might STaR and Pair-SFT, which take the SFT step size of family `cream` (3e-4, one epoch).
- Samples are equal, cost is not: STaR draws once a round and trains on what it keeps.
- The last policy is taken, not the one of the highest training reward as in the paper."""

SMOLLM2 = """\
## On SmolLM2-135M: a proof that it runs

One seed, 20 updates a stage (`recipes/smollm2-135m/score.yaml` and the controls as options of it), one-word questions.
Intervals are over the items alone, so nothing here compares methods, and so few updates are not meant to gain."""

AGAIN = """\
## Made again by

    python -m benchmarks.lab.run --family score --seeds 0-4            # resumable; benchmarks/results/lab-score.json
    python tools/evidence_score.py collect NAME=RUN_FOLDER ...         # SmolLM2: benchmarks/results/smollm2-score.json
    python tools/evidence_score.py page                                # this page and its plot, from the two alone"""
