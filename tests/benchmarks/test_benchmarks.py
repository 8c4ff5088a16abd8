"""The benchmarks' plain reference, the counts of operations, and the page of their results."""

import json
import re

import pytest
import torch
import yaml
from benchmarks import reference
from benchmarks.conftest import pytest_benchmark_generate_machine_info
from benchmarks.measures import executed_flop as counted
from common import PROMPTS
from torch.utils.flop_counter import FlopCounterMode

import kn_utils as kn
import speed
from kn_utils.engine import integration
from kn_utils.engine.cached_run import hidden_states

ANSWER = "Dublin"
PAGE = (speed.BOOK / "speed.md").read_text()
DATA = json.loads((speed.BOOK / "speed.json").read_text())


@pytest.fixture(scope="module")
def shape(tiny):
    return speed.Shape(tiny.n_layers, tiny.hidden_size, tiny.n_neurons, tiny.model.config.vocab_size)


def n_tokens(lm, prompt):
    return len(lm.tokenizer(prompt)["input_ids"])


# ---------------------------------------------------------------- the reference

def test_the_reference_computes_the_same_attribution(tiny):
    expected = reference.attribution(tiny, PROMPTS, ANSWER)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(kn.knowledge_attribution(tiny, PROMPTS, ANSWER), expected, atol=1e-6, rtol=0)


def test_the_reference_computes_the_same_attribution_of_a_causal_model(lab_facts):
    causal = kn.load_model("lab-causal", device="cpu")
    fact = kn.askable(causal, lab_facts[:1])[0]
    expected = reference.attribution(causal, fact.prompts[:2], fact.answer)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(
        kn.knowledge_attribution(causal, fact.prompts[:2], fact.answer), expected, atol=1e-5, rtol=0
    )


def test_the_reference_computes_the_same_ablation(tiny):
    expected = reference.ablation(tiny, PROMPTS, ANSWER)
    found = kn.knowledge_attribution(tiny, PROMPTS, ANSWER, path="neuron")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_reference_scales_alike(tiny):
    factors = torch.ones(2, tiny.n_layers, tiny.n_neurons)
    factors[0, 1, :3], factors[1, 0, 2] = 0, 2
    expected = reference.scaled(tiny, PROMPTS, ANSWER, factors)
    with kn.suppress(tiny, [kn.Neuron(1, i) for i in range(3)]):
        torch.testing.assert_close(kn.answer_probability(tiny, PROMPTS, ANSWER), expected[:, 0], atol=1e-6, rtol=0)
    with kn.amplify(tiny, [kn.Neuron(0, 2)]):
        torch.testing.assert_close(kn.answer_probability(tiny, PROMPTS, ANSWER), expected[:, 1], atol=1e-6, rtol=0)


# ---------------------------------------------------------------- operations

@pytest.mark.parametrize("n_steps", [1, 20])
def test_full_passes_are_what_the_reference_executes(tiny, shape, n_steps):
    for prompt in PROMPTS:
        found = counted(reference.attribution, tiny, [prompt], ANSWER, n_steps)
        assert found == speed.full_passes(shape, n_tokens(tiny, prompt), n_steps)


def rerun_plainly(lm, prompt, n_points):
    """From each layer's output on: the layers above with all tokens, the head at the mask, and back."""
    inputs = lm.tokenizer(prompt, return_tensors="pt")
    position = inputs["input_ids"][0].tolist().index(lm.tokenizer.mask_token_id)
    _, *outputs = lm.model(**inputs, output_hidden_states=True).hidden_states
    operations = 0
    for layer, output in enumerate(outputs):
        copies = output.repeat(n_points, 1, 1).requires_grad_()
        with FlopCounterMode(display=False) as counter:
            states = copies.clone()  # the counter wants no leaf as a module's input
            for module in lm.layers[layer + 1 :]:
                states = hidden_states(module(states))
            torch.autograd.grad(lm.model.cls(states[:, position]).sum(), copies)
        operations += counter.get_total_flops()
    return operations


@pytest.mark.parametrize("prompt", PROMPTS)
def test_cached_layers_are_what_a_plain_program_executes(tiny, shape, prompt):
    def expected(n_points):
        return speed.cached_layers(shape, n_tokens(tiny, prompt), n_points, at_mask=False)

    assert rerun_plainly(tiny, prompt, 3) == expected(3) - expected(0)


@pytest.mark.parametrize("n_steps", [4, 20])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_library_executes_little_more_than_needed(tiny, shape, prompt, n_steps, monkeypatch):
    monkeypatch.setattr(integration, "N_NODES", n_steps)  # all points
    tokens = n_tokens(tiny, prompt)
    least = speed.cached_layers(shape, tokens, n_steps)
    found = counted(kn.knowledge_attribution, tiny, [prompt], ANSWER, n_steps=n_steps)
    assert least <= found <= 1.1 * least


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_node_at_w_needs_no_copies(tiny, shape, prompt, monkeypatch):
    monkeypatch.setattr(integration, "TOLERANCE", float("inf"))
    tokens = n_tokens(tiny, prompt)
    least = speed.node_at_w(shape, tokens, 5)
    found = counted(kn.knowledge_attribution, tiny, [prompt], ANSWER)
    assert least <= found <= 1.1 * least


# ---------------------------------------------------------------- the page

def test_the_page_shows_the_results():
    assert speed.page(DATA, PAGE) == PAGE


def test_no_number_of_the_page_is_typed():
    _, front, body = PAGE.split("---\n", 2)
    assert set(re.findall(r"{{ (\w+) }}", body)) == set(yaml.safe_load(front)["myst"]["substitutions"])
    assert re.findall(r"\d\.\d|\d ?%", re.sub(r"\(https.*?\)", "", body)) == []


def test_the_results_do_not_tell_whose_machine_it_was():
    told = pytest_benchmark_generate_machine_info(None).keys()
    assert [group["machine"] for group in DATA.values() if group["machine"].keys() != told] == []
    assert not {"node", "user"} & told


def test_new_results_replace_those_of_their_group(tmp_path):
    result = {
        "group": "all",
        "params": None,
        "stats": {"median": 10.0, "rounds": 1},
        "extra_info": {"facts": 5000, "prompts": 20_000, "threads": 3, "matrix_rate": 1e9},
    }
    measured = tmp_path / "bench.json"
    measured.write_text(json.dumps({"machine_info": {"cpu": "another"}, "benchmarks": [result], "version": "5"}))
    (tmp_path / "speed.json").write_text(json.dumps(DATA))
    (tmp_path / "speed.md").write_text(PAGE)
    speed.main(tmp_path, [measured])
    found, page = json.loads((tmp_path / "speed.json").read_text()), (tmp_path / "speed.md").read_text()
    assert found["all"]["machine"] == {"cpu": "another"}
    assert {**found, "all": DATA["all"]} == DATA
    assert "facts_per_second: '500'" in page
    assert page.split("---\n", 2)[2] == PAGE.split("---\n", 2)[2]
