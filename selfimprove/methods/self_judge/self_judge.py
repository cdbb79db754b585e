"""Self-J: a model trains its own judge (Ye and Ng, arXiv 2409.00935; code github.com/nusnlp/Self-J).

1. y' is sampled from the model at labelled instructions (x, y).
2. y' gets a label from the model's own signals: z1, the model's evaluation of (x, y') with y shown as the reference,
   and z2, the cosine of the sentence embeddings of y' and y.
3. A judge, one LoRA model, learns (x, y') -> label and (x, y', y) -> label, and its pass without the reference is
   drawn to the one with it: L = CE_ref + 0.3 CE_noref + 2 KL( stopgrad p_ref || p_noref ).
4. At use it reads (x, y') and its score is the expected value of its digit, 0 to 9.

The paper's body could not be read; the loss, its weights, LoRA's settings and the ten digits are the authors' code's.
Where that is silent, each with an option: both signals are brought to 0..9 by their ranks on the training set
(`scaling`), averaged (`self_evaluation`: z1's weight) and rounded; the embedding is all-MiniLM-L6-v2 (`embedding`);
equal responses to a prompt are one example. Chosen differently from that code: a score without a digit is missing and
not 0; the prompt is the same in training and at use; a question over the cut-off loses the end of the response and
never the digit; a tenth of the prompts is held out, to say whether the judge learnt anything. The end of turn behind
the digit is not trained: that code's cross entropy is the mean over both, of which half is left once the end is learnt,
so in force its loss is 0.5 CE_ref + 0.15 CE_noref + 2 KL, and recipes with the authors' settings say so. Further
rounds, which the paper may not have, grade new responses of the same model with the judge of the round before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfimprove.methods.self_judge.learning import check_learnt, hold_out, say_where
from selfimprove.methods.self_judge.options import SelfJudge
from selfimprove.methods.self_judge.preview import preview
from selfimprove.methods.self_judge.report import judge_part
from selfimprove.methods.self_judge.training import (
    agreement,
    find_rubric,
    labelled_examples,
    prepare,
    self_evaluation,
    similarity,
    train_judge,
    write_judge,
)
from selfimprove.models.policy import Policy
from selfimprove.recipe.contract import Needs, method

if TYPE_CHECKING:
    from selfimprove.loop.loop import Loop


@method(
    options=SelfJudge,
    needs=Needs(prompts=True),
    defaults={"rounds": 1},
    prepare=prepare,
    preview=preview,
    report=(judge_part,),
)
def self_judge(loop: Loop, options: SelfJudge) -> Policy:
    """The judge of the last round; `judge/` in the run's folder is what others use."""
    rubric = find_rubric(loop)
    judged = evaluator = loop.base_policy  # the model whose answers are judged, and who grades them
    loop.evaluate(judged)  # untrained self-evaluation

    for round in loop.rounds():
        responses = loop.sample(judged, round.prompts)
        own = self_evaluation(loop, rubric, evaluator, responses)  # z1
        similar = similarity(loop, responses)  # z2
        examples = labelled_examples(loop, rubric, responses, own, similar, round)
        trained, held = hold_out(examples, options.held_out, loop.recipe.seed)
        evaluator, history = train_judge(loop, judged if options.restart else evaluator, trained)
        check_learnt(loop, round, evaluator, trained, held, history, agreement(own, similar))
        loop.evaluate(evaluator, round)
    kept = loop.kept(evaluator)
    say_where(loop, kept, write_judge(loop, rubric, kept))
    return kept
