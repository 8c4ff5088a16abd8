"""Tokenizers of all kinds: where a model is asked, which tokens an answer has, and what cannot be asked."""

import pytest
import torch
import transformers as tf
from common import PROMPTS, one_line_error, tiny_config, tiny_model, tiny_tokenizer
from families import MODELS, tokenizer_of
from tokenizers import processors

import kn_utils as kn
from kn_utils.loading import wrap_model
from kn_utils.models import answer_ids
from kn_utils.prompts import first_questions, questions_for

PROMPT = "The capital of Ireland is [MASK]."


def random_model(kind, tokenizer, **changes):
    model_class, config_class, size, _ = MODELS[kind]
    torch.manual_seed(5)
    positions = {"max_position_embeddings": 40, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    return wrap_model(model_class(config_class(vocab_size=len(tokenizer), **positions, **size, **changes)), tokenizer)


@pytest.fixture(scope="module")
def gpt():
    return random_model("gpt2", tokenizer_of("bytes"))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_token_that_the_tokenizer_appends_is_left_out(kind):
    """Otherwise the model would be asked what follows the end of the text."""
    plain, ending = tokenizer_of("bytes"), tokenizer_of("bytes")
    ending.backend_tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 2)])
    assert ending("the capital")["input_ids"] == [*plain("the capital")["input_ids"], 2]
    lm, other = random_model(kind, plain), random_model(kind, ending)
    assert first_questions(other, [PROMPT]) == first_questions(lm, [PROMPT])
    expected = kn.answer_probability(lm, [PROMPT], "Dublin")
    assert torch.equal(kn.answer_probability(other, [PROMPT], "Dublin"), expected)


def test_a_token_that_the_tokenizer_puts_in_front_stays():
    tokenizer = tokenizer_of("pieces")  # it writes <s> before each text
    lm = random_model("llama", tokenizer)
    (question,) = first_questions(lm, [PROMPT])
    assert question.ids == tuple(tokenizer("The capital of Ireland is")["input_ids"])
    assert question.ids[0] == tokenizer.bos_token_id and question.position == len(question.ids) - 1


BEFORE = {  # what stands before the answer -> how its first token is written
    PROMPT: "ĠDublin",
    "[MASK] is the capital of Ireland.": "Dublin",
    'The capital, "[MASK]", is in Ireland.': "Dublin",
    "The capital of Ireland is:\n[MASK]": "Dublin",
}


@pytest.mark.parametrize("prompt", BEFORE)
def test_the_space_before_an_answer_is_the_texts(prompt):
    """With byte-level BPE: as the whole text, answered, would be split."""
    lm = random_model("roberta", tokenizer_of("bytes"))
    asked = questions_for(lm, [prompt], "Dublin")
    pieces = "".join(lm.tokenizer.convert_ids_to_tokens(asked.targets.tolist()))
    assert pieces == BEFORE[prompt]
    whole = lm.tokenizer(prompt.replace("[MASK]", "Dublin"), add_special_tokens=False)["input_ids"]
    targets = asked.targets.tolist()
    assert any(whole[i : i + len(targets)] == targets for i in range(len(whole)))


def test_wordpiece_writes_answers_alike_everywhere(tiny):
    for prompt in PROMPTS:
        assert questions_for(tiny, [prompt], "Dublin").targets.tolist() == answer_ids(tiny, "Dublin")


@pytest.mark.parametrize(
    "prompt, names",
    [("The capital of [X] is [MASK].", ["[X]", "unfilled"]), ("[MASK] is [Y].", ["[Y]", "unfilled"]),
     ("The [SEP] capital is [MASK].", ["'[SEP]'", "special token"]), ("[CLS] [MASK]", ["'[CLS]'", "special token"]),
     ("The capital of Ireland is", ["0 masks", "exactly one"]), ("[MASK] or [MASK]", ["2 masks"]),
     ("The capital is[MASK].", ["a letter right before", "a space"])],
)  # fmt: skip
@pytest.mark.parametrize("function", [kn.ffn_activations, kn.answer_distribution])
def test_prompts_that_are_no_plain_text(tiny, gpt, function, prompt, names):
    for lm in (tiny, gpt) if "special" not in "".join(names) else (tiny,):  # GPT-2 has other special tokens
        with one_line_error(ValueError, *names):
            function(lm, [PROMPTS[0], prompt])


@pytest.mark.parametrize("wrong", [7, None, b"is [MASK]", [PROMPTS[0], None], [7], {"a": PROMPTS[0]}])
def test_what_is_no_list_of_prompts(tiny, wrong):
    with one_line_error((TypeError, ValueError), "prompts", "pass a list of"):
        kn.ffn_activations(tiny, wrong)


@pytest.mark.parametrize("answer, names", [("Dublin [SEP]", ["'[SEP]'", "special token"]), (3, ["3", "list of str"])])
def test_answers_that_are_no_plain_text(tiny, answer, names):
    with one_line_error((TypeError, ValueError), *names):
        kn.answer_probability(tiny, PROMPTS, [answer] * len(PROMPTS))


def test_as_many_answers_as_prompts(tiny):
    with one_line_error(ValueError, "2 answers", "5 prompts"):
        kn.answer_probability(tiny, PROMPTS, ["Dublin", "Paris"])
    several = (answer for answer in ["Dublin"] * len(PROMPTS))
    expected = kn.answer_probability(tiny, PROMPTS, "Dublin")
    assert torch.equal(kn.answer_probability(tiny, (prompt for prompt in PROMPTS), several), expected)


LONG = "the " * 60 + "capital is [MASK]"


@pytest.mark.parametrize("kind, longest", [("bert", 40), ("roberta", 38), ("gpt2", 40), ("opt", 40)])
def test_prompts_longer_than_the_model_reads(kind, longest):
    tokenizer = tokenizer_of(MODELS[kind][3])
    lm = random_model(kind, tokenizer)
    assert lm.max_tokens == longest
    with one_line_error(ValueError, "tokens", f"reads {longest}", "shorten"):
        kn.ffn_activations(lm, [LONG])
    n_tokens = len(first_questions(lm, ["the capital is [MASK]"])[0].ids)
    fits = "a " * (longest - n_tokens) + "the capital is [MASK]"
    (question,) = first_questions(lm, [fits])
    assert len(question.ids) <= longest and kn.ffn_activations(lm, [fits]).isfinite().all()


def test_an_answer_may_make_a_prompt_too_long(tiny):
    fits = "a " * 36 + "[MASK]"  # 39 tokens, of 40
    assert kn.answer_probability(tiny, [fits], "Dublin city").shape == (1,)
    with one_line_error(ValueError, "41 tokens", "Dublin city river"):
        kn.answer_probability(tiny, [fits], "Dublin city river")


def test_tokens_without_an_embedding_are_refused():
    tokenizer = tiny_tokenizer()
    lm = tiny_model()
    tokenizer.add_tokens(["Wakanda"])
    lm = wrap_model(lm.model, tokenizer)
    assert kn.ffn_activations(lm, PROMPTS).shape[0] == len(PROMPTS)  # the others are as they were
    with one_line_error(ValueError, "'Wakanda'", "no embedding", "resize_token_embeddings"):
        kn.ffn_activations(lm, ["the capital of Wakanda is [MASK]."])
    with one_line_error(ValueError, "'Wakanda'", "no embedding"):
        kn.answer_probability(lm, PROMPTS, "Wakanda")


def test_tokenizers_without_words_or_mask():
    model = tf.BertForMaskedLM(tiny_config(tiny_tokenizer()))
    without_mask = tf.PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer().backend_tokenizer, unk_token="[UNK]")
    with one_line_error(ValueError, "no mask token"):
        wrap_model(model, without_mask)
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])}
    with one_line_error(ValueError, "knows no words", "beside it"):
        wrap_model(model, tf.BertTokenizerFast(vocab=vocabulary))
