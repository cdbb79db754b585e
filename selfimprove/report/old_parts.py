"""The parts of `report.html`: what each answers, what has to be known to read it, its plots and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfimprove.report import (
    answer_tables,
    correction_tables,
    judge_tables,
    label_tables,
    lengthening_tables,
    longen_tables,
    outcome,
    preference_tables,
    score_tables,
    tables,
)
from selfimprove.report.events import Event
from selfimprove.report.judged_examples import JudgedExamples, judged_examples
from selfimprove.report.plots import Plot, plots
from selfimprove.report.tables import Table


@dataclass
class OldPart:
    """A part of the page: what it answers, its plots, its tables (the second and later ones folded), and examples."""

    title: str
    note: str
    plots: list[Plot]
    tables: list[tuple[str, Table]]
    examples: list[JudgedExamples]


def old_parts_of(events: Sequence[Event]) -> list[OldPart]:
    """The parts that there is anything for, in the order in which a loop is judged."""
    drawn = plots(events)
    parts = [
        (
            "self_correction",
            "Does it correct itself?",
            "The policy reads its own first attempt and an instruction that does not say whether it was right, and "
            "answers again. Shares are of all items; Delta = (wrong, then right) - (right, then wrong). Copied whole: "
            "the second response is the first, character for character. The edit ratio is the edit distance divided "
            "by both lengths: 0 for a copy.",
            [
                ("First and last attempt", correction_tables.corrections_table(events)),
                ("From turn to turn", correction_tables.steps_table(events)),
                ("Votes of corrected and of first attempts", correction_tables.votes_table(events)),
            ],
        ),
        (
            "graded",
            "How good is it as a judge?",
            "The policy scores responses whose worth (gold) is known. Every row is over the same responses. "
            "Correlations are over all of them, or within each prompt; AUROC is for good responses; area is the mean "
            "gold of the kept over all coverages, highest scores first. Best of N is the mean gold of each prompt's "
            "response with the highest score; LC: length taken out of the scores first. Intervals come from drawing "
            "prompts anew with all their responses; differences are paired.",
            [
                ("Scores against gold", judge_tables.scores_table(events)),
                ("Best of N", judge_tables.best_of_n_table(events)),
                ("Policies less what needs no judge", judge_tables.less_table(events)),
                ("Calibration", judge_tables.calibration_table(events)),
                ("Best of N by group", tables.groups_table(events, "graded")),
            ],
        ),
        (
            "length_following",
            "Does it write as long as it is asked to?",
            "A word is one CJK character or what stands between white space. The length score is 1 within the demand's "
            "bounds and falls to 0 at half the lower and one and a half of the upper one. A text that did not end "
            "within the tokens it had is scored as it is. Distinct-4 is the share of different ones among a text's "
            "runs of four words; the longest repeated run occurs twice in one text.",
            [
                ("Length scores", longen_tables.scores_table(events)),
                ("Texts", longen_tables.texts_table(events)),
                ("Quality", longen_tables.quality_table(events)),
                ("Length score by group", tables.groups_table(events, "length_following")),
            ],
        ),
        (
            "preference",
            "Is it preferred?",
            "On every instruction a judge compares the policy's output with the opponent's; the win rate is the mean "
            "of its preferences, the discrete one counts wins and half of the ties. LC, the length-controlled win "
            "rate, is what a regression expects at equal lengths: a judge that likes long outputs gives no credit for "
            "length there. Published numbers compare only with the setting 'as published' (AlpacaEval's instructions "
            "and opponent) and the same judge. Intervals are over the instructions. Missing judgements "
            "are in no rate. Flips are instructions whose winner changed with the order of the outputs; first shown, "
            "the share of judgements that the output shown first won, is 50% for a judge that does not care. A judge "
            "that rates one output is asked about each by itself, in no order; the higher score wins.",
            [
                ("Win rates", preference_tables.win_rates_table(events)),
                ("Judgements, lengths and cost", preference_tables.judgements_table(events)),
                ("Win rate by group", tables.groups_table(events, "preference")),
            ],
        ),
        (
            "rating",
            "How is it rated?",
            "A judge rates every answer by itself. Intervals are over the questions.",
            [
                ("Ratings", preference_tables.ratings_table(events)),
                ("Rating by group", tables.groups_table(events, "rating")),
            ],
        ),
        (
            "judge",
            "Can the judge be trusted?",
            "The judge was asked about pairs whose better output is known. Accuracy is the mean over both orders, or "
            "that of the higher score where each output was rated by itself; guessing gives 50%. "
            "Where several people labelled each pair, one annotator after another is left out: the "
            "ceiling is how often the one left out agrees with the majority of the others, the agreement with people "
            "how often the judge does. No judge can be expected to pass the ceiling. "
            "Longer preferred: among the decided pairs, those in which the longer output won; by the labels it should "
            "be the share beside it.",
            [
                ("Judges", preference_tables.judges_table(events)),
                ("Accuracy of the judges by group", preference_tables.judge_groups_table(events)),
            ],
        ),
        (
            "answers",
            "What was scored, answered and declined?",
            "The histogram counts responses by their scores, rounded. Held-out figures are of the prompts that the "
            "threshold was chosen on, so they are optimistic.",
            [
                ("Scores", answer_tables.scores_table(events)),
                ("Histogram", answer_tables.histogram_table(events)),
                ("Answers", answer_tables.answers_table(events)),
                ("The first answers", answer_tables.first_answers_table(events)),
            ],
        ),
        (
            "acceptance",
            "What was accepted?",
            "Accepted: the share of responses, which is pass@1 where a judge's threshold decided; pass@k: of prompts "
            "with any among their k; lenient: by a check that forgives the form. Intervals are over prompts. Truncated "
            "responses are never accepted. Kept: distinct ones, at most so many a prompt. "
            "-log p is the mean over samples, which is the entropy at temperature 1 and top_p 1. "
            + outcome.never_accepted(events),
            [
                ("Rounds", outcome.acceptance_table(events)),
                ("Prompts without an accepted response", outcome.without_table(events)),
                ("Some kept responses", outcome.kept_table(events)),
            ],
        ),
        (
            "agreement",
            "Do two successive models rank alike?",
            "Both rank the same responses of every prompt. Kendall's tau is 1 for equal rankings, 0 for unrelated "
            "ones, -1 for opposite ones; a tied pair counts 0. The consistency C is what the recipe's measure makes "
            "of it, from 0 to 1. A recipe's `judge` ranks in the place of the newer model.",
            [("Agreement", tables.agreement_table(events))],
        ),
        (
            "rewards",
            "What was preferred, and what was learned?",
            "The margin h of a pair is beta times how much further training moved the chosen response from the loss "
            "reference than the rejected one: above 0 the pair was learned. Right labels prefer the right answer, "
            "among pairs with one right and one wrong response.",
            [("Rewards and margins", tables.rewards_table(events))],
        ),
        (
            "length",
            "Is length rewarded?",
            "Lengths are of the responses sampled in the round, in tokens. The correlation of reward and length is "
            "Spearman's, over all responses; its interval comes from drawing prompts anew.",
            [("Lengths", tables.length_table(events))],
        ),
        (
            "score",
            "What did the reinforcement learning do?",
            score_tables.sampled_note(events),
            [
                *score_tables.stage_tables(events),
                ("Probe prompts", score_tables.probes_table(events)),
                ("Time of an update", score_tables.times_table(events)),
                ("Some samples, as they were trained", score_tables.samples_table(events)),
            ],
        ),
        (
            "traces",
            "Which traces were kept?",
            "A trace is a first attempt of the policy with its second one behind it. Counts of traces, by what became "
            "of the first attempt.",
            [("Traces", score_tables.traces_table(events))],
        ),
        (
            "labels",
            "What did the judge learn from?",
            "z1 is the model's own grade of a response, the reference before it: the expected value of a digit. z2 "
            "is the cosine of the response's and the reference's sentence embeddings. The label is made of both. Cut: "
            "responses that were too long. Error: how far the expected digit is from the label; KL: from the pass with "
            "the reference to the one without. Held out: examples of prompts that the judge was not trained on, scored "
            "without the reference. A judge whose cross entropy is not below the labels' entropy knows no more than "
            "how frequent they are.",
            [
                ("Labels", label_tables.labels_table(events)),
                ("Some labels", label_tables.labelled_table(events)),
                ("Training of the judge", label_tables.judge_training_table(events)),
                ("What it learnt", label_tables.learnt_table(events)),
            ],
        ),
        (
            "lengths",
            "Did the texts grow?",
            "Words of the texts that each round kept; growth is of one text over its answer. Distinct-4 is the share "
            "of different runs of four words; a text that only repeats itself has a low one, and a long repeated run.",
            [
                ("Lengths by round", lengthening_tables.lengths_table(events)),
                ("Filters", lengthening_tables.filters_table(events)),
                ("Some texts", lengthening_tables.texts_table(events)),
            ],
        ),
    ]
    found = [
        OldPart(
            title,
            note,
            [plot for plot in drawn if plot.part == part],
            [one for one in own if one[1].rows],
            judged_examples(events, part),
        )
        for part, title, note, own in parts
    ]
    return [part for part in found if part.plots or part.tables or part.examples]
