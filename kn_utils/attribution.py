"""Knowledge attribution: how much each FFN neuron adds to the probability of a fact's answer (section 3.1)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from .facts import Fact
from .models import LanguageModel, answer_id, edit_activations, encode, mask_logits

RULES = ("left", "right", "midpoint", "gauss-legendre")
PATHS = ("layer", "neuron")
COPIES = 256  # prompts x steps (or x neurons) in one forward pass


def ffn_activations(lm: LanguageModel, prompts: Sequence[str]) -> Tensor:
    """The FFN neurons' activations at the mask. As scores, they are the paper's baseline (section 4.1).

    Returns:
        (prompts, layers, neurons), after the GELU.
    """
    return torch.cat([_activations(lm, inputs, position) for inputs, position in _batches(lm, prompts, COPIES)])


def knowledge_attribution(
    lm: LanguageModel,
    prompts: Sequence[str],
    answer: str,
    n_steps: int = 20,
    rule: str = "left",
    path: str = "layer",
) -> Tensor:
    """Integrated gradients of P(answer) over each layer's FFN neurons at the mask, from 0 to their activation w.

    `path="layer"` scales all neurons of a layer together, as the released code does. A layer's scores then sum to
    P(w) - P(layer = 0). `path="neuron"` scales one neuron alone, as the formula is written. Its integral is exactly
    P(w) - P(w_i = 0), so it is computed as that ablation: `n_steps` and `rule` play no part.

    Args:
        n_steps: m, the points of the Riemann sum.
        rule: "left" takes k = 0..m-1 (released code), "right" k = 1..m (the paper's sum), "midpoint" k + 1/2;
            "gauss-legendre" is close to the true integral with few points.

    Returns:
        (prompts, layers, neurons), in units of probability.

    Raises:
        ValueError: an unknown rule or path, n_steps below 1, a prompt without exactly one mask, an answer that is not
            one token.
    """
    if path not in PATHS:
        raise ValueError(f"path {path!r} is unknown: choose one of {PATHS}")
    alphas, weights = riemann_points(rule, n_steps)
    target = answer_id(lm, answer)
    scores = []
    for inputs, position in _batches(lm, prompts, max(1, COPIES // n_steps) if path == "layer" else 1):
        w = _activations(lm, inputs, position)  # (prompts of this batch, layers, neurons)
        layers = []
        for layer in range(lm.n_layers):
            if path == "layer":
                gradient = _integrated_gradient(lm, inputs, position, target, layer, w[:, layer], alphas, weights)
                layers.append(w[:, layer] * gradient)
            else:
                layers.append(_ablation_effects(lm, inputs, position, target, layer))
        scores.append(torch.stack(layers, 1))
    return torch.cat(scores)


def knowledge_attributions(lm: LanguageModel, facts: Iterable[Fact], **options) -> list[Tensor]:
    """`knowledge_attribution` of each fact, with a progress bar.  # one (prompts, layers, neurons) per fact"""
    return [
        knowledge_attribution(lm, fact.prompts, fact.answer, **options)
        for fact in tqdm(facts, desc="Attribution", unit="fact")
    ]


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


def _integrated_gradient(lm, inputs, position, target, layer, w, alphas, weights) -> Tensor:
    """The weighted sum over alpha of dP/dw at alpha w, all prompts and steps in one pass.  # (prompts, neurons)"""
    n_steps = len(alphas)
    alphas, weights = (t.to(w).repeat(len(w))[:, None] for t in (alphas, weights))  # (prompts * steps, 1)
    scaled = (alphas * w.repeat_interleave(n_steps, 0)).requires_grad_()  # (prompts * steps, neurons)
    inputs = {name: tensor.repeat_interleave(n_steps, 0) for name, tensor in inputs.items()}
    with edit_activations(lm, lambda at, activations: scaled if at == layer else activations):
        probability = mask_logits(lm, inputs, position.repeat_interleave(n_steps)).softmax(-1)[:, target]
    (gradient,) = torch.autograd.grad(probability.sum(), scaled)
    return (weights * gradient).view(-1, n_steps, lm.n_neurons).sum(1)


@torch.no_grad()
def _ablation_effects(lm, inputs, position, target, layer) -> Tensor:
    """P(w) - P(w_i = 0) of each neuron i of a layer, for one prompt.  # (1, neurons)"""
    full = mask_logits(lm, inputs, position).softmax(-1)[:, target]  # (1,)
    effects = []
    for neurons in torch.arange(lm.n_neurons, device=lm.device).split(COPIES):
        keep = torch.ones(len(neurons), lm.n_neurons, dtype=torch.bool, device=lm.device)
        keep[torch.arange(len(neurons)), neurons] = False  # copy j loses its neuron j
        copies = {name: tensor.expand(len(neurons), -1) for name, tensor in inputs.items()}
        with edit_activations(lm, lambda at, w, keep=keep: w * keep if at == layer else w):
            probability = mask_logits(lm, copies, position.expand(len(neurons))).softmax(-1)[:, target]
        effects.append(full - probability)
    return torch.cat(effects)[None]


@torch.no_grad()
def _activations(lm, inputs, position) -> Tensor:
    layers = []
    with edit_activations(lm, lambda layer, w: layers.append(w) or w):
        mask_logits(lm, inputs, position)
    return torch.stack(layers, 1)


def _batches(lm, prompts, size) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """(inputs, mask positions) of at most `size` prompts at a time; every prompt is checked first."""
    encode(lm, prompts)
    for start in range(0, len(prompts), size):
        yield encode(lm, prompts[start : start + size])
