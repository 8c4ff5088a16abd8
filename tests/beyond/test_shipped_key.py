"""The shipped answer key: a sample of its ablations is made again; how it is found, refused and made."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from common import PROMPTS

import kn_utils as kn
from kn_utils.beyond import shipped_key as module
from kn_utils.beyond.answer_key import BASELINES, EFFECTS, answer_key, mean_activation
from kn_utils.beyond.shipped_key import key_or_ablations, shipped_key
from kn_utils.data.shipped import how_made

SAMPLE = [3, 17, 40]  # facts whose ablations are made again
FACTS = [
    kn.Fact(f"subject {i}", "P36(capital)", answer, tuple(PROMPTS)) for i, answer in enumerate(["Dublin", "Paris"])
]


@pytest.fixture(scope="module")
def again(lab):
    """The facts of the shipped key, and the ablations of some of them."""
    facts = kn.load_facts(module.FACTS, n_facts=module.N_FACTS, seed=module.SEED)
    alone = [replace(facts[i], prompts=(facts[i].prompts[i % len(facts[i].prompts)],)) for i in SAMPLE]
    values = {"zero": "zero", "mean": mean_activation(lab, facts)}
    return facts, {baseline: answer_key(lab, alone, values[baseline]) for baseline in BASELINES}


def is_close(key, other):
    """Whether the effects of the sampled facts are equal to 1e-5, on P and on log P; float32 rounds to about 2e-6."""
    pairs = [(getattr(key, name)[SAMPLE], getattr(other, name)) for name in EFFECTS]
    return all(((a - b).abs() <= 1e-5).all() for a, b in pairs)


@pytest.mark.parametrize("baseline", BASELINES)
def test_ablations_made_again_are_those_that_are_shipped(lab, again, baseline):
    facts, keys = again
    key = shipped_key(lab, facts, baseline)
    assert [key.prompts[i] for i in SAMPLE] == keys[baseline].prompts
    assert is_close(key, keys[baseline])
    changed = deepcopy(key)
    changed.log_probability[SAMPLE[1], 2, 100] += 2e-5
    assert not is_close(changed, keys[baseline])


def test_how_it_was_made_is_one_line(lab, again):
    line = how_made(key_or_ablations(lab, again[0], "zero").about)
    assert "make results" in line and "48 facts" in line and "\n" not in line


@pytest.fixture
def package(tiny, cache, tmp_path, monkeypatch):
    """An empty folder of shipped files, for the key of the tiny model."""
    monkeypatch.setattr(module, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(module, "FILE", tmp_path / "results" / "answer_key.parquet")
    monkeypatch.setattr(module, "load_model", lambda name: tiny)
    monkeypatch.setattr(module, "load_facts", lambda name, **options: FACTS)
    return tmp_path / "results" / "answer_key.parquet"


@pytest.mark.parametrize("baseline", BASELINES)
def test_what_is_read_is_what_was_made(tiny, package, baseline, capsys):
    made = key_or_ablations(tiny, FACTS, baseline)
    assert "2 facts" in capsys.readouterr().out
    module.ship()
    read = key_or_ablations(tiny, FACTS, baseline)
    assert read.about["command"] == "make results" and made.about["command"] == "answer_key"
    assert read.prompts == made.prompts and torch.equal(read.log_probability, made.log_probability)
    assert torch.equal(read.probability, made.probability)
    assert capsys.readouterr().out == ""


def test_ablations_are_kept_and_found_again(tiny, package, monkeypatch, capsys):
    made = key_or_ablations(tiny, FACTS, "mean")
    capsys.readouterr()
    monkeypatch.setattr("kn_utils.beyond.answer_key._ablate", None)
    assert torch.equal(key_or_ablations(tiny, FACTS, "mean").probability, made.probability)
    assert capsys.readouterr().out == ""


def test_the_key_of_another_model_is_not_used(tiny, package, capsys):
    module.ship()
    other = replace(tiny, precision="tf32")  # its numbers may differ
    assert shipped_key(other, FACTS, "zero") is None
    assert "not used" in capsys.readouterr().out
    assert shipped_key(tiny, FACTS[:1], "zero") is None and capsys.readouterr().out == ""


def test_a_damaged_key_is_named_and_not_used(tiny, package, capsys):
    module.ship()
    package.write_bytes(package.read_bytes()[:-50])
    capsys.readouterr()
    assert shipped_key(tiny, FACTS, "zero") is None
    (line,) = capsys.readouterr().out.splitlines()
    assert "not used" in line and "damaged" in line


def test_within_an_edit_every_neuron_is_ablated(tiny, package):
    module.ship()
    with kn.suppress(tiny, [(0, 3)]):
        edited = key_or_ablations(tiny, FACTS, "zero")
        assert edited.about["command"] == "answer_key"
        assert edited.probability[:, 0, 3].abs().max() < 1e-6
