"""Speed of knowledge attribution beside the plain loop, in the same run: `make bench`."""

import pytest
import torch
from common import hooked, plain_probability

import kn_utils as kn

N_STEPS = 20


def plain_loop(lm, prompts, answer):
    """One prompt, one layer, one step at a time.  # (prompts, layers, neurons)"""
    activations = kn.ffn_activations(lm, prompts)
    scores = torch.zeros_like(activations)
    for i, prompt in enumerate(prompts):
        for layer in range(lm.n_layers):
            for step in range(N_STEPS):
                scaled = (step / N_STEPS * activations[i, layer])[None].requires_grad_()
                with hooked(lm, layer, lambda _, scaled=scaled: scaled):
                    (gradient,) = torch.autograd.grad(plain_probability(lm, prompt, answer).sum(), scaled)
                scores[i, layer] += gradient[0] / N_STEPS
    return scores * activations


@pytest.mark.benchmark(group="attribution")
@pytest.mark.parametrize("attribute", [kn.knowledge_attribution, plain_loop], ids=["kn_utils", "plain loop"])
def test_attribution_speed(benchmark, attribute):
    lm = kn.load_model("lab", device="cpu")
    fact = kn.load_facts("lab", relations=["P36"])[0]
    scores = benchmark.pedantic(attribute, (lm, fact.prompts, fact.answer), rounds=3, warmup_rounds=1)
    torch.testing.assert_close(scores, kn.knowledge_attribution(lm, fact.prompts, fact.answer), atol=1e-5, rtol=0)
