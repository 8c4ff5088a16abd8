"""What a model answers, against plain loops."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from common import PROMPTS, one_line_error, plain_probability, tiny_model

import kn_utils as kn
from kn_utils.asking import METRICS, ask_prompts
from kn_utils.engine import log_odds

FACTS = [
    kn.Fact("Ireland", "P36(capital)", "Dublin", tuple(PROMPTS[:3]), tuple(PROMPTS[3:])),
    kn.Fact("France", "P36(capital)", "Paris", ("the capital of France is [MASK].",), ("[MASK], France",)),
    kn.Fact("river", "P47(shares border with)", "city", ("the river has a [MASK]",), ("a [MASK]",)),
]


def test_probability_is_the_softmax_at_the_mask(tiny):
    expected = torch.cat([plain_probability(tiny, prompt, "Dublin") for prompt in PROMPTS])
    torch.testing.assert_close(kn.answer_probability(tiny, PROMPTS, "Dublin"), expected, atol=1e-6, rtol=0)


def test_one_answer_per_prompt(tiny):
    answers = ["Dublin", "Paris", "river", "Dublin", "big"]
    expected = torch.cat([plain_probability(tiny, p, a) for p, a in zip(PROMPTS, answers, strict=True)])
    torch.testing.assert_close(kn.answer_probability(tiny, PROMPTS, answers), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 2, 512])
def test_distribution_sums_to_one_in_any_batch(tiny, batch, monkeypatch):
    monkeypatch.setattr("kn_utils.engine.batching.ROWS", batch)
    distribution = kn.answer_distribution(tiny, PROMPTS)
    assert distribution.shape == (len(PROMPTS), len(tiny.tokenizer))
    torch.testing.assert_close(distribution.sum(1), torch.ones(len(PROMPTS)), atol=1e-5, rtol=0)
    dublin = distribution[:, tiny.tokenizer.convert_tokens_to_ids("Dublin")]
    expected = torch.cat([plain_probability(tiny, prompt, "Dublin") for prompt in PROMPTS])
    torch.testing.assert_close(dublin, expected, atol=1e-6, rtol=0)


def test_a_prompt_is_read_once_for_all_its_answers(tiny):
    prompts, answers = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]], ["Dublin", "Dublin", "Paris", "Dublin"]
    rows = []
    with kn.edit_activations(tiny, lambda layer, w: rows.append(len(w)) or w):
        table = ask_prompts(tiny, prompts, answers)
    assert sum(rows) == 2 * tiny.n_layers
    expected = torch.cat([plain_probability(tiny, p, a) for p, a in zip(prompts, answers, strict=True)])
    assert table.probability.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_top_answers(tiny):
    words = list(tiny.tokenizer.get_vocab())
    by_word = {word: plain_probability(tiny, PROMPTS[0], word).item() for word in words}
    top = kn.top_answers(tiny, PROMPTS[0], k=4)
    assert [word for word, _ in top] == sorted(words, key=by_word.get, reverse=True)[:4]
    assert [p for _, p in top] == pytest.approx([by_word[word] for word, _ in top], abs=1e-6)


@pytest.mark.parametrize("role", ["heldout", "find", "select"])
@pytest.mark.parametrize("batch", [2, 512])
def test_ask_takes_means_over_prompts(tiny, role, batch, monkeypatch):
    monkeypatch.setattr("kn_utils.engine.batching.ROWS", batch)
    table = kn.ask(tiny, FACTS, role)
    measures = ["probability", "log_probability", "log_odds", "rank", "top1"]
    assert list(table.columns) == ["subject", "relation", "answer", *measures]
    assert len(table) == len(FACTS)
    for fact, row in zip(FACTS, table.itertuples(), strict=True):
        prompts = fact.heldout_prompts if role == "heldout" else fact.prompts  # which select where no others do
        ps = [plain_probability(tiny, prompt, fact.answer).item() for prompt in prompts]
        firsts = [kn.top_answers(tiny, prompt, 1)[0][0] == fact.answer for prompt in prompts]
        assert (row.subject, row.relation, row.answer) == (fact.subject, fact.relation, fact.answer)
        assert row.probability == pytest.approx(np.mean(ps), abs=1e-6)
        assert row.log_probability == pytest.approx(np.mean(np.log(ps)), abs=1e-4)
        assert row.top1 == pytest.approx(np.mean(firsts))


def test_top1_counts_the_prompts_answered_first(tiny):
    prompts = tuple(PROMPTS[:2])
    word = kn.top_answers(tiny, prompts[0], 1)[0][0]
    right = sum(kn.top_answers(tiny, prompt, 1)[0][0] == word for prompt in prompts)
    assert kn.ask(tiny, [kn.Fact("Ireland", "P36", word, prompts)], "find").top1[0] == right / 2 > 0


def test_a_metric_is_one_entry(tiny, monkeypatch):
    """Wherever facts are asked it is a column, after the others, and its mean over the prompts."""
    monkeypatch.setitem(METRICS, "in_top5", lambda odds, rank: (rank <= 5).to(rank))
    tables = kn.ask_scaled(tiny, FACTS, [([[]] * 3, 0.0)])
    for table in (kn.ask(tiny, FACTS), *tables):
        assert table.columns[-1] == "in_top5"
        for fact, value in zip(FACTS, table.in_top5, strict=True):
            top = [[word for word, _ in kn.top_answers(tiny, prompt, 5)] for prompt in fact.heldout_prompts]
            assert value == pytest.approx(np.mean([fact.answer in words for words in top]))


def test_a_fact_is_known_when_its_answer_is_first_on_every_select_prompt(tiny):
    """Neither the prompts that find nor those that measure say so, unless no others do."""
    likely, unlikely = (kn.top_answers(tiny, PROMPTS[0], 30)[i][0] for i in (0, 29))
    first = [kn.top_answers(tiny, prompt, 1)[0][0] == likely for prompt in PROMPTS]
    others = [prompt for prompt, is_first in zip(PROMPTS, first, strict=True) if not is_first]
    facts = [
        kn.Fact("Ireland", "P36", likely, others[:1], others[1:2], PROMPTS[:1]),
        kn.Fact("Ireland", "P36", unlikely, others[:1], others[1:2], PROMPTS[:1]),
        kn.Fact("Ireland", "P36", likely, others[1:2], others[2:3], [PROMPTS[0], others[0]]),
        kn.Fact("Ireland", "P36", likely, PROMPTS[:1], others[:1]),
    ]
    assert kn.known(tiny, facts).tolist() == [True, False, False, True]


@pytest.mark.parametrize("batch", [1, 5, 512])
def test_ask_scaled_changes_each_facts_own_neurons(tiny, batch, monkeypatch):
    monkeypatch.setattr("kn_utils.engine.batching.ROWS", batch)
    sets = [[kn.Neuron(0, 1)], [], {kn.Neuron(2, 3), kn.Neuron(1, 1)}]
    for role in ("heldout", "find"):
        untouched, *tables = kn.ask_scaled(tiny, FACTS, [(sets, 0.0), (sets[::-1], 3.0)], role)
        pd.testing.assert_frame_equal(untouched, kn.ask(tiny, FACTS, role))
        for table, neurons, factor in zip(tables, (sets, sets[::-1]), (0, 3), strict=True):
            for i, (fact, own) in enumerate(zip(FACTS, neurons, strict=True)):
                with kn.amplify(tiny, own, factor):
                    expected = kn.ask(tiny, [fact], role)
                pd.testing.assert_frame_equal(table[i : i + 1].reset_index(drop=True), expected, rtol=1e-4)


def test_ask_scaled_names_what_it_needs(tiny):
    with one_line_error(ValueError, "1 sets of neurons for 3 facts", "one for each fact"):
        kn.ask_scaled(tiny, FACTS, [([[]], 0.0)])
    with one_line_error(ValueError, "changes is empty", "ask()"):
        kn.ask_scaled(tiny, FACTS, [])
    with one_line_error(ValueError, "Neuron(layer=9, index=0)", "outside the model"):
        kn.ask_scaled(tiny, FACTS, [([[kn.Neuron(9, 0)]] * 3, 0.0)])


def test_ask_without_heldout_prompts(tiny):
    fact = kn.Fact("Peru", "P36", "Lima", ("the capital of Peru is [MASK].",))
    with one_line_error(ValueError, "'Peru'", "no heldout prompts", "prompts="):
        kn.ask(tiny, [fact])
    for wrong in (True, "all", None):
        with one_line_error(ValueError, "prompts", wrong, "'find', 'select', 'heldout'"):
            kn.ask(tiny, [fact], wrong)


def test_empty_input_is_named(tiny):
    with one_line_error(ValueError, "facts is empty"):
        kn.ask(tiny, [])
    with one_line_error(ValueError, "sample is empty"):
        kn.mean_interval([])


def test_very_unlikely_answers_keep_their_log_probability():
    """float32 has no probability this small; its logarithm is an ordinary number."""
    lm = tiny_model()
    lm.model.cls.predictions.decoder.bias[lm.tokenizer.convert_tokens_to_ids("Dublin")] -= 500
    table = kn.ask(lm, FACTS[:1])
    assert table.probability[0] == 0
    assert -1000 < table.log_probability[0] < -300


def test_log_odds_and_rank(tiny64):
    table = kn.ask(tiny64, FACTS, prompts="find")
    for fact, row in zip(FACTS, table.itertuples(), strict=True):
        ps = [plain_probability(tiny64, prompt, fact.answer).item() for prompt in fact.prompts]
        assert row.log_odds == pytest.approx(np.mean([math.log(p / (1 - p)) for p in ps]), abs=1e-9)
        distributions = kn.answer_distribution(tiny64, fact.prompts)
        ranks = [(d > d[tiny64.tokenizer.convert_tokens_to_ids(fact.answer)]).sum().item() + 1 for d in distributions]
        assert row.rank == pytest.approx(np.mean(ranks))


def test_log_odds_stay_exact_where_the_probability_is_one():
    logits = torch.tensor([[60.0, 0.0, 0.0], [0.0, 60.0, 0.0]])
    expected = torch.tensor([60.0 - math.log(2), -60.0])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 0])), expected)


def test_ask_scaled_reads_iterators_once(tiny, monkeypatch):
    """Every batch is asked with the same neurons, whatever held them."""
    monkeypatch.setattr("kn_utils.engine.batching.ROWS", 1)
    sets = [[kn.Neuron(0, 1)], [kn.Neuron(2, 5)], {kn.Neuron(2, 3), kn.Neuron(1, 1)}]
    expected = kn.ask_scaled(tiny, FACTS, [(sets, 0.0)], prompts="find")
    found = kn.ask_scaled(tiny, iter(FACTS), iter([(map(iter, sets), 0.0)]), prompts="find")
    for one, other in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(one, other)
