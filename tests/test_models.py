"""Loading by name, by folder and by family; prompts and answers that cannot be asked."""

import pytest
import torch
from common import PROMPTS, one_line_error, save_tiny, tiny_model
from transformers import BertForMaskedLM, BertModel, XLNetConfig

import kn_utils as kn
from kn_utils.engine import encode
from kn_utils.models import answer_id


def test_the_lab_model(lab):
    assert (lab.n_layers, lab.n_neurons) == (4, 512)
    assert lab.device == torch.device("cpu")
    assert not lab.model.training
    assert not any(parameter.requires_grad for parameter in lab.model.parameters())


def test_lab_is_the_default_model(lab):
    default = kn.load_model(device="cpu")
    prompts = ["The capital of Ireland is [MASK]."]
    assert torch.equal(kn.answer_distribution(default, prompts), kn.answer_distribution(lab, prompts))


@pytest.mark.parametrize("as_type", [str, lambda path: path], ids=["str", "Path"])
def test_a_local_folder(tmp_path, as_type):
    lm = kn.load_model(as_type(save_tiny(tmp_path)), device="cpu")
    reread = BertForMaskedLM.from_pretrained(tmp_path).eval()
    inputs = lm.tokenizer(PROMPTS, padding=True, return_tensors="pt")
    assert (lm.n_layers, lm.n_neurons) == (3, 40)
    with torch.no_grad():
        assert torch.equal(lm.model(**inputs).logits, reread(**inputs).logits)


def test_half_precision_weights_are_read_as_float32(tmp_path):
    save_tiny(tmp_path)
    BertForMaskedLM.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    assert {p.dtype for p in kn.load_model(tmp_path, device="cpu").model.parameters()} == {torch.float32}


def test_a_model_without_a_head(tmp_path):
    save_tiny(tmp_path, BertModel)
    with one_line_error(ValueError, repr(str(tmp_path)), "no masked-LM head", "ForMaskedLM"):
        kn.load_model(tmp_path)


def test_an_architecture_that_is_not_known(tmp_path):
    XLNetConfig(n_layer=1).save_pretrained(tmp_path)
    names = [repr(str(tmp_path)), "'xlnet'", "bert", "gpt2", "ARCHITECTURES", "kn_utils/models.py"]
    with one_line_error(ValueError, *names):
        kn.load_model(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_of_half_precision_are_refused(dtype):
    with one_line_error(ValueError, str(dtype), "float32", "precision='float16'"):
        tiny_model(dtype=dtype)


def test_unknown_precision():
    with one_line_error(ValueError, "'bfloat16'", "tf32", "float16"):
        kn.load_model("lab", precision="bfloat16")


def test_pickled_weights_are_refused(tmp_path):
    """Unpickling a downloaded file could run any code."""
    save_tiny(tmp_path)
    weights = BertForMaskedLM.from_pretrained(tmp_path).state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        kn.load_model(tmp_path)


def test_a_folder_that_does_not_exist(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        kn.load_model(tmp_path / "nowhere")


def ask_any(lm, prompts):
    return kn.answer_probability(lm, prompts, "Dublin")


every_function = pytest.mark.parametrize(
    "function",
    [ask_any, kn.ffn_activations, kn.answer_distribution, lambda lm, p: kn.knowledge_attribution(lm, p, "Dublin")],
    ids=["answer_probability", "ffn_activations", "answer_distribution", "knowledge_attribution"],
)


@every_function
@pytest.mark.parametrize(
    "prompts, names",
    [
        ([*PROMPTS, "the capital of Peru is Lima."], ["'the capital of Peru is Lima.'", "0 masks", "[MASK]"]),
        (["[MASK] is in [MASK]."], ["'[MASK] is in [MASK].'", "2 masks", "exactly one"]),
        ([], ["prompts is empty"]),
        ("the capital of Peru is [MASK].", ["'the capital of Peru is [MASK].'", "list"]),
    ],
    ids=["no mask", "two masks", "no prompts", "a bare string"],
)
def test_prompts_that_cannot_be_asked(tiny, function, prompts, names):
    with one_line_error(ValueError, *names):
        function(tiny, prompts)


def test_a_tuple_of_prompts_will_do(tiny):
    assert torch.equal(ask_any(tiny, tuple(PROMPTS)), ask_any(tiny, PROMPTS))


@pytest.mark.parametrize("function", [kn.answer_probability, kn.knowledge_attribution])
@pytest.mark.parametrize("answer", ["Atlantis", "", "[UNK]"])
def test_answers_that_the_model_cannot_say(tiny, function, answer):
    with one_line_error(ValueError, repr(answer), "unknown"):
        function(tiny, PROMPTS, answer)


@pytest.mark.parametrize("answer, pieces", [("Iceland", "##land"), ("Dublin city", "city")])
def test_answers_that_must_be_one_token(tiny, answer, pieces):
    with one_line_error(ValueError, repr(answer), "2 tokens", pieces):
        answer_id(tiny, answer)
    with one_line_error(ValueError, repr(answer), "measure 'log_probability'"):
        kn.knowledge_attribution(tiny, PROMPTS, ["Dublin"] * 3 + [answer, "Dublin"])


def test_answer_id(tiny):
    index, embeddings = answer_id(tiny, "Dublin"), tiny.model.bert.embeddings.word_embeddings
    assert tiny.tokenizer.convert_ids_to_tokens(index) == "Dublin"
    assert torch.equal(tiny.embedding("Dublin"), embeddings.weight[index])


def test_encode_pads_no_further_than_the_longest(tiny):
    inputs, position = encode(tiny, PROMPTS)
    lengths = [len(tiny.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert inputs["input_ids"].shape == (len(PROMPTS), max(lengths))
    assert inputs["attention_mask"].sum(1).tolist() == lengths
    for row, prompt, at in zip(inputs["input_ids"].tolist(), PROMPTS, position.tolist(), strict=True):
        assert row[at] == tiny.tokenizer.mask_token_id, prompt


def test_edit_activations_reads_without_changing(tiny):
    prompts = PROMPTS[:1] * 5  # of one length, so that they run together
    before, seen = kn.answer_distribution(tiny, prompts), []

    def read(layer, w):
        seen.append((layer, w.shape))
        return w

    with kn.edit_activations(tiny, read):
        during = kn.answer_distribution(tiny, prompts)
    assert torch.equal(during, before)
    assert seen == [(layer, (len(prompts), tiny.n_neurons)) for layer in range(tiny.n_layers)]
