"""How sure we can be: an estimate over facts with its interval, and the summaries that the paper uses."""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.stats

from .checks import finite, fraction, integer, numbers, same_length

SAME_SIZE = 1.25  # of the same size: from 80 to 125 %, within which two drugs count as equivalent
SPACE = "\N{NO-BREAK SPACE}"  # a number and its unit, or its interval, stay in one line
MINUS = "\N{MINUS SIGN}"


class Interval(NamedTuple):
    """An estimate and its 95 % confidence interval; `f"{interval:+.1%}"` prints "−45.6 % [−50.1, −41.0]"."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        low, high = (written(x, spec).removesuffix(f"{SPACE}%") for x in self[1:])
        return f"{written(self.value, spec)}{SPACE}[{low},{SPACE}{high}]"


def written(number: float | Interval, spec: str = "") -> str:
    """A number in the form that it has throughout the book: "49.3 %", "−0.02", and never "-0.0".

    Args:
        spec: a format of Python's, such as "+.1%".
    """
    if isinstance(number, Interval):
        return format(number, spec)
    text = format(number, spec)
    if not any(digit in text for digit in "123456789") and any(c.isdigit() for c in text):
        text = text.lstrip("+-")  # zero has no sign
    text = text.replace("-", MINUS)
    return f"{text[:-1]}{SPACE}%" if text.endswith("%") else text


def perplexity(log_probability: Sequence[float]) -> float:
    """exp of the mean -log P(answer): 1 when the model is always sure and right (section 5).

    Args:
        log_probability: natural logarithms, so at most 0. NaN among them gives NaN.
    """
    values = _sample("log_probability", log_probability)
    if (values > 0).any():
        raise ValueError(f"log_probability holds {values.max():g}: pass logarithms of probabilities")
    return float(np.exp(-values.mean()))


def relative_change(before: Sequence[float], after: Sequence[float]) -> Interval:
    """(mean after - mean before) / mean before, with facts resampled in pairs; -0.29 is a fall by 29 %.

    A ratio of means, as in the paper's code: the mean of ratios explodes on facts that the model does not know.

    Raises:
        ValueError: samples of different lengths, an empty one, infinity in one, or a mean of 0 before.
    """
    before, after = _sample("before", before), _sample("after", after)
    same_length(before=before, after=after)
    if before.mean() == 0:
        raise ValueError("before has mean 0, from which no change is relative: compare differences instead")

    def change(b, a, axis):
        mean = b.mean(axis)
        return a.mean(axis) / np.where(mean == 0, np.nan, mean) - 1  # of a resample, too

    return bootstrap(change, before, after)


def perplexity_growth(before: Sequence[float], after: Sequence[float]) -> Interval:
    """(perplexity after - before) / perplexity before, with facts resampled in pairs; 1.066 is a growth by 106.6 %.

    Args:
        before, after: log P(answer) of each fact, natural.
    """
    return bootstrap(lambda b, a, axis: np.expm1((b - a).mean(axis)), before, after)


def perplexity_increase(before: Sequence[float], after: Sequence[float]) -> Interval:
    """Perplexity after minus perplexity before, with facts resampled in pairs; arguments of `perplexity_growth`."""
    return bootstrap(lambda b, a, axis: np.exp(-a.mean(axis)) - np.exp(-b.mean(axis)), before, after)


def verdict(ours: Interval, published: float, near_zero: float = 0.0, signed: bool = True) -> str:
    """Our number judged by a published one whose own interval is not known.

    A test of equivalence: to agree, our whole interval has to lie where it agrees, so that a number that is merely
    imprecise agrees with nothing.

    Args:
        near_zero: up to here a number counts as zero, whatever its sign; in the unit of both.
        signed: whether the sign says something; a count or a rate is never below 0.

    Returns:
        "too few facts" if we have no interval. Against a published number that is near zero: "near zero in both" if
        our interval lies there, "near zero in the paper only" if it lies elsewhere. Against any other number, the first
        that fits: "near zero here only"; "same size", from 80 to 125 % of it; "same direction" or "opposite direction"
        if our interval leaves out 0; for what is not `signed`, "other size" if it leaves out the published number.
        "undecided" where none of these holds for the whole interval.
    """
    published, near_zero = finite("published", published), finite("near_zero", near_zero, least=0)
    if not np.isfinite(ours).all():
        return "too few facts"
    is_zero = -near_zero <= ours.low and ours.high <= near_zero
    if abs(published) <= near_zero:
        elsewhere = ours.low > near_zero or ours.high < -near_zero
        return "near zero in both" if is_zero else "near zero in the paper only" if elsewhere else "undecided"
    if is_zero:
        return "near zero here only"
    low, high = sorted(end / published for end in (ours.low, ours.high))
    if low >= 1 / SAME_SIZE and high <= SAME_SIZE:
        return "same size"
    if not signed:
        return "undecided" if low <= 1 <= high else "other size"
    return "same direction" if low > 0 else "opposite direction" if high < 0 else "undecided"


def mean_interval(values: Sequence[float]) -> Interval:
    """The mean and its interval over facts."""
    return bootstrap(lambda v, axis: v.mean(axis), values)


def share_interval(values: Sequence[float]) -> Interval:
    """A share of facts, such as those that lose half, with Wilson's interval: never of width 0, as a bootstrap's is at
    0 and 100 %.

    Args:
        values: of each fact, 0 or 1; or a share of its prompts, which only makes the interval wider than it need be.

    Raises:
        ValueError: a value outside [0, 1], or no values.
    """
    values = _sample("values", values)
    if len(wrong := values[~((values >= 0) & (values <= 1))]):
        raise ValueError(f"values holds {wrong[0]:g}: pass shares, from 0 to 1")
    n, share, z = len(values), float(values.mean()), scipy.stats.norm.ppf(0.975)
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)))


def bootstrap(statistic, *samples: Sequence[float], level: float = 0.95, seed: int = 0) -> Interval:
    """Percentile bootstrap of `statistic(*samples, axis)`, the samples resampled together, one entry per fact.

    Returns:
        All NaN where a sample holds NaN. `low` and `high` are NaN for a single fact, and each of the three where the
        statistic has no finite value.

    Raises:
        ValueError: samples that are empty, of different lengths, or hold infinity; a level outside (0, 1).
    """
    samples = [_sample("the sample", sample) for sample in samples]
    same_length(**{f"sample {i}": sample for i, sample in enumerate(samples, 1)})
    if fraction("level", level) == 1:
        raise ValueError("level is 1: choose it below 1, such as 0.95")
    if any(np.isnan(sample).any() for sample in samples):
        return Interval(math.nan, math.nan, math.nan)
    value = statistic(*samples, axis=-1)
    if len(samples[0]) < 2:
        return Interval(_finite_or_nan(value), math.nan, math.nan)
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)  # of limits that are NaN
        result = scipy.stats.bootstrap(
            tuple(samples), statistic, paired=True, vectorized=True, n_resamples=2000, confidence_level=level,
            method="percentile", rng=np.random.default_rng(integer("seed", seed)),
        )  # fmt: skip
    return Interval(*map(_finite_or_nan, (value, *result.confidence_interval)))


def _sample(name: str, values: Sequence[float]) -> np.ndarray:
    """At least one number."""
    values = numbers(name, values)
    if len(values) == 0:
        raise ValueError(f"{name} is empty: pass the value of at least one fact")
    return values


def _finite_or_nan(value: float) -> float:
    return float(value) if math.isfinite(value) else math.nan
