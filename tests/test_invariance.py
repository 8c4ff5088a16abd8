"""Alone, together, in any order and under any memory limit: a fact's scores are its own (hypothesis chooses)."""

from dataclasses import replace

import pytest
import torch
from common import PROMPTS, one_line_error, tiny_model
from families import MODELS, tokenizer_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import kn_utils as kn
from kn_utils.attribution import BASELINES, MEASURES, PATHS
from kn_utils.engine.quadrature import RULES
from kn_utils.loading import wrap_model
from kn_utils.prompts import suits

RIGHT = 1e-5  # of a prompt's highest score, in float32
ROUNDED = 2e-6  # of P or log P: what two passes in float32 may differ by, and their difference is an ablation's effect
TEXTS = [*PROMPTS, "Peru has its old capital in the north, [MASK]", "the city of Peru is [MASK]", "a river is [MASK]"]
ANSWERS = ["Dublin", "Paris", "Lima", "Rome"]
KINDS = ["masked", "causal", "seq2seq"]


@pytest.fixture(scope="module")
def models():
    torch.manual_seed(4)
    gpt, t5 = tokenizer_of("bytes"), tokenizer_of("pieces")
    narrow = dict(MODELS["gpt2"][2], n_inner=16)
    causal = GPT2Config(vocab_size=len(gpt), n_positions=64, initializer_range=0.2, **narrow)
    shape = dict(MODELS["t5"][2], d_ff=16, vocab_size=len(t5), decoder_start_token_id=1, pad_token_id=1)
    seq2seq = T5ForConditionalGeneration(T5Config(**shape))
    for parameter in seq2seq.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return {
        "masked": tiny_model(intermediate_size=16),
        "causal": wrap_model(GPT2LMHeadModel(causal), gpt),
        "seq2seq": wrap_model(seq2seq, t5),
    }


@st.composite
def facts_of(draw, kind):
    """Two to four facts of one to four prompts each, of different lengths; prompts may be shared."""
    texts = [text for text in TEXTS if kind != "causal" or text.endswith("[MASK]") or text.endswith("[MASK].")]
    prompts = st.lists(st.sampled_from(texts), min_size=2, max_size=4, unique=True).map(tuple)
    answers = st.sampled_from(ANSWERS if kind == "masked" else ["Dublin", "Dublin river city"])
    facts = st.builds(kn.Fact, st.just("Ireland"), st.just("P36(capital)"), answers, prompts)
    return draw(st.lists(facts, min_size=2, max_size=3))


@st.composite
def options(draw, facts):
    several = any(" " in fact.answer for fact in facts)
    path, measure = draw(st.sampled_from(PATHS)), draw(st.sampled_from(MEASURES[1:] if several else MEASURES))
    baseline = draw(st.sampled_from([*BASELINES, "tensor"]))
    return {"path": path, "measure": measure, "baseline": baseline, "rule": draw(st.sampled_from(RULES)), "n_steps": 6}


def given_baseline(lm, chosen):
    """A baseline of the caller's own, in place of "tensor"."""
    if chosen["baseline"] != "tensor":
        return chosen
    values = torch.linspace(-0.5, 0.5, lm.n_layers * lm.n_neurons).view(lm.n_layers, lm.n_neurons)
    return chosen | {"baseline": values}


def assert_same(found, expected, rounded=0.0, right=RIGHT):
    for one, other in zip(found, expected, strict=True):
        highest = other.flatten(1).abs().amax(1)
        assert ((one - other).flatten(1).abs().amax(1) <= right * highest + rounded).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_scores_depend_on_the_fact_alone(kind, models, data):
    lm, facts = models[kind], data.draw(facts_of(kind))
    chosen = given_baseline(lm, data.draw(options(facts)))
    rounded = ROUNDED if chosen["path"] == "neuron" else 0.0
    alone = [kn.knowledge_attribution(lm, fact.prompts, fact.answer, **chosen) for fact in facts]
    assert all(scores.isfinite().all() for scores in alone)
    assert_same(kn.knowledge_attributions(lm, facts, **chosen), alone, rounded)
    order = data.draw(st.permutations(range(len(facts))))
    assert_same(kn.knowledge_attributions(lm, [facts[i] for i in order], **chosen), [alone[i] for i in order], rounded)
    memory = data.draw(st.sampled_from([100_000, 400_000, 2**33]))
    assert_same(kn.knowledge_attributions(replace(lm, max_memory=memory), facts, **chosen), alone, rounded)
    if lm.fast:  # in float32 two ways to compute, too, differ
        whole = kn.knowledge_attributions(replace(lm, fast=False), facts, **chosen)
        assert_same(whole, alone, rounded, 10 * RIGHT)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(data=st.data())
def test_answers_and_activations_depend_on_the_prompt_alone(kind, models, data):
    lm = models[kind]
    prompts = data.draw(st.lists(st.sampled_from([t for t in TEXTS if suits(lm, t)]), min_size=1, max_size=6))
    small = replace(lm, max_memory=data.draw(st.sampled_from([1, 50_000, 2**33])))
    expected = torch.cat([kn.answer_probability(lm, [prompt], "Dublin") for prompt in prompts])
    torch.testing.assert_close(kn.answer_probability(small, prompts, "Dublin"), expected, rtol=1e-5, atol=1e-8)
    activations = torch.cat([kn.ffn_activations(lm, [prompt]) for prompt in prompts])
    torch.testing.assert_close(kn.ffn_activations(small, prompts), activations, rtol=1e-5, atol=1e-6)
    distribution = torch.cat([kn.answer_distribution(lm, [prompt]) for prompt in prompts])
    torch.testing.assert_close(kn.answer_distribution(small, prompts), distribution, rtol=1e-5, atol=1e-7)


def test_the_mean_baseline_is_taken_over_each_facts_own_prompts(models):
    lm = models["masked"]
    facts = [kn.Fact("Ireland", "P36", "Dublin", tuple(TEXTS[:2])), kn.Fact("Peru", "P36", "Lima", tuple(TEXTS[2:5]))]
    for fact, scores in zip(facts, kn.knowledge_attributions(lm, facts, baseline="mean"), strict=True):
        mean = kn.ffn_activations(lm, fact.prompts).mean(0)
        expected = kn.knowledge_attribution(lm, fact.prompts, fact.answer, baseline=mean)
        torch.testing.assert_close(scores, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("call", [kn.knowledge_attribution, kn.knowledge_attributions])
def test_the_mean_of_one_prompt_is_refused(models, call):
    one = kn.Fact("Ireland", "P36", "Dublin", (TEXTS[0],))
    asked = ([one],) if call is kn.knowledge_attributions else (one.prompts, one.answer)
    with one_line_error(ValueError, "one", "'zero'"):
        call(models["masked"], *asked, baseline="mean")


def test_each_prompt_may_have_a_baseline_of_its_own(models):
    lm = models["masked"]
    values = torch.rand(3, lm.n_layers, lm.n_neurons)
    together = kn.knowledge_attribution(lm, TEXTS[:3], "Dublin", baseline=values)
    for prompt, own, scores in zip(TEXTS, values, together, strict=False):
        alone = kn.knowledge_attribution(lm, [prompt], "Dublin", baseline=own)[0]
        assert_same([scores[None]], [alone[None]])


@pytest.mark.parametrize("baseline", [torch.zeros(2, 2), torch.full((3, 40), torch.nan), "median"])
def test_a_wrong_baseline_is_refused(models, baseline):
    with one_line_error(ValueError, "baseline"):
        kn.knowledge_attribution(models["masked"], TEXTS[:1], "Dublin", baseline=baseline)
