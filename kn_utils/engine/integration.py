"""The sum over points that `attribution.py` defines, with fewer evaluations wherever completeness allows.

A rule with few nodes stands for all points. What the gradients explain must be what the measure does from node to
node; where it is not, a layer of a prompt goes on to a finer rule, at last to the sum itself.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..models import LanguageModel
from ..prompts import Question
from .batching import n_rows
from .cached_run import Run
from .gradients import odds_and_slopes, runs
from .measures import log_odds, measured, slope
from .quadrature import Rule, integrals_between, nested_rules

N_NODES = 5  # evaluations that stand for the points of a sum, where the residual allows; else twice as many
TOLERANCE = 1e-4  # of the completeness residual, in units of the highest score; the scores are then right to 1e-5
ROUGH_TOLERANCE = 1e-2  # the same where products are coarser than float32: below it the residual is their rounding


class LayerPath(NamedTuple):
    """The path of one layer's neurons in some prompts of a run, and what is known at its nodes."""

    prompts: Tensor  # (some,)
    from_baseline: Tensor  # w - baseline, (some, neurons)
    change: Tensor  # of what the FFN writes, (some, hidden)
    odds: Tensor  # the answer's log-odds, (nodes, some)
    slopes: Tensor  # how they change with what the FFN writes, (nodes, some, hidden)

    def of(self, some: Tensor) -> "LayerPath":
        """The same for some of its prompts, a mask."""
        before = (self.prompts[some], self.from_baseline[some], self.change[some])
        return LayerPath(*before, self.odds[:, some], self.slopes[:, some])

    def gradient(self, measure: str) -> Tensor:
        """Of the measure, by what the FFN writes.  # (nodes, some, hidden)"""
        return self.slopes * slope(self.odds, measure)[:, :, None]


def integrate(
    lm: LanguageModel,
    questions: list[Question],
    targets: Tensor,
    baseline: Tensor,
    points: tuple[Tensor, Tensor],
    measure: str,
) -> Tensor:
    """(w - baseline) times the weighted sum over alpha of the gradient at baseline + alpha (w - baseline).

    Args:
        targets: the answers' tokens, (questions,).
        baseline: (questions, layers, neurons).
        points: alphas and weights of the sum.

    Returns:
        (questions, layers, neurons).
    """
    rules = nested_rules(*points, N_NODES)
    n_copies = max(1, int(rules[0].is_new.sum()) * (1 + lm.n_layers) // 2)  # later layers need less
    with_slopes = not all(rule.is_new.all() for rule in rules)
    tolerance = TOLERANCE if lm.precision == "float32" else ROUGH_TOLERANCE
    scores = torch.empty(len(questions), lm.n_layers, lm.n_neurons, device=lm.device, dtype=lm.dtype)
    for rows, run, target in runs(lm, questions, targets, n_copies, with_slopes):
        own, odds_at_w = torch.empty_like(run.activations), log_odds(run.logits, target)
        paths = {n: _path(lm, run, n, baseline[rows, n], odds_at_w) for n in range(lm.n_layers)}
        for rule in rules:
            paths = _evaluated(lm, run, target, paths, rule)
            for layer, path in paths.items():
                integral = torch.einsum("n,nph->ph", rule.weights.to(path.slopes), path.gradient(measure))
                own[path.prompts, layer] = path.from_baseline * (integral @ lm.value_slots(layer))
            if rule is not rules[-1]:
                paths = _unconverged(paths, rule, odds_at_w, tolerance * own.flatten(1).abs().amax(1), measure)
        scores[rows] = own
    return scores


def _path(lm: LanguageModel, run: Run, layer: int, baseline: Tensor, odds_at_w: Tensor) -> LayerPath:
    """A layer's path in all prompts of a run, known at its end, w."""
    prompts = torch.arange(len(run.position), device=lm.device)
    from_baseline = run.activations[:, layer] - baseline
    slopes_at_w = run.slopes[None, :, layer] if run.slopes is not None else run.written[:0]
    return LayerPath(prompts, from_baseline, from_baseline @ lm.value_slots(layer).T, odds_at_w[None], slopes_at_w)


def _evaluated(
    lm: LanguageModel, run: Run, target: Tensor, paths: dict[int, LayerPath], rule: Rule
) -> dict[int, LayerPath]:
    """The paths, known at all nodes of the rule."""
    new = rule.nodes[rule.is_new].to(lm.device, lm.dtype)[:, None, None]
    if not len(new) or not paths:
        return paths
    of = {layer: path.prompts for layer, path in paths.items()}
    z = {layer: run.written[of[layer], layer] - (1 - new) * path.change for layer, path in paths.items()}
    found = {layer: [] for layer in paths}
    for some in _chunks(lm, run, z):
        for layer, at_nodes in odds_and_slopes(lm, run, target, some, of).items():
            found[layer].append(at_nodes)
    known = {}
    for layer, path in paths.items():
        odds, slopes = (torch.cat(parts) for parts in zip(*found[layer], strict=True))
        known[layer] = path._replace(odds=_merged(rule, path.odds, odds), slopes=_merged(rule, path.slopes, slopes))
    return known


def _chunks(lm: LanguageModel, run: Run, z: dict[int, Tensor]) -> Iterator[dict[int, Tensor]]:
    """All z (nodes, prompts, hidden) together, if the memory allows; or layer by layer, some nodes at a time."""
    whole = {layer: t.shape[1] * (lm.n_layers - layer) / lm.n_layers for layer, t in z.items()}  # a node's, in copies
    most = n_rows(lm, run.n_tokens)
    if sum(len(z[layer]) * whole[layer] for layer in z) <= most:
        yield z
        return
    for layer in z:
        for some in z[layer].split(max(1, int(most / whole[layer]))):
            yield {layer: some}


def _merged(rule: Rule, old: Tensor, new: Tensor) -> Tensor:
    """What is known at the new and at the other nodes of a rule, in their order.  # (nodes, ...)"""
    if rule.is_new.all():
        return new
    both = new.new_empty(len(rule.nodes), *new.shape[1:])
    both[rule.is_new], both[~rule.is_new] = new, old
    return both


def _unconverged(
    paths: dict[int, LayerPath], rule: Rule, odds_at_w: Tensor, allowed: Tensor, measure: str
) -> dict[int, LayerPath]:
    """The paths whose residual is larger than a prompt allows, (prompts,)."""
    left = {}
    for layer, path in paths.items():
        some = _residual(path, rule, odds_at_w[path.prompts], measure) > allowed[path.prompts]
        if some.any():
            left[layer] = path.of(some)
    return left


def _residual(path: LayerPath, rule: Rule, odds_at_w: Tensor, measure: str) -> Tensor:
    """The completeness residual: how far the gradients are from explaining how the measure changes from node to node.

    Returns:
        (some,).
    """
    values = measured(torch.cat([path.odds, odds_at_w[None]]), measure)  # (nodes + 1, some)
    integrals = integrals_between(torch.cat([rule.nodes, rule.nodes.new_ones(1)])).to(path.slopes)  # (nodes, nodes)
    unexplained = values.diff(dim=0) - integrals @ (path.gradient(measure) * path.change).sum(2)
    return unexplained.cumsum(0).abs().amax(0)
