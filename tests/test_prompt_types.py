"""Prompts of five types: what is masked in which sentence, and the neurons' activation there."""

import gzip
import json
import random

import pytest
from common import hooked, one_line_error, plain_probability, tiny_model
from conftest import shared_file

import kn_utils as kn
from kn_utils import bingrel
from kn_utils.bingrel import Bag, checksum, load_prompts
from kn_utils.prompt_types import (
    TYPES,
    activations_by_type,
    akin_relations,
    bags_of,
    lab_bags,
    mask_answer,
    mask_word,
    prompt_activations,
    prompt_bags,
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
    ],
)
def test_the_answer_is_masked_where_it_stands_alone(sentence, expected):
    assert mask_answer(sentence, IRELAND) == expected


def test_a_word_outside_the_head_is_masked():
    seen = {mask_word("In old Ireland it rains.", "Ireland", rng=random.Random(i)) for i in range(40)}
    assert seen == {"[MASK] old Ireland it rains.", "In [MASK] Ireland it rains.", "In old Ireland [MASK] rains.",
                    "In old Ireland it [MASK]."}  # fmt: skip
    assert mask_word("Ireland", "Ireland") is None


def test_every_type_is_what_it_says(lab_facts):
    facts = lab_facts[::6]
    bags = lab_bags(facts)
    prompts, akin = typed_prompts(facts, bags, seed=1), akin_relations(facts)
    assert (prompts.prompt.str.count(r"\[MASK\]") == 1).all()
    about = {mask_answer(s, f): f for f, bag in zip(facts, bags, strict=True) for s in bag.head_and_tail}
    for i, kind, prompt in prompts.itertuples(index=False):
        fact = facts[i]
        if kind == "T1":
            assert prompt.replace("[MASK]", fact.answer) in bags[i].head_and_tail
        elif kind == "T2":
            assert fact.subject in prompt and fact.answer not in prompt
        elif kind == "T3":
            assert fact.subject not in prompt and fact.answer not in prompt
        else:
            other = about[prompt]
            assert other.subject != fact.subject and other.answer != fact.answer
            assert (other.relation == fact.relation) if kind == "T5" else (other.relation in akin[fact.relation])
    assert set(prompts.type) == set(TYPES)
    assert prompts.equals(typed_prompts(facts, bags, seed=1))


def test_lab_sentences_are_free_and_readable(lab, lab_facts):
    templates = {prompt for fact in lab_facts for prompt in (*fact.prompts, *fact.heldout_prompts)}
    one_each = list({fact.relation: fact for fact in lab_facts}.values())
    assert len(one_each) == 12
    for fact, bag in zip(one_each, lab_bags(one_each), strict=True):
        assert len(bag.head_and_tail) >= 3 and len(bag.head) >= 3
        for sentence in (*bag.head_and_tail, *bag.head):
            assert lab.tokenizer.unk_token not in lab.tokenizer.tokenize(sentence), sentence
            assert "[" not in sentence
        assert not {mask_answer(sentence, fact) for sentence in bag.head_and_tail} & templates


def test_facts_without_sentences_use_their_own_prompts():
    assert prompt_bags([IRELAND]) == [Bag(("Dublin, Ireland.",), ())]
    assert bags_of([IRELAND], "facts.json") == prompt_bags([IRELAND])


def test_akin_relations_share_answers():
    facts = [kn.Fact("x", r, a, ()) for r, own in {"A": "abcd", "B": "bcde", "C": "dxyz"}.items() for a in own]
    assert akin_relations(facts) == {"A": ["B"], "B": ["A"], "C": []}


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


def test_the_authors_sentences():
    folder = shared_file("bingrel")
    bags = load_prompts(folder)
    assert {name: len(own) for name, own in bags.items()} == {"P101": 696, "P19": 944, "P36": 703}
    facts = kn.load_facts(shared_file("pararel", "data_all_allbags.json.gz"), relations=["P36", "P19", "P101"])
    by_relation = {name: [f for f in facts if f.relation.startswith(name + "(")] for name in bags}
    for name, own in bags.items():
        masked = [
            any(mask_answer(s, f) for s in bag.head_and_tail) for f, bag in zip(by_relation[name], own, strict=True)
        ]
        assert sum(masked) > 0.8 * sum(bool(bag.head_and_tail) for bag in own)  # bag i is of fact i
    assert {name: checksum({name: own}) for name, own in bags.items()} == bingrel.SHA256
    sample = by_relation["P36"][:40]
    prompts = typed_prompts(sample, bags["P36"][:40])
    assert {"T1", "T2", "T3", "T5"} <= set(prompts.type)


def write(folder, relation, content):
    path = folder / f"final_distant_allbags_{relation}_new.json"
    path.write_bytes(content)
    return path


def test_damaged_sentences_are_named(tmp_path):
    with one_line_error(FileNotFoundError, tmp_path, "no BingREL files"):
        load_prompts(tmp_path)
    path = write(tmp_path, "P36", b'[{"th_bags": ["a"], "h_bags"')
    with one_line_error(ValueError, path, "truncated or not JSON"):
        load_prompts(tmp_path)
    write(tmp_path, "P36", b'[{"th_bags": "a", "h_bags": []}]')
    with one_line_error(ValueError, path, "th_bags"):
        load_prompts(tmp_path)
    with one_line_error(FileNotFoundError, "P19", "P36"):
        load_prompts(tmp_path, ["P19"])
    cut = tmp_path / "final_distant_allbags_P36_new.json.gz"
    cut.write_bytes(gzip.compress(b"[]")[:-9])
    path.unlink()
    with one_line_error(ValueError, cut, "truncated"):
        load_prompts(tmp_path)


def test_download_is_cached_and_counted(tmp_path, monkeypatch):
    release = {"P36": [{"th_bags": ["Dublin is in Ireland."], "h_bags": ["Ireland is old.", "Ireland."]}]}
    fetched = []

    class Response:
        def __init__(self, body):
            self.read = lambda: body

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def urlopen(url, timeout):
        fetched.append(url)
        relation = url.rpartition("_new")[0].rpartition("_")[2]
        if relation not in release:
            raise OSError("no network")
        return Response(json.dumps(release[relation]).encode())

    monkeypatch.setattr(bingrel.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(bingrel.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    with one_line_error(ValueError, "P36", "checksum"):
        load_prompts(relations=["P36"])
    monkeypatch.setattr(bingrel, "SHA256", {})
    expected = {"P36": [Bag(("Dublin is in Ireland.",), ("Ireland is old.", "Ireland."))]}
    assert load_prompts(relations=["P36(capital)"]) == expected == load_prompts(relations=["P36"])
    assert len(fetched) == 1 and "c51b44a79bc935961c27fabf2c6f8e523a669cbb/data/BingDistantTREx/final" in fetched[0]
    with one_line_error(ConnectionError, "P19", "no network"):
        load_prompts(relations=["P19"])
    with one_line_error(ValueError, "'P1'", "P36"):
        load_prompts(relations=["P1"])
    monkeypatch.setattr(bingrel, "LABELS", {"P36": "capital"})
    with one_line_error(ValueError, "(1, 2)", "210217"):
        load_prompts()
    monkeypatch.setattr(bingrel, "COUNTS", (1, 2))
    assert load_prompts() == expected
