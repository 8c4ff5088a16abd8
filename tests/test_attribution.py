"""Knowledge attribution against captum, plain loops, ablation and a network whose integral is known by hand."""

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from captum.attr import IntegratedGradients
from common import PROMPTS, hooked, one_line_error, plain_probability, tiny_model
from torch import nn

import kn_utils as kn
from kn_utils import attribution
from kn_utils.attribution import PATHS
from kn_utils.engine import batching, integration
from kn_utils.engine.quadrature import RULES

CAPTUM = {
    "left": "riemann_left", "right": "riemann_right", "midpoint": "riemann_middle", "gauss-legendre": "gausslegendre",
}  # fmt: skip
ANSWER = "Dublin"


def attribute_with_captum(lm, prompt, layer, rule):
    """Integrated gradients of one layer's neurons, by captum.  # (neurons,)"""

    def forward(values):  # (steps, neurons)
        with hooked(lm, layer, lambda w: values):
            return plain_probability(lm, prompt, ANSWER, copies=len(values))

    w = kn.ffn_activations(lm, [prompt])[:, layer]  # (1, neurons)
    return IntegratedGradients(forward).attribute(w, n_steps=20, method=CAPTUM[rule])[0]


@pytest.mark.parametrize("rule", RULES)
def test_equals_captum(tiny, rule):
    scores = kn.knowledge_attribution(tiny, PROMPTS, ANSWER, n_steps=20, rule=rule)
    expected = [[attribute_with_captum(tiny, p, layer, rule) for layer in range(tiny.n_layers)] for p in PROMPTS]
    torch.testing.assert_close(scores, torch.stack([torch.stack(layers) for layers in expected]), atol=1e-6, rtol=0)


def effect_of_zeroing(lm, prompt, answer):
    """P(full) - P(layer zeroed) of each layer.  # (layers,)"""
    full, effects = plain_probability(lm, prompt, answer), []
    for layer in range(lm.n_layers):
        with hooked(lm, layer, torch.zeros_like):
            effects.append(full - plain_probability(lm, prompt, answer))
    return torch.cat(effects)


@pytest.mark.parametrize("answer", ["Dublin", "Paris", "river"])
def test_completeness_on_a_random_model(tiny, answer):
    scores = kn.knowledge_attribution(tiny, PROMPTS, answer, rule="gauss-legendre")
    effects = torch.stack([effect_of_zeroing(tiny, prompt, answer) for prompt in PROMPTS])
    assert effects.abs().max() > 0.01  # the layers do matter here
    torch.testing.assert_close(scores.sum(2), effects, atol=1e-4, rtol=0)


def test_completeness_on_the_lab_model(lab, lab_facts):
    fact = next(f for f in lab_facts if (f.subject, f.answer) == ("Ireland", "Dublin"))
    scores = kn.knowledge_attribution(lab, fact.prompts, fact.answer, rule="gauss-legendre")
    effects = torch.stack([effect_of_zeroing(lab, prompt, fact.answer) for prompt in fact.prompts])
    assert effects.abs().max() > 0.01
    torch.testing.assert_close(scores.sum(2), effects, atol=1e-4, rtol=0)


def with_factor(neuron, alpha):
    """Scale one neuron of one prompt's activations, the others as they are."""

    def change(w):
        factor = torch.ones_like(w)
        factor[:, neuron] = alpha
        return w * factor

    return change


def test_neuron_path_is_ablation(tiny):
    prompt = PROMPTS[0]
    full = plain_probability(tiny, prompt, ANSWER)
    effects = torch.empty(tiny.n_layers, tiny.n_neurons)
    for layer in range(tiny.n_layers):
        for neuron in range(tiny.n_neurons):
            with hooked(tiny, layer, with_factor(neuron, 0.0)):
                effects[layer, neuron] = full - plain_probability(tiny, prompt, ANSWER)
    assert effects.abs().max() > 1e-3
    scores = kn.knowledge_attribution(tiny, [prompt], ANSWER, path="neuron")
    torch.testing.assert_close(scores[0], effects, atol=1e-6, rtol=0)


def test_neuron_path_is_the_formulas_integral(tiny64):
    """Equation (4) for one neuron: w_i times the mean of dP/dw_i at alpha w_i, all other neurons at their value."""
    prompt, n_points = PROMPTS[0], 400
    alphas = (torch.arange(n_points) + 0.5) / n_points
    scores = kn.knowledge_attribution(tiny64, [prompt], ANSWER, path="neuron")[0]
    w = kn.ffn_activations(tiny64, [prompt])[0]
    for layer in range(tiny64.n_layers):
        for neuron in scores[layer].abs().topk(4).indices.tolist():
            values = w[layer].double().repeat(n_points, 1)
            values[:, neuron] *= alphas
            values.requires_grad_()
            with hooked(tiny64, layer, lambda _, values=values: values):
                plain_probability(tiny64, prompt, ANSWER, copies=n_points).sum().backward()
            integral = w[layer, neuron] * values.grad[:, neuron].mean()
            assert scores[layer, neuron].item() == pytest.approx(integral.item(), abs=1e-6)


# A network worked out by hand. Its four neurons have the activations w = gelu(BIAS) and add c_i w_i to
# the logit of "Dublin"; all other logits are 0. With s = sum of c_i w_i, P(alpha) = 1 / (1 + (V - 1) exp(-alpha s)),
# dP/dw_i = c_i P (1 - P), and the integral of it along the joint path is c_i w_i / s * (P(1) - P(0)).
BIAS = [1.0, -0.5, 2.0, 0.3]
C = [1.5, 2.0, 0.8, -1.0]
CONTRIBUTIONS = [c * b * (1 + math.erf(b / math.sqrt(2))) / 2 for c, b in zip(C, BIAS, strict=True)]  # c_i w_i
POINTS = {"left": lambda k, m: k / m, "right": lambda k, m: (k + 1) / m, "midpoint": lambda k, m: (k + 0.5) / m}


@pytest.fixture(scope="module")
def handmade():
    lm = tiny_model(
        hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4, tie_word_embeddings=False
    )
    layer, head = lm.model.bert.encoder.layer[0], lm.model.cls.predictions
    layer.output.LayerNorm, head.transform = nn.Identity(), nn.Identity()
    with torch.no_grad():
        layer.attention.output.LayerNorm.weight[0] = 0  # the residual stream carries nothing in its first entry,
        layer.attention.output.LayerNorm.bias[0] = 0
        for parameter in (layer.intermediate.dense.weight, layer.output.dense.weight, layer.output.dense.bias):
            parameter.zero_()
        layer.intermediate.dense.bias.copy_(torch.tensor(BIAS))
        layer.output.dense.weight[0] = torch.tensor(C)  # the neurons write there,
        head.decoder.weight.zero_()
        head.decoder.weight[lm.tokenizer.convert_tokens_to_ids(ANSWER), 0] = 1  # and only Dublin's logit reads it
        head.decoder.bias.zero_()
    return lm


def handmade_probability(lm, logit):
    return 1 / (1 + (len(lm.tokenizer) - 1) * math.exp(-logit))


@pytest.mark.parametrize("n_steps", [1, 3, 20])
@pytest.mark.parametrize("rule", POINTS)
def test_riemann_sums_by_hand(handmade, rule, n_steps):
    ps = [handmade_probability(handmade, POINTS[rule](k, n_steps) * sum(CONTRIBUTIONS)) for k in range(n_steps)]
    expected = torch.tensor([c * sum(p * (1 - p) for p in ps) / n_steps for c in CONTRIBUTIONS])
    scores = kn.knowledge_attribution(handmade, PROMPTS, ANSWER, n_steps=n_steps, rule=rule)
    torch.testing.assert_close(scores[:, 0], expected.expand(len(PROMPTS), -1), atol=1e-6, rtol=0)


def test_integral_by_hand(handmade):
    s = sum(CONTRIBUTIONS)
    rise = handmade_probability(handmade, s) - handmade_probability(handmade, 0)
    expected = torch.tensor([[[c / s * rise for c in CONTRIBUTIONS]]])
    scores = kn.knowledge_attribution(handmade, PROMPTS[:1], ANSWER, rule="gauss-legendre")
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)


def test_ablation_by_hand(handmade):
    s = sum(CONTRIBUTIONS)
    alone = [handmade_probability(handmade, s) - handmade_probability(handmade, s - c) for c in CONTRIBUTIONS]
    scores = kn.knowledge_attribution(handmade, PROMPTS[:1], ANSWER, path="neuron")
    torch.testing.assert_close(scores, torch.tensor([[alone]]), atol=1e-6, rtol=0)


def test_activations_by_hand(handmade):
    w = torch.tensor([contribution / c for contribution, c in zip(CONTRIBUTIONS, C, strict=True)])
    activations = kn.ffn_activations(handmade, PROMPTS)
    torch.testing.assert_close(activations[:, 0], w.expand(len(PROMPTS), -1), atol=1e-6, rtol=0)


FUNCTIONS = {
    "activations": kn.ffn_activations,
    "layer": lambda lm, prompts: kn.knowledge_attribution(lm, prompts, ANSWER),
    "neuron": lambda lm, prompts: kn.knowledge_attribution(lm, prompts, ANSWER, path="neuron"),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_padding_changes_nothing(tiny64, function):
    one_by_one = torch.cat([function(tiny64, [prompt]) for prompt in PROMPTS])
    torch.testing.assert_close(function(tiny64, PROMPTS), one_by_one, atol=1e-6, rtol=0)


@pytest.mark.parametrize("copies", [1, 7, 41])
@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_batching_changes_nothing(tiny64, function, copies, monkeypatch):
    expected = function(tiny64, PROMPTS)
    monkeypatch.setattr(attribution, "ABLATED", copies)
    monkeypatch.setattr(batching, "ROWS", copies)
    torch.testing.assert_close(function(tiny64, PROMPTS), expected, atol=1e-6, rtol=0)


def test_order_of_prompts_is_kept(tiny):
    scores = kn.knowledge_attribution(tiny, PROMPTS, ANSWER)
    backwards = kn.knowledge_attribution(tiny, PROMPTS[::-1], ANSWER)
    torch.testing.assert_close(backwards.flip(0), scores, atol=1e-6, rtol=0)


def test_every_fact_gets_its_own_scores(tiny64):
    facts = [kn.Fact("Ireland", "P36(capital)", a, tuple(PROMPTS[:n])) for a, n in [("Dublin", 2), ("Paris", 3)]]
    together = kn.knowledge_attributions(tiny64, facts, n_steps=4, rule="right")
    for fact, scores in zip(facts, together, strict=True):
        alone = kn.knowledge_attribution(tiny64, fact.prompts, fact.answer, n_steps=4, rule="right")
        torch.testing.assert_close(scores, alone, atol=1e-15, rtol=1e-12)  # batches of other sizes round differently


@pytest.mark.parametrize("path", PATHS)
def test_parameters_gain_no_gradient(tiny, path):
    scores = kn.knowledge_attribution(tiny, PROMPTS[:2], ANSWER, path=path)
    assert not scores.requires_grad
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in tiny.model.parameters())


def test_suppressed_neurons_have_no_attribution(tiny):
    neurons = [kn.Neuron(0, 3), kn.Neuron(2, 5)]
    with kn.suppress(tiny, neurons):
        scores = kn.knowledge_attribution(tiny, PROMPTS, ANSWER)
        activations = kn.ffn_activations(tiny, PROMPTS)
    assert scores.abs().max() > 1e-3
    for layer, index in neurons:
        assert activations[:, layer, index].eq(0).all()
        assert scores[:, layer, index].eq(0).all()


@pytest.mark.parametrize(
    "options, names",
    [
        ({"rule": "simpson"}, ["rule", "'simpson'", *RULES]),
        ({"path": "straight"}, ["path", "'straight'", *PATHS]),
        ({"n_steps": 0}, ["n_steps", "0"]),
    ],
)
def test_wrong_options(tiny, options, names):
    with one_line_error(ValueError, *names):
        kn.knowledge_attribution(tiny, PROMPTS, ANSWER, **options)


@pytest.mark.parametrize("rule", ["left", "right", "midpoint"])
def test_few_nodes_stand_for_every_point(lab, lab_facts, rule):
    facts = lab_facts[::200]
    prompts, answers = zip(*[(prompt, fact.answer) for fact in facts for prompt in fact.prompts], strict=True)
    exact = kn.knowledge_attribution(lab, prompts, answers, rule=rule, exact_steps=True)
    scores = kn.knowledge_attribution(lab, prompts, answers, rule=rule)
    highest = exact.flatten(1).amax(1)
    assert ((scores - exact).abs().flatten(1).amax(1) / highest).max() < 1e-5
    for one, other in zip(scores, exact, strict=True):
        assert torch.equal(kn.coarse_neurons(one[None]), kn.coarse_neurons(other[None]))


class Kept:
    """A tensor that torch keeps for a gradient; while it does, its storage is counted in `held`."""

    def __init__(self, tensor, held):
        storage = tensor.untyped_storage()
        self.tensor, self.held, self.storage = tensor, held, (storage.data_ptr(), storage.nbytes())
        held[self.storage] += 1

    def __del__(self):
        self.held[self.storage] -= 1
        if not self.held[self.storage]:
            del self.held[self.storage]


def bytes_kept(lm, **options):
    """Scores, and the most bytes that were kept for their gradients at a time, the weights not counted."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in lm.model.parameters()}
    held, sizes = Counter(), []

    def keep(tensor):
        kept = Kept(tensor, held)
        sizes.append(sum(n_bytes for start, n_bytes in held if start not in weights))
        return kept

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept.tensor):
        return kn.knowledge_attribution(lm, PROMPTS, ANSWER, **options), max(sizes)


@pytest.mark.parametrize("exact_steps", [True, False])
def test_a_pass_stays_within_the_memory(tiny, exact_steps):
    """As long as one copy of one prompt fits; and what is allowed is used."""
    expected, most = bytes_kept(tiny, exact_steps=exact_steps)
    kept = {}
    for max_memory in (1, 100_000, 400_000):
        limited = replace(tiny, max_memory=max_memory)
        scores, kept[max_memory] = bytes_kept(limited, exact_steps=exact_steps)
        torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0)
    assert kept[1] < kept[100_000] <= 100_000
    assert 100_000 < kept[400_000] <= 400_000
    assert kept[400_000] < most


def test_rough_integrands_are_evaluated_at_more_points(tiny, monkeypatch):
    exact = kn.knowledge_attribution(tiny, PROMPTS, ANSWER, exact_steps=True)
    monkeypatch.setattr(integration, "N_NODES", 2)
    coarse = {}
    for name, tolerance in {"checked": integration.TOLERANCE, "unchecked": float("inf")}.items():
        monkeypatch.setattr(integration, "TOLERANCE", tolerance)
        coarse[name] = (kn.knowledge_attribution(tiny, PROMPTS, ANSWER) - exact).abs().max() / exact.max()
    assert coarse["unchecked"] > 1e-3  # two nodes are too few here
    assert coarse["checked"] < 1e-5


def test_kinks_are_evaluated_at_every_point():
    """Few nodes can miss the kink of a ReLU, and the residual with them."""
    lm = tiny_model(hidden_act="relu")
    assert not lm.is_smooth and tiny_model().is_smooth
    for rule in ("left", "midpoint"):
        exact = kn.knowledge_attribution(lm, PROMPTS, ANSWER, rule=rule, baseline="mean", exact_steps=True)
        assert torch.equal(kn.knowledge_attribution(lm, PROMPTS, ANSWER, rule=rule, baseline="mean"), exact)


def test_every_prompt_may_have_its_own_answer(tiny):
    answers = ["Dublin", "Paris", "Lima", "Rome", "Madrid"]
    scores = kn.knowledge_attribution(tiny, PROMPTS, answers)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, answers, strict=True)):
        torch.testing.assert_close(scores[row], kn.knowledge_attribution(tiny, [prompt], answer)[0])


@pytest.mark.parametrize("measure", attribution.MEASURES)
@pytest.mark.parametrize("baseline", ["zero", "mean", "tensor"])
def test_neuron_path_sets_one_neuron_to_its_baseline(tiny, baseline, measure):
    w = kn.ffn_activations(tiny, PROMPTS)
    values = {"zero": torch.zeros_like(w[0]), "mean": w.mean(0), "tensor": torch.full_like(w[0], 0.3)}[baseline]
    argument = values if baseline == "tensor" else baseline
    scores = kn.knowledge_attribution(tiny, PROMPTS, ANSWER, path="neuron", baseline=argument, measure=measure)
    log = torch.log if measure == "log_probability" else lambda p: p
    for row, prompt in enumerate(PROMPTS):
        full = log(plain_probability(tiny, prompt, ANSWER))
        for layer, neuron in [(0, 3), (1, 17), (2, 39)]:

            def change(activations, layer=layer, neuron=neuron):
                return activations.index_fill(1, torch.tensor([neuron]), values[layer, neuron].item())

            with hooked(tiny, layer, change):
                effect = full - log(plain_probability(tiny, prompt, ANSWER))
            torch.testing.assert_close(scores[row, layer, neuron], effect[0], atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("measure", attribution.MEASURES)
def test_layer_path_is_complete_from_any_baseline(tiny, measure):
    mean = kn.ffn_activations(tiny, PROMPTS).mean(0)
    options = dict(rule="gauss-legendre", baseline="mean", measure=measure)
    scores = kn.knowledge_attribution(tiny, PROMPTS, ANSWER, **options)
    log = torch.log if measure == "log_probability" else lambda p: p
    for row, prompt in enumerate(PROMPTS):
        for layer in range(tiny.n_layers):
            with hooked(tiny, layer, lambda w, layer=layer: mean[layer].expand_as(w)):
                effect = log(plain_probability(tiny, prompt, ANSWER, copies=1))
            effect = log(plain_probability(tiny, prompt, ANSWER)) - effect
            torch.testing.assert_close(scores[row, layer].sum(), effect[0], atol=1e-4, rtol=0)


def test_bad_measures_and_baselines_are_named(tiny):
    with one_line_error(ValueError, "measure 'logit'", "probability"):
        kn.knowledge_attribution(tiny, PROMPTS, ANSWER, measure="logit")
    with one_line_error(ValueError, "baseline 'median'", "mean"):
        kn.knowledge_attribution(tiny, PROMPTS, ANSWER, baseline="median")
    with one_line_error(ValueError, "(1, 40)", "(3, 40)"):
        kn.knowledge_attribution(tiny, PROMPTS, ANSWER, baseline=torch.zeros(1, 40))
