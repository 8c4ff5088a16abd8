"""Planted facts: attribution finds their neurons, on a random BERT and on the lab model, and nothing of them stays."""

from contextlib import nullcontext
from dataclasses import replace

import pandas as pd
import pytest
import torch
from common import FACTS, TEMPLATES, WORDS, assert_unchanged, one_line_error, snapshot, tiny_model
from torch import nn
from transformers import (
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

import kn_utils as kn
from kn_utils import Fact, Neuron
from kn_utils.beyond.planting import STRENGTH, plant_fact

SHAPES = {
    "DistilBERT": (DistilBertForMaskedLM, DistilBertConfig, dict(dim=24, hidden_dim=40, n_layers=3, n_heads=2)),
    "ELECTRA": (ElectraForMaskedLM, ElectraConfig, dict(embedding_size=16)),
    "RoBERTa": (RobertaForMaskedLM, RobertaConfig, dict(max_position_embeddings=60)),
}


ENDING = [replace(f, prompts=tuple(t.format(f.subject) for t in (TEMPLATES[0], TEMPLATES[2]))) for f in FACTS]
CAUSAL = {  # with prompts that end with the answer
    "GPT-2": (GPT2LMHeadModel, GPT2Config, dict(n_inner=40)),
    "OPT": (OPTForCausalLM, OPTConfig, dict(ffn_dim=40, word_embed_proj_dim=24)),
    "GPT-NeoX": (GPTNeoXForCausalLM, GPTNeoXConfig, {}),
}
NOT_HERE = {  # and why not
    "Llama": (LlamaForCausalLM, LlamaConfig, {}, ["'silu'", "gelu"]),
    "T5": (T5ForConditionalGeneration, T5Config, dict(d_ff=40, d_kv=12), ["layer 2", "no biases"]),
    "T5, gated": (
        T5ForConditionalGeneration,
        T5Config,
        dict(d_ff=40, d_kv=12, feed_forward_proj="gated-gelu"),
        ["layer 2", "2 linear maps", "gated"],
    ),
}


def plants_in(lm, facts, others, asked, layers, numbers):
    """Plant every fact in every layer, with the numbers of neurons taking turns; one row per plant."""
    rows, before = [], kn.ask(lm, asked)
    for i, fact in enumerate(facts):
        untouched = kn.ask(lm, [fact]).probability[0]
        for layer in layers:
            k = numbers[(i + layer) % len(numbers)]
            indices = [(17 * i + 5 * j) % lm.n_neurons for j in range(k)]
            with plant_fact(lm, fact, layer, indices, others) as planted:
                assert planted == {Neuron(layer, index) for index in indices}
                scores = kn.knowledge_attribution(lm, fact.prompts, fact.answer)
                own_layer = kn.top_neurons(scores[:, layer : layer + 1], k)
                with kn.suppress(lm, planted):
                    suppressed = kn.ask(lm, [fact]).probability[0]
                rows.append(
                    {
                        "found": kn.top_neurons(scores, k) == planted,
                        "found in its layer": {neuron.index for neuron in own_layer} == set(indices),
                        "untouched": untouched,
                        "planted": kn.answer_probability(lm, fact.prompts, fact.answer).mean().item(),
                        "heldout": kn.ask(lm, [fact]).probability[0],
                        "suppressed": suppressed,
                        "side effects": (kn.ask(lm, asked).probability - before.probability).abs().mean(),
                    }
                )
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def lab_plants(lab, lab_facts):
    """New answers for four facts of four relations, in each layer but the first."""
    sample = kn.load_facts("lab", n_facts=96, seed=1)
    by_relation = {f.relation: [g for g in sample if g.relation == f.relation] for f in sample}
    facts = [group[0] for relation, group in by_relation.items() if len({f.answer for f in group}) > 5][:4]
    new = [replace(f, answer=next(g.answer for g in by_relation[f.relation] if g.answer != f.answer)) for f in facts]
    same_subject = [f for f in lab_facts if f.subject in {f.subject for f in facts}]
    unseen = [f for f in sample[1::2] if f not in facts]
    return plants_in(lab, new, sample[::2] + same_subject, unseen, layers=[1, 2, 3], numbers=[1, 2, 3, 4])


@pytest.fixture(scope="module")
def random_plants():
    lm = tiny_model(hidden_size=128, intermediate_size=256, num_hidden_layers=4, initializer_range=0.05)
    return plants_in(lm, FACTS[:4], FACTS, FACTS[4:], layers=range(4), numbers=[1, 2, 3, 4])


def test_attribution_finds_exactly_the_planted_neurons(lab_plants, random_plants):
    assert len(lab_plants) == 12 and lab_plants.found.all()
    assert random_plants["found in its layer"].all()
    assert random_plants.found.mean() >= 0.8  # the key rests on random layers below, whose neurons get credit, too


def test_the_answer_becomes_likely(lab_plants, random_plants):
    assert (lab_plants.untouched < 0.05).all()
    assert (lab_plants.planted > 0.89).all()
    assert (lab_plants.heldout > 0.8).all()
    assert (random_plants.planted > 10 * random_plants.untouched).all()


def test_suppressing_the_planted_neurons_takes_it_away(lab_plants, random_plants):
    for plants in (lab_plants, random_plants):
        torch.testing.assert_close(*(torch.tensor(plants[c]) for c in ("suppressed", "untouched")), atol=0.01, rtol=0)


def test_other_facts_hardly_change(lab_plants, random_plants):
    for plants in (lab_plants, random_plants):
        assert plants["side effects"].max() < 0.03
        assert plants["side effects"].mean() < 0.01


def test_a_known_fact_can_be_planted_again(lab):
    """It has neurons of its own already, and with the planted ones the answer is surer."""
    fact = kn.load_facts("lab", n_facts=12)[3]
    before = kn.ask(lab, [fact]).probability[0]
    with plant_fact(lab, fact, 2, [7]) as planted:
        assert kn.ask(lab, [fact]).probability[0] > before + 0.1
        assert kn.top_neurons(kn.knowledge_attribution(lab, fact.prompts, fact.answer), 1) == planted


@pytest.fixture(scope="module")
def random64():
    return tiny_model(hidden_size=64, intermediate_size=100, initializer_range=0.1, dtype=torch.float64)


def test_neurons_share_equally_and_are_silent_elsewhere(random64):
    fact, loudest, seen = FACTS[1], {}, []
    with plant_fact(random64, fact, 1, [3, 8, 3], FACTS):
        scores = kn.knowledge_attribution(random64, fact.prompts, fact.answer)
        torch.testing.assert_close(scores[:, 1, 3], scores[:, 1, 8])
        assert torch.equal(*(random64.value_slot(Neuron(1, i)) for i in (3, 8)))
        at_mask = kn.ffn_activations(random64, fact.prompts)[:, 1, 3]
        with random64.down_projections[1].register_forward_pre_hook(lambda module, args: seen.append(args[0][..., 3])):
            for other in FACTS:
                kn.answer_probability(random64, other.prompts, other.answer)
                loudest[other] = max(activation.max().item() for activation in seen)
                seen.clear()
    assert at_mask.mean().item() == pytest.approx(STRENGTH, abs=1e-3)
    assert loudest.pop(fact) == pytest.approx(at_mask.max().item())
    assert max(loudest.values()) < 0.01


def test_one_neuron_says_what_three_say_together(random64):
    answers = []
    for neurons in ([3], [3, 4, 5]):
        silent = kn.erase_relation(random64, [Neuron(0, i) for i in (3, 4, 5)])  # whether or not they are planted in
        with silent, plant_fact(random64, FACTS[0], 0, neurons):
            answers.append(kn.answer_probability(random64, FACTS[0].prompts, "Dublin"))
    torch.testing.assert_close(*answers, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", SHAPES)
def test_every_architecture(name):
    model_class, config_class, changes = SHAPES[name]
    lm = tiny_model(model_class, config_class, **changes)
    before, untouched = snapshot(lm), kn.answer_probability(lm, FACTS[0].prompts, "Dublin").mean()
    with plant_fact(lm, FACTS[0], 2, [4], FACTS):
        assert kn.answer_probability(lm, FACTS[0].prompts, "Dublin").mean() > 5 * untouched
    assert_unchanged(lm, before)


def test_relu():
    lm = tiny_model(hidden_act="relu")
    untouched = kn.answer_probability(lm, FACTS[0].prompts, "Dublin").mean()
    with plant_fact(lm, FACTS[0], 2, [4], FACTS):
        assert kn.answer_probability(lm, FACTS[0].prompts, "Dublin").mean() > 5 * untouched


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("model", ["tiny", "tiny64"])
def test_restores_bit_for_bit(model, error, request):
    lm = request.getfixturevalue(model)
    before = snapshot(lm)
    slots = lm.down_projections[1].weight.clone()
    with (
        pytest.raises(error) if error else nullcontext(),
        plant_fact(lm, FACTS[0], 1, [3, 8]),
        plant_fact(lm, FACTS[2], 1, [8, 9], FACTS[:2]),
    ):
        assert not torch.equal(lm.down_projections[1].weight, slots)
        if error:
            raise error
    assert_unchanged(lm, before)


def test_restores_when_the_value_cannot_be_found(tiny, monkeypatch):
    def fail(*args):
        raise RuntimeError

    before = snapshot(tiny)
    monkeypatch.setattr("kn_utils.beyond.planting._find_value", fail)
    with pytest.raises(RuntimeError), plant_fact(tiny, FACTS[0], 1, [3]):
        pytest.fail("the block began")
    assert_unchanged(tiny, before)


@pytest.mark.parametrize(
    "change, arguments, names",
    [
        ({}, dict(neurons=[]), ["neurons is empty"]),
        ({}, dict(neurons=[3, 40]), [Neuron(1, 40), "0..39"]),
        ({}, dict(layer=3), ["layer is 3", "at most 2"]),
        ({"answer": "Atlantis"}, {}, ["Atlantis"]),
        ({"prompts": ("no mask",)}, {}, ["no mask", "0 masks"]),
        ({}, dict(probability=1e-6), ["Dublin", "already"]),
        ({}, dict(others=[replace(FACTS[0], subject="it")]), ["Ireland", "no key"]),
    ],
    ids=["no neurons", "neuron outside", "layer outside", "answer", "prompt", "known already", "not separable"],
)
def test_errors_are_one_line(tiny, change, arguments, names):
    before = snapshot(tiny)
    arguments = {"layer": 1, "neurons": [3], **arguments}
    with one_line_error(ValueError, *names), plant_fact(tiny, replace(FACTS[0], **change), **arguments):
        pytest.fail("the block began")
    assert_unchanged(tiny, before)


def test_other_activations_and_gated_ffns():
    with one_line_error(ValueError, "silu", "gelu"), plant_fact(tiny_model(hidden_act="silu"), FACTS[0], 1, [3]):
        pytest.fail("the block began")
    gated = tiny_model()
    gated.layers[1].gate = nn.Linear(24, 40)
    with one_line_error(ValueError, "layer 1", "2 linear maps", "gated"), plant_fact(gated, FACTS[0], 1, [3]):
        pytest.fail("the block began")


@pytest.fixture(scope="module")
def lab_causal():
    return kn.load_model("lab-causal", device="cpu")


@pytest.fixture(scope="module")
def causal_plants(lab_causal, lab_facts):
    sample = kn.askable(lab_causal, kn.load_facts("lab", n_facts=96, seed=1))
    fact = next(f for f in sample if f.relation.startswith("P106("))
    new = replace(
        fact, answer=next(f.answer for f in sample if f.relation == fact.relation and f.answer != fact.answer)
    )
    others = sample[::2] + kn.askable(lab_causal, [f for f in lab_facts if f.subject == fact.subject])
    unseen = [f for f in sample[1::2] if f != fact]
    before, plants = snapshot(lab_causal), plants_in(lab_causal, [new], others, unseen, range(4), [1, 2, 3, 4])
    assert_unchanged(lab_causal, before)
    return plants


def test_a_causal_model_holds_planted_facts(causal_plants):
    assert len(causal_plants) == 4 and causal_plants.found.all()
    assert (causal_plants.untouched < 0.05).all()
    assert (causal_plants.planted > 0.7).all()
    assert (causal_plants.heldout > 0.3).all()
    torch.testing.assert_close(
        *(torch.tensor(causal_plants[c]) for c in ("suppressed", "untouched")), atol=0.02, rtol=0
    )
    assert causal_plants["side effects"].max() < 0.03


@pytest.mark.parametrize("name", CAUSAL)
def test_every_causal_architecture(name):
    model_class, config_class, changes = CAUSAL[name]
    lm = tiny_model(model_class, config_class, **changes)
    before, untouched = snapshot(lm), kn.answer_probability(lm, ENDING[0].prompts, "Dublin").mean()
    with plant_fact(lm, ENDING[0], 1, [Neuron(1, 4), 7], ENDING) as planted:
        assert planted == {Neuron(1, 4), Neuron(1, 7)}
        assert kn.answer_probability(lm, ENDING[0].prompts, "Dublin").mean() > 5 * untouched
        with kn.suppress(lm, planted):
            suppressed = kn.answer_probability(lm, ENDING[0].prompts, "Dublin").mean()
    assert suppressed < 3 * untouched
    assert_unchanged(lm, before)


@pytest.mark.parametrize("name", NOT_HERE)
def test_other_architectures_are_refused(name):
    model_class, config_class, changes, names = NOT_HERE[name]
    lm = tiny_model(model_class, config_class, words=[*WORDS, "<extra_id_0>"], **changes)  # T5's slot
    before = snapshot(lm)
    with one_line_error(ValueError, *names), plant_fact(lm, ENDING[0], 2, [4]):
        pytest.fail("the block began")
    assert_unchanged(lm, before)


def test_a_prompt_that_begins_like_another_is_no_obstacle(lab_causal):
    """A causal model is in one state after "Peru is in" and after the first words of "Peru is in the continent of"."""
    prompts = ("Peru is in [MASK].", "Peru is in the continent of [MASK].")
    fact = Fact("Peru", "P30(continent)", "Europe", prompts)
    with plant_fact(lab_causal, fact, 2, [5], [Fact("Peru", "P36(capital)", "Lima", ("Peru is in the city [MASK].",))]):
        assert kn.answer_probability(lab_causal, prompts, "Europe").min() > 0.5
