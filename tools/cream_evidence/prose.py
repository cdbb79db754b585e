"""The page's fixed text: how to read it, how it was made, what it cannot say."""

RULE = """\
A verdict follows from a 95% interval alone. **holds**: the interval lies wholly on the claimed side;
**contradicted**: wholly on the other; **not distinguishable here**: it reaches both. Claim 1 as a whole needs a, b
and c; its bound .38 is the middle of the paper's two values, which are of M3 and M2. Quantities and rule were written
down before any run of SRLM was finished; nine quantities are tested, without correction for their number."""

READING = """\
Items 103 to 300 of `eval/words`, never used for any choice. Changes are paired by seed and item; the 95% intervals draw
seeds and items again. n counts (seed, item). Rings in the plots are single seeds."""

LABELS = """\
Of the pairs with exactly one right answer (telling pairs), the share where it is the chosen one. The verifier's are
right by construction. CREAM, SRLM and constant c share the pairs of round 1."""

METHOD = """\
## Method

- **Runs** ({runs} finished; code at {code}): SmolLM2-135M-Instruct, LoRA r 16; SFT on 66 labelled examples makes
  M1; two rounds of 66 prompts each, 5 responses a prompt, temperature 1.0, make M2 and M3. Evaluation: greedy, exact
  match. Seeds 2, 3, 4; seeds 0 and 1 chose the step sizes and are not reported. The matrix was fixed before any
  comparison. It first had three rounds and all 300 items; it was cut to two rounds and the 198 items to save time, when
  one run of CREAM was half made and no other begun.
  It was made in parts, on two machines; of one seed M1 is the same on both, bit for bit.
- **Settings**: beta 0.1 is the paper's; its step size, 8e-5, was picked on development prompts. beta 0.4 with 2.5e-5
  is what the recipes ship; that step was made smaller with items 1 to 102 in view, which is why those are not used
  here. All methods of a setting share its step size; the verifier's own recipe has 1.2e-4.
- **Methods**: of one seed they share M1 and the prompts of each round. CREAM, SRLM and constant c differ in c alone
  and share the pairs of round 1. Random pairs and the verifier have c = 1; the verifier compares with the prompts'
  answers, and makes pairs only where a right and a wrong response were drawn.
- **tau**: Kendall's, of the implicit rewards (log pi - log pi_0) of a prompt's five responses under two successive
  models, averaged over prompts. Equal responses tie in both rankings and count 0 in tau-a, the measure that makes
  C = (tau-a + 1) / 2. The paper's long responses hardly tie, so tau with tied pairs left out is compared with it. A
  prompt whose responses are all the same has none. SRLM has no second model in round 1. M3 is compared with M2 on
  responses that M3 gives to a third slice of prompts (the `compare` command).
- **Intervals**, all 95%: accuracy, changes, differences: percentile bootstrap over seeds and items, crossed (4000
  draws). tau: bootstrap over prompts within each seed; its difference, over the prompts where both are defined.
  Labels: Wilson, seeds taken together. Lengths, correlation (Spearman, over responses), tied pairs and mean abs. h
  (beta times nats): Student's t over the seeds.

Made again by

    python tools/evidence_cream.py run FOLDER       # hours on two cores; resumable
    python tools/evidence_cream.py compare FOLDER   # M3 with M2, for CREAM and SRLM
    python tools/evidence_cream.py collect FOLDER   # cream/results.json: right or wrong per item, tau per prompt
    python tools/evidence_cream.py page             # this page, from results.json alone"""

LIMITS = """\
## Limits

- Three seeds are few: a bootstrap of three understates how much seeds differ, Student's t over three is wide, and the
  intervals of tau leave seeds out altogether. Read the seeds' own values.
- The scale is another: 135M parameters from a 4-bit GGUF file instead of 8B; LoRA instead of full weights; one-word
  answers to six tasks instead of reasoning; 66 prompts a round instead of about 7000; 66 labelled examples instead of
  3400; steps of 8e-5 or 2.5e-5 instead of 1e-6. M0 cannot answer in this form at all, so the SFT moves the model far,
  where the paper's 8B models moved little.
- Round 1's second ranking is the model from the middle of the SFT (`sft_middle`), not M0's likelihood as in the
  authors' code: after so strong an SFT that opposes the reward by construction, and the loss would turn labels round.
- Where many responses are equal, C is well below 1 even if two models rank all the others alike (the columns tau, ties
  left out, and tied pairs). The labels here are softened for ties more than for disagreement.
- The measured C is near the constant it is compared with, 0.85, so claim 4 is hardly tested.
- What is not distinguishable here is not refuted: an effect of a point or two is below what these runs can see."""

LAB_ABOUT = """\
A Llama of 338 thousand parameters, trained from scratch on additions, sorting and reversing, where the truth of every
answer is known and a corpus that was partly wrong leaves room to improve: `benchmarks/lab/README.md` says how it is
made, what was fixed and what was tried. M1 is the base after SFT on 1000 clean examples; three rounds make M2 to M4,
all weights trained, beta 0.1. Seeds 0 to 9, each with its own base and data; seeds 100 and 101 chose the settings, with
development items. **Large step**: lr 1e-4, 512 prompts a round, one epoch, batches of 32; the largest at which the
verifier lost nothing on seed 100. **Small steps**: lr 1e-5, 1333 prompts, two epochs, batches of 8; chosen later, by
the verifier's gain on seed 100 alone, as at the large step the verifier had gained nothing on the first seven seeds.

A label is **wrong** if the chosen response has fewer places right than the rejected one. Claims as above, with three
more: 7, that Kendall's tau is the best measure; 8, that C_j tells which labels are right; 9, that wrong labels harm.
They were written down before a run of a reported seed began; intervals are percentile bootstraps over the ten seeds."""

LAB_READING = """\
Accuracy on 600 evaluation items, greedy, exact match; differences are paired by seed. Wrong labels: of the pairs whose
responses are not as good as each other. tau: tied pairs left out, in round 3, where M3 is compared with M2 as in the
paper. AUROC: probability that C_j (Kendall) is higher at a right label than at a wrong one; one half is no
knowledge."""
