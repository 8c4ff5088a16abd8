"""A language model and its feed-forward neurons. The only file that knows where an architecture keeps its FFN.

A *knowledge neuron* is one input of an FFN's second linear map (the down projection), read where the model answers:
`FFN(h) = gelu(h W1) W2`, the neuron's activation is an entry of `gelu(h W1)` and its *value slot* the matching row of
`W2`. In a gated FFN (Llama) it is an entry of `act(h G) * (h W1)`. Dai et al. 2022, section 2.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D


class Architecture(NamedTuple):
    """Where a model keeps its FFNs, and how it is asked."""

    kind: str  # "masked": answers at [MASK]; "causal": after the prompt; "seq2seq": in the decoder
    layers: str  # the names of its layers, a pattern
    down_projection: str  # within a layer
    norm: str | None = None  # within a layer, what normalises its sum with the FFN's output, where something does
    head: tuple[str, ...] = ()  # from the last layer to the logits, the output embeddings of causal models left out
    key_and_value: tuple[str, str] | None = None  # within a layer of a masked model; only makes it faster


BERT_MAPS = "attention.self.key", "attention.self.value"
LLAMA = Architecture("causal", r"model\.layers\.\d+", "mlp.down_proj", head=("model.norm",))


def _bert(name: str, head: tuple[str, ...]) -> Architecture:
    return Architecture("masked", rf"{name}\.encoder\.layer\.\d+", "output.dense", "output.LayerNorm", head, BERT_MAPS)


# To add one, say where its layers and their second FFN maps are, what normalises the sums after these, if anything
# does, and its head, without which there are whole passes only: print(model) shows all. tests/test_architectures.py
# then checks everything on a tiny random model of that kind; give it a line in tests/families.py, too.
ARCHITECTURES = {
    "bert": _bert("bert", ("cls",)),
    "roberta": _bert("roberta", ("lm_head",)),
    "electra": _bert("electra", ("generator_predictions", "generator_lm_head")),
    "distilbert": Architecture(
        "masked", r"distilbert\.transformer\.layer\.\d+", "ffn.lin2", "output_layer_norm",
        ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),
        ("attention.k_lin", "attention.v_lin"),
    ),
    "albert": Architecture(
        "masked", r"albert\.encoder\.\w+\.\d+\.albert_layers\.\d+", "ffn_output", "full_layer_layer_norm",
        ("predictions",), ("attention.key", "attention.value"),
    ),
    "gpt2": Architecture("causal", r"transformer\.h\.\d+", "mlp.c_proj", head=("transformer.ln_f",)),
    "gpt_neo": Architecture("causal", r"transformer\.h\.\d+", "mlp.c_proj"),
    "gptj": Architecture("causal", r"transformer\.h\.\d+", "mlp.fc_out", head=("transformer.ln_f",)),
    "gpt_neox": Architecture(
        "causal", r"gpt_neox\.layers\.\d+", "mlp.dense_4h_to_h", head=("gpt_neox.final_layer_norm",)
    ),
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA,
    "opt": Architecture(
        "causal", r"model\.decoder\.layers\.\d+", "fc2", "final_layer_norm",
        ("model.decoder.final_layer_norm", "model.decoder.project_out"),
    ),
    "t5": Architecture("seq2seq", r"decoder\.block\.\d+", "layer.2.DenseReluDense.wo"),
}  # fmt: skip
# What may multiply matrices. The residual stream stays float32 in each.
PRECISIONS = ("float32", "tf32", "float16")
NOT_NUMBERS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}  # of a configuration


class Neuron(NamedTuple):
    """One FFN neuron: `layer` and `index`, both from 0.

    Example:
        >>> kn.Neuron(layer=2, index=13) in neurons
        True
    """

    layer: int
    index: int


@dataclass(frozen=True)
class LanguageModel:
    """A language model in evaluation mode, its parameters frozen, and its tokenizer; `load_model` makes one.

    Example:
        >>> lm.kind, lm.n_layers, lm.n_neurons, lm.hidden_size
        ('masked', 4, 512, 128)
        >>> lm.value_slot(kn.Neuron(layer=2, index=13)).shape
        torch.Size([128])
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[nn.Module, ...]  # in the order in which they run; ALBERT's are one module, many times
    down_projections: tuple[nn.Module, ...]
    precision: str = "float32"
    max_memory: int | None = None  # bytes
    fast: bool = False  # whether layers may run on their own; see engine/self_check.py

    @property
    def architecture(self) -> Architecture:
        """Where this model keeps its FFNs, and how it is asked."""
        return ARCHITECTURES[self.model.config.model_type]

    @property
    def kind(self) -> str:
        """It answers at `[MASK]` ("masked"), after the prompt ("causal") or in the decoder ("seq2seq")."""
        return self.architecture.kind

    def norm(self, layer: int) -> nn.Module | None:
        """What normalises the sum with the FFN's output, in a model that normalises it there."""
        path, module = self.architecture.norm, self.layers[layer]
        if path is None or getattr(module, "do_layer_norm_before", False):  # OPT has both kinds
            return None
        return module.get_submodule(path)

    @property
    def head(self) -> tuple[nn.Module, ...]:
        """What turns the last layer's output into logits, in turn."""
        found = [self._find(path) for path in self.architecture.head]
        found += [self.model.get_output_embeddings()] if self.kind == "causal" else []
        return tuple(module for module in found if module is not None)

    def key_and_value_maps(self, layer: int) -> tuple[nn.Module, nn.Module] | None:
        """What maps a layer's hidden states to its keys and values, where that is known."""
        paths = self.architecture.key_and_value
        return paths and tuple(self.layers[layer].get_submodule(path) for path in paths)

    def _find(self, path: str) -> nn.Module | None:
        """A part of the model; None where this model has nothing there: OPT's norm and projection before the head."""
        parent, _, name = path.rpartition(".")
        return getattr(self.model.get_submodule(parent), name)

    @property
    def is_smooth(self) -> bool:
        """Whether its activation functions have no kinks, so that few nodes can stand for many points of a path."""
        return not any(isinstance(module, nn.ReLU) for module in self.model.modules())

    @property
    def max_tokens(self) -> int:
        """The longest prompt that the model can read, special tokens included."""
        config = self.model.config
        longest = [n for n in (getattr(config, "max_position_embeddings", None), self.tokenizer.model_max_length) if n]
        if config.model_type == "roberta":  # its positions count from the padding token's id on
            longest[0] -= config.pad_token_id + 1
        return min(longest)

    @property
    def n_layers(self) -> int:
        """Layers with an FFN; of a seq2seq model those of the decoder."""
        return len(self.down_projections)

    @property
    def n_neurons(self) -> int:
        """FFN neurons of one layer."""
        return self.value_slots(0).shape[1]

    @property
    def hidden_size(self) -> int:
        """The width of the residual stream."""
        return self.value_slots(0).shape[0]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.down_projections[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, float32 as a rule."""
        return self.down_projections[0].weight.dtype

    def value_slots(self, layer: int) -> Tensor:
        """What each neuron of a layer writes into the residual stream, a view into the weights.  # (hidden, neurons)"""
        module = self.down_projections[layer]
        return module.weight.T if isinstance(module, Conv1D) else module.weight

    def value_slot(self, neuron: Neuron) -> Tensor:
        """The vector that `neuron` writes into the residual stream, a view into the weights.  # (hidden,)"""
        return self.value_slots(neuron.layer)[:, neuron.index]

    def embedding(self, token: str) -> Tensor:
        """The input embedding of the one-token string `token`.  # (hidden,)

        Raises:
            ValueError: a text that is not one token.
        """
        return self.model.get_input_embeddings().weight[answer_id(self, token)]

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Within the block, matrices are multiplied in the model's `precision`."""
        before = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("high" if self.precision == "tf32" else before)
            half = self.precision == "float16"
            with torch.autocast(self.device.type, torch.float16) if half else nullcontext():
                yield
        finally:
            torch.set_float32_matmul_precision(before)


def model_digest(lm: LanguageModel) -> str:
    """sha256 of all on which a model's numbers depend: weights, configuration, vocabulary and precision.

    Whatever file they came from.
    """
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    config = lm.model.config.to_diff_dict()
    config = {name: value for name, value in config.items() if name not in NOT_NUMBERS}
    about = [config, sorted(lm.tokenizer.get_vocab().items()), lm.precision]
    digest.update(json.dumps(about, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def answer_ids(lm: LanguageModel, answer: str, before: str = "a ") -> list[int]:
    """The tokens of an answer that stands after the text `before`: after a space, where the vocabulary has one.

    Args:
        before: after a word, by default. At the start of a text, or right after a bracket, some vocabularies write
            words in another way.

    Raises:
        ValueError: `answer` is empty or not in the vocabulary, or cannot be told from what stands before it.
    """
    if not isinstance(answer, str):
        raise ValueError(f"answer {answer!r} is no text: pass a string")
    answer, spaced = answer.strip(), before.endswith(" ")
    start = "a" if spaced else before[-1:]
    text = start + " " * spaced + answer
    first, both = (lm.tokenizer(t, add_special_tokens=False)["input_ids"] if t else [] for t in (start, text))
    ids = both[len(first) :]
    if not answer or not ids or lm.tokenizer.unk_token_id in ids:
        raise ValueError(f"answer {answer!r} is unknown to the vocabulary: choose an answer the model can say")
    if special := [token for token in lm.tokenizer.all_special_tokens if token in answer]:
        raise ValueError(f"answer {answer!r} holds the special token {special[0]!r}: leave it out")
    if both[: len(first)] != first:
        raise ValueError(f"answer {answer!r} melts with the {start!r} before it: put a space before [MASK]")
    return ids


def answer_id(lm: LanguageModel, answer: str) -> int:
    """The vocabulary index of a one-token answer.

    Raises:
        ValueError: `answer` is not in the vocabulary, or takes more than one token.
    """
    ids = answer_ids(lm, answer)
    if len(ids) > 1:
        pieces = lm.tokenizer.convert_ids_to_tokens(ids)
        raise ValueError(f"answer {answer!r} takes {len(ids)} tokens {pieces}: choose an answer of exactly one token")
    return ids[0]
