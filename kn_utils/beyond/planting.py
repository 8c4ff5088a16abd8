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
from transformers.pytorch_utils import Conv1D

from ..checks import count, finite_logits, fraction, integer, list_of, neuron_set
from ..engine import batches, encode, rerun_from, run_with_cache
from ..engine.weights import Change, changed_weights
from ..facts import Fact
from ..models import LanguageModel, Neuron, answer_id
from ..prompts import first_questions

SILENT_BELOW_ZERO = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu")  # as transformers names them
ACTIVATION = ("hidden_act", "activation", "activation_function", "dense_act_fn")  # where configurations name it
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
    neurons: Iterable[int | Neuron],
    others: Iterable[Fact] = (),
    probability: float = 0.9,
) -> Iterator[set[Neuron]]:
    """Within the block, the chosen neurons of one layer hold the fact: a positive control for attribution.

    The neurons' old keys and value slots are overwritten, and put back bit for bit at the end.

    * Key: the direction that separates the fact's hidden states (what the up projection reads at the mask, or at a
      causal model's last token) from those at every other token, in these prompts and in those of `others`. The
      neurons fire at the former and are silent at the latter.
    * Value: what raises P(answer) to `probability` on the fact's prompts, found with gradients; each neuron says an
      equal part of it. A random model's head may be unable to say anything so surely; then it comes close.

    Suppressing the planted neurons takes the answer away again. Attribution finds them, with these exceptions:

    * A key rests on the layers below. In a very small or chaotic model some of their neurons get credit as well.
    * An answer that the model gives already has neurons of its own: plant another, `replace(fact, answer="Lima")`.
    * Each of many neurons has a small part, which a single other neuron may exceed.
    * Prompts that are like the fact's, but not in `others`, may wake the neurons. Pass facts of the same relation and
      of the same subject, above all for the first layer, where the mask knows little of the subject yet.

    Args:
        neurons: indices within `layer`, or `Neuron`s of that layer.
        others: facts whose prompts must not wake the neurons; the fact itself, and other answers of its subject and
            relation, may be among them.
        probability: mean over `fact.prompts`, in (0, 1].

    Yields:
        The planted neurons: the answer key.

    Raises:
        ValueError: no neurons, or one outside the layer; an answer that is not one token, or as likely already; an FFN
            that is gated, without biases, or neither GELU nor ReLU; hidden states that no key separates, or that are
            not finite.
        RuntimeError: another thread is editing the model, or edits are left in another order than nested ones.

    >>> with plant_fact(lm, replace(fact, answer="Lima"), layer=2, neurons=[3, 5], others=facts[:100]) as planted:
    ...     assert top_neurons(knowledge_attribution(lm, fact.prompts, "Lima"), 2) == planted
    """
    layer = count("layer", layer, least=0, most=lm.n_layers - 1)
    indices, probability = _indices(lm, layer, neurons), fraction("probability", probability)
    (fact,), others = list_of("fact", [fact], Fact), list_of("others", others, Fact)
    answer_id(lm, fact.answer)  # before anything is overwritten
    up = _up_projection(lm, layer)
    key, bias = _find_key(lm, up, fact, others)
    slots, columns = lm.value_slots(layer), (slice(None), indices)
    keys = [Change(_keys(up), (indices,), key), Change(up.bias, (indices,), bias), Change(slots, columns, 0.0)]
    with changed_weights(lm.model, keys):
        value = _find_value(lm, fact, Neuron(layer, indices[0]), probability)
        with changed_weights(lm.model, [Change(slots, columns, value[:, None] / len(indices))]):
            yield {Neuron(layer, index) for index in indices}


def _indices(lm: LanguageModel, layer: int, neurons: Iterable[int | Neuron]) -> list[int]:
    """The neurons' places in the layer, ascending."""
    if isinstance(neurons, Neuron) or not isinstance(neurons, Iterable):
        raise TypeError(f"neurons is {neurons!r}: pass a list of indices within layer {layer}, or of Neurons there")
    neurons = list(neurons)
    elsewhere = [neuron for neuron in neurons if isinstance(neuron, tuple) and neuron[:1] != (layer,)]
    if elsewhere:
        raise ValueError(f"{elsewhere[0]} is not in layer {layer}: plant in one layer at a time")
    if not neurons:
        raise ValueError("neurons is empty: name at least one neuron to hold the fact")
    named = [n if isinstance(n, tuple) else (layer, integer("an index of neurons", n)) for n in neurons]
    return sorted(neuron.index for neuron in neuron_set(lm, named))


def _up_projection(lm: LanguageModel, layer: int) -> nn.Linear | Conv1D:
    """The linear map whose outputs, after the activation function, are the layer's neurons."""
    config = lm.model.config
    activation = next(filter(None, (getattr(config, name, None) for name in ACTIVATION)), None)
    if activation not in SILENT_BELOW_ZERO:
        raise ValueError(
            f"activation {activation!r} is not silent below zero: facts can be planted with one of {SILENT_BELOW_ZERO}"
        )
    linear = [module for module in lm.layers[layer].modules() if isinstance(module, (nn.Linear, Conv1D))]
    onto = [module for module in linear if _keys(module).shape == (lm.n_neurons, lm.hidden_size)]
    if len(onto) != 1:
        raise ValueError(
            f"layer {layer} has {len(onto)} linear maps onto its {lm.n_neurons} neurons, not one: facts can be "
            "planted in plain FFNs only, not in gated ones"
        )
    if onto[0].bias is None:
        raise ValueError(f"layer {layer} has no biases, without which a key cannot be silent: choose a model with them")
    return onto[0]


def _keys(up: nn.Linear | Conv1D) -> Tensor:
    """What each neuron waits for, a view into the weights.  # (neurons, hidden)"""
    return up.weight.T if isinstance(up, Conv1D) else up.weight


def _find_key(lm: LanguageModel, up: nn.Module, fact: Fact, others: Sequence[Fact]) -> tuple[Tensor, Tensor]:
    """The key and its bias: pre-activations are STRENGTH on average at the fact's masks, -STRENGTH / 2 or less else."""
    own, rest = _hidden_states(lm, up, fact.prompts, fact.prompts)
    others = [other for other in others if (other.subject, other.relation) != (fact.subject, fact.relation)]
    if others:
        prompts = [prompt for other in others for prompt in other.prompts]
        rest = np.concatenate([rest, *_hidden_states(lm, up, prompts, fact.prompts)])
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
def _hidden_states(
    lm: LanguageModel, up: nn.Module, prompts: Sequence[str], planted: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """What the up projection reads where the model answers (prompts, hidden) and at other tokens (tokens, hidden).

    Args:
        planted: the prompts of the planted fact. Where another prompt of a causal model begins like one of these, the
            model is in the same state there and cannot but answer: such tokens are left out.
    """
    asked, elsewhere = [], []
    begin_alike = {question.ids for question in first_questions(lm, planted)} if lm.kind == "causal" else set()

    def keep(module, args):  # of one batch, unpadded
        hidden = args[0].reshape(*is_asked.shape, -1)  # (prompts, tokens, hidden); OPT's has (prompts * tokens, hidden)
        asked.append(hidden[is_asked])
        elsewhere.append(hidden[~is_asked & ~is_alike])

    with up.register_forward_pre_hook(keep), lm.autocast():
        for _, inputs, position in batches(lm, first_questions(lm, prompts)):
            ids = inputs["input_ids"]
            is_asked = torch.zeros_like(ids, dtype=torch.bool).scatter_(1, position[:, None], True)
            alike = [[tuple(row[: i + 1]) in begin_alike for i in range(len(row))] for row in ids.tolist()]
            is_alike = torch.tensor(alike, device=ids.device)
            lm.model(**inputs)
    found = [torch.cat(states).double().cpu() for states in (asked, elsewhere)]
    if not all(states.isfinite().all() for states in found):
        raise ValueError("the model's hidden states are not finite: load weights that are not damaged")
    return found[0].numpy(), found[1].numpy()


def _find_value(lm: LanguageModel, fact: Fact, neuron: Neuron, probability: float) -> Tensor:
    """What `neuron` must say so that P(answer) reaches `probability` on every prompt, or comes close.  # (hidden,)"""
    target = answer_id(lm, fact.answer)
    past = run_with_cache(lm, *encode(lm, fact.prompts))
    before = finite_logits(past.logits).softmax(-1)[:, target].mean()
    if before >= probability:
        raise ValueError(
            f"answer {fact.answer!r} has probability {before:.2f} already: plant an answer that the model does not give"
        )
    written, activation = past.written[:, neuron.layer], past.activations[:, neuron.layer, neuron.index, None]
    unit = written.norm(dim=-1).mean() / activation.mean()  # makes the neuron as loud as its layer

    def shortfall(value: np.ndarray) -> tuple[float, np.ndarray]:
        value = torch.from_numpy(value).to(written).requires_grad_()
        logits = rerun_from(lm, past, {neuron.layer: (written + activation * unit * value)[None]})[neuron.layer][0]
        missing = (math.log(probability) - logits.log_softmax(-1)[:, target]).clamp(min=0).mean()
        (gradient,) = torch.autograd.grad(missing, value)
        return missing.item(), gradient.double().cpu().numpy()

    found = minimize(shortfall, np.zeros(written.shape[1]), jac=True, method="L-BFGS-B").x
    value = unit * torch.from_numpy(found).to(written)
    if not (value.isfinite().all() and value.any()):
        raise ValueError(f"nothing that {neuron} could say makes {fact.answer!r} likelier: choose another layer")
    return value
