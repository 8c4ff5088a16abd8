"""Prompts of five types: what is masked in which sentence, and the neurons' activation there."""

import random

import pytest
from common import hooked, plain_probability, tiny_model
from paper.type_rules import check_types

import kn_utils as kn
from kn_utils import relation_id
from kn_utils.paper.akin import akin_relations
from kn_utils.paper.bingrel import Bag, lab_bags
from kn_utils.paper.prompt_types import (
    TYPES,
    activations_by_type,
    bags_of,
    mask_answer,
    mask_word,
    prompt_activations,
    prompt_bags,
    same_answer_type,
    typed_prompts,
)

IRELAND = kn.Fact("Ireland", "P36(capital)", "Dublin", ("The capital of Ireland is [MASK].",), ("[MASK], Ireland.",))


@pytest.mark.parametrize(
    "sentence, expected",
    [
        ("Dublin lies in Ireland.", "[MASK] lies in Ireland."),
        ("In Ireland, Dubliners love Dublin.", "In Ireland, Dubliners love [MASK]."),
        ("Ireland has Dubliners.", None),
        ("Dublin " + "x" * 400, None),
        ("Dublin in Ireland: Dublin.", None),  # could still be read
        ("Dublin, [MASK].", None),
    ],
)
def test_the_answer_is_masked_where_it_stands_alone(sentence, expected):
    assert mask_answer(sentence, IRELAND) == expected


def test_the_answer_is_masked_outside_the_head():
    raion = kn.Fact("Brody Raion", "P36(capital)", "Brody", ())
    assert mask_answer("Brody Raion is seated in Brody.", raion) == "Brody Raion is seated in [MASK]."
    assert mask_answer("Brody Raion is a district.", raion) is None
    albania = kn.Fact("Albania", "P37(official language)", "Albanian", ())
    assert mask_answer("In Albania they speak Albanian.", albania) == "In Albania they speak [MASK]."
    bethlehem = kn.Fact("St. (Mary)", "P19(place of birth)", "Bethlehem", ())  # read as text, not as a pattern
    assert mask_answer("St. (Mary), Bethlehem", bethlehem) == "St. (Mary), [MASK]"


def test_a_word_outside_the_head_is_masked():
    seen = {mask_word("In old Ireland it rains.", "Ireland", rng=random.Random(i)) for i in range(40)}
    assert seen == {"[MASK] old Ireland it rains.", "In [MASK] Ireland it rains.", "In old Ireland [MASK] rains.",
                    "In old Ireland it [MASK]."}  # fmt: skip
    assert mask_word("Ireland", "Ireland") is None
    again = {mask_word("New York: New York rains.", "New York", rng=random.Random(i)) for i in range(20)}
    assert again == {"New York: New York [MASK]."}


def test_every_type_is_what_it_says(lab_facts):
    facts = lab_facts[::6]
    bags = lab_bags(facts)
    prompts = typed_prompts(facts, bags, seed=1)
    check_types(facts, bags, prompts)
    assert set(prompts.type) == set(TYPES)
    per_fact = prompts.groupby("fact").type.apply(set)
    assert (per_fact.map(len) == len(TYPES) - 1).mean() > 0.98  # T4 or T4*, and all the others
    assert prompts.groupby(["fact", "type"]).size().max() == 5
    assert prompts.equals(typed_prompts(facts, bags, seed=1))
    assert not prompts.equals(typed_prompts(facts, bags, seed=2))


def test_a_lonely_fact_has_what_can_be_had():
    bags = [Bag(("Dublin is in Ireland.", "Dublin, Dublin, Ireland."), ("Ireland rains.", "Dublin, Ireland."))]
    prompts = typed_prompts([IRELAND], bags)
    assert set(map(tuple, prompts[["type", "prompt"]].to_numpy())) == {
        ("T1", "[MASK] is in Ireland."), ("T2", "Ireland [MASK]."),
    }  # fmt: skip
    assert len(typed_prompts([IRELAND], [Bag((), ())])) == 0


def test_lab_sentences_are_free_and_readable(lab, lab_facts):
    templates = {prompt for fact in lab_facts for prompt in fact.all_prompts}
    assert len({fact.relation for fact in lab_facts}) == 12
    sentences = set()
    for fact, bag in zip(lab_facts, lab_bags(lab_facts), strict=True):
        assert len(bag.head_and_tail) >= 3 and len(bag.head) >= 3
        assert all(fact.subject in s and fact.answer in s for s in bag.head_and_tail)
        assert not {mask_answer(sentence, fact) for sentence in bag.head_and_tail} & templates
        sentences |= {*bag.head_and_tail, *bag.head}
    assert not [sentence for sentence in sentences if "[" in sentence]
    tokens = lab.tokenizer(sorted(sentences))["input_ids"]
    assert lab.tokenizer.unk_token_id not in {token for row in tokens for token in row}
    assert max(map(len, tokens)) <= lab.model.config.max_position_embeddings


def test_facts_without_sentences_use_their_own_prompts():
    assert prompt_bags([IRELAND]) == [Bag(("Dublin, Ireland.",), ())]
    assert bags_of([IRELAND], "facts.json") == prompt_bags([IRELAND])


def test_relations_that_the_table_lists_together():
    relations = ["P36(capital)", "P19(place of birth)", "P106(occupation)", "P101", "P37(official language)"]
    assert same_answer_type([kn.Fact("x", relation, "y", ()) for relation in relations]) == {
        "P36(capital)": ["P19(place of birth)"], "P19(place of birth)": ["P36(capital)"],
        "P106(occupation)": [], "P101": [], "P37(official language)": [],
    }  # fmt: skip


def test_akin_relations_of_the_lab_share_their_answers(lab_facts):
    akin = akin_relations([relation_id(f.relation) for f in lab_facts], [f.answer for f in lab_facts])
    assert {one: set(others) for one, others in akin.items() if others} == {
        "P36": {"P19", "P937"}, "P19": {"P36", "P937"}, "P937": {"P36", "P19"},  # cities
        "P27": {"P1376"}, "P1376": {"P27"}, "P37": {"P103"}, "P103": {"P37"},  # countries, languages
    }  # fmt: skip


def test_activations_are_those_at_the_mask():
    lm = tiny_model()
    facts = [kn.Fact("Ireland", "P36(capital)", "Dublin", ()), kn.Fact("Peru", "P36(capital)", "Lima", ())]
    bags = [Bag(("Dublin is in Ireland.", "the capital of Ireland is Dublin"), ()), Bag(("Lima is in Peru.",), ())]
    prompts = typed_prompts(facts, bags)
    sets = [{kn.Neuron(0, 3), kn.Neuron(2, 5)}, set()]
    found = prompt_activations(lm, prompts, sets)
    for (i, _, prompt), value in zip(prompts.itertuples(index=False), found, strict=True):
        seen = []
        for neuron in sorted(sets[i]):
            with hooked(lm, neuron.layer, lambda w, n=neuron, seen=seen: seen.append(w[0, n.index].item()) or w):
                plain_probability(lm, prompt, "Dublin")
        assert value == pytest.approx(sum(seen) / 2, abs=1e-6) if seen else value != value
    table = activations_by_type(lm, prompts, {"knowledge": sets})
    t1 = table[(table.type == "T1") & (table.fact == 0)].activation.item()
    assert t1 == pytest.approx(found[(prompts.type == "T1") & (prompts.fact == 0)].mean())
    assert set(table.fact) == {0}


def test_kinds_of_neurons_stand_side_by_side(lab, lab_facts):
    facts = lab_facts[::200]
    prompts = typed_prompts(facts, lab_bags(facts))
    kinds = {
        "knowledge": [{kn.Neuron(3, i), kn.Neuron(1, i)} for i in range(len(facts))],
        "random": [{kn.Neuron(2, i + 5)} for i in range(len(facts))],
    }
    table = activations_by_type(lab, prompts, kinds)
    for kind, sets in kinds.items():
        alone = prompt_activations(lab, prompts, sets).groupby([prompts.fact, prompts.type]).mean()
        found = table[table.kind == kind].set_index(["fact", "type"]).activation
        assert (found - alone).abs().max() == 0 and len(found) == len(alone)
    assert table.equals(activations_by_type(lab, prompts, kinds))
