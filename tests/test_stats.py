"""Intervals against values worked out by hand, against scipy's and against simulated samples."""

import math

import numpy as np
import pytest
import scipy.stats
from common import one_line_error

import kn_utils as kn
from kn_utils.stats import perplexity_growth, perplexity_increase, share_interval


@pytest.mark.parametrize("count, n", [(0, 12), (12, 12), (1, 1), (3, 40), (139, 278), (2790, 2793)])
def test_wilsons_interval_of_a_share(count, n):
    expected = scipy.stats.binomtest(count, n).proportion_ci(method="wilson")
    found = share_interval([1] * count + [0] * (n - count))
    assert found == pytest.approx((count / n, expected.low, expected.high), abs=1e-12)
    assert found.low < found.high


def test_a_share_of_prompts_counts_as_a_share():
    assert share_interval([0.5] * 10) == share_interval([0, 1] * 5)


@pytest.mark.parametrize("value", [1.5, -0.1])
def test_what_is_no_share(value):
    with one_line_error(ValueError, f"{value:g}", "from 0 to 1"):
        share_interval([0.5, value])


def test_shares_cover_the_truth_also_near_their_ends():
    """95 % intervals of simulated shares hold the true one about 19 times in 20, where a bootstrap's do not."""
    draws = np.random.default_rng(0).random((400, 40)) < 0.98
    held = [low <= 0.98 <= high for _, low, high in map(share_interval, draws)]
    assert 0.9 <= np.mean(held) <= 1


@pytest.mark.parametrize(
    "probabilities, expected", [([1.0, 1.0], 1.0), ([0.5, 0.5], 2.0), ([0.5, 0.125], 4.0), ([0.1], 10.0)]
)
def test_perplexity_by_hand(probabilities, expected):
    assert kn.perplexity([math.log(p) for p in probabilities]) == pytest.approx(expected)


def test_relative_change_is_a_ratio_of_means():
    change = kn.relative_change([0.2, 0.6, 0.001], [0.1, 0.3, 0.1])  # 0.5 / 0.801
    assert change.value == pytest.approx(0.5 / 0.801 - 1)
    assert change.low <= change.value <= change.high


def test_relative_change_resamples_in_pairs():
    """Every fact loses exactly a quarter, so every resample does."""
    before = np.linspace(0.1, 0.9, 20)
    assert kn.relative_change(before, 0.75 * before) == pytest.approx((-0.25, -0.25, -0.25))


def test_mean_interval_by_hand():
    """Of 30 zeros and 10 ones the mean is 1/4, and its standard error sqrt(p (1 - p) / n)."""
    interval = kn.mean_interval([0] * 30 + [1] * 10)
    error = 1.96 * math.sqrt(0.25 * 0.75 / 40)
    assert interval.value == 0.25
    assert interval.low == pytest.approx(0.25 - error, abs=0.03)
    assert interval.high == pytest.approx(0.25 + error, abs=0.03)


def test_intervals_are_reproducible():
    values = np.random.default_rng(1).random(50)
    assert kn.mean_interval(values) == kn.mean_interval(list(values))


def test_one_value_has_no_interval():
    interval = kn.mean_interval([0.3])
    assert interval.value == 0.3
    assert math.isnan(interval.low) and math.isnan(interval.high)


def test_intervals_cover_the_truth():
    """95 % intervals of 150 simulated samples hold the true mean about 19 times in 20."""
    rng = np.random.default_rng(0)
    intervals = [kn.mean_interval(rng.exponential(2.0, 60)) for _ in range(150)]
    assert 0.88 <= np.mean([low <= 2.0 <= high for _, low, high in intervals]) <= 0.99


def test_growth_and_increase_of_perplexity_by_hand():
    before, after = np.log([0.5, 0.5]), np.log([0.25, 0.25])  # perplexity 2, then 4
    assert perplexity_growth(before, after) == pytest.approx((1, 1, 1))
    assert perplexity_increase(before, after) == pytest.approx((2, 2, 2))
    assert math.isnan(perplexity_growth(before[:1], after[:1]).low)
