"""Every architecture that the library knows, on tiny random models, against forward passes with one plain hook."""

from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
import transformers as tf
from common import assert_unchanged, one_line_error, snapshot
from families import MODELS, PROMPTS, tokenizer_of

import kn_utils as kn
from kn_utils.engine import answer_logits, collate, edit_activations, rerun_from, run_with_cache, scaled_logits
from kn_utils.loading import wrap_model
from kn_utils.models import ARCHITECTURES, answer_ids
from kn_utils.paper.runs import run_experiments
from kn_utils.prompts import askable, first_questions, questions_for

PAGE = Path(__file__).parent.parent / "book" / "architectures.md"
NARROW = {"electra", "albert"}  # embeddings of another width than the value slots
ANSWER, LONG = "Dublin", "Dublin river city"


@pytest.fixture(scope="module", params=MODELS)
def lm(request):
    model_class, config_class, size, style = MODELS[request.param]
    tokenizer = tokenizer_of(style)
    torch.manual_seed(1)
    config = config_class(
        vocab_size=len(tokenizer), initializer_range=0.3, max_position_embeddings=64, pad_token_id=1, bos_token_id=0,
        eos_token_id=2, decoder_start_token_id=1, tie_word_embeddings=True, **size,
    )  # fmt: skip
    model = model_class(config)
    for parameter in model.parameters():  # T5, GPT-J and others start with weights of their own size
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return wrap_model(model.double(), tokenizer)


def plain_logits(lm, question, layer=None, change=None, seen=None):
    """The logits where the model answers, of its own forward pass.  # (vocabulary,)

    `change` is applied to the activations of one layer at the position; `seen` collects its FFN's output.
    """
    inputs, _ = collate(lm, [question])
    calls = 0

    def hook(module, args):
        nonlocal calls
        calls += 1
        if calls == 1 + lm.down_projections[:layer].count(module):  # ALBERT calls a module once per layer
            activations = args[0].clone()
            rows = activations.view(-1, activations.shape[-1])  # one prompt: (tokens, neurons)
            rows[question.position] = change(rows[question.position])
            return activations

    def after(module, args, output):
        if seen is not None and calls == 1 + lm.down_projections[:layer].count(module):
            seen.append(output.view(-1, output.shape[-1]).detach())

    if layer is None:
        return lm.model(**inputs, **no_cache(lm)).logits[0, question.position]
    module = lm.down_projections[layer]
    with module.register_forward_pre_hook(hook), module.register_forward_hook(after):
        return lm.model(**inputs, **no_cache(lm)).logits[0, question.position]


def no_cache(lm):
    return {} if lm.kind == "masked" else {"use_cache": False}


def plain_p(lm, question, answer, layer=None, change=None):
    (target,) = answer_ids(lm, answer)
    return plain_logits(lm, question, layer, change).softmax(-1)[target].item()


@contextmanager
def bit_for_bit(lm):
    before = snapshot(lm)
    yield
    assert_unchanged(lm, before)


def test_every_architecture_is_tested():
    assert MODELS.keys() == ARCHITECTURES.keys()


def test_layers_run_in_this_order(lm):
    assert lm.n_layers == (4 if lm.model.config.model_type in ("albert", "gpt_neo") else 3)
    assert lm.n_neurons == 40 and lm.hidden_size == 24
    if lm.model.config.model_type == "albert":
        assert [lm.layers.index(layer) for layer in lm.layers] == [0, 0, 2, 2]


def test_probabilities_are_those_of_the_model(lm):
    expected = [plain_p(lm, question, ANSWER) for question in first_questions(lm, PROMPTS)]
    assert kn.answer_probability(lm, PROMPTS, ANSWER).tolist() == pytest.approx(expected, rel=1e-9)


def test_scores_are_complete(lm):
    scores = kn.knowledge_attribution(lm, PROMPTS, ANSWER, rule="midpoint", n_steps=300, exact_steps=True)
    for i, question in enumerate(first_questions(lm, PROMPTS)):
        full = plain_p(lm, question, ANSWER)
        dropped = [full - plain_p(lm, question, ANSWER, layer, torch.zeros_like) for layer in range(lm.n_layers)]
        assert scores[i].sum(1).tolist() == pytest.approx(dropped, rel=0, abs=1e-2 * max(map(abs, dropped)))


def test_gradients_are_finite_differences(lm):
    at_w = kn.knowledge_attribution(lm, PROMPTS, ANSWER, rule="right", n_steps=1)  # w dP/dw
    question, step = first_questions(lm, PROMPTS)[0], 1e-3  # some models compute their norms in float32 whatever we ask
    for layer in range(lm.n_layers):
        i = int(at_w[0, layer].abs().argmax())
        more, less = (
            plain_p(lm, question, ANSWER, layer, lambda w, s=s, i=i: torch.where(torch.arange(len(w)) == i, s * w, w))
            for s in (1 + step, 1 - step)
        )
        assert at_w[0, layer, i].item() == pytest.approx((more - less) / (2 * step), rel=5e-3)


def test_ablation_is_exact(lm):
    effects = kn.knowledge_attribution(lm, PROMPTS, ANSWER, path="neuron")
    question = first_questions(lm, PROMPTS)[1]
    error = 2e-8 if lm.model.config.model_type in {"gpt_neo", "gptj"} else 1e-12  # these attend in float32
    for neuron in kn.top_neurons(effects, 3) | {kn.Neuron(0, 5), kn.Neuron(lm.n_layers - 1, 7)}:
        off = lambda w, i=neuron.index: torch.where(torch.arange(len(w)) == i, 0 * w, w)  # noqa: E731
        without = plain_p(lm, question, ANSWER, neuron.layer, off)
        expected = plain_p(lm, question, ANSWER) - without
        assert effects[1][neuron].item() == pytest.approx(expected, rel=1e-6, abs=error)


@pytest.mark.parametrize("prompts", [PROMPTS[:1] * 2, PROMPTS], ids=["of one length", "padded"])
def test_a_pass_is_taken_up_where_it_was(lm, prompts):
    questions = first_questions(lm, prompts)
    run = run_with_cache(lm, *collate(lm, questions))
    expected = torch.stack([plain_logits(lm, question) for question in questions])
    torch.testing.assert_close(run.logits, expected, rtol=1e-6, atol=1e-5)  # some attend in float32
    written = {layer: run.written[None, :, layer].repeat(1 + layer, 1, 1) for layer in range(lm.n_layers)}
    for chosen in ([0], [1], [lm.n_layers - 1], range(lm.n_layers)):
        again = rerun_from(lm, run, {layer: written[layer] for layer in chosen})
        for layer in chosen:
            expected = run.logits.expand(1 + layer, -1, -1)
            torch.testing.assert_close(again[layer], expected, rtol=1e-9, atol=1e-12)
    w, slots = run.activations[:, 1], lm.value_slots(1)
    bias = getattr(lm.down_projections[1], "bias", None)
    torch.testing.assert_close(run.written[:, 1], w @ slots.T + (0 if bias is None else bias))


@pytest.mark.parametrize("prompts", [PROMPTS[:1] * 2, PROMPTS], ids=["of one length", "padded"])
def test_scaled_copies_are_as_if_each_were_edited(lm, prompts):
    inputs, position = collate(lm, first_questions(lm, prompts))
    run, factors = run_with_cache(lm, inputs, position), torch.ones(5, len(prompts), lm.n_layers, lm.n_neurons).double()
    for copy, layers in enumerate(([], [0], [1], [0, lm.n_layers - 1], [lm.n_layers - 1])):
        for layer in layers:
            factors[copy, :, layer, copy:] = (0.0, 2.0)[copy % 2]
    factors[2, 0] = 1  # prompts have their own factors; none, too
    with bit_for_bit(lm):
        logits = scaled_logits(lm, run, factors)
    for copy in range(5):
        with kn.edit_activations(lm, lambda layer, w, own=factors[copy]: w * own[:, layer]):
            expected = answer_logits(lm, inputs, position)
        torch.testing.assert_close(logits[copy], expected, rtol=1e-6, atol=1e-5)  # some attend in float32
        assert torch.allclose(logits[copy], run.logits, rtol=0, atol=1e-3) == (copy == 0)
    assert torch.equal(logits[2, 0], run.logits[0])


def test_which_models_take_the_fast_path(lm):
    """The others do not attend through the registry of attention functions: gptj does since transformers 5.24."""
    newest = tuple(map(int, tf.__version__.split(".")[:2])) >= (5, 24)
    assert lm.fast == (lm.model.config.model_type not in ({"gpt_neo", "t5"} | (set() if newest else {"gptj"})))


def test_layers_below_a_scaled_one_do_not_run(lm):
    if not lm.fast:
        pytest.skip("whole passes only")
    inputs, position = collate(lm, first_questions(lm, PROMPTS[:1]))
    run, factors, ran = run_with_cache(lm, inputs, position), torch.ones(2, 1, lm.n_layers, lm.n_neurons).double(), []
    factors[0, 0, 1], factors[1, 0, 2] = 0, 0
    with edit_activations(lm, lambda layer, w: ran.append((layer, len(w))) or w):
        scaled_logits(lm, run, factors)
    assert ran == [(layer, 1 if layer == 2 else 2) for layer in range(2, lm.n_layers)]


@pytest.mark.parametrize("lm", [name for name in MODELS if ARCHITECTURES[name].kind == "causal"], indirect=True)
@pytest.mark.parametrize("text", [PROMPTS[0], "The [MASK]"])
def test_copies_of_a_causal_model_run_the_last_token_only(lm, text):
    """The others are as they were: they come before it."""
    if not lm.fast:
        pytest.skip("whole passes only")
    inputs, position = collate(lm, first_questions(lm, [text]))
    run, rows = run_with_cache(lm, inputs, position), []
    assert run.n_tokens == inputs["input_ids"].shape[1]
    count = lm.down_projections[-1].register_forward_hook(lambda module, args, z: rows.append(z.numel() // z.shape[-1]))
    with count:
        rerun_from(lm, run, {0: run.written[None, :, 0].repeat(5, 1, 1)})
    assert rows == [5]


def test_opt_of_either_kind():
    """Its smallest model but one normalises after the sums, the others before."""
    tokenizer = tokenizer_of("bytes")
    size = dict(MODELS["opt"][2], vocab_size=len(tokenizer), max_position_embeddings=64, init_std=0.3)
    for before in (True, False):
        model = tf.OPTForCausalLM(tf.OPTConfig(do_layer_norm_before=before, **size))
        lm = wrap_model(model.double(), tokenizer)
        assert (lm.norm(0) is None) == before
        for prompts in (PROMPTS[:1] * 2, PROMPTS):
            test_a_pass_is_taken_up_where_it_was(lm, prompts)
        test_copies_of_a_causal_model_run_the_last_token_only(lm, PROMPTS[0])
        test_ablation_is_exact(lm)


@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_suppress_and_amplify_change_the_position_only(lm, factor):
    layer, chosen = 1, [3, 5, 8]
    change = lambda w: torch.where(torch.isin(torch.arange(len(w)), torch.tensor(chosen)), factor * w, w)  # noqa: E731
    neurons = [kn.Neuron(layer, i) for i in chosen]
    questions = first_questions(lm, PROMPTS)
    with bit_for_bit(lm), kn.amplify(lm, neurons, factor):
        edited = kn.answer_probability(lm, PROMPTS, ANSWER).tolist()
        seen, own = [], None
        plain_logits(lm, questions[0], layer, lambda w: w, seen)
        own = seen[0]
    assert edited == pytest.approx([plain_p(lm, q, ANSWER, layer, change) for q in questions], rel=1e-9)
    plain_logits(lm, questions[0], layer, lambda w: w, seen := [])
    elsewhere = torch.arange(len(own)) != questions[0].position
    assert torch.equal(own[elsewhere], seen[0][elsewhere])
    assert not torch.allclose(own[~elsewhere], seen[0][~elsewhere])


def two_neurons(lm):
    return [kn.Neuron(0, 3), kn.Neuron(lm.n_layers - 1, 5)]


def test_erase(lm):
    neurons = two_neurons(lm)
    before = kn.answer_probability(lm, PROMPTS, ANSWER)
    with bit_for_bit(lm), kn.erase_relation(lm, neurons):
        assert not any(lm.value_slot(neuron).any() for neuron in neurons)
        assert not torch.equal(kn.answer_probability(lm, PROMPTS, ANSWER), before)


def update(lm):
    neurons = two_neurons(lm)
    before = kn.answer_probability(lm, PROMPTS, ANSWER)
    slot = lm.value_slot(neurons[0]).clone()
    with bit_for_bit(lm), kn.update_fact(lm, neurons, ANSWER, "Lima", rescale=False):
        expected = slot - lm.embedding(ANSWER) + 8 * lm.embedding("Lima")
        torch.testing.assert_close(lm.value_slot(neurons[0]), expected)
        assert not torch.equal(kn.answer_probability(lm, PROMPTS, ANSWER), before)
    assert torch.equal(kn.answer_probability(lm, PROMPTS, ANSWER), before)


def test_update(lm):
    narrow = lm.model.config.model_type in NARROW
    with one_line_error(ValueError, "no update") if narrow else nullcontext():
        update(lm)


def test_answers_of_several_tokens(lm):
    """Teacher forcing, or as many masks as tokens; each token's neurons are where it is predicted."""
    ids = answer_ids(lm, LONG)
    asked = questions_for(lm, PROMPTS[:1], LONG)
    assert lm.tokenizer.decode(ids).strip() == LONG and len(ids) > 1
    assert asked.targets.tolist() == ids
    log_p = []
    for question, target in zip(asked.questions, ids, strict=True):
        log_p.append(plain_logits(lm, question).log_softmax(-1)[target].item())
    table = kn.asking.ask_prompts(lm, PROMPTS[:1], LONG)
    assert table.log_probability[0] == pytest.approx(sum(log_p), rel=1e-9)
    assert table.probability[0] == pytest.approx(torch.tensor(log_p).double().sum().exp().item(), rel=1e-6)
    fact, neurons = kn.Fact("Ireland", "P36", LONG, tuple(PROMPTS[:1])), [kn.Neuron(1, i) for i in range(5)]
    untouched, scaled = kn.ask_scaled(lm, [fact], [([neurons], 0.0)], prompts="find")
    with kn.suppress(lm, neurons):
        suppressed = kn.ask(lm, [fact], prompts="find")
    pd.testing.assert_frame_equal(untouched, kn.ask(lm, [fact], prompts="find"))
    pd.testing.assert_frame_equal(scaled, suppressed)

    options = dict(measure="log_probability", rule="midpoint", n_steps=300, exact_steps=True)
    tokens = kn.knowledge_attribution(lm, PROMPTS[:1], LONG, per_token=True, **options)
    assert tokens.shape == (len(ids), lm.n_layers, lm.n_neurons)
    torch.testing.assert_close(kn.knowledge_attribution(lm, PROMPTS[:1], LONG, **options), tokens.sum(0)[None])
    for scores, question, target, full in zip(tokens, asked.questions, ids, log_p, strict=True):
        without = plain_logits(lm, question, 1, torch.zeros_like).log_softmax(-1)[target].item()
        assert scores[1].sum().item() == pytest.approx(full - without, rel=5e-3)


def test_what_is_read_for_several_tokens(lm):
    first, *later = questions_for(lm, PROMPTS[:1], LONG).questions
    ids = answer_ids(lm, LONG)
    opened = first_questions(lm, PROMPTS[:1])[0]
    for j, question in enumerate((first, *later)):
        assert question.position == opened.position + j
        if lm.kind == "masked":
            at = slice(opened.position, opened.position + len(ids))
            assert question.ids[at] == (lm.tokenizer.mask_token_id,) * len(ids)
            assert question.ids[: at.start] + question.ids[at.stop - len(ids) + 1 :][len(ids) - 1 :] == (
                opened.ids[: at.start] + opened.ids[at.start + 1 :]
            )
        elif lm.kind == "causal":
            assert question.ids == (*opened.ids, *ids[:j]) and question.position == len(question.ids) - 1
        else:
            assert question.ids == opened.ids and question.decoder_ids == (*opened.decoder_ids, *ids[:j])


def test_prompts_are_read_as_the_model_reads_text(lm):
    """A causal model reads what a text that goes on with the answer begins with."""
    (ids,) = answer_ids(lm, ANSWER)
    question = first_questions(lm, PROMPTS[:1])[0]
    if lm.kind == "causal":
        whole = lm.tokenizer("The capital of Ireland is Dublin")["input_ids"]
        assert [*question.ids, ids] == whole
        assert first_questions(lm, ["The capital of Ireland is [MASK]"]) == [question]
    else:
        slot = lm.tokenizer.mask_token if lm.kind == "masked" else "<extra_id_0>"
        assert list(question.ids) == lm.tokenizer(PROMPTS[0].replace("[MASK]", slot))["input_ids"]


def test_prompts_that_do_not_suit_the_model(lm):
    if lm.kind == "causal":
        with one_line_error(ValueError, "'[MASK] is the capital of Ireland.'", "goes on after [MASK]", "askable"):
            kn.answer_probability(lm, ["[MASK] is the capital of Ireland."], ANSWER)
    else:
        for prompt, count in {"The capital of Ireland is Dublin.": "0 masks", "[MASK] is [MASK].": "2 masks"}.items():
            with one_line_error(ValueError, repr(prompt), count, "[MASK]"):
                kn.answer_probability(lm, [prompt], ANSWER)


def test_facts_that_can_be_asked(lm):
    last = [f"Ireland {verb} in [MASK]." for verb in ("lies", "is", "stands", "was")]
    first = [f"[MASK] {verb} Ireland." for verb in ("holds", "has", "saw")]
    facts = [
        kn.Fact("Ireland", "P30(continent)", "Europe", (*last[:2], first[0], last[2]), (first[1], last[3])),
        kn.Fact("Ireland", "P30(continent)", "Europe", (last[0], *first[:2]), (last[3],)),
        kn.Fact("Ireland", "P30(continent)", "Europe", last[:3], first[:1]),
    ]
    if lm.kind == "causal":
        assert askable(lm, facts) == [kn.Fact("Ireland", "P30(continent)", "Europe", last[:3], last[3:])]
    else:
        assert askable(lm, facts) == facts


CHECKS = {
    "attribution": test_scores_are_complete,
    "ablation": test_ablation_is_exact,
    "suppress": partial(test_suppress_and_amplify_change_the_position_only, factor=0.0),
    "amplify": partial(test_suppress_and_amplify_change_the_position_only, factor=2.0),
    "update": update,
    "erase": test_erase,
    "several tokens": test_answers_of_several_tokens,
}


def passes(check, lm):
    try:
        check(lm)
    except (AssertionError, ValueError):
        return False
    return True


def row(*cells):
    return f"| {' | '.join(cells)} |"


WHERE = row("architecture", "class", "kind", "neurons go into")  # the heads of the page's two tables
WORKS = row("architecture", *CHECKS)


def put(lines, head, line):
    """Replace the line of an architecture in the table under `head`, or append it."""
    start = lines.index(head) + 2
    end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
    others = [old for old in lines[start:end] if old.split("|")[1] != line.split("|")[1]]
    return [*lines[:start], *others, line, *lines[end:]]


def test_the_book_says_what_works(lm, request):
    """The page's lines of this architecture, made of what the checks say. `--write-pages` puts them there."""
    name = lm.model.config.model_type
    where = row(f"`{name}`", type(lm.model).__name__, lm.kind, f"`{ARCHITECTURES[name].down_projection}`")
    works = row(f"`{name}`", *("yes" if passes(check, lm) else "no" for check in CHECKS.values()))
    lines = PAGE.read_text().splitlines()
    if request.config.getoption("write_pages"):
        lines = put(put(lines, WHERE, where), WORKS, works)
        PAGE.write_text("\n".join(lines) + "\n")
    assert {WHERE, WORKS, where, works} <= set(lines)


def test_the_book_lists_no_other_architecture():
    found = [line.split("`")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert sorted(found) == sorted(2 * list(ARCHITECTURES))


def test_every_experiment_runs(lm, tmp_path):
    """One command from a folder: an answer of several tokens is asked, too, and edits follow where they are defined."""
    templates = ["The capital of X is [MASK].", "X has its capital in [MASK].", "the big city in X is [MASK]."]
    templates += ["in the north of X, the city is [MASK].", "[MASK] is the capital of X."]
    answers = {"Ireland": "Dublin", "France": "Paris", "Spain": "Madrid", "Peru": LONG}
    facts = [
        kn.Fact(subject, "P36(capital)", answer, (*prompts[:3], prompts[4]), prompts[3:4])
        for subject, answer in answers.items()
        for prompts in [tuple(template.replace("X", subject) for template in templates)]
    ]
    kn.write_facts(facts, tmp_path / "facts.json")
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")

    def run(**options):
        return run_experiments(tmp_path / "model", tmp_path / "facts.json", out=tmp_path / "run", **options)

    with one_line_error(ValueError, "several tokens", "log_probability"):
        run()
    results = run(measure="log_probability")
    assert results.facts.answer.tolist() == list(answers.values())
    assert results.facts.n_prompts.unique().tolist() == [3 if lm.kind == "causal" else 4]
    assert results.facts.scores.map(len).gt(0).all() and results.effects.log_probability.lt(0).all()
    assert results.about["measure"] == "log_probability"
    if lm.model.config.model_type in NARROW:
        assert "update" not in results.about["experiments"] and results.updates.empty
        with one_line_error(ValueError, "has no update"):
            run(measure="log_probability", experiment="update")
    else:
        edited = results.facts.answer[results.updates.get("fact", [])]
        assert all(len(answer_ids(lm, answer)) == 1 for answer in {*edited, *results.updates.get("new", [])})


def test_other_libraries_forwards_are_left_in_place(lm):
    """As accelerate replaces a module's forward to move its inputs."""
    layer = lm.layers[0]
    forward = layer.forward
    layer.forward = replaced = lambda *args, **kwargs: forward(*args, **kwargs)
    try:
        kn.knowledge_attribution(lm, PROMPTS[:1], ANSWER, n_steps=2)
        assert vars(layer)["forward"] is replaced
    finally:
        del layer.forward


def test_float16_products(lm):
    """The residual stream stays float32, so that few scores move."""
    single = wrap_model(lm.model.float(), lm.tokenizer)
    half = wrap_model(lm.model, lm.tokenizer, precision="float16")
    try:
        scores, coarse = (kn.knowledge_attribution(m, PROMPTS, ANSWER).flatten(1) for m in (single, half))
        assert coarse.dtype == torch.float32
        error = (coarse - scores).abs().amax(1) / scores.abs().amax(1)
        assert 0 < error.max() < 0.05
    finally:
        lm.model.double()
