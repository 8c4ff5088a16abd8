"""`MODEL = "a folder"`, `FACTS = "a ParaRel file"`: the notebooks' path to real BERT, on a random twelve-layer one."""

import pytest
import torch
from common import asked_within, assert_unchanged, snapshot
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

import kn_utils as kn
from kn_utils.lab.training import split_words

N_FACTS = 3


@pytest.fixture(scope="module")
def facts(pararel_file):
    return kn.load_facts(pararel_file, relations=["P36", "P103", "P101"], n_facts=N_FACTS, seed=0)


@pytest.fixture(scope="module")
def lm(facts, tmp_path_factory):
    """Twelve layers as in BERT-base, narrow, with the words of these facts, saved and loaded by its folder's name."""
    folder = tmp_path_factory.mktemp("bert")
    texts = [text for fact in facts for text in (fact.answer, *fact.prompts, *fact.heldout_prompts)]
    words = sorted({word for text in texts for word in split_words(text.replace("[MASK]", " "))})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    tokenizer = BertTokenizerFast(vocab={token: i for i, token in enumerate(vocabulary)}, do_lower_case=False)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=12, num_attention_heads=12, intermediate_size=96,
        initializer_range=0.2,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return kn.load_model(str(folder), device="cpu")


@pytest.fixture(scope="module")
def neurons(lm, facts):
    """Each fact's refined neurons; a random model shares few, so the threshold is low."""
    scores = kn.knowledge_attributions(lm, facts, n_steps=5)
    assert [s.shape for s in scores] == [(len(fact.prompts), 12, 96) for fact in facts]
    return [kn.refine_neurons(s, threshold=0.05, share=0.3) for s in scores]


def test_facts_can_be_asked(lm, facts):
    table = kn.ask(lm, facts)
    assert len(table) == N_FACTS
    assert table.probability.between(0, 1, inclusive="neither").all()


def test_neurons_are_found(neurons):
    assert all(neurons)
    assert all(0 <= neuron.layer < 12 and 0 <= neuron.index < 96 for own in neurons for neuron in own)


@pytest.mark.parametrize("kind", ["suppress", "amplify", "update", "erase"])
def test_facts_can_be_edited(lm, facts, neurons, kind):
    before, answers = snapshot(lm), kn.ask(lm, facts).probability
    others = [*facts[1:], facts[0]]
    edits = {
        "suppress": lambda fact, own, other: kn.suppress(lm, own),
        "amplify": lambda fact, own, other: kn.amplify(lm, own),
        "update": lambda fact, own, other: kn.update_fact(lm, own, fact.answer, other.answer),
        "erase": lambda fact, own, other: kn.erase_relation(lm, own),
    }
    edited = asked_within(lm, facts, [edits[kind](*about) for about in zip(facts, neurons, others, strict=True)])
    assert edited.probability.between(0, 1).all()
    assert (edited.probability - answers).abs().min() > 1e-7  # every fact is affected
    assert_unchanged(lm, before)


def test_effects_can_be_summed_up(lm, facts, neurons):
    before = kn.ask(lm, facts)
    after = asked_within(lm, facts, [kn.erase_relation(lm, own) for own in neurons])
    change = kn.relative_change(before.probability, after.probability)
    assert change.value == pytest.approx(after.probability.mean() / before.probability.mean() - 1)
    assert kn.perplexity(after.log_probability) > 1
