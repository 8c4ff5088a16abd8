"""Points and weights on [0, 1]: Riemann sums, and the Gauss-Radau rules that stand for them with fewer evaluations."""

import numpy as np
import torch
from torch import Tensor

RULES = ("left", "right", "midpoint", "gauss-legendre")


def riemann_points(rule: str, n_steps: int) -> tuple[Tensor, Tensor]:
    """The points alpha in [0, 1] and the weights of a rule; the weights sum to 1.  # (n_steps,), (n_steps,)"""
    if rule not in RULES:
        raise ValueError(f"rule {rule!r} is unknown: choose one of {RULES}")
    if n_steps < 1:
        raise ValueError(f"n_steps is {n_steps}: take at least 1 step")
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
