"""The lab model: a reduced world is learnt from scratch, the shipped weights are those of their card."""

import json

import pytest
import torch

import kn_utils as kn
from kn_utils.facts import write_bags
from kn_utils.lab import card, training, world
from kn_utils.models import LAB_FOLDER, wrap_model

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def report():
    """The card's figures. Each interval is [value, low, high]."""
    return json.loads((world.HERE / "card.json").read_text())


def sampled_facts(report):
    """The facts whose neurons the card suppressed."""
    return kn.load_facts("lab", n_facts=report["sampled_facts"], seed=report["seed"])


@pytest.mark.slow
def test_a_small_world_is_learnt_from_scratch(tmp_path, monkeypatch):
    """Two relations of twenty people; recall on templates that were never trained on."""
    monkeypatch.setattr(training, "BATCH_SIZE", 64)
    bags = world.build_bags(n_people=20)
    write_bags({relation: bags[relation] for relation in ("P27", "P106")}, tmp_path / "facts.json")
    facts = kn.load_facts(tmp_path / "facts.json")
    tokenizer = training.build_tokenizer(facts)
    lm = wrap_model(training.train(facts, tokenizer, n_steps=180), tokenizer)
    recall = kn.ask(lm, facts).top1
    assert len(recall) == 40
    assert recall.mean() > 0.8  # chance is one in forty


def test_training_never_sees_heldout_prompts(monkeypatch):
    """The tokenized prompts that training draws from are the facts' find-prompts, and no others."""
    seen = []
    facts = kn.load_facts("lab", n_facts=12)
    tokenizer = training.build_tokenizer(facts)

    class Watched:
        mask_token_id = tokenizer.mask_token_id
        convert_tokens_to_ids = tokenizer.convert_tokens_to_ids

        def __len__(self):
            return len(tokenizer)

        def __call__(self, prompts, **options):
            seen.extend(prompts)
            return tokenizer(prompts, **options)

    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    training.train(facts, Watched(), n_steps=2)
    assert sorted(seen) == sorted(prompt for fact in facts for prompt in fact.prompts)


def test_training_is_reproducible(monkeypatch):
    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    facts = kn.load_facts("lab", n_facts=12)
    tokenizer = training.build_tokenizer(facts)
    one, same, other = (training.train(facts, tokenizer, n_steps=3, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("keep", [0, 1], ids=["masked", "answers shown"])
def test_training_reads_the_models_logits_at_the_mask(lab, keep, monkeypatch):
    """With the answers kept in every row the model sees them in the masks' places, with none it sees the masks."""
    monkeypatch.setattr(training, "KEEP", keep)
    prompts, answers = ["The capital of Ireland is [MASK].", "[MASK] is the capital of Spain."], ["Dublin", "Madrid"]
    inputs = lab.tokenizer(prompts, padding="max_length", max_length=40, return_tensors="pt")
    ids, mask = inputs["input_ids"], lab.tokenizer.mask_token_id
    targets = torch.tensor(lab.tokenizer.convert_tokens_to_ids(answers))
    seen = torch.where(ids == mask, targets[:, None], ids) if keep else ids
    with torch.no_grad():
        logits = training.logits_at_mask(lab.model, ids, inputs["attention_mask"], targets, mask)
        whole = lab.model(seen, inputs["attention_mask"]).logits[ids == mask]
    torch.testing.assert_close(logits, whole, atol=1e-4, rtol=0)


def test_the_tokenizer_is_rebuilt(lab, lab_facts):
    assert training.build_tokenizer(lab_facts).get_vocab() == lab.tokenizer.get_vocab()


def test_people_are_spelt_by_two_whole_names(lab):
    assert lab.tokenizer.tokenize("Abrenna Amberlock") == ["Abrenna", "Amberlock"]


def test_the_weights_are_those_of_the_card(report, lab, lab_facts):
    assert card.sha256(LAB_FOLDER / "model.safetensors") == report["weights_sha256"]
    assert lab.model.num_parameters() == report["parameters"]
    assert len(lab_facts) == report["facts"]
    assert sum(len(fact.heldout_prompts) for fact in lab_facts) == report["heldout_prompts"]


def test_the_download_is_small():
    shipped = [*LAB_FOLDER.rglob("*"), world.HERE / "facts.json.gz"]
    assert sum(path.stat().st_size for path in shipped if path.is_file()) <= 8 * MEGABYTE


def test_no_pickled_weights_are_shipped():
    assert {path.suffix for path in LAB_FOLDER.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt"}


def test_recall_is_the_cards(report, lab):
    """On a sample, within what a sample of this size allows."""
    facts = kn.load_facts("lab", n_facts=400, seed=1)
    answers = kn.ask(lab, facts)
    for figure, values in {"heldout_top1": answers.top1, "heldout_probability": answers.probability}.items():
        value, low, high = report[figure]
        assert low <= value <= high
        assert values.mean() == pytest.approx(value, abs=4 * values.std() / len(facts) ** 0.5 + (high - low))


def test_recall_by_relation_is_the_cards(report, lab):
    relation = "P36(capital)"
    recall = kn.ask(lab, kn.load_facts("lab", relations=[relation])).top1.mean()
    assert recall == pytest.approx(report["heldout_top1_by_relation"][relation], abs=0.01)
    assert set(report["heldout_top1_by_relation"]) == set(world.TEMPLATES)


def test_suppression_is_the_cards(report, lab):
    """Knowledge neurons matter, and more than both controls, on a few of the card's facts as on all."""
    facts = sampled_facts(report)[:: max(1, report["sampled_facts"] // 24)]
    effects = card.figures(lab, facts, facts)["suppression"]
    for name, effect in effects.items():
        value, low, high = report["suppression"][name]
        assert low <= value <= high
        assert max(effect.low, low - 0.05) <= min(effect.high, high + 0.05), name  # the intervals overlap
    assert effects["knowledge"].value < min(effects["baseline"].value, effects["random"].value) < 0.03


def test_the_cards_figures_meet_the_books_claims(report):
    suppression = {name: value for name, (value, _, _) in report["suppression"].items()}
    assert report["heldout_top1"][0] >= 0.95
    assert suppression["knowledge"] <= -0.30
    # The goal was a quarter of the knowledge neurons' effect. It is missed, and the card's page says so.
    assert suppression["knowledge"] < 1.5 * suppression["baseline"] < 0
    assert abs(suppression["random"]) < 0.03
