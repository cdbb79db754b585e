"""The parts of `report.html`: what each answers, what has to be known to read it, its plots and its tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from selfimprove.report import (
    label_tables,
    lengthening_tables,
    outcome,
    score_tables,
    tables,
)
from selfimprove.report.events import Event
from selfimprove.report.judged_examples import JudgedExamples
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
            [],
        )
        for part, title, note, own in parts
    ]
    return [part for part in found if part.plots or part.tables or part.examples]
