"""The parts of `report.html`: what each answers, what has to be known to read it, its plots and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfimprove.report import (
    answer_tables,
    correction_tables,
    judge_tables,
    longen_tables,
    preference_tables,
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
