"""The lab models: attribution and exact ablation of one fact in several ways, of some facts together, and of all.

And some facts asked with their neurons suppressed and amplified.
"""

import pytest
import torch
from captum.attr import IntegratedGradients
from common import hooked, plain_probability
from measures import matrix_rate, one_fact

import kn_utils as kn
import reference
from kn_utils.paper.experiments import FACTORS, KINDS, find_coarse, refine, suppress_amplify

FACT = one_fact()
ASKED = FACT.prompts, FACT.answer
RATE_ROWS = 10_000  # of the matrix products that tell how fast the machine is: about the tokens of a full batch


def with_captum(lm, prompts, answer):
    """The same sum by captum, with a forward function for each prompt and layer.  # (prompts, layers, neurons)"""

    def scores(prompt, layer, w):
        def probability(values):  # (steps, neurons)
            with hooked(lm, layer, lambda _: values):
                return plain_probability(lm, prompt, answer, copies=len(values))

        return IntegratedGradients(probability).attribute(w[None], n_steps=20, method="riemann_left")[0]

    activations = kn.ffn_activations(lm, prompts)
    return torch.stack(
        [
            torch.stack([scores(prompt, layer, w) for layer, w in enumerate(layers)])
            for prompt, layers in zip(prompts, activations, strict=True)
        ]
    )


def ablate(lm, prompts, answer):
    return kn.knowledge_attribution(lm, prompts, answer, path="neuron")


@pytest.fixture(scope="module")
def lab():
    return kn.load_model("lab", device="cpu")


def one_by_one(lm, facts):
    return torch.cat([reference.attribution(lm, fact.prompts, fact.answer) for fact in facts])


def together(lm, facts):
    return torch.cat(kn.knowledge_attributions(lm, facts))


def compare(benchmark, found, lab, way, call, asked, rounds, tolerance):
    """Time one way to the scores; they are those of the first way up to a part of the highest score."""
    found[way] = benchmark.pedantic(call, (lab, *asked), rounds=rounds, warmup_rounds=1)
    expected = next(iter(found.values()))
    difference = ((found[way] - expected).abs().max() / expected.abs().max()).item()
    benchmark.extra_info.update(
        prompts=len(expected),
        neurons=lab.n_layers * lab.n_neurons,
        threads=torch.get_num_threads(),
        difference=difference,
    )
    assert difference <= tolerance


@pytest.mark.benchmark(group="lab")
@pytest.mark.parametrize(
    "way, call", [("reference", reference.attribution), ("captum", with_captum), ("kn_utils", kn.knowledge_attribution)]
)
def test_attribution(benchmark, found, lab, way, call):
    compare(benchmark, found.setdefault("attribution", {}), lab, way, call, ASKED, rounds=5, tolerance=1e-5)


@pytest.mark.parametrize("name", ["lab", "lab-causal"])
@pytest.mark.parametrize("way, call", [("reference", one_by_one), ("kn_utils", together)])
def test_attribution_of_some_facts(benchmark, found, name, way, call):
    benchmark.group, lm = f"some, {name}", kn.load_model(name, device="cpu")
    facts = kn.askable(lm, kn.load_facts("lab"))[::140]
    compare(benchmark, found.setdefault(name, {}), lm, way, call, [facts], rounds=1, tolerance=1e-5)
    benchmark.extra_info["facts"] = len(facts)


@pytest.mark.benchmark(group="ablation")
@pytest.mark.parametrize("way, call", [("reference", reference.ablation), ("kn_utils", ablate)])
def test_ablation(benchmark, found, lab, way, call):
    tolerance = 1e-4  # P hardly moves
    compare(benchmark, found.setdefault("ablation", {}), lab, way, call, ASKED, rounds=1, tolerance=tolerance)


def scale_plainly(lm, facts, neurons):
    """As `suppress_amplify`, a prompt at a time, all copies together: the answers' mean probabilities."""
    means, conditions = [], [(operation, kind) for operation in FACTORS for kind in KINDS]
    for which in ("find", "heldout"):
        for fact, sets in zip(facts, neurons.to_dict("records"), strict=True):
            factors = torch.ones(1 + len(conditions), lm.n_layers, lm.n_neurons)
            for copy, (operation, kind) in enumerate(conditions, start=1):
                factors[(copy, *zip(*sets[kind], strict=True))] = FACTORS[operation]
            prompts = fact.prompts if which == "find" else fact.heldout_prompts
            means.append(reference.scaled(lm, prompts, fact.answer, factors).mean(0))
    return torch.stack(means).view(2, len(facts), -1).mT.flatten()


def scale(lm, facts, neurons):
    return torch.tensor(suppress_amplify(lm, facts, neurons).probability.to_numpy())


@pytest.mark.parametrize("name", ["lab", "lab-causal"])
@pytest.mark.parametrize("way, call", [("reference", scale_plainly), ("kn_utils", scale)])
def test_suppression_and_amplification(benchmark, found, name, way, call):
    benchmark.group, lm = f"scaled, {name}", kn.load_model(name, device="cpu")
    facts = kn.askable(lm, kn.load_facts("lab"))[::40]
    neurons = refine(facts, find_coarse(lm, facts), lm.n_neurons)
    asked, ways = (facts, neurons), found.setdefault(f"scaled {name}", {})
    compare(benchmark, ways, lm, way, call, asked, rounds=1, tolerance=1e-5)
    n_prompts = sum(len(fact.prompts) + len(fact.heldout_prompts) for fact in facts)
    benchmark.extra_info.update(facts=len(facts), prompts=n_prompts, changes=len(FACTORS) * len(KINDS))


@pytest.mark.benchmark(group="all")
def test_all_facts(benchmark, lab):
    facts, rate = kn.load_facts("lab"), matrix_rate(lab, RATE_ROWS)
    scores = benchmark.pedantic(kn.knowledge_attributions, (lab, facts), rounds=1)
    assert [len(table) for table in scores] == [len(fact.prompts) for fact in facts]
    n_prompts = sum(map(len, scores))
    rate = max(rate, matrix_rate(lab, RATE_ROWS))
    benchmark.extra_info.update(facts=len(facts), prompts=n_prompts, threads=torch.get_num_threads(), matrix_rate=rate)
