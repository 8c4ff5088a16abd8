"""The measure and its gradients where a layer's FFN writes something else, or where its neurons have other activations.

A cached run of some questions is rerun with copies of each. All tensors have one row per copy and question.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..checks import finite_logits
from ..models import LanguageModel
from ..prompts import Question
from .batching import batches, n_rows
from .cached_run import Run
from .measures import log_odds, slope
from .passes import rerun_from, run_with_cache


def runs(
    lm: LanguageModel, questions: list[Question], targets: Tensor, n_copies: int, slopes: bool = False
) -> Iterator[tuple[Tensor, Run, Tensor]]:
    """Runs with a cache of as many questions at a time as fit if each is copied `n_copies` times.

    Args:
        targets: the answers' tokens, (questions,).
        slopes: whether each run also gives the gradients of its answers' log-odds.

    Yields:
        (rows, run, target): which questions these are, and their answers, both (batch,).
    """
    for rows, inputs, position in batches(lm, questions, n_copies):
        run = run_with_cache(lm, inputs, position, targets[rows] if slopes else None)
        finite_logits(run.logits)
        yield rows, run, targets[rows]


def odds_if_written(
    lm: LanguageModel, run: Run, target: Tensor, z: dict[int, Tensor], of: dict[int, Tensor] | None = None
) -> dict[int, Tensor]:
    """The answers' log-odds if the FFN of a layer wrote z, (copies, prompts, hidden).

    Args:
        of: layer -> which prompts of the run these are, (prompts,); all by default.

    Returns:
        layer -> (copies, prompts).
    """
    logits = rerun_from(lm, run, z, of)
    return {layer: log_odds(own, target if of is None else target[of[layer]]) for layer, own in logits.items()}


def odds_and_slopes(
    lm: LanguageModel, run: Run, target: Tensor, z: dict[int, Tensor], of: dict[int, Tensor] | None = None
) -> dict[int, tuple[Tensor, Tensor]]:
    """`odds_if_written`, and how they change with z.  # layer -> ((copies, prompts), (copies, prompts, hidden))"""
    z = {layer: variants.requires_grad_() for layer, variants in z.items()}
    odds = odds_if_written(lm, run, target, z, of)
    with lm.autocast():
        slopes = torch.autograd.grad(sum(o.sum() for o in odds.values()), list(z.values()))
    return {layer: (odds[layer].detach(), own) for layer, own in zip(z, slopes, strict=True)}


def gradients_at(lm: LanguageModel, run: Run, target: Tensor, layer: int, w: Tensor, measure: str) -> Tensor:
    """d measure / dw where a layer's neurons have the activations w.  # (copies, prompts, neurons), as w"""
    gradients = []
    for some in w.split(max(1, n_rows(lm, run.n_tokens) // len(target))):  # as many copies as fit
        odds, slopes = odds_and_slopes(lm, run, target, {layer: written_by(lm, run, layer, some)})[layer]
        gradients.append((slope(odds, measure)[..., None] * slopes) @ lm.value_slots(layer))
    return torch.cat(gradients)


def written_by(lm: LanguageModel, run: Run, layer: int, w: Tensor) -> Tensor:
    """What a layer's FFN writes with the activations w (copies, prompts, neurons).  # (copies, prompts, hidden)"""
    return run.written[:, layer] + (w - run.activations[:, layer]) @ lm.value_slots(layer).T
