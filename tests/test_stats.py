"""Shares with Wilson's interval, against scipy's."""

import numpy as np
import pytest
import scipy.stats
from common import one_line_error

from kn_utils.stats import share_interval


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
