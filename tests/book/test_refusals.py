"""Every row of the page's tables of refusals is triggered here: its message, in one line, and nothing that is gone."""

import dataclasses
import gzip
import json
import re
import shutil
import sys
import threading
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from common import PROMPTS, tiny_config, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AlbertConfig, AlbertForMaskedLM, BertModel

import kn_utils as kn
from kn_utils.beyond.answer_key import answer_key
from kn_utils.beyond.planting import plant_fact
from kn_utils.data import download
from kn_utils.loading import LAB_MODELS, wrap_model
from kn_utils.paper import __main__ as command
from kn_utils.paper.results import ABOUT, read_results
from kn_utils.paper.runs import run_experiments

PAGE = Path(__file__).resolve().parents[2] / "book" / "how_to_run.md"
TRIGGERS = {}


def rows():
    """The first cell of each row of the section's tables, without its backquotes."""
    section = PAGE.read_text(encoding="utf-8").split("## When something goes wrong\n")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
    return [cell.strip("`") for cell in cells if cell != "the message says"]


def refused(message):
    """The function below triggers the row that begins with this message."""

    def keep(trigger):
        assert message not in TRIGGERS
        TRIGGERS[message] = trigger
        return trigger

    return keep


@pytest.fixture
def given(lab, tiny, lab_facts, tmp_path, monkeypatch):
    return SimpleNamespace(lab=lab, tiny=tiny, facts=lab_facts, folder=tmp_path, patch=monkeypatch)


def test_each_row_has_a_trigger_and_each_trigger_a_row():
    assert len(rows()) == len(set(rows()))
    assert set(rows()) == set(TRIGGERS)


@pytest.mark.parametrize("message", rows())
def test_the_message_is_said(message, given, capsys):
    try:
        TRIGGERS[message](given)
        said = ""
    except Exception as error:
        said = str(error)
    except SystemExit:
        said = capsys.readouterr().err.splitlines()[-1]
    assert said and "\n" not in said
    assert re.search(".*".join(map(re.escape, message.split("..."))), said), said


# Prompts and answers


@refused("prompts is the string '...'")
def _(given):
    kn.answer_probability(given.tiny, PROMPTS[0], "Dublin")


@refused("facts is a single Fact")
def _(given):
    kn.ask(given.lab, given.facts[0])


@refused("facts is empty")
def _(given):
    kn.ask(given.lab, [])


@refused("prompt '...' has 0 masks")
def _(given):
    kn.answer_probability(given.tiny, ["the capital of Ireland"], "Dublin")


@refused("prompt '...' has an unfilled [X]")
def _(given):
    kn.answer_probability(given.tiny, ["the capital of [X] is [MASK]"], "Dublin")


@refused("prompt '...' has a letter right before [MASK]")
def _(given):
    kn.answer_probability(given.tiny, ["the capital is[MASK]"], "Dublin")


@refused("prompt '...' holds the special token '...'")
def _(given):
    kn.answer_probability(given.tiny, ["the capital of [SEP] is [MASK]"], "Dublin")


@refused("prompt '...' has ... tokens, the model reads ...")
def _(given):
    kn.answer_probability(given.tiny, ["big " * 50 + "[MASK]"], "Dublin")


@refused("prompt '...' goes on after [MASK]")
def _(given):
    kn.answer_probability(kn.load_model("lab-causal", "cpu"), ["[MASK] is the capital"], "Dublin")


@refused("answer '...' is unknown to the vocabulary")
def _(given):
    kn.answer_probability(given.tiny, PROMPTS, "Zürich")


@refused("answer '...' takes several tokens")
def _(given):
    kn.knowledge_attribution(given.tiny, PROMPTS, "big Dublin")


@refused("answer '...' takes ... tokens")
def _(given):
    with kn.update_fact(given.tiny, [(0, 1)], "Dublin", "big Dublin"):
        pass


@refused("fact '...' asks '...' twice")
def _(given):
    kn.Fact("Ireland", "P36(capital)", "Dublin", (PROMPTS[0],), (PROMPTS[0],))


@refused("fact '...' has one prompt")
def _(given):
    kn.knowledge_attributions(
        given.tiny, [kn.Fact("Ireland", "P36(capital)", "Dublin", PROMPTS[:1])], baseline="mean"
    )


@refused("fact '...' has no heldout prompts")
def _(given):
    kn.ask(given.lab, [dataclasses.replace(given.facts[0], heldout_prompts=())])


# Files and downloads


def facts_file(given, content):
    path = given.folder / "facts.json"
    path.write_bytes(content)
    return path


@refused("facts file '...' does not exist")
def _(given):
    kn.load_facts(given.folder / "none.json")


@refused("'...' is a folder")
def _(given):
    kn.load_facts(given.folder)


@refused("facts file '...' is damaged, truncated or not JSON")
def _(given):
    kn.load_facts(facts_file(given, b'{"P36": [[['))


@refused("facts file '...' holds more than ... bytes")
def _(given):
    given.patch.setattr(kn.data.files, "LARGEST", 1000)
    kn.load_facts(facts_file(given, gzip.compress(b" " * 2000)))


@refused("facts file '...' is not in ParaRel's format")
def _(given):
    kn.load_facts(facts_file(given, b"{}"))


@refused("facts file '...' does not tell the subject of '...'")
def _(given):
    bags = [
        [[f"{subject}の首都は[MASK]", answer, "P36(capital)"]]
        for subject, answer in [("日本", "東京"), ("中国", "北京")]
    ]
    kn.load_facts(facts_file(given, json.dumps({"P36": bags}).encode()))


@refused("relation '...' is not in '...'")
def _(given):
    kn.load_facts("lab", relations=["P999"])


def in_an_empty_cache(given):
    given.patch.setattr(download.platformdirs, "user_cache_dir", lambda name: str(given.folder))


@refused("ParaRel is not cached and ... cannot be reached")
def _(given):
    def urlopen(*args, **options):
        raise OSError("no network")

    in_an_empty_cache(given)
    given.patch.setattr(urllib.request, "urlopen", urlopen)
    kn.load_facts("pararel")


@refused("cached ParaRel '...' has changed since it was downloaded")
def _(given):
    in_an_empty_cache(given)
    (given.folder / "pararel.json.gz").write_bytes(gzip.compress(b"{}"))
    (given.folder / "pararel.json.gz.sha256").write_text("0" * 64)
    kn.load_facts("pararel")


@refused("ParaRel has ... with checksum ...")
def _(given):
    in_an_empty_cache(given)
    kn.write_facts(given.facts[:3], given.folder / "pararel.json.gz")
    kn.load_facts("pararel")


@refused("result file '...' is damaged")
def _(given):
    path = given.folder / "results.parquet"
    path.write_bytes(b"PAR1")
    read_results(path)


@refused("'...' is no result file")
def _(given):
    pq.write_table(pa.table({"x": [1]}), given.folder / "results.parquet")
    read_results(given.folder)


@refused("result file '...' of another version lacks ...")
def _(given):
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({ABOUT: "{}"}), given.folder / "results.parquet")
    read_results(given.folder)


# Models


def saved_model(given, model_class=None):
    """The folder of a copy of the tiny model, or of a model of another class with its configuration."""
    model = given.tiny.model if model_class is None else model_class(tiny_config(given.tiny.tokenizer))
    model.save_pretrained(given.folder)
    given.tiny.tokenizer.save_pretrained(given.folder)
    return given.folder


@refused("model '...' cannot be loaded")
def _(given):
    weights = saved_model(given) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    kn.load_model(given.folder)


@refused("model '...' has no masked-LM head")
def _(given):
    kn.load_model(str(saved_model(given, BertModel)))


@refused("model '...' is a '...', not one of ...")
def _(given):
    (given.folder / "config.json").write_text('{"model_type": "deberta"}')
    kn.load_model(str(given.folder))


@refused("the tokenizer of model '...' knows no words")
def _(given):
    for path in saved_model(given).glob("*token*"):
        path.unlink()
    kn.load_model(given.folder)


@refused("model '...' has weights that are not finite")
def _(given):
    weights = load_file(saved_model(given) / "model.safetensors")
    next(iter(weights.values()))[0] = torch.nan
    save_file(weights, given.folder / "model.safetensors", {"format": "pt"})
    kn.load_model(given.folder)


@refused("the shipped weights of '...' are damaged")
def _(given):
    folder = shutil.copytree(LAB_MODELS["lab"], given.folder / "lab")
    raw = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    given.patch.setitem(LAB_MODELS, "lab", folder)
    kn.load_model("lab", "cpu")


@refused("'...' is no masked language model")
def _(given):
    wrap_model(BertModel(tiny_config(tiny_tokenizer())), tiny_tokenizer())


@refused("the model is in training mode")
def _(given):
    lm = tiny_model()
    lm.model.train()
    kn.answer_probability(lm, PROMPTS, "Dublin")


@refused("device '...' cannot be used")
def _(given):
    kn.load_model("lab", "cuda:99")


@refused("embeddings have ... entries, value slots ...")
def _(given):
    albert = tiny_model(AlbertForMaskedLM, AlbertConfig, embedding_size=8)
    with kn.update_fact(albert, [(0, 1)], "Dublin", "Paris"):
        pass


@refused("activation '...' is not silent below zero")
def _(given):
    fact = kn.Fact("Ireland", "P36(capital)", "Dublin", tuple(PROMPTS))
    with plant_fact(tiny_model(hidden_act="tanh"), fact, 0, [1]):
        pass


# Numbers, scores and neurons


@refused("n_facts is '...': pass a whole number")
def _(given):
    kn.load_facts("lab", n_facts="2")


@refused("n_facts is 0: pass at least 1")
def _(given):
    kn.load_facts("lab", n_facts=0)


@refused("threshold is ...: choose it in (0, 1]")
def _(given):
    kn.coarse_neurons(torch.ones(3, 2, 4), threshold=1.5)


@refused("factor is nan: pass a finite number")
def _(given):
    with kn.amplify(given.tiny, [(0, 1)], float("nan")):
        pass


@refused("scores[0] holds NaN or infinity")
def _(given):
    kn.refine_neurons(torch.full((3, 2, 4), torch.nan))


@refused("scores has shape ...")
def _(given):
    kn.refine_neurons(torch.ones(2, 4))


@refused("after has 3 entries, before has 2")
def _(given):
    kn.relative_change(pd.Series([1.0, 2.0]), pd.Series([1.0, 2.0, 3.0]))


@refused("rule '...' is unknown")
def _(given):
    kn.knowledge_attribution(given.tiny, PROMPTS, "Dublin", rule="simpson")


@refused("scores hold 2 prompts, min_prompts is 3")
def _(given):
    kn.refine_neurons(torch.ones(2, 2, 4), min_prompts=3)


@refused("Neuron(...) is outside the model")
def _(given):
    with kn.suppress(given.tiny, [kn.Neuron(99, 0)]):
        pass


# Edits


@refused("the model's logits are not finite inside this edit")
def _(given):
    with kn.amplify(given.tiny, [(layer, i) for layer in range(3) for i in range(40)], 1e38):
        kn.answer_probability(given.tiny, PROMPTS, "Dublin")


@refused("edits of one model were left in another order")
def _(given):
    first, second = (kn.erase_relation(given.tiny, [(0, i)]) for i in (1, 2))
    first.__enter__()
    second.__enter__()
    try:
        first.__exit__(None, None, None)
    finally:
        with pytest.raises(RuntimeError):
            second.__exit__(None, None, None)


@refused("another thread is editing this model")
def _(given):
    errors = []

    def edit():
        try:
            with kn.erase_relation(given.tiny, [(0, 1)]):
                pass
        except RuntimeError as error:
            errors.append(error)

    with kn.erase_relation(given.tiny, [(0, 2)]):
        thread = threading.Thread(target=edit)
        thread.start()
        thread.join()
    raise errors[0]


@refused("generate without a cache reads earlier answers again")
def _(given):
    lm = kn.load_model("lab-causal", "cpu")
    with kn.suppress(lm, [(0, 1)]):
        lm.model.generate(torch.tensor([[5, 6]]), max_new_tokens=3, use_cache=False, pad_token_id=0)


@refused("an edit returned ...")
def _(given):
    with kn.edit_activations(given.tiny, lambda layer, w: w[:, 1:]):
        kn.answer_probability(given.tiny, PROMPTS, "Dublin")


@refused("the model is edited now")
def _(given):
    fact = kn.Fact("Ireland", "P36(capital)", "Dublin", PROMPTS[:2])
    with kn.suppress(given.tiny, [(0, 1)]):
        answer_key(given.tiny, [fact], "zero", given.folder)


@refused("text ... of a pass inside an edit has ... masks")
def _(given):
    inputs = given.tiny.tokenizer(["the capital of Ireland is Dublin"], return_tensors="pt")
    with kn.suppress(given.tiny, [(0, 1)]):
        given.tiny.model(**inputs)


# Runs


def run(given, *words):
    given.patch.setattr(sys, "argv", ["kn_utils.paper", "--out", str(given.folder / "run"), *map(str, words)])
    command.main()


@refused("out is ''")
def _(given):
    run(given, "--out", "")


@refused("prompts is '...', but the lab's facts have sentences of their own")
def _(given):
    run(given, "--prompts", given.folder)


@refused("relation '...' is given twice")
def _(given):
    run(given, "--relations", "P36", "P36")


@refused("experiment '...' erases ...")
def _(given):
    run(given, "--experiment", "erase", "--relations", "P36")


@refused("'...' holds a run with other ...")
def _(given):
    for seed in (0, 1):
        run_experiments(n_facts=2, experiment="find", seed=seed, out=given.folder)


@refused("description of a run '...' is damaged, truncated or not JSON")
def _(given):
    (given.folder / "run").mkdir()
    (given.folder / "run" / "run.json").write_bytes(b"{")
    run(given)


@refused("run folder '...' cannot be used")
def _(given):
    (given.folder / "run").write_text("a file")
    run(given)


@refused("stopped: what is finished is kept in '...'")
def _(given):
    def stop(**options):
        raise KeyboardInterrupt

    given.patch.setattr(command, "run_experiments", stop)
    run(given)
