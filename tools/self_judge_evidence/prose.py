"""The page's fixed text: what was measured and with what, how to read it, and what it cannot say."""

WHAT = """\
Self-J (Ye and Ng, arXiv 2409.00935) trains a model to judge its own answers. Its answers to labelled questions get a
grade from two signals of its own: its evaluation with the reference in view, and the similarity of answer and
reference. A judge learns that grade with the reference and without it. Alone, it reads question and answer, and its
score is the expected digit, 0 to 9. `docs/recipes.md` says where the paper could not be read and what was chosen.

**The judged model** is SmolLM2-135M after SFT on one-word questions (`smollm2-135m/sft-lora`). Each of three seeds
draws its own 50 training questions with two answers each, trains its own judges, and draws its own answers to be
judged: four to each of the 300 questions of the suite `judged-words`, right (1) or wrong (0) by exact match. That is
the gold. No setting was tuned: the recipe's learning rate of 5e-4 was fixed beforehand, and the one other that was
looked at, 2e-3 on seed 100 and 66 items of `data/words/development.jsonl`, ranked no better (Spearman -0.003 [-0.17,
0.16]).

**Judges**, each the recipe `smollm2-135m/self-judge` with one key changed, on the same answers of a seed: *Self-J*;
*cosine labels only* (`self_judge.self_evaluation=0`), *self-evaluation labels only* (`=1`), *no self-distillation*
(`self_judge.distillation=0`); and *untrained self-evaluation*, the model asked the same question before any training.

**What needs no judge**: an answer's length (in characters), its likelihood under the judged model, per token and
summed, chance, and the gold itself, which no judge can beat.

**Figures**, all times 100 as in the paper: correlations of scores and gold over all answers of a seed; *AUROC*, the
chance that a right answer has a higher score than a wrong one; *area*, the mean gold of the answers kept, over all
coverages, where the highest scores are kept first; *best of 4*, the mean gold of each question's answer with the
highest score, equal ones averaged, and *length-controlled*, with the scores' dependence on log length taken out;
*calibration error*, how far scores are from shares of right answers, both from 0 to 1, in ten bins."""

RULE = """\
The orderings of 1 to 4 are the paper's (Pearson with GPT-4's scores times 100, mean of five judged models, on 850 and
on 1655 tests; for 1b its perplexity); 5 to 7 are questions of our own but for 6a, where the paper has best of 32
against one answer (AlpacaEval 1 and 2). Each is one difference, claimed to be above 0, and was put down before there
were results. A verdict follows from the 95% interval over the seeds' means alone (Student's t). **holds**: it lies
wholly above 0; **contradicted**: wholly below; **cannot be told apart**: it reaches both, which refutes nothing. With
three seeds this interval is wide: half of it is 2.5 times the seeds' standard deviation. p (Holm) allows for the number
of claims: below .05 a verdict stands even so. In brackets behind each seed's value is its own 95% interval, a bootstrap
over the questions, which says nothing about other trainings. Where there is none, the runs record no paired one."""

READING = """\
Mean over seeds with Student's t interval over them (so that of a share near 0 or 100% may reach beyond); lengths in
characters. Rows are of the same answers, so they should be compared by the differences above. *Shorter is better* is
the other side of *longer is better*; what the runs do not tell of it is left empty."""

SEEDS_READING = "Each seed's own value, with its 95% bootstrap interval over the questions:"

CURVES = """\
Mean over seeds. On the left only the answers with the highest scores are given; on the right all of them. A judge is
worth as much as its line lies above chance."""

DOTS = """\
A dot is a seed with its interval over the questions, the bar the mean over seeds. Different seeds judge different
answers."""

LABELS = """\
*z1* is the model's own grade with the reference in view, 0 to 9, *z2* the cosine with the reference; 10%, median and
90%. *Agreement* is their Spearman correlation, times 100. The next table has the loss's parts and the mean distance of
the expected digit to the label, first to last five updates, mean over seeds."""

NO_USE = "Nothing is written down here yet."

LIMITS = """\
## Limits

- The scale is another: 135 million parameters (made from weights of 4 bits), answers of a word, 100 labelled answers
  instead of 30 thousand, the judge trained from the judged model itself, best of 4 instead of 32. Gold is right or
  wrong, not GPT-4's grade, so correlations have another meaning and another ceiling than the paper's.
- One judged model, and the same 300 questions for every seed: an interval over seeds says nothing about other
  questions, and no interval here about other models or tasks.
- Three seeds: an interval over them sees large differences alone. What cannot be told apart is not equal.
- A cut-off answer counts as wrong, which a judge can see by its length alone. Length-controlled figures take out a
  linear dependence on log length, and no other.
- AUROC, area and Spearman are much alike where gold is right or wrong; their claims are not independent.
- The settings are one set for all judges. The others might do better with their own.
- Judges of self-evaluation labels were trained with micro-batches of eight examples and the others of two, so with
  other draws of dropout."""

AGAIN = """\
## Made again by

    selfimprove run smollm2-135m/sft-lora                              # the judged model
    python tools/evidence_self_judge.py runs                           # all judges, resumable; runs/self-judge
    python tools/evidence_self_judge.py collect KIND-SEED=FOLDER ...   # benchmarks/results/self-judge.json
    python tools/evidence_self_judge.py page                           # this page and its plots, from that alone"""
