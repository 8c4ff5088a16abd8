"""Points and weights against exact integrals and sums of polynomials."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kn_utils.quadrature import RULES, gauss_rule, integrals_between, riemann_points

RIEMANN = [rule for rule in RULES if rule != "gauss-legendre"]


@pytest.mark.parametrize("rule", RIEMANN)
@pytest.mark.parametrize("n_nodes", [1, 2, 5, 6])
def test_gauss_rule_equals_the_sum_for_polynomials_below_twice_its_nodes(rule, n_nodes):
    points, weights = riemann_points(rule, 20)
    nodes, gauss = gauss_rule(points, weights, n_nodes)
    for degree in range(2 * n_nodes):
        assert (gauss * nodes**degree).sum().item() == pytest.approx((weights * points**degree).sum().item(), abs=1e-13)
    beyond = 2 * n_nodes
    assert (gauss * nodes**beyond).sum().item() != pytest.approx((weights * points**beyond).sum().item(), abs=1e-13)


def test_gauss_rule_with_a_node_for_every_point_is_the_sum():
    points, weights = riemann_points("left", 7)
    nodes, gauss = gauss_rule(points, weights, 7)
    torch.testing.assert_close(nodes, points, atol=1e-12, rtol=0)
    torch.testing.assert_close(gauss, weights, atol=1e-12, rtol=0)


def test_gauss_rule_of_many_points_is_close_to_gauss_legendre():
    nodes, gauss = gauss_rule(*riemann_points("midpoint", 2000), 4)
    expected = riemann_points("gauss-legendre", 4)
    torch.testing.assert_close(nodes, expected[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(gauss, expected[1], atol=1e-6, rtol=0)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.sets(st.integers(0, 40), min_size=6, max_size=8))
def test_integrals_between_nodes_are_exact_for_polynomials(coefficients, fortieths):
    ends = torch.tensor(sorted(fortieths)).double() / 40
    values = sum(c * ends[:-1] ** power for power, c in enumerate(coefficients))
    antiderivative = sum(c * ends ** (power + 1) / (power + 1) for power, c in enumerate(coefficients))
    torch.testing.assert_close(integrals_between(ends) @ values, antiderivative.diff(), atol=1e-7, rtol=0)
