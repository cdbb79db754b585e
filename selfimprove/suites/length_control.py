"""The length-controlled win rate of AlpacaEval 2 (Dubois et al., arXiv 2404.04475): a logistic model of the preference
with a term for length, from which the win rate at equal lengths is read.

    logit P(model beats baseline on x) = a tanh(length difference / its deviation) + b difficulty(x) + c

a, b and c are fitted for one model at a time. So that a model cannot buy a small `a` with strange outputs, the fit also
sees the annotations of two known ways to game length, the baseline told to be verbose and to be concise, for which c
is absent (they are the baseline) and whose rows weigh little.

The authors' code divides the length difference by its standard deviation without centring it, and looks an
instruction's difficulty up by its row in the annotation file, which is another instruction where rows are missing. That
is what published numbers mean, so it is the default here; `centred`, and difficulties found by instruction, are the
corrected forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

# Of the authors' `length_controlled_v1`: lambda 0.2, shared by the two ways to game.
GAMED_WEIGHT = 0.1
FOLDS = 5
_SEED = 123
# scikit-learn's own: ten values of C from 1e-4 to 1e4.
_STRENGTHS = 10


@dataclass(frozen=True)
class Gamed:
    """Annotations of the baseline against itself when told to be verbose or concise.

    preference: (rows,) in [0, 1]; length: (rows,) length difference over its deviation within its way; difficulty:
    (rows,).
    """

    preference: Floats
    length: Floats
    difficulty: Floats


@dataclass(frozen=True)
class LengthControlled:
    """`win_rate` in percent, at equal lengths, with a 95% interval where one was asked for; and the fit: coefficients
    of length, difficulty and model, and the inverse strength C of the L1 penalty that cross-validation chose.
    `resampled`: the win rate of each resample; the same place is the same draw of instructions for every model."""

    win_rate: float
    low: float | None
    high: float | None
    length: float
    difficulty: float
    model: float
    inverse_strength: float
    resampled: tuple[float, ...] = ()


def length_controlled_win_rate(
    preference: ArrayLike,
    length_difference: ArrayLike,
    difficulty: ArrayLike,
    gamed: Gamed,
    centred: bool = False,
    resamples: int = 0,
) -> LengthControlled:
    """The win rate of one model if its outputs were as long as the baseline's.

    Args:
        preference: (instructions,) probability in [0, 1] that the model's output is the better one; NaN is missing,
            left out of the fit and predicted all the same, as the authors do.
        length_difference: (instructions,) characters of the baseline's output minus those of the model's.
        difficulty: (instructions,) of the instruction, as the authors estimated it over all models.
        gamed: rows that keep the length term honest.
        centred: subtract the model's mean length difference before dividing by the deviation, and predict where the
            difference itself, not the centred one, is zero.
        resamples: for the interval, draws of instructions; each is fitted again, with the C of the whole. 0: none.

    Raises ValueError for arrays of different lengths, fewer than two preferences, or numbers that are not finite.
    """
    y, difference, hard = (np.asarray(a, dtype=np.float64) for a in (preference, length_difference, difficulty))
    if not y.shape == difference.shape == hard.shape or y.ndim != 1:
        raise ValueError(
            f"one value an instruction is needed, found shapes {y.shape}, {difference.shape}, {hard.shape}"
        )
    if not (np.isfinite(difference).all() and np.isfinite(hard).all()):
        raise ValueError("length differences and difficulties must be finite")
    if (known := int((~np.isnan(y)).sum())) < 2:
        raise ValueError(f"at least two preferences that are not missing are needed, found {known}")

    fitted = _fit(*_rows(y, difference, hard, gamed, centred))
    strength = float(np.ravel(fitted.C_)[0])
    low = high = None
    drawn: list[float] = []
    if resamples:
        draw = np.random.default_rng(0)
        while len(drawn) < resamples:
            of = draw.integers(len(y), size=len(y))
            if (~np.isnan(y[of])).sum() > 1:
                again = _fit(*_rows(y[of], difference[of], hard[of], gamed, centred), strength)
                drawn.append(_at_equal_lengths(again, difference[of], hard[of], centred))
        low, high = (float(end) for end in np.percentile(drawn, [2.5, 97.5]))
    value = _at_equal_lengths(fitted, difference, hard, centred)
    length, hardness, model = (float(coefficient) for coefficient in fitted.coef_[0])
    return LengthControlled(value, low, high, length, hardness, model, strength, tuple(drawn))


def contradiction(win_rate: float, controlled: float) -> str | None:
    """The warning of alpaca_eval (`get_is_extreme_changes`) where the length-controlled win rate is far from the raw
    one, both in percent: by more than 10 points and by more than a quarter of the way to 0 or to 100. None where it is
    not."""
    fall, rise = max(win_rate / 4, 10), max((100 - win_rate) / 4, 10)
    if win_rate - fall <= controlled <= win_rate + rise:
        return None
    return (
        f"Length controlled win rate is very different from the raw one: {controlled:.1f}% vs {win_rate:.1f}%. "
        "This might be a sign of failure of the GLM."
    )


def _standardised(difference: Floats, centred: bool) -> tuple[Floats, float]:
    """Length differences as the model takes them, and where a difference of zero lies among them."""
    deviation = difference.std(ddof=1) or 1.0  # all differences alike: nothing to control, and no division by zero
    middle = difference.mean() if centred else 0.0
    return np.tanh((difference - middle) / deviation), float(np.tanh(-middle / deviation))


def _rows(
    preference: Floats, difference: Floats, difficulty: Floats, gamed: Gamed, centred: bool
) -> tuple[Floats, Floats, Floats]:
    """Features, soft labels and weights of the fit: the gamed rows first, then the model's."""
    known = ~np.isnan(preference)
    length, _ = _standardised(difference, centred)
    rows = np.column_stack([length, difficulty, np.ones_like(difficulty)])[known]
    gamed_rows = np.column_stack([np.tanh(gamed.length), gamed.difficulty, np.zeros_like(gamed.difficulty)])
    weights = np.concatenate([np.full(len(gamed_rows), GAMED_WEIGHT), np.ones(len(rows))])
    return np.concatenate([gamed_rows, rows]), np.concatenate([gamed.preference, preference[known]]), weights


def _at_equal_lengths(fitted: Any, difference: Floats, difficulty: Floats, centred: bool) -> float:
    """Mean predicted preference, percent, over all instructions."""
    _, zero = _standardised(difference, centred)
    rows = np.column_stack([np.full_like(difficulty, zero), difficulty, np.ones_like(difficulty)])
    return 100 * float(fitted.predict_proba(rows)[:, 1].mean())


def _fit(features: Floats, probability: Floats, weight: Floats, strength: float | None = None) -> Any:
    """L1 logistic regression on soft labels, its C by cross-validation or (`strength`) given.

    scikit-learn takes hard labels only, so each row stands there twice, as a win with its probability for weight and
    as a loss with the rest; folds keep the two together, and are scored by the log-loss of the soft label.
    """
    import sklearn
    from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
    from sklearn.metrics import make_scorer
    from sklearn.model_selection import GroupKFold

    count = len(features)
    twice, label = np.tile(features, (2, 1)), np.repeat([1, 0], count)
    both, importance = np.concatenate([probability, 1 - probability]), np.tile(weight, 2)
    common = {"solver": "liblinear", "fit_intercept": False, "random_state": _SEED}
    if strength is not None:
        return LogisticRegression(C=strength, l1_ratio=1.0, **common).fit(twice, label, sample_weight=both * importance)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_soft_log_loss, response_method="predict_proba", greater_is_better=False)
        model = LogisticRegressionCV(
            Cs=_STRENGTHS,
            cv=GroupKFold(FOLDS),
            scoring=scorer.set_score_request(importance=True, probability=True),
            l1_ratios=(1.0,),
            use_legacy_attributes=False,
            **common,
        ).set_fit_request(sample_weight=True)
        return model.fit(
            twice,
            label,
            sample_weight=both * importance,
            groups=np.tile(np.arange(count), 2),
            importance=importance,
            probability=both,
        )


def _soft_log_loss(label: Floats, predicted: Floats, probability: Floats, importance: Floats) -> float:
    """Mean log-loss (nats) of the rows' probability of winning, weighted."""
    wins = np.where(label == 1, probability, 1 - probability)
    p = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(-np.mean((wins * np.log(p) + (1 - wins) * np.log(1 - p)) * importance))
