"""Points and weights against exact integrals and sums of polynomials."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kn_utils.engine.integration import N_NODES
from kn_utils.engine.quadrature import RULES, integrals_between, nested_rules, radau_rule, riemann_points

RIEMANN = [rule for rule in RULES if rule != "gauss-legendre"]


@pytest.mark.parametrize("rule", RIEMANN)
@pytest.mark.parametrize("n_nodes", [1, 2, 5, 8])
def test_radau_rule_equals_the_sum_for_polynomials_below_twice_its_nodes_less_one(rule, n_nodes):
    points, weights = riemann_points(rule, 20)
    nodes, radau = radau_rule(points, weights, n_nodes)
    assert nodes[-1] == 1 and len(nodes) == n_nodes
    assert (radau > 0).all() and (nodes > 0).all()
    for degree in range(2 * n_nodes - 1):
        assert (radau * nodes**degree).sum().item() == pytest.approx((weights * points**degree).sum().item(), abs=1e-13)
    beyond = 2 * n_nodes - 1
    assert (radau * nodes**beyond).sum().item() != pytest.approx((weights * points**beyond).sum().item(), abs=1e-13)


def test_radau_rule_of_many_points_is_the_classical_one():
    """Three nodes on [0, 1] with one at the end: (4 -+ sqrt 6) / 10 and 1 (Abramowitz and Stegun 25.4.31, mirrored)."""
    nodes, radau = radau_rule(*riemann_points("midpoint", 4000), 3)
    root = 6**0.5
    expected = torch.tensor([(4 - root) / 10, (4 + root) / 10, 1.0]).double()
    torch.testing.assert_close(nodes, expected, atol=1e-6, rtol=0)
    weights = torch.tensor([(16 - root) / 36, (16 + root) / 36, 1 / 9]).double()
    torch.testing.assert_close(radau, weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rule", RIEMANN)
@pytest.mark.parametrize("n_nodes, n_steps", [(2, 20), (4, 20), (5, 11), (5, 20), (6, 300)])
def test_an_extension_keeps_the_nodes_and_is_better(rule, n_nodes, n_steps):
    points, weights = riemann_points(rule, n_steps)
    coarse, finer, whole = nested_rules(points, weights, n_nodes)
    torch.testing.assert_close(finer.nodes[~finer.is_new], coarse.nodes, atol=1e-12, rtol=0)
    assert finer.is_new.sum() == n_nodes and whole.is_new.all()
    assert torch.equal(coarse.is_new, coarse.nodes < 1) and torch.equal(whole.nodes, points)
    assert (finer.nodes.diff() > 0).all() and finer.nodes.min() > -0.05 and finer.nodes.max() <= 1
    for degree in range(3 * n_nodes):  # twice as many nodes that could not be chosen freely
        expected = (weights * points**degree).sum().item()
        assert (finer.weights * finer.nodes**degree).sum().item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("rule", RIEMANN)
def test_extensions_stay_at_the_path(rule):
    """Whatever the sum: their nodes are real and apart, none far from the path, and no weights cancel."""
    for n_steps in range(2 * N_NODES + 1, 301):
        _, finer, _ = nested_rules(*riemann_points(rule, n_steps), N_NODES)
        assert finer.nodes.diff().min() > 1e-3 and finer.nodes.min() > -0.01 and finer.nodes.max() == 1
        assert finer.weights.sum().item() == pytest.approx(1) and finer.weights.abs().sum() < 1.01


@pytest.mark.parametrize("n_steps, sizes", [(3, [3]), (5, [5]), (6, [5, 6]), (10, [5, 10]), (11, [5, 10, 11])])
def test_no_rule_has_more_nodes_than_the_sum(n_steps, sizes):
    rules = nested_rules(*riemann_points("left", n_steps), 5)
    assert [len(rule.nodes) for rule in rules] == sizes


def test_the_end_is_known():
    (rule,) = nested_rules(*riemann_points("right", 4), 4)
    assert rule.is_new.tolist() == [True, True, True, False]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=5), st.sets(st.integers(0, 40), min_size=6, max_size=8))
def test_integrals_between_nodes_are_exact_for_polynomials(coefficients, fortieths):
    ends = torch.tensor(sorted(fortieths)).double() / 40
    values = sum(c * ends[:-1] ** power for power, c in enumerate(coefficients))
    antiderivative = sum(c * ends ** (power + 1) / (power + 1) for power, c in enumerate(coefficients))
    torch.testing.assert_close(integrals_between(ends) @ values, antiderivative.diff(), atol=1e-7, rtol=0)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_steps", [1, 2, 20])
def test_weights_sum_to_one(rule, n_steps):
    alphas, weights = riemann_points(rule, n_steps)
    assert len(alphas) == len(weights) == n_steps
    assert weights.sum().item() == pytest.approx(1, abs=1e-6)
    assert 0 <= alphas.min() <= alphas.max() <= 1
