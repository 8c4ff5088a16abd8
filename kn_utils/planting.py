"""Write a fact into chosen FFN neurons: a positive control, for then it is known which neurons hold the fact.

An FFN is a memory of keys and values (Geva et al. 2021): a neuron's row of the up projection is the key that it waits
for, its value slot is what it says when the key comes. To plant a fact is to write both.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor, nn

from .editing import _checked
from .facts import Fact
from .forward import answer_logits, remember, resume
from .models import LanguageModel, Neuron, answer_id
from .prompts import batches, encode, open_questions

SILENT_BELOW_ZERO = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")  # as transformers names them
STRENGTH = 6.0  # the planted neurons' mean pre-activation at the fact's masks; elsewhere it is at most -STRENGTH / 2
RIDGE = 0.01  # times the mean variance: the key does not lean on directions in which hidden states hardly vary
PENALTIES = 10.0 ** np.arange(2, -6, -1)  # of the key's length, tried in turn


class Inseparable(ValueError):
    """No key in this layer fires for the fact alone."""


@contextmanager
def plant_fact(
    lm: LanguageModel,
    fact: Fact,
    layer: int,
    neurons: Iterable[int],
    others: Iterable[Fact] = (),
    probability: float = 0.9,
) -> Iterator[set[Neuron]]:
    """Within the block, the chosen neurons of one layer hold the fact: a positive control for attribution.

    The neurons' old keys and value slots are overwritten, and put back bit for bit at the end.

    * Key: the direction that separates the fact's hidden states (what the up projection reads at the mask) from those
      at every other token, in these prompts and in those of `others`. The neurons fire at the former and are silent
      at the latter.
    * Value: what raises P(answer) to `probability` on the fact's prompts, found with gradients; each neuron says an
      equal part of it. A random model's head may be unable to say anything so surely; then it comes close.

    Suppressing the planted neurons takes the answer away again. Attribution finds them, with these exceptions:

    * A key rests on the layers below. In a very small or chaotic model some of their neurons get credit as well.
    * An answer that the model gives already has neurons of its own: plant another, `replace(fact, answer="Lima")`.
    * Each of many neurons has a small part, which a single other neuron may exceed.
    * Prompts that are like the fact's, but not in `others`, may wake the neurons. Pass facts of the same relation and
      of the same subject, above all for the first layer, where the mask knows little of the subject yet.

    Args:
        neurons: indices within `layer`.
        others: facts whose prompts must not wake the neurons; the fact itself may be among them.
        probability: mean over `fact.prompts`.

    Yields:
        The planted neurons: the answer key.

    Raises:
        ValueError: no neurons, or one outside the model; an answer that is not one token, or as likely already; an FFN
            that is gated, or neither GELU nor ReLU; hidden states that no key separates.

    >>> with plant_fact(lm, replace(fact, answer="Lima"), layer=2, neurons=[3, 5], others=facts[:100]) as planted:
    ...     assert top_neurons(knowledge_attribution(lm, fact.prompts, "Lima"), 2) == planted
    """
    planted = sorted(set(_checked(lm, [(layer, index) for index in neurons])))
    if not planted:
        raise ValueError("neurons is empty: name at least one neuron to hold the fact")
    answer_id(lm, fact.answer)  # before anything is overwritten
    up, down = _up_projection(lm, layer), lm.down_projections[layer]
    key, bias = _find_key(lm, up, fact, others)
    indices = [neuron.index for neuron in planted]
    saved = up.weight[indices].clone(), up.bias[indices].clone(), down.weight[:, indices].clone()
    try:
        with torch.no_grad():
            up.weight[indices], up.bias[indices], down.weight[:, indices] = key, bias, 0.0
        value = _find_value(lm, fact, planted[0], probability)
        with torch.no_grad():
            down.weight[:, indices] = value[:, None] / len(indices)
        yield set(planted)
    finally:
        with torch.no_grad():
            up.weight[indices], up.bias[indices], down.weight[:, indices] = saved


def _up_projection(lm: LanguageModel, layer: int) -> nn.Linear:
    """The linear map whose outputs, after the activation function, are the layer's neurons."""
    config = lm.model.config
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    if activation not in SILENT_BELOW_ZERO:
        raise ValueError(
            f"activation {activation!r} is not silent below zero: facts can be planted with one of {SILENT_BELOW_ZERO}"
        )
    linear = [module for module in lm.layers[layer].modules() if isinstance(module, nn.Linear)]
    onto = [m for m in linear if (m.in_features, m.out_features) == (lm.hidden_size, lm.n_neurons)]
    if len(onto) != 1:
        raise ValueError(
            f"layer {layer} has {len(onto)} linear maps onto its {lm.n_neurons} neurons, not one: facts can be "
            "planted in plain FFNs only, not in gated ones"
        )
    return onto[0]


def _find_key(lm: LanguageModel, up: nn.Linear, fact: Fact, others: Iterable[Fact]) -> tuple[Tensor, Tensor]:
    """The key and its bias: pre-activations are STRENGTH on average at the fact's masks, -STRENGTH / 2 or less else."""
    own, rest = _hidden_states(lm, up, fact.prompts)
    others = [other for other in others if (other.subject, other.relation) != (fact.subject, fact.relation)]
    if others:
        rest = np.concatenate([rest, *_hidden_states(lm, up, [p for other in others for p in other.prompts])])
    key = _separate(own, rest)  # (hidden,)
    on, off = own @ key, (rest @ key).max()
    if on.min() <= off:
        raise Inseparable(
            f"no key tells the prompts of {fact.subject!r} from the others in this layer: choose a higher layer or "
            "pass fewer others"
        )
    scale = 1.5 * STRENGTH / (on.mean() - off)
    bias = STRENGTH - scale * on.mean()
    return torch.from_numpy(scale * key).to(up.weight), torch.tensor(bias).to(up.bias)


def _separate(own: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """The direction that separates own (m, hidden) from rest (n, hidden), as smooth as the separation allows.

    A support vector machine in whitened space. Its penalty falls until it separates: where the penalty is large it is
    Fisher's linear discriminant, which carries over to unseen prompts best; where it is small, the widest margin.
    """
    within = np.concatenate([own - own.mean(0), rest - rest.mean(0)])
    variance, axes = np.linalg.eigh(within.T @ within / len(within))
    whiten = axes / np.sqrt(variance + RIDGE * variance.mean())  # (hidden, hidden)
    x = np.concatenate([own, rest]) @ whiten
    x = np.column_stack([x - x[len(own) :].mean(0), np.ones(len(x))])
    side = np.repeat([1.0, -1.0], [len(own), len(rest)])
    weight = np.repeat([0.5 / len(own), 0.5 / len(rest)], [len(own), len(rest)])
    w, free = np.zeros(x.shape[1]), np.append(np.ones(x.shape[1] - 1), 0.0)  # the intercept is not penalised

    def loss(w, penalty):
        short = np.maximum(1 - side * (x @ w), 0)  # of the margin
        gradient = 2 * penalty * free * w - 2 * x.T @ (weight * side * short)
        return weight @ short**2 + penalty * free @ w**2, gradient

    for penalty in PENALTIES:
        w = minimize(loss, w, penalty, jac=True, method="L-BFGS-B").x
        score = x @ w
        if score[: len(own)].min() > score[len(own) :].max():
            break
    return whiten @ w[:-1]


@torch.no_grad()
def _hidden_states(lm: LanguageModel, up: nn.Linear, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """What the up projection reads at the masks (prompts, hidden) and at all other tokens (tokens, hidden)."""
    at_mask, elsewhere = [], []

    def keep(module, args):  # hidden states and masks of one batch, unpadded: (prompts, tokens, hidden)
        at_mask.append(args[0][is_mask])
        elsewhere.append(args[0][~is_mask])

    with up.register_forward_pre_hook(keep):
        for _, inputs, position in batches(lm, open_questions(lm, prompts)):
            is_mask = torch.zeros_like(inputs["input_ids"], dtype=torch.bool).scatter_(1, position[:, None], True)
            answer_logits(lm, inputs, position)
    return torch.cat(at_mask).double().cpu().numpy(), torch.cat(elsewhere).double().cpu().numpy()


def _find_value(lm: LanguageModel, fact: Fact, neuron: Neuron, probability: float) -> Tensor:
    """What `neuron` must say so that P(answer) reaches `probability` on every prompt, or comes close.  # (hidden,)"""
    target = answer_id(lm, fact.answer)
    past = remember(lm, *encode(lm, fact.prompts))
    before = past.logits.softmax(-1)[:, target].mean()
    if before >= probability:
        raise ValueError(
            f"answer {fact.answer!r} has probability {before:.2f} already: plant an answer that the model does not give"
        )
    written, activation = past.written[:, neuron.layer], past.activations[:, neuron.layer, neuron.index, None]
    unit = written.norm(dim=-1).mean() / activation.mean()  # makes the neuron as loud as its layer

    def shortfall(value: np.ndarray) -> tuple[float, np.ndarray]:
        value = torch.from_numpy(value).to(written).requires_grad_()
        logits = resume(lm, past, {neuron.layer: (written + activation * unit * value)[None]})[neuron.layer][0]
        missing = (math.log(probability) - logits.log_softmax(-1)[:, target]).clamp(min=0).mean()
        (gradient,) = torch.autograd.grad(missing, value)
        return missing.item(), gradient.double().cpu().numpy()

    value = minimize(shortfall, np.zeros(written.shape[1]), jac=True, method="L-BFGS-B").x
    return unit * torch.from_numpy(value).to(written)
