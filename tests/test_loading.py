"""What may lie in a model's folder: safetensors are read, nothing is unpickled, no code is run, nothing is asked."""

import json
import shutil

import pytest
import torch
import transformers as tf
from common import PROMPTS, one_line_error, save_tiny, tiny_config, tiny_model, tiny_tokenizer

import kn_utils as kn
from kn_utils.loading import LAB_MODELS, wrap_model

CODE = """
from pathlib import Path
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast
Path({mark!r}).touch()
class Config(BertConfig): model_type = {model_type!r}
class Model(BertForMaskedLM): pass
class Tokenizer(BertTokenizerFast): pass
"""


@pytest.fixture
def folder(tmp_path):
    return save_tiny(tmp_path / "model")


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


@pytest.mark.parametrize("model_type", ["bert", "something-new"])
def test_code_in_a_folder_is_never_run(folder, tmp_path, model_type, monkeypatch):
    mark = tmp_path / "it ran"
    (folder / "own.py").write_text(CODE.format(mark=str(mark), model_type=model_type), encoding="utf-8")
    classes = {"AutoConfig": "own.Config", "AutoModelForMaskedLM": "own.Model"}
    change_json(folder / "config.json", auto_map=classes, model_type=model_type)
    change_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", "own.Tokenizer"]})
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("the reader was asked"))
    if model_type == "bert":  # the library's own classes read it
        assert kn.load_model(folder, device="cpu").n_layers == 3
    else:
        with one_line_error(OSError, repr(str(folder)), "cannot be loaded"):
            kn.load_model(folder, device="cpu")
    assert not mark.exists()


def test_pickled_weights_are_not_read(folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (type(tmp_path).touch, (tmp_path / "it ran",))

    (folder / "model.safetensors").unlink()
    torch.save({"bomb": Bomb()}, folder / "pytorch_model.bin")
    with one_line_error(OSError, repr(str(folder)), "safetensors"):
        kn.load_model(folder, device="cpu")
    assert not (tmp_path / "it ran").exists()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935\nsize 12345\n"
DAMAGED = {
    "cut weights": ("model.safetensors", lambda raw: raw[: len(raw) // 2]),
    "empty weights": ("model.safetensors", lambda raw: b""),
    "a pointer in place of weights": ("model.safetensors", lambda raw: POINTER),
    "a cut configuration": ("config.json", lambda raw: raw[:50]),
    "a list for a configuration": ("config.json", lambda raw: b"[]"),
    "a deep configuration": ("config.json", lambda raw: b"[" * 200_000),
    "a cut tokenizer": ("tokenizer.json", lambda raw: raw[: len(raw) // 2]),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_named_in_one_line(folder, damage):
    name, change = DAMAGED[damage]
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with one_line_error(OSError, repr(str(folder)), "cannot be loaded", "config.json, model.safetensors"):
        kn.load_model(folder, device="cpu")


def test_weights_of_another_shape(folder):
    change_json(folder / "config.json", intermediate_size=48)
    with one_line_error(OSError, repr(str(folder)), "cannot be loaded"):
        kn.load_model(folder, device="cpu")


def test_a_folder_without_a_tokenizer(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises((OSError, ValueError), match="tokenizer") as caught:
        kn.load_model(folder, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(number):
    lm = tiny_model()
    with torch.no_grad():
        lm.down_projections[1].weight[3, 4] = number
    with one_line_error(ValueError, "not finite", "bert.encoder.layer.1.output.dense.weight"):
        wrap_model(lm.model, lm.tokenizer)


@pytest.mark.parametrize("name", ["", None, 7, ["lab"]])
def test_what_is_no_name(name):
    with one_line_error(ValueError, "no name", "'lab'"):
        kn.load_model(name)


def test_a_name_nobody_has(tmp_path):
    with one_line_error(OSError, "cannot be loaded", "'lab'"):
        kn.load_model(tmp_path / "nothing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta", 3.5, "", 0, False])
def test_a_device_that_is_not_here(device):
    with one_line_error(ValueError, "device", repr(device), "'cpu'"):
        kn.load_model("lab", device=device)


@pytest.mark.parametrize("max_memory", [0, -1, 2.5, True, "1 GB"])
def test_a_memory_that_is_none(max_memory):
    with one_line_error((TypeError, ValueError), "max_memory", max_memory):
        kn.load_model("lab", max_memory=max_memory)


def test_unknown_precision():
    with one_line_error(ValueError, "'bfloat16'", "float32"):
        kn.load_model("lab", precision="bfloat16")


def test_damaged_weights_of_a_shipped_model(tmp_path, monkeypatch):
    """safetensors have no checksum: one flipped bit is another model. The card knows the file's."""
    folder = shutil.copytree(LAB_MODELS["lab"], tmp_path / "lab")
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[len(raw) // 2] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    monkeypatch.setitem(LAB_MODELS, "lab", folder)
    with one_line_error(OSError, "'lab'", "damaged", "install kn_utils again"):
        kn.load_model("lab", device="cpu")


@pytest.mark.parametrize("config", [{"num_hidden_layers": 0}, {"is_decoder": True}])
def test_models_that_have_no_neurons_or_read_one_way(config):
    model = tf.BertForMaskedLM(tiny_config(tiny_tokenizer(), **config))
    with one_line_error(ValueError, "BertForMaskedLM"):
        wrap_model(model, tiny_tokenizer())


@pytest.mark.parametrize("model_class", [tf.BertModel, tf.BertForSequenceClassification])
def test_models_without_a_head_are_not_wrapped(model_class):
    with one_line_error(ValueError, "no masked language model", "head"):
        wrap_model(model_class(tiny_config(tiny_tokenizer())), tiny_tokenizer())


def test_weights_of_two_precisions():
    model = tiny_model().model
    model.bert.encoder.layer[0].half()
    with one_line_error(ValueError, "float16", "float32"):
        wrap_model(model, tiny_tokenizer())


def test_a_path_with_other_letters(tmp_path, lab):
    folder = shutil.copytree(LAB_MODELS["lab"], tmp_path / "Модель 模型 é")
    prompts = ["The capital of Ireland is [MASK]."]
    found = kn.answer_probability(kn.load_model(folder, device="cpu"), prompts, "Dublin")
    assert torch.equal(found, kn.answer_probability(lab, prompts, "Dublin"))


def test_a_wrapped_model_may_be_wrapped_again():
    lm = tiny_model()
    again = wrap_model(lm.model, tiny_tokenizer())
    assert again.fast and torch.equal(kn.ffn_activations(again, PROMPTS), kn.ffn_activations(lm, PROMPTS))
