"""The fast path stands aside where it is wrong; and an edit finds the right token of inputs that are not ours."""

import warnings
from contextlib import contextmanager
from inspect import signature
from threading import Barrier, Thread

import pytest
import torch
from common import PROMPTS, assert_unchanged, one_line_error, snapshot, tiny_model
from families import MODELS, tokenizer_of
from transformers import DynamicCache, GPT2Config, GPT2LMHeadModel

import kn_utils as kn
from kn_utils.engine import attention, passes, self_check
from kn_utils.loading import wrap_model

ANSWER = "Dublin"
NEURONS = [(0, 3), (1, 17), (2, 5), (2, 30)]


@pytest.fixture(scope="module")
def gpt():
    """A random GPT-2 of three layers whose tokenizer adds nothing."""
    torch.manual_seed(3)
    tokenizer = tokenizer_of("bytes")
    special = {"bos_token_id": 0, "eos_token_id": None, "vocab_size": len(tokenizer)}
    config = GPT2Config(n_positions=64, initializer_range=0.3, **special, **MODELS["gpt2"][2])
    return wrap_model(GPT2LMHeadModel(config), tokenizer)


# ---------------------------------------------------------------- a broken fast path


def raises(*args, **kwargs):
    raise TypeError("update() got an unexpected keyword argument")


def is_wrong(lm, hidden):
    return 1.01 * hidden[:, 0] @ lm.model.get_output_embeddings().weight.T


FAULTS = {
    "a layer that cannot be called again": (passes, "_run_later_layers", raises),
    "a head of other numbers": (passes, "_head", is_wrong),
    "an attention of other arguments": (attention, "attend", raises),
    "an FFN that writes nothing": (passes, "_row", lambda lm, run, n, z, own: run.layers[n].residual[own][:, None]),
}


@pytest.mark.parametrize("kind", ["masked", "causal"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_broken_fast_path_stands_aside(fault, kind, tiny, gpt, monkeypatch):
    good = {"masked": tiny, "causal": gpt}[kind]
    prompts = [prompt for prompt in PROMPTS if kn.prompts.suits(good, prompt)]
    changes = [([NEURONS], 0.0)]
    fact = kn.Fact("Ireland", "P36(capital)", ANSWER, (), tuple(prompts))
    assert good.fast
    expected = kn.knowledge_attribution(good, prompts, ANSWER), kn.ask_scaled(good, [fact], changes)[1]
    monkeypatch.setattr(*FAULTS[fault])
    try:
        with pytest.warns(UserWarning, match="plain, slower path") as said:
            lm = wrap_model(good.model, good.tokenizer)
        assert not lm.fast and len(said) == 1 and "\n" not in str(said[0].message)
        torch.testing.assert_close(kn.knowledge_attribution(lm, prompts, ANSWER), expected[0], atol=1e-6, rtol=0)
        found = kn.ask_scaled(lm, [fact], changes)[1]
        assert found.log_odds.tolist() == pytest.approx(expected[1].log_odds.tolist(), abs=1e-5)
    finally:
        monkeypatch.undo()
        assert attention.install(good.model)


def test_a_right_fast_path_says_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_model().fast


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["masked", "causal"])
def test_another_attention_chosen_later_gives_the_same_numbers(kind, implementation, tiny, gpt):
    lm = {"masked": tiny, "causal": gpt}[kind]
    prompts = [prompt for prompt in PROMPTS if kn.prompts.suits(lm, prompt)]
    expected = kn.knowledge_attribution(lm, prompts, ANSWER)
    lm.model.set_attn_implementation(implementation)
    try:
        torch.testing.assert_close(kn.knowledge_attribution(lm, prompts, ANSWER), expected, atol=1e-6, rtol=0)
    finally:
        assert attention.install(lm.model)


def test_the_check_takes_milliseconds(lab):
    """Counted in passes, not in seconds: two with gradients, and a few of whole copies."""
    ran = []
    with lab.layers[0].register_forward_hook(lambda *_: ran.append(1)):
        self_check.with_fast_path(lab)
    assert len(ran) <= 6


# ---------------------------------------------------------------- inputs that are not ours


@contextmanager
def edited_at(lm, column):
    """NEURONS are off in these columns, by plain hooks."""

    def off(layer):
        def change(module, args):
            w = args[0].clone()
            w[:, column, [index for n, index in NEURONS if n == layer]] = 0
            return (w,)

        return change

    hooks = [module.register_forward_pre_hook(off(layer)) for layer, module in enumerate(lm.down_projections)]
    yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def test_a_left_padded_batch_is_edited_at_its_last_token(gpt):
    texts = ["in the north of the old Ireland", "is"]
    gpt.tokenizer.padding_side = "left"
    inputs = gpt.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
    gpt.tokenizer.padding_side = "right"
    assert inputs["attention_mask"][1, 0] == 0
    with edited_at(gpt, -1):
        expected = gpt.model(**inputs).logits
    with kn.suppress(gpt, NEURONS):
        found = gpt.model(**inputs).logits
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[:, -1], gpt.model(**inputs).logits[:, -1])


@torch.no_grad()
def test_every_generated_token_is_answered_and_edited(gpt):
    ids = torch.tensor([gpt.tokenizer("the capital of Ireland is")["input_ids"]])
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 1}
    with kn.suppress(gpt, NEURONS):
        found = gpt.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    expected, n_prompt = ids, ids.shape[1]
    for _ in range(4):  # without a cache; all tokens that were answered are edited
        with edited_at(gpt, slice(n_prompt - 1, None)):
            logits = gpt.model(expected, use_cache=False).logits[:, -1]
        expected = torch.cat([expected, logits.argmax(-1, keepdim=True)], 1)
    assert found.tolist() == expected.tolist()


@torch.no_grad()
def test_embeddings_of_a_causal_model_are_edited_at_the_last(gpt):
    ids = torch.tensor([gpt.tokenizer("the capital of Ireland is")["input_ids"]])
    with kn.suppress(gpt, NEURONS):
        expected = gpt.model(ids).logits
        found = gpt.model(inputs_embeds=gpt.model.get_input_embeddings()(ids)).logits
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "text, names",
    [("the capital of Ireland is Dublin.", ["text 0", "0 masks", "exactly one"]),
     ("[MASK] is the capital of [MASK].", ["text 0", "2 masks"])],
)  # fmt: skip
def test_texts_without_one_mask_are_refused_inside_an_edit(tiny, text, names):
    inputs, before = tiny.tokenizer(text, return_tensors="pt"), snapshot(tiny)
    with one_line_error(ValueError, *names), kn.suppress(tiny, NEURONS):
        tiny.model(**inputs)
    assert_unchanged(tiny, before)
    tiny.model(**inputs)  # outside it is none of our business


def test_inputs_that_do_not_tell_the_token_are_refused(tiny, gpt):
    ids = tiny.tokenizer(PROMPTS[0], return_tensors="pt")["input_ids"]
    with one_line_error(ValueError, "input_ids", "embeddings"), kn.suppress(tiny, NEURONS):
        tiny.model(inputs_embeds=tiny.model.get_input_embeddings()(ids))
    with one_line_error(ValueError, "a part of the model", "lm.model"), kn.suppress(tiny, NEURONS):
        tiny.model.bert(ids)
    with kn.suppress(tiny, NEURONS):
        tiny.model(ids)
        with one_line_error(ValueError, "a part of the model"):  # the last pass told nothing of this one
            tiny.model.bert(ids)
    ids = torch.tensor([[3, 4, 5]])
    with one_line_error(ValueError, "padding only"), kn.suppress(gpt, NEURONS):
        gpt.model(ids, attention_mask=torch.zeros_like(ids))
    with one_line_error(ValueError, "attention mask of its own form"), kn.suppress(gpt, NEURONS):
        gpt.model(ids, attention_mask=torch.ones(1, 1, 3, 3, dtype=torch.bool))
    with one_line_error(ValueError, "no input_ids"), kn.suppress(gpt, NEURONS):
        gpt.model()


@torch.no_grad()
def test_an_attention_mask_may_be_passed_by_position(gpt):
    ids, mask = torch.tensor([[5, 6, 7, 1], [8, 9, 10, 11]]), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    place = list(signature(gpt.model.forward).parameters).index("attention_mask")
    between = [ids, *[None] * (place - 1)]
    with kn.suppress(gpt, NEURONS):
        expected = gpt.model(input_ids=ids, attention_mask=mask).logits
        found = gpt.model(*between, mask).logits
    torch.testing.assert_close(found, expected)


def test_generation_without_a_cache_is_refused(gpt):
    ids = torch.tensor([[5, 6, 7, 8]])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 1, "attention_mask": torch.ones_like(ids)}
    with one_line_error(ValueError, "use_cache=True"), kn.suppress(gpt, NEURONS):
        gpt.model.generate(ids, use_cache=False, **options)


@torch.no_grad()
def test_several_tokens_after_a_cache_are_refused(gpt):
    """As generation reads them that guesses ahead, or takes a long prompt in parts."""
    ids, cache = torch.tensor([[5, 6, 7, 8, 9]]), {passes._cache_argument(gpt.model): DynamicCache()}
    with kn.suppress(gpt, NEURONS):
        gpt.model(input_ids=ids[:, :3], use_cache=True, **cache)
        with one_line_error(ValueError, "several tokens after a cache", "one by one"):
            gpt.model(input_ids=ids[:, 3:], use_cache=True, **cache)


def in_threads(*calls):
    """What the calls give, each in a thread of its own, all at once; errors as they are."""
    ready, found = Barrier(len(calls)), [None] * len(calls)

    def run(i, call):
        ready.wait()
        try:
            found[i] = call()
        except Exception as error:
            found[i] = error

    threads = [Thread(target=run, args=pair) for pair in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_threads_that_read_one_model_wait_for_each_other(tiny):
    prompts = PROMPTS[0], PROMPTS[0].replace("Ireland", "Peru")
    expected = [kn.knowledge_attribution(tiny, [prompt], ANSWER) for prompt in prompts]
    calls = [lambda p=p: [kn.knowledge_attribution(tiny, [p], ANSWER) for _ in range(20)] for p in prompts]
    for found, right in zip(in_threads(*calls), expected, strict=True):
        assert not isinstance(found, Exception), found
        for scores in found:
            torch.testing.assert_close(scores, right, atol=1e-6, rtol=0)


def test_threads_may_scale_while_others_read(tiny):
    fact = kn.Fact("Ireland", "P36(capital)", ANSWER, (), tuple(PROMPTS))

    def scaled():
        return [kn.ask_scaled(tiny, [fact], [([NEURONS], 0.0)])[1].log_odds[0] for _ in range(10)]

    def read():
        return [kn.ask(tiny, [fact]).log_odds[0] for _ in range(20)]

    calls = scaled, read, scaled
    expected = [call()[0] for call in calls]
    for found, right in zip(in_threads(*calls), expected, strict=True):
        assert not isinstance(found, Exception), found
        assert found == pytest.approx([right] * len(found), abs=1e-5)


def test_a_thread_does_not_read_a_model_that_another_edits(tiny):
    with kn.suppress(tiny, NEURONS):
        (error,) = in_threads(lambda: kn.answer_probability(tiny, PROMPTS, ANSWER))
        (plain,) = in_threads(lambda: tiny.model(input_ids=torch.tensor([[2, 5, 4, 3]])))
    for refused in (error, plain):
        assert isinstance(refused, RuntimeError) and "another thread is editing" in str(refused)
    (found,) = in_threads(lambda: kn.answer_probability(tiny, PROMPTS, ANSWER))
    torch.testing.assert_close(found, kn.answer_probability(tiny, PROMPTS, ANSWER))


def test_a_model_in_training_mode_is_refused():
    lm = tiny_model()
    lm.model.train()
    with one_line_error(RuntimeError, "training mode", "eval()"):
        kn.answer_probability(lm, PROMPTS, ANSWER)


def in_place(layer, w):
    w[:, 3] = 0


def in_place_and_returned(layer, w):
    w[:, 3] = 0
    return w


def anew(layer, w):
    return w.index_fill(1, torch.tensor([3]), 0.0)


@pytest.mark.parametrize("edit", [in_place, in_place_and_returned, anew])
def test_an_edit_may_change_its_argument_in_place(tiny, edit):
    with kn.suppress(tiny, [(layer, 3) for layer in range(tiny.n_layers)]):
        expected = kn.answer_probability(tiny, PROMPTS, ANSWER)
    with kn.edit_activations(tiny, edit):
        found = kn.answer_probability(tiny, PROMPTS, ANSWER)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=0)
    assert not torch.allclose(found, kn.answer_probability(tiny, PROMPTS, ANSWER))


def test_reading_changes_nothing(tiny):
    seen, expected = [], kn.answer_probability(tiny, PROMPTS[:1], ANSWER)
    with kn.edit_activations(tiny, lambda layer, w: seen.append(w)):
        assert torch.equal(kn.answer_probability(tiny, PROMPTS[:1], ANSWER), expected)
    torch.testing.assert_close(torch.stack(seen, 1), kn.ffn_activations(tiny, PROMPTS[:1]))


def test_an_edit_of_another_shape_is_refused(tiny):
    with one_line_error(ValueError, "(1, 39)", "(1, 40)"), kn.edit_activations(tiny, lambda layer, w: w[:, 1:]):
        kn.answer_probability(tiny, PROMPTS[:1], ANSWER)


