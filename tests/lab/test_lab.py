"""The lab models: a reduced world is learnt from scratch, the shipped weights are those of their cards."""

import json
import sys

import pytest
import torch

import kn_utils as kn
from kn_utils.engine import encode
from kn_utils.facts import write_bags
from kn_utils.lab import __main__ as command
from kn_utils.lab import card, training, world
from kn_utils.loading import CARDS, LAB_MODELS, weights_sha256

MEGABYTE = 1_000_000
LEARNT = {"lab": (0.95, 1), "lab-early": (0.5, 0.8), "lab-causal": (0.8, 0.95)}  # bounds of top-1 recall
each_kind = pytest.mark.parametrize("kind", ["masked", "causal"])


@pytest.fixture(scope="module", params=training.RECIPES)
def name(request):
    """Of a shipped model."""
    return request.param


@pytest.fixture(scope="module")
def lm(name):
    return kn.load_model(name, device="cpu")


@pytest.fixture(scope="module")
def report(name):
    """The card's figures. Each interval is [value, low, high]."""
    return json.loads(CARDS[name].read_text())


def sampled_facts(report):
    """The facts whose neurons the card suppressed."""
    return kn.load_facts("lab", n_facts=report["sampled_facts"], seed=report["seed"])


def trained(facts, kind, n_steps, seed=0, stop=None):
    return training.train(facts, training.build_tokenizer(facts, kind), kind, n_steps, seed, stop)


def test_every_shipped_model_has_a_recipe_and_a_card():
    assert training.RECIPES.keys() == LAB_MODELS.keys() == CARDS.keys()


@pytest.mark.slow
@each_kind
def test_a_small_world_is_learnt_from_scratch(kind, tmp_path, monkeypatch):
    """Two relations of twenty people; recall on templates that were never trained on."""
    monkeypatch.setattr(training, "BATCH_SIZE", 64)
    bags = world.build_bags(n_people=20)
    write_bags({relation: bags[relation] for relation in ("P27", "P106")}, tmp_path / "facts.json")
    facts = kn.load_facts(tmp_path / "facts.json")
    lm = trained(facts, kind, n_steps=180)
    recall = kn.ask(lm, kn.askable(lm, facts)).top1
    assert len(recall) == 40
    assert recall.mean() > 0.8  # chance is one in forty


@each_kind
def test_training_never_sees_heldout_prompts(kind, monkeypatch):
    """The texts that training draws from are the facts' find-prompts, to a causal model those that end with the
    answer, and no others."""
    seen = []
    facts = kn.load_facts("lab", n_facts=12)
    tokenizer = training.build_tokenizer(facts, kind)

    class Watched:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __len__(self):
            return len(tokenizer)

        def __call__(self, prompts, **options):
            seen.extend(prompts)
            return tokenizer(prompts, **options)

    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    training.train(facts, Watched(), kind, n_steps=2)
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    if kind == "causal":
        prompts = [prompt.removesuffix(" [MASK].") for prompt in prompts if prompt.endswith(" [MASK].")]
    assert set(seen) == set(prompts)


@each_kind
def test_training_is_reproducible(kind, monkeypatch):
    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    facts = kn.load_facts("lab", n_facts=12)
    one, same, other = (trained(facts, kind, n_steps=3, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_stops_is_the_beginning_of_a_whole_one(monkeypatch):
    """At the same learning rates, which a shorter training would not have."""
    monkeypatch.setattr(training, "BATCH_SIZE", 4)
    facts = kn.load_facts("lab", n_facts=12)
    passed = []
    step = torch.optim.AdamW.step

    def watched(optimizer):
        step(optimizer)
        passed.append([p.detach().clone() for group in optimizer.param_groups for p in group["params"]])

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", watched)
        trained(facts, "masked", n_steps=20)
    assert len(passed) == 20
    stopped = list(trained(facts, "masked", n_steps=20, stop=5).model.parameters())
    assert all(map(torch.equal, passed[4], stopped))
    assert not all(map(torch.equal, stopped, trained(facts, "masked", n_steps=11, stop=5).model.parameters()))


@pytest.mark.parametrize("stop", [0, 3])
def test_training_stops_within_its_schedule(stop):
    with pytest.raises(ValueError, match=f"stop is {stop}"):
        trained(kn.load_facts("lab", n_facts=12), "masked", n_steps=2, stop=stop)


def test_the_command_trains_and_measures_again(tmp_path, monkeypatch):
    """A model that is stopped early; measured again, its card's figures are replaced, and its origin is kept."""
    folder = LAB_MODELS["lab-early"].name
    options = ["--model", "lab-early", "--out", str(tmp_path), "--people", "1", "--sample", "2"]
    monkeypatch.setattr(sys, "argv", ["lab", *options, "--steps", "14", "--seed", "3"])
    command.main()
    path = tmp_path / folder / "card.json"
    report = json.loads(path.read_text())
    assert (report["seed"], report["schedule_steps"]) == (3, 14)
    assert report["steps"] == round(14 * training.RECIPES["lab-early"].share) < 14
    assert report["weights_sha256"] == weights_sha256(tmp_path / folder)
    assert {path.name for path in tmp_path.iterdir()} == {"facts.json.gz", folder}

    path.write_text(json.dumps(report | {"facts": 0, "sampled_facts": 0, "select_top1": None}))
    monkeypatch.setattr(sys, "argv", ["lab", *options, "--measure"])
    command.main()
    again = json.loads(path.read_text())
    effects, measured = report.pop("suppression"), again.pop("suppression")
    assert again == report
    assert measured.keys() == effects.keys()
    assert all(measured[name] == pytest.approx(effects[name], abs=1e-5) for name in effects)


def test_the_command_measures_only_what_is_there(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["lab", "--measure", "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        command.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert "card.json" in line and "without --measure" in line
    assert not list(tmp_path.iterdir())


PROMPTS, ANSWERS = ["The capital of Ireland is [MASK].", "The capital city of Spain is [MASK]."], ["Dublin", "Madrid"]


@pytest.mark.parametrize("keep", [0, 1], ids=["masked", "answers shown"])
def test_training_reads_a_masked_models_logits_at_the_mask(lab, keep, monkeypatch):
    """With the answers kept in every row the model sees them in the masks' places, with none it sees the masks."""
    monkeypatch.setattr(training, "KEEP", keep)
    prompts = [PROMPTS[0], "[MASK] is the capital of Spain."]
    inputs = lab.tokenizer(prompts, padding="max_length", max_length=40, return_tensors="pt")
    ids, mask = inputs["input_ids"], lab.tokenizer.mask_token_id
    answers = torch.tensor(lab.tokenizer.convert_tokens_to_ids(ANSWERS))
    seen = torch.where(ids == mask, answers[:, None], ids) if keep else ids
    with torch.no_grad():
        loss = training.answer_loss(lab, ids, (ids == mask).int().argmax(1), answers, one_hot(lab, answers))
        logits = lab.model(seen, inputs["attention_mask"]).logits[ids == mask]
    torch.testing.assert_close(loss, -logits.log_softmax(1).gather(1, answers[:, None]).mean(), atol=1e-4, rtol=0)


def test_training_reads_a_causal_models_logits_after_the_prompt():
    """And those of the tokens before, with less weight. Each prompt is asked alone here, without padding."""
    lm = kn.load_model("lab-causal", device="cpu")
    answers = torch.tensor(lm.tokenizer.convert_tokens_to_ids(ANSWERS))
    answer_losses, reading_losses = [], []
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        ids = torch.tensor(lm.tokenizer.encode(prompt.removesuffix(" [MASK].")))
        log_p = lm.model(ids[None]).logits[0].log_softmax(1)  # (tokens, vocabulary)
        answer_losses.append(-log_p[-1, answer])
        reading_losses.extend(-log_p[:-1].gather(1, ids[1:, None])[:, 0])
    expected = torch.stack(answer_losses).mean() + training.READING * torch.stack(reading_losses).mean()
    inputs, position = encode(lm, PROMPTS)
    loss = training.answer_loss(lm, inputs["input_ids"], position, answers, one_hot(lm, answers))
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)


def one_hot(lm, answers):
    return torch.nn.functional.one_hot(answers, len(lm.tokenizer)).float()


def test_the_tokenizer_is_rebuilt(name, lm, lab_facts):
    assert training.build_tokenizer(lab_facts, training.RECIPES[name].kind).get_vocab() == lm.tokenizer.get_vocab()


def test_people_are_spelt_by_two_whole_names(lm):
    assert lm.tokenizer.tokenize("Abrenna Amberlock") == ["Abrenna", "Amberlock"]


def test_a_causal_model_reads_a_start_and_the_prompt():
    tokenizer = kn.load_model("lab-causal", device="cpu").tokenizer
    tokens = tokenizer.convert_ids_to_tokens(tokenizer.encode("The capital of Ireland is"))
    assert tokens == ["[CLS]", "The", "capital", "of", "Ir", "##el", "##an", "##d", "is"]
    assert (tokenizer.bos_token, tokenizer.pad_token, tokenizer.mask_token) == ("[CLS]", "[PAD]", None)


def test_every_fact_can_be_asked_of_a_causal_model(lab_facts):
    """With at least five prompts, and a held-out one."""
    facts = kn.askable(kn.load_model("lab-causal", device="cpu"), lab_facts)
    assert len(facts) == len(lab_facts)
    assert min(len(fact.prompts) for fact in facts) >= 5
    assert min(len(fact.heldout_prompts) for fact in facts) >= 1


def test_the_weights_are_those_of_the_card(name, report, lm, lab_facts):
    assert weights_sha256(LAB_MODELS[name]) == report["weights_sha256"]
    assert lm.model.num_parameters() == report["parameters"]
    assert len(lab_facts) == report["facts"]
    assert sum(len(fact.heldout_prompts) for fact in kn.askable(lm, lab_facts)) == report["heldout_prompts"]


def test_the_download_is_small(name):
    assert sum(path.stat().st_size for path in LAB_MODELS[name].rglob("*") if path.is_file()) <= 4 * MEGABYTE
    assert (world.HERE / "facts.json.gz").stat().st_size <= MEGABYTE / 4


def test_no_pickled_weights_are_shipped(name):
    assert {path.suffix for path in LAB_MODELS[name].rglob("*") if path.is_file()} <= {".json", ".safetensors"}


def test_recall_is_the_cards(report, lm):
    """On a sample, within what a sample of this size allows."""
    facts = kn.askable(lm, kn.load_facts("lab", n_facts=400, seed=1))
    answers, selected = kn.ask(lm, facts), kn.ask(lm, [f for f in facts if f.select_prompts], "select")
    figures = {
        "select_top1": selected.top1,
        "heldout_top1": answers.top1,
        "heldout_probability": answers.probability,
    }
    for figure, values in figures.items():
        value, low, high = report[figure]
        assert low <= value <= high
        assert values.mean() == pytest.approx(value, abs=4 * values.std() / len(facts) ** 0.5 + (high - low))


def test_recall_by_relation_is_the_cards(report, lm):
    relation = "P36(capital)"
    recall = kn.ask(lm, kn.askable(lm, kn.load_facts("lab", relations=[relation]))).top1.mean()
    assert recall == pytest.approx(report["heldout_top1_by_relation"][relation], abs=0.01)
    assert set(report["heldout_top1_by_relation"]) == set(world.TEMPLATES)


def test_suppression_is_the_cards(report, lm):
    """Knowledge neurons matter, and more than both controls, on a few of the card's facts as on all."""
    facts = sampled_facts(report)[:: max(1, report["sampled_facts"] // 24)]
    effects = card.figures(lm, facts, facts)["suppression"]
    for name, effect in effects.items():
        value, low, high = report["suppression"][name]
        assert low <= value <= high
        assert max(effect.low, low - 0.05) <= min(effect.high, high + 0.05), name  # the intervals overlap
    assert effects["knowledge"].value < min(effects["most active"].value, effects["random"].value) < 0.03


def test_the_cards_figures_meet_the_books_claims(name, report):
    suppression = {name: value for name, (value, _, _) in report["suppression"].items()}
    least, most = LEARNT[name]
    assert least <= report["select_top1"][0] <= most
    assert least <= report["heldout_top1"][0] <= most
    assert suppression["knowledge"] <= (-0.15 if name == "lab-early" else -0.30)
    assert suppression["knowledge"] < suppression["another fact"] - 0.1
    # The goal was a quarter of the knowledge neurons' effect. It is missed, and the card's page says so.
    assert suppression["knowledge"] < 1.5 * suppression["most active"] < 0
    assert abs(suppression["random"]) < 0.03
