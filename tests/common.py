"""Shared by the tests: tiny random models, plain hooks to check the library against, and the form of an error."""

import io
import re
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import platformdirs
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

import kn_utils as kn
from kn_utils.loading import wrap_model

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = """the capital of is in and city big small old has its , . a Ireland France Spain Peru Dublin Paris Madrid Lima
    Rome it river north south ' s very Ice ##land ##er""".split()
PROMPTS = [  # of different lengths, the mask first, in the middle and last
    "the capital of Ireland is [MASK].",
    "[MASK] is the capital of Ireland.",
    "[MASK].",
    "in the north of the very old Ireland, the big city and capital is [MASK].",
    "Ireland has its capital in [MASK]",
]
TEMPLATES = ["the capital of {} is [MASK].", "[MASK] is the capital of {}.", "in {}, the capital city is [MASK].",
             "{} has its capital in [MASK]."]  # fmt: skip
CAPITALS = {"Ireland": "Dublin", "France": "Paris", "Spain": "Madrid", "Peru": "Lima", "Iceland": "Rome"}
FACTS = [
    kn.Fact(subject, "P36(capital)", answer, tuple(t.format(subject) for t in TEMPLATES), (f"{subject}: [MASK]",))
    for subject, answer in CAPITALS.items()
]


def tiny_tokenizer(words=WORDS):
    vocabulary = {token: i for i, token in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    return BertTokenizerFast(vocab=vocabulary, do_lower_case=False)


def tiny_config(tokenizer, config_class=BertConfig, **changes):
    """A configuration small enough for the tests, with weights large enough for its layers to matter."""
    shape = dict(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=40, initializer_range=0.25, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return config_class(**{**shape, **changes})


def tiny_model(
    model_class=BertForMaskedLM, config_class=BertConfig, dtype=torch.float32, seed=2, words=WORDS, **changes
):
    """A random masked language model, the same one at every call."""
    tokenizer = tiny_tokenizer(words)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(tiny_config(tokenizer, config_class, **changes))
    return wrap_model(model.to(dtype), tokenizer)


def save_tiny(folder, model_class=BertForMaskedLM, config_class=BertConfig, **options):
    """A folder with a random model and its tokenizer, as `load_model` takes it."""
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    model_class(tiny_config(tokenizer, config_class, **options)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def hooked(lm, layer, change):
    """Within the block, the activations at the mask become `change(activations)`: one prompt's copies at a time.

    Where there is no mask, it is the last token.
    """

    position = None

    def find_position(module, args, kwargs):
        nonlocal position
        ids, mask = kwargs["input_ids"][0].tolist(), lm.tokenizer.mask_token_id
        position = ids.index(mask) if mask in ids else len(ids) - 1

    def hook(module, args):
        activations = args[0].clone()  # (copies, tokens, neurons)
        activations[:, position] = change(activations[:, position])
        return activations

    handles = [
        lm.model.register_forward_pre_hook(find_position, with_kwargs=True),
        lm.down_projections[layer].register_forward_pre_hook(hook),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def plain_probability(lm, prompt, answer, copies=1):
    """P(answer) at the mask of one prompt, from the model's own forward pass.  # (copies,)"""
    if lm.kind == "causal":
        *ids, target = lm.tokenizer(prompt.split("[MASK]")[0] + answer)["input_ids"]
        return lm.model(input_ids=torch.tensor([ids] * copies), use_cache=False).logits[:, -1].softmax(-1)[:, target]
    inputs = lm.tokenizer([prompt] * copies, return_tensors="pt")
    position = inputs["input_ids"][0].tolist().index(lm.tokenizer.mask_token_id)
    logits = lm.model(**inputs).logits[:, position]
    return logits.softmax(-1)[:, lm.tokenizer.convert_tokens_to_ids(answer)]


def asked_within(lm, facts, edits):
    """`ask` each fact within its own edit, one after another."""
    tables = []
    for fact, edit in zip(facts, edits, strict=True):
        with edit:
            tables.append(kn.ask(lm, [fact]))
    return pd.concat(tables, ignore_index=True)


def snapshot(lm):
    """A copy of every weight, and the number of hooks: what an edit must leave as it was."""
    weights = {name: tensor.clone() for name, tensor in lm.model.state_dict().items()}
    return weights, sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in lm.model.modules())


def assert_unchanged(lm, before):
    weights, n_hooks = snapshot(lm)
    assert n_hooks == before[1]
    assert weights.keys() == before[0].keys()
    assert all(torch.equal(weights[name], before[0][name]) for name in weights)


@contextmanager
def one_line_error(kind, *names):
    """The block raises `kind` with a message of one line that holds every one of `names`."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    assert all(str(name) in message for name in names), message


def printed(value):
    """A name for a test's parameter that is the same in every process: without addresses."""
    return re.sub(r" at 0x\w+", "", str(value))


def serve(files, monkeypatch, cache, release=""):
    """A stand-in for the network that serves these files, texts or bytes by address, and an empty cache.

    Args:
        release: what all addresses of the files begin with.

    Returns:
        The list of addresses that are asked for.
    """
    asked = []

    def urlopen(address, timeout):
        asked.append(address)
        if (path := address.removeprefix(release)) not in files:
            raise urllib.error.HTTPError(address, 404, "Not Found", None, None)
        content = files[path]
        return io.BytesIO(content if isinstance(content, bytes) else content.encode())

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(cache / name))
    return asked


def cached_files(cache):
    """The names of all files below a folder."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def shared_file(*parts):
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared/data/{'/'.join(parts)} is not beside this checkout: the authors' data is not tested")
    return path
