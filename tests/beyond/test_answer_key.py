"""The answer key against one ablation at a time, and its chunks across stops."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from common import PROMPTS, hooked, one_line_error, plain_probability, tiny_model

import kn_utils as kn
from kn_utils.beyond import answer_key as module
from kn_utils.beyond.answer_key import answer_key, mean_activation, one_prompt_each
from kn_utils.data import store
from kn_utils.data.store import Store

FACTS = [
    kn.Fact(f"subject {i}", "P36(capital)", answer, tuple(PROMPTS))
    for i, answer in enumerate(["Dublin", "Paris", "Lima", "Rome", "Madrid"])
]


def test_every_fact_is_asked_in_another_wording():
    assert one_prompt_each(FACTS) == PROMPTS
    assert one_prompt_each([FACTS[0]] * 7)[5:] == PROMPTS[:2]


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_key_equals_one_ablation_at_a_time(tiny64, baseline):
    key = answer_key(tiny64, FACTS, baseline)
    values = mean_activation(tiny64, FACTS) if baseline == "mean" else torch.zeros(tiny64.n_layers, tiny64.n_neurons)
    assert key.probability.shape == key.log_probability.shape == (5, tiny64.n_layers, tiny64.n_neurons)
    for row, (fact, prompt) in enumerate(zip(FACTS, PROMPTS, strict=True)):
        full = plain_probability(tiny64, prompt, fact.answer)
        for layer, neuron in [(0, 0), (1, 21), (2, 39)]:

            def ablate(w, layer=layer, neuron=neuron):
                return w.index_fill(1, torch.tensor([neuron]), values[layer, neuron].item())

            with hooked(tiny64, layer, ablate):
                without = plain_probability(tiny64, prompt, fact.answer)
            assert key.probability[row, layer, neuron].item() == pytest.approx((full - without).item(), abs=1e-9)
            expected = (full.log() - without.log()).item()
            assert key.log_probability[row, layer, neuron].item() == pytest.approx(expected, abs=1e-8)


def test_mean_activation_is_the_mean_over_one_prompt_of_each_fact(tiny):
    for layer, mean in enumerate(mean_activation(tiny, FACTS)):
        seen = []
        for prompt, fact in zip(PROMPTS, FACTS, strict=True):
            with hooked(tiny, layer, lambda w, seen=seen: seen.append(w) or w):
                plain_probability(tiny, prompt, fact.answer)
        torch.testing.assert_close(mean, torch.cat(seen).mean(0))


def test_a_stopped_key_continues(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 2)
    expected = answer_key(tiny, FACTS)
    ablate, n_calls = module._ablate, 0

    def stop_at_the_second(*args):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise KeyboardInterrupt
        return ablate(*args)

    monkeypatch.setattr(module, "_ablate", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        answer_key(tiny, FACTS, out=tmp_path)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    found = answer_key(tiny, FACTS, out=tmp_path)
    assert n_calls == 4  # the first chunk was not computed again
    assert torch.equal(found.probability, expected.probability)
    assert torch.equal(found.log_probability, expected.log_probability)


def test_a_chunk_cut_short_is_ablated_again(tiny, tmp_path):
    expected = answer_key(tiny, FACTS, out=tmp_path)
    (chunk,) = tmp_path.rglob("*.safetensors")
    chunk.write_bytes(chunk.read_bytes()[:-100])
    assert torch.equal(answer_key(tiny, FACTS, out=tmp_path).probability, expected.probability)


def test_keys_never_mix(tiny, tmp_path):
    answer_key(tiny, FACTS[:2], out=tmp_path)
    for facts, baseline in [
        (FACTS[:3], "mean"),
        (FACTS[:2], "zero"),
        ([FACTS[0], replace(FACTS[1], answer="Rome")], "mean"),
    ]:
        with one_line_error(ValueError, tmp_path, "another folder"):
            answer_key(tiny, facts, baseline, out=tmp_path)
    with torch.no_grad():
        changed = next(iter(tiny.model.parameters()))
        changed[0, 0] += 1
    try:
        with one_line_error(ValueError, tmp_path, "another model"):
            answer_key(tiny, FACTS[:2], out=tmp_path)
    finally:
        with torch.no_grad():
            changed[0, 0] -= 1
    assert set(json.loads((tmp_path / "key.json").read_text(encoding="utf-8"))) == {"key"}


def test_an_unknown_baseline_is_named(tiny):
    with one_line_error(ValueError, "baseline 'median'", "zero"):
        answer_key(tiny, FACTS, "median")


def test_a_tensor_as_baseline(tiny):
    values = mean_activation(tiny, FACTS)
    assert torch.equal(answer_key(tiny, FACTS, values).probability, answer_key(tiny, FACTS, "mean").probability)
    with one_line_error(ValueError, "(40,)", "(layers, neurons)", "(3, 40)"):
        answer_key(tiny, FACTS, values[0])
    for value in (float("nan"), float("inf")):
        with one_line_error(ValueError, "baseline", "NaN or infinity"):
            answer_key(tiny, FACTS, torch.full((3, 40), value))


def test_keys_of_two_baselines_never_mix(tiny, tmp_path):
    answer_key(tiny, FACTS[:2], torch.zeros(3, 40), out=tmp_path)
    with one_line_error(ValueError, tmp_path, "another folder"):
        answer_key(tiny, FACTS[:2], torch.ones(3, 40), out=tmp_path)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"", b'{"key": ', b"3", b"\xff\xfe", b"[" * 200_000], ids=lambda content: content[:9]
)
def test_a_damaged_mark_is_named(tiny, tmp_path, content):
    (tmp_path / "key.json").write_bytes(content)
    with one_line_error(ValueError, tmp_path / "key.json", "is damaged"):
        answer_key(tiny, FACTS[:2], out=tmp_path)


def test_out_that_is_no_folder(tiny, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with one_line_error(ValueError, tmp_path / "file", "is a file"):
        answer_key(tiny, FACTS[:2], out=tmp_path / "file")
    with one_line_error(ValueError, "out is empty"):
        answer_key(tiny, FACTS[:2], out="")


TENSORS = {"probability": torch.rand(2, 3), "log_probability": torch.rand(2, 3)}


def keep(folder, about="digest"):
    """A store and the path of the one chunk that is kept in it."""
    keeper = Store(folder, about)
    path = keeper.path("ablation", 0, 2, store.TENSORS)
    path.parent.mkdir(parents=True, exist_ok=True)
    keeper.write(path, TENSORS, store.TENSORS)
    return keeper, path


def same(found):
    return all(torch.equal(found[name], tensor) for name, tensor in TENSORS.items())


def test_no_flipped_bit_is_read(tmp_path):
    keeper, path = keep(tmp_path)
    whole = path.read_bytes()
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1 :])
        assert all(map(same, keeper.finished([path], store.TENSORS).values())), i
    path.write_bytes(whole)
    assert same(keeper.finished([path], store.TENSORS)[path])


def test_no_chunk_of_another_key_or_of_other_facts_is_read(tmp_path):
    keeper, path = keep(tmp_path)
    _, others = keep(tmp_path / "other", "another digest")
    other_facts = path.with_name("0000002-0000004.safetensors")
    other_facts.write_bytes(path.read_bytes())
    path.write_bytes(others.read_bytes())
    missing = path.with_name("0000004-0000006.safetensors")
    assert keeper.finished([path, other_facts, missing], store.TENSORS) == {}


@pytest.mark.skipif(os.name == "nt", reason="Windows replaces no file that is being read")
def test_two_write_one_chunk(tmp_path):
    """What is read at any moment is whole, and nothing half-written remains."""

    def write_often():
        for _ in range(50):
            keep(tmp_path)

    keeper, path = keep(tmp_path)
    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write_often) for _ in range(2)]
        while not all(writer.done() for writer in writers):
            assert same(keeper.finished([path], store.TENSORS)[path])
        for writer in writers:
            writer.result()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("change", ["configuration", "precision"])
def test_the_key_of_a_changed_model_is_another(tiny, tmp_path, change):
    facts = [kn.Fact("Ireland", "P36(capital)", "Dublin", tuple(PROMPTS[:2]))]
    answer_key(tiny, facts, "zero", tmp_path)
    other = tiny_model(hidden_act="relu") if change == "configuration" else replace(tiny, precision="tf32")
    with one_line_error(ValueError, "another model", "another folder"):
        answer_key(other, facts, "zero", tmp_path)


def test_a_key_made_within_an_edit_is_not_kept(tiny, tmp_path):
    facts = [kn.Fact("Ireland", "P36(capital)", "Dublin", tuple(PROMPTS[:2]))]
    with one_line_error(ValueError, "edited", "out"), kn.suppress(tiny, [(0, 3)]):
        answer_key(tiny, facts, "zero", tmp_path)
