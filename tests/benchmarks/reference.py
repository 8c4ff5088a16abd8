"""The plain reference that `kn_utils` is measured against: whole forward passes of the model as it comes, and hooks.

Parameters are frozen and nothing is padded. All copies of one prompt and one layer make one batch.
"""

from contextlib import ExitStack

import torch
from common import hooked, plain_probability


def attribution(lm, prompts, answer, n_steps=20):
    """w times the mean gradient of P(answer) at the points k/m w, k = 0..m-1.  # (prompts, layers, neurons)"""
    points = torch.arange(n_steps)[:, None] / n_steps
    scores = torch.empty(len(prompts), lm.n_layers, lm.n_neurons)
    for i, prompt in enumerate(prompts):
        activations, _ = ask(lm, prompt, answer)
        for layer, w in enumerate(activations):
            scaled = (points * w).requires_grad_()  # (n_steps, neurons)
            with hooked(lm, layer, lambda _, scaled=scaled: scaled):
                probability = plain_probability(lm, prompt, answer, copies=n_steps)
            (gradient,) = torch.autograd.grad(probability.sum(), scaled)
            scores[i, layer] = w * gradient.mean(0)
    return scores


@torch.no_grad()
def ablation(lm, prompts, answer):
    """P(answer) minus P(answer) with one neuron alone at 0, for every neuron.  # (prompts, layers, neurons)"""
    all_but_one = 1 - torch.eye(lm.n_neurons)
    effects = torch.empty(len(prompts), lm.n_layers, lm.n_neurons)
    for i, prompt in enumerate(prompts):
        activations, probability = ask(lm, prompt, answer)
        for layer, w in enumerate(activations):
            with hooked(lm, layer, lambda _, w=w: all_but_one * w):
                effects[i, layer] = probability - plain_probability(lm, prompt, answer, copies=lm.n_neurons)
    return effects


@torch.no_grad()
def scaled(lm, prompts, answer, factors):
    """P(answer) if the activations are multiplied by `factors` (copies, layers, neurons).  # (prompts, copies)"""
    with ExitStack() as hooks:
        for layer in range(lm.n_layers):
            hooks.enter_context(hooked(lm, layer, lambda w, own=factors[:, layer]: own * w))
        return torch.stack([plain_probability(lm, prompt, answer, copies=len(factors)) for prompt in prompts])


@torch.no_grad()
def ask(lm, prompt, answer):
    """Each layer's activations at the mask, and P(answer).  # [(neurons,)], (1,)"""
    activations = []

    def read(w):
        activations.append(w[0])
        return w

    with ExitStack() as hooks:
        for layer in range(lm.n_layers):
            hooks.enter_context(hooked(lm, layer, read))
        return activations, plain_probability(lm, prompt, answer)
