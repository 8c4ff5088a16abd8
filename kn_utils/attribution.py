"""Knowledge attribution: how much each FFN neuron adds to the probability of a fact's answer (section 3.1)."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm.auto import tqdm

from .facts import Fact
from .forward import Pass, remember, resume
from .models import ROWS, LanguageModel, answer_id, batches, log_odds
from .quadrature import gauss_rule, integrals_between, riemann_points

PATHS = ("layer", "neuron")
MEASURES = ("probability", "log_probability")
BASELINES = ("zero", "mean")

N_NODES = 6  # evaluations that stand for the points of a Riemann sum, where the residual allows it
TOLERANCE = 3e-4  # of the completeness residual, in units of the highest score; the scores are then right to 1e-5
FACTS = 32  # whose prompts are batched together


class Path(NamedTuple):
    """From where to where the neurons move, and how the answer is measured on the way."""

    baseline: Tensor  # (layers, neurons)
    measure: str
    targets: Tensor  # (prompts,) the answers' tokens


def ffn_activations(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The FFN neurons' activations at the mask. As scores, they are the paper's baseline (section 4.1).

    Returns:
        (prompts, layers, neurons), after the GELU.
    """
    activations = _empty(lm, len(prompts), lm.n_layers, lm.n_neurons)
    for rows, inputs, position in batches(lm, prompts):
        activations[rows] = remember(lm, inputs, position).activations
    return activations


def knowledge_attribution(
    lm: LanguageModel,
    prompts: Sequence[str],
    answer: str | Sequence[str],
    n_steps: int = 20,
    rule: str = "left",
    path: str = "layer",
    baseline: str | Tensor = "zero",
    measure: str = "probability",
    exact_steps: bool = False,
) -> Tensor:
    """Integrated gradients of P(answer) over each layer's FFN neurons at the mask, from a baseline to activation w.

    `path="layer"` moves all neurons of a layer together, as the released code does. A layer's scores then sum to
    P(w) - P(layer at its baseline). `path="neuron"` moves one neuron alone, as the formula is written. Its integral
    is exactly P(w) - P(w_i at its baseline), so it is computed as that ablation: `n_steps` and `rule` play no part.

    Args:
        answer: one token, the same for every prompt, or one answer per prompt.
        n_steps: m, the points of the Riemann sum.
        rule: "left" takes k = 0..m-1 (released code), "right" k = 1..m (the paper's sum), "midpoint" k + 1/2;
            "gauss-legendre" is close to the true integral with few points.
        baseline: "zero" (the paper), "mean" (each neuron's mean over these prompts), or a tensor (layers, neurons).
        measure: "probability" or "log_probability" (natural).
        exact_steps: evaluate every point of a sum. By default a Gauss rule with fewer nodes stands for it wherever
            that is right to 1e-5 of the highest score.

    Returns:
        (prompts, layers, neurons), in units of the measure.

    Raises:
        ValueError: an unknown rule, path, baseline or measure, n_steps below 1, a prompt without exactly one mask, an
            answer that is not one token.
    """
    for name, value, known in (("path", path, PATHS), ("measure", measure, MEASURES)):
        if value not in known:
            raise ValueError(f"{name} {value!r} is unknown: choose one of {known}")
    answers = [answer] * len(prompts) if isinstance(answer, str) else answer
    targets = torch.tensor([answer_id(lm, a) for a in answers], device=lm.device)
    way = Path(_baseline(lm, prompts, baseline), measure, targets)
    points = riemann_points(rule, n_steps)
    if path == "neuron":
        return _ablation_effects(lm, prompts, way)
    layers = range(lm.n_layers)
    if exact_steps or rule == "gauss-legendre" or n_steps <= N_NODES:
        return _integrated_gradients(lm, prompts, way, layers, *points)[0]
    scores, residual = _integrated_gradients(lm, prompts, way, layers, *gauss_rule(*points, N_NODES))
    rough = residual > TOLERANCE * scores.flatten(1).abs().amax(1)[:, None]  # (prompts, layers)
    for layer in layers:
        if rows := rough[:, layer].nonzero()[:, 0].tolist():
            some = way._replace(targets=targets[rows])
            scores[rows, layer] = _integrated_gradients(lm, [prompts[i] for i in rows], some, [layer], *points)[0][:, 0]
    return scores


def knowledge_attributions(lm: LanguageModel, facts: Sequence[Fact], **options) -> list[Tensor]:
    """`knowledge_attribution` of each fact, with a progress bar.  # one (prompts, layers, neurons) per fact"""
    facts, scores = list(facts), []
    with tqdm(total=len(facts), desc="Attribution", unit="fact") as progress:
        for start in range(0, len(facts), FACTS):
            group = facts[start : start + FACTS]
            prompts, answers = zip(*((prompt, fact.answer) for fact in group for prompt in fact.prompts), strict=True)
            joint = knowledge_attribution(lm, prompts, answers, **options)
            scores += joint.split([len(fact.prompts) for fact in group])
            progress.update(len(group))
    return scores


def _integrated_gradients(lm, prompts, way: Path, layers, alphas: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(w - baseline) times the weighted sum over alpha of the gradient at baseline + alpha (w - baseline).

    Returns:
        The scores (prompts, some layers, neurons) and the completeness residual (prompts, some layers): how far the
        gradients at the nodes are from explaining how the measure changes from node to node.
    """
    scores = _empty(lm, len(prompts), len(layers), lm.n_neurons)
    residual = _empty(lm, len(prompts), len(layers))
    integrals = integrals_between(torch.cat([alphas, alphas.new_ones(1)])).to(residual)  # (nodes, nodes)
    alphas, weights = (t.to(residual)[:, None, None] for t in (alphas, weights))  # (nodes, 1, 1)
    for rows, past, target in _passes(lm, prompts, way.targets, len(alphas)):
        at_w = _measured(log_odds(past.logits, target), way.measure)  # (prompts,)
        for column, layer in enumerate(layers):
            from_baseline = past.activations[:, layer] - way.baseline[layer]  # (prompts, neurons)
            slots = lm.down_projections[layer].weight  # (hidden, neurons)
            change = from_baseline @ slots.T  # of what the FFN writes, (prompts, hidden)
            z = (past.written[:, layer] - (1 - alphas) * change).requires_grad_()  # (nodes, prompts, hidden)
            odds = _answer_log_odds(lm, past, layer, z, target)  # (nodes, prompts)
            (gradient,) = torch.autograd.grad(odds.sum(), z)
            odds = odds.detach()
            gradient *= _slope(odds, way.measure)[:, :, None]
            scores[rows, column] = from_baseline * ((weights * gradient).sum(0) @ slots)
            measured = torch.cat([_measured(odds, way.measure), at_w[None]])  # (nodes + 1, prompts)
            unexplained = measured.diff(dim=0) - integrals @ (gradient * change).sum(2)
            residual[rows, column] = unexplained.cumsum(0).abs().amax(0)
    return scores, residual


@torch.no_grad()
def _ablation_effects(lm, prompts, way: Path) -> Tensor:
    """The measure at w minus the measure with neuron i alone at its baseline.  # (prompts, layers, neurons)"""
    effects = _empty(lm, len(prompts), lm.n_layers, lm.n_neurons)
    for rows, past, target in _passes(lm, prompts, way.targets, ROWS):
        at_w = _measured(log_odds(past.logits, target), way.measure)
        for layer in range(lm.n_layers):
            from_baseline = past.activations[:, layer] - way.baseline[layer]  # (prompts, neurons)
            slots = lm.down_projections[layer].weight.T  # (neurons, hidden)
            for neurons in torch.arange(lm.n_neurons, device=lm.device).split(ROWS):
                z = past.written[:, layer] - from_baseline.T[neurons, :, None] * slots[neurons, None]
                odds = _answer_log_odds(lm, past, layer, z, target)  # (some neurons, prompts)
                effects[rows[:, None], layer, neurons] = (at_w - _measured(odds, way.measure)).T
    return effects


def _passes(lm, prompts, targets, n_copies) -> Iterator[tuple[Tensor, Pass, Tensor]]:
    """(rows, remembered pass, targets) of as many prompts at a time as fit when each is copied `n_copies` times."""
    for rows, inputs, position in batches(lm, prompts, n_copies):
        yield rows, remember(lm, inputs, position), targets[rows]


def _empty(lm, *shape) -> Tensor:
    return torch.empty(shape, device=lm.device, dtype=lm.dtype)


def _answer_log_odds(lm, past: Pass, layer: int, z: Tensor, target: Tensor) -> Tensor:
    """log-odds of the answers if the FFN of `layer` wrote z.  # z (copies, prompts, hidden) -> (copies, prompts)"""
    logits = resume(lm, past, layer, z)
    return log_odds(logits.flatten(0, 1), target.repeat(len(z))).view(z.shape[:2])


def _measured(odds: Tensor, measure: str) -> Tensor:
    return odds.sigmoid() if measure == "probability" else logsigmoid(odds)


def _slope(odds: Tensor, measure: str) -> Tensor:
    """d measure / d log-odds: P (1 - P), or 1 - P. Nothing cancels where P is close to 1."""
    return odds.sigmoid() * (-odds).sigmoid() if measure == "probability" else (-odds).sigmoid()


def _baseline(lm, prompts, baseline: str | Tensor) -> Tensor:
    shape = (lm.n_layers, lm.n_neurons)
    if isinstance(baseline, Tensor):
        if baseline.shape != shape:
            raise ValueError(f"baseline has shape {tuple(baseline.shape)}: pass a tensor (layers, neurons), {shape}")
        return baseline.to(lm.device, lm.dtype)
    if baseline == "zero":
        return torch.zeros(shape, device=lm.device, dtype=lm.dtype)
    if baseline == "mean":
        return ffn_activations(lm, prompts).mean(0)
    raise ValueError(f"baseline {baseline!r} is unknown: choose one of {BASELINES}, or pass a tensor (layers, neurons)")
