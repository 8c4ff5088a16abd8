"""What is measured where a model answers: the answer's probability or its logarithm, by way of its log-odds."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

MEASURES = ("probability", "log_probability")


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log(P / (1 - P)) of each row's target token, exact also where P is close to 0 or 1.

    P is its sigmoid, log P its log-sigmoid.

    Args:
        logits: (..., rows, vocabulary).
        target: (rows,).

    Returns:
        (..., rows).
    """
    index = target.expand(logits.shape[:-1])[..., None]
    others = logits.scatter(-1, index, -torch.inf)
    return logits.gather(-1, index)[..., 0] - others.logsumexp(-1)


def measured(odds: Tensor, measure: str) -> Tensor:
    """P or log P of log-odds, elementwise."""
    return odds.sigmoid() if measure == "probability" else logsigmoid(odds)


def slope(odds: Tensor, measure: str) -> Tensor:
    """d measure / d log-odds: P (1 - P), or 1 - P. Nothing cancels where P is close to 1."""
    return odds.sigmoid() * (-odds).sigmoid() if measure == "probability" else (-odds).sigmoid()
