"""The leaderboard's metrics on hand-made scores and against scipy, its methods against plain formulas."""

import pytest
import torch
from common import PROMPTS, hooked, plain_probability
from scipy import stats

import kn_utils as kn
from kn_utils.beyond.answer_key import answer_key
from kn_utils.beyond.leaderboard import (
    METHODS,
    agreement,
    gradient,
    gradient_times_activation,
    leaderboard,
    planted_leaderboard,
    value_slot_increase,
)

ANSWERS = ["Dublin", "Paris", "Lima", "Rome", "Madrid"]


def table(*rows):
    return torch.tensor(rows, dtype=torch.float32)[:, None]  # (prompts, 1 layer, neurons)


def test_agreement_by_hand():
    key = table([1.0, 0.5, 0.1, 0.0])  # two neurons reach 0.2 of the highest
    same = agreement(key, key, k=2).iloc[0]
    assert (same.precision, same.auc, same.spearman) == (1, 1, pytest.approx(1))
    reverse = agreement(-key, key, k=2).iloc[0]
    assert (reverse.precision, reverse.auc, reverse.spearman) == (0, 0, pytest.approx(-1))
    half = agreement(table([4.0, 1.0, 3.0, 2.0]), key, k=2).iloc[0]
    assert half.precision == 0.5
    assert half.auc == 0.5  # the first beats both others, the second beats none
    assert half.spearman == pytest.approx(stats.spearmanr([4, 1, 3, 2], [4, 3, 2, 1]).statistic)


def test_auc_is_the_chance_of_a_right_order():
    torch.manual_seed(0)
    scores, key = torch.randn(3, 2, 20).round(decimals=1), torch.rand(3, 2, 20)
    found = agreement(scores, key).auc
    for row in range(3):
        true = key[row].flatten() >= 0.2 * key[row].max()
        pairs = scores[row].flatten()[true][:, None] - scores[row].flatten()[~true]
        chance = ((pairs > 0).double() + 0.5 * (pairs == 0)).mean()
        assert found[row] == pytest.approx(chance.item())


def test_gradients_are_autograds(tiny64):
    products = gradient_times_activation(tiny64, PROMPTS, ANSWERS)
    gradients = gradient(tiny64, PROMPTS, ANSWERS)
    for row, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True)):
        for layer in range(tiny64.n_layers):
            w = kn.ffn_activations(tiny64, [prompt])[:, layer].requires_grad_()
            with hooked(tiny64, layer, lambda _, w=w: w):
                (expected,) = torch.autograd.grad(plain_probability(tiny64, prompt, answer).sum(), w)
            torch.testing.assert_close(gradients[row, layer], expected[0], atol=1e-9, rtol=1e-6)
            torch.testing.assert_close(products[row, layer], (w * expected)[0].detach(), atol=1e-9, rtol=1e-6)


def test_value_slot_alone_in_the_last_layer_is_the_effect_of_one_neuron_among_silent_ones(tiny64):
    """In the last layer nothing comes later: the score is log P with only this neuron on, less log P with none."""
    layer, last = tiny64.n_layers - 1, value_slot_increase(tiny64, PROMPTS[:1], ANSWERS[:1])[0, -1]
    with hooked(tiny64, layer, torch.zeros_like):
        silent = plain_probability(tiny64, PROMPTS[0], ANSWERS[0]).log()
    for neuron in (0, 7, 39):

        def alone(w, neuron=neuron):
            return torch.zeros_like(w).index_copy(1, torch.tensor([neuron]), w[:, [neuron]])

        with hooked(tiny64, layer, alone):
            expected = plain_probability(tiny64, PROMPTS[0], ANSWERS[0]).log() - silent
        assert last[neuron].item() == pytest.approx(expected.item(), abs=1e-9)


def test_value_slot_alone_reads_lower_layers_through_the_head(tiny64):
    scores = value_slot_increase(tiny64, PROMPTS, ANSWERS)
    prompt, layer, neuron = PROMPTS[2], 0, 5
    inputs = tiny64.tokenizer(prompt, return_tensors="pt")
    position = inputs["input_ids"][0].tolist().index(tiny64.tokenizer.mask_token_id)
    outputs = []
    for factor in (0, 1):

        def alone(w, factor=factor):
            return torch.zeros_like(w).index_copy(1, torch.tensor([neuron]), factor * w[:, [neuron]])

        with hooked(tiny64, layer, alone), torch.no_grad():
            hidden = tiny64.model(**inputs, output_hidden_states=True).hidden_states[layer + 1][:, position]
        logits = tiny64.model.cls(hidden[:, None])[0, 0]
        outputs.append(logits.log_softmax(-1)[tiny64.tokenizer.convert_tokens_to_ids(ANSWERS[2])].item())
    assert scores[2, layer, neuron].item() == pytest.approx(outputs[1] - outputs[0], abs=1e-9)


def test_leaderboard_of_the_lab(lab, lab_facts):
    facts = lab_facts[::400]
    keys = {"zero": answer_key(lab, facts, "zero").probability}
    board = leaderboard(lab, facts, keys)
    assert len(board) == len(METHODS) * len(facts)
    means = board.groupby("method")[["precision", "auc", "spearman", "before", "after"]].mean()
    exact = means.loc["formula (= zero ablation)"]
    assert (exact.precision, exact.auc) == (1, 1)  # it is the key
    assert means.before.nunique() == 1
    own, ig = means.loc["activation"], means.loc["IG, layer, left sum"]
    assert ig.precision > own.precision and ig.after < own.after


def test_planted_neurons_are_found_by_what_can_find_them(lab, lab_facts):
    few = [fact for fact in lab_facts if fact.relation.startswith("P106(")][:3]
    methods = {
        "ig": kn.knowledge_attribution,
        "noise": lambda lm, prompts, answers: torch.rand(
            len(prompts), lm.n_layers, lm.n_neurons, generator=torch.Generator().manual_seed(0)
        ),
    }
    board = planted_leaderboard(lab, few, lab_facts, methods)
    assert board.layer.tolist() == [0, 0, 1, 1, 2, 2]
    assert board.probability.min() > 0.5
    means = board.groupby("method").precision.mean()
    assert means["ig"] > 0.9 and means["noise"] < 0.1
