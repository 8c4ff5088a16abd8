"""Points and weights on [0, 1]: Riemann sums, and the Gauss rules that stand for them with fewer evaluations."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.polynomial import legendre
from torch import Tensor

from ..checks import count, one_of

RULES = ("left", "right", "midpoint", "gauss-legendre")


class Rule(NamedTuple):
    """A weighted sum over nodes, of which some have been evaluated before."""

    nodes: Tensor  # ascending
    weights: Tensor
    is_new: Tensor  # whether a node is to be evaluated


def riemann_points(rule: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """The points alpha in [0, 1] and the weights of a rule; the weights sum to 1.  # (n_steps,), (n_steps,)

    Raises:
        ValueError: an unknown rule, or n_steps below 1.
        TypeError: n_steps is no whole number.

    Example:
        >>> alpha, weight = kn.riemann_points("left", n_steps=4)
        >>> alpha.tolist(), weight.tolist()
        ([0.0, 0.25, 0.5, 0.75], [0.25, 0.25, 0.25, 0.25])
    """
    rule, n_steps = one_of("rule", rule, RULES), count("n_steps", n_steps)
    if rule == "gauss-legendre":
        nodes, weights = np.polynomial.legendre.leggauss(n_steps)  # on [-1, 1]
        return torch.tensor((nodes + 1) / 2), torch.tensor(weights / 2)
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return (torch.arange(n_steps).double() + offset) / n_steps, torch.full((n_steps,), 1 / n_steps).double()


def radau_rule(points: Tensor, weights: Tensor, n_nodes: int) -> tuple[Tensor, Tensor]:
    """The Gauss-Radau rule of a weighted sum: few nodes, the last of them 1, and equal to the sum for every polynomial
    of degree < 2 n_nodes - 1.  # (n_nodes,), (n_nodes,)

    A sum over points is an integral with respect to a discrete measure, and has Gauss rules like any other measure.
    They are read off its Jacobi matrix (Golub and Welsch 1969), whose last entry decides where one node lies (Golub
    1973).
    """
    x, root = points.numpy(), weights.sqrt().numpy()
    basis, _ = np.linalg.qr(root[:, None] * np.polynomial.legendre.legvander(2 * x - 1, n_nodes - 1))  # orthonormal
    jacobi = basis.T @ (x[:, None] * basis)  # tridiagonal
    if n_nodes == 1:
        return torch.ones(1).double(), weights.sum()[None]
    corner = np.linalg.inv(jacobi[:-1, :-1] - np.eye(n_nodes - 1))[-1, -1]
    jacobi[-1, -1] = 1 + jacobi[-1, -2] ** 2 * corner
    nodes, vectors = np.linalg.eigh(jacobi)
    nodes[-1] = 1.0
    return torch.tensor(nodes), torch.tensor((root @ basis @ vectors) ** 2)


def nested_rules(points: Tensor, weights: Tensor, n_nodes: int) -> list[Rule]:
    """Ever finer rules for a weighted sum: a Gauss-Radau rule, its extension, and the sum itself.

    Gauss rules of different sizes share no nodes. An extension keeps them and adds as many, where the most polynomials
    come out right (Kronrod 1965). The node 1, and an end point of the sum there, are never new.
    """
    finer = [Rule(points, weights, points < 1)]
    if n_nodes >= len(points):
        return finer
    nodes, radau = radau_rule(points, weights, n_nodes)
    rules = [Rule(nodes, radau, nodes < 1)]
    if 2 * n_nodes < len(points):
        rules.append(_extension(points, weights, nodes))
    return rules + [Rule(points, weights, torch.ones(len(points)).bool())]


def _extension(points: Tensor, weights: Tensor, nodes: Tensor) -> Rule:
    """As many nodes more: the roots of a polynomial that is orthogonal to all of lower degree, where the weights are
    multiplied with the polynomial that is zero at the old nodes. The first of a left sum may lie just below 0."""
    n, x, old = len(nodes), 2 * points.numpy() - 1, 2 * nodes.numpy() - 1
    basis = legendre.legvander(x, n)
    products = basis[:, :n].T @ ((weights.numpy() * np.prod(x[:, None] - old, 1))[:, None] * basis)
    new = legendre.legroots(np.linalg.svd(products)[2][-1]).real
    order = np.argsort(np.concatenate([old, new]))
    both = np.concatenate([old, new])[order]
    exact = legendre.legvander(x, 2 * n - 1).T @ weights.numpy()
    weights = np.linalg.solve(legendre.legvander(both, 2 * n - 1).T, exact)
    return Rule(torch.tensor((both + 1) / 2), torch.tensor(weights), torch.tensor(order >= n))


def integrals_between(ends: Tensor) -> Tensor:
    """Turns a function's values at all nodes but the last end into its integrals from each end to the next.

    Args:
        ends: (nodes + 1,), ascending; the function is known at all but the last.

    Returns:
        (nodes, nodes): row j integrates the polynomial through the values from ends[j] to ends[j + 1].
    """
    n_nodes = len(ends) - 1
    nodes, powers = ends[:-1].numpy(), np.arange(1, n_nodes + 1)
    antiderivative = np.vander(ends.numpy(), n_nodes + 1, increasing=True)[:, 1:] / powers  # (ends, powers)
    values = np.vander(nodes, increasing=True)  # (nodes, powers)
    return torch.tensor(np.linalg.solve(values.T, np.diff(antiderivative, axis=0).T).T)
