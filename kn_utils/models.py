"""A language model and its feed-forward neurons. The only file that knows where an architecture keeps its FFN.

A *knowledge neuron* is one input of an FFN's second linear map (the down projection), read where the model answers:
`FFN(h) = gelu(h W1) W2`, the neuron's activation is an entry of `gelu(h W1)` and its *value slot* the matching row of
`W2`. In a gated FFN (Llama) it is an entry of `act(h G) * (h W1)`. Dai et al. 2022, section 2.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

LAB_FOLDER = Path(__file__).parent / "lab"
LAB_MODELS = {"lab": LAB_FOLDER / "model", "lab-causal": LAB_FOLDER / "causal"}


class Architecture(NamedTuple):
    """Where a model keeps its FFNs, and how it is asked."""

    kind: str  # "masked": answers at [MASK]; "causal": after the prompt; "seq2seq": in the decoder
    layers: str  # the names of its layers, a pattern
    down_projection: str  # within a layer
    norm: str | None = None  # within a layer, what normalises its sum with the FFN's output, where something does
    attention: str | None = None  # within a layer, if it is one like BERT's; only makes it faster


BERT_LAYER = "output.dense", "output.LayerNorm", "attention.self"
# To add one, say where its layers and their second FFN maps are, and what normalises the sums after these, if anything
# does: print(model) shows it. tests/test_architectures.py then checks everything on a tiny random model of that kind;
# give it a line there, too.
ARCHITECTURES = {
    "bert": Architecture("masked", r"bert\.encoder\.layer\.\d+", *BERT_LAYER),
    "roberta": Architecture("masked", r"roberta\.encoder\.layer\.\d+", *BERT_LAYER),
    "electra": Architecture("masked", r"electra\.encoder\.layer\.\d+", *BERT_LAYER),
    "distilbert": Architecture("masked", r"distilbert\.transformer\.layer\.\d+", "ffn.lin2", "output_layer_norm"),
    "albert": Architecture(
        "masked", r"albert\.encoder\.\w+\.\d+\.albert_layers\.\d+", "ffn_output", "full_layer_layer_norm"
    ),
    "gpt2": Architecture("causal", r"transformer\.h\.\d+", "mlp.c_proj"),
    "gpt_neo": Architecture("causal", r"transformer\.h\.\d+", "mlp.c_proj"),
    "gptj": Architecture("causal", r"transformer\.h\.\d+", "mlp.fc_out"),
    "gpt_neox": Architecture("causal", r"gpt_neox\.layers\.\d+", "mlp.dense_4h_to_h"),
    "llama": Architecture("causal", r"model\.layers\.\d+", "mlp.down_proj"),
    "mistral": Architecture("causal", r"model\.layers\.\d+", "mlp.down_proj"),
    "qwen2": Architecture("causal", r"model\.layers\.\d+", "mlp.down_proj"),
    "qwen3": Architecture("causal", r"model\.layers\.\d+", "mlp.down_proj"),
    "opt": Architecture("causal", r"model\.decoder\.layers\.\d+", "fc2", "final_layer_norm"),
    "t5": Architecture("seq2seq", r"decoder\.block\.\d+", "layer.2.DenseReluDense.wo"),
}
AUTO_MODELS = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}
# What may multiply matrices. The residual stream stays float32 in each.
PRODUCTS = ("float32", "tf32", "float16")


class Neuron(NamedTuple):
    """One FFN neuron: `layer` and `index`, both from 0."""

    layer: int
    index: int


@dataclass(frozen=True)
class LanguageModel:
    """A language model in evaluation mode, its parameters frozen, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[nn.Module, ...]  # in the order in which they run; ALBERT's are one module, many times
    down_projections: tuple[nn.Module, ...]
    products: str = "float32"
    max_memory: int | None = None  # bytes

    @property
    def kind(self) -> str:
        return ARCHITECTURES[self.model.config.model_type].kind

    def norm(self, layer: int) -> nn.Module | None:
        """What normalises the sum with the FFN's output, in a model that normalises it there."""
        path, module = ARCHITECTURES[self.model.config.model_type].norm, self.layers[layer]
        if path is None or getattr(module, "do_layer_norm_before", False):  # OPT has both kinds
            return None
        return module.get_submodule(path)

    def attention(self, layer: int) -> nn.Module | None:
        """A layer's self-attention, where it is known to have `query`, `key`, `value` and a cache."""
        path = ARCHITECTURES[self.model.config.model_type].attention
        return self.layers[layer].get_submodule(path) if path else None

    @property
    def n_layers(self) -> int:
        return len(self.down_projections)

    @property
    def n_neurons(self) -> int:
        """FFN neurons of one layer."""
        return self.value_slots(0).shape[1]

    @property
    def hidden_size(self) -> int:
        return self.value_slots(0).shape[0]

    @property
    def device(self) -> torch.device:
        return self.down_projections[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.down_projections[0].weight.dtype

    def value_slots(self, layer: int) -> Tensor:
        """What each neuron of a layer writes into the residual stream, a view into the weights.  # (hidden, neurons)"""
        module = self.down_projections[layer]
        return module.weight.T if isinstance(module, Conv1D) else module.weight

    def value_slot(self, neuron: Neuron) -> Tensor:
        """The vector that `neuron` writes into the residual stream, a view into the weights.  # (hidden,)"""
        return self.value_slots(neuron.layer)[:, neuron.index]

    def embedding(self, token: str) -> Tensor:
        """The input embedding of the one-token string `token`.  # (hidden,)"""
        return self.model.get_input_embeddings().weight[answer_id(self, token)]

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Within the block, matrices are multiplied as `products` says."""
        precision = torch.get_float32_matmul_precision()
        try:
            torch.set_float32_matmul_precision("high" if self.products == "tf32" else precision)
            half = self.products == "float16"
            with torch.autocast(self.device.type, torch.float16) if half else nullcontext():
                yield
        finally:
            torch.set_float32_matmul_precision(precision)


def load_model(
    name: str | Path = "lab",
    device: str | torch.device | None = None,
    products: str = "float32",
    max_memory: int | None = None,
) -> LanguageModel:
    """Load `"lab"` or `"lab-causal"` (shipped), a Hugging Face id such as `"bert-base-cased"`, or a local folder.

    Only safetensors weights are read and no remote code is run.

    Args:
        device: a GPU where there is one, by default.
        products: the precision of matrix products, one of PRODUCTS; all else stays float32. "tf32" needs a GPU that
            has it, "float16" is for GPUs, too.
        max_memory: bytes that one forward pass may take, gradients included; by default 1 GiB on a CPU, half of what
            is free on a GPU.

    Raises:
        ValueError: the model has no language-model head, its architecture is not in `ARCHITECTURES`, or `products` is
            unknown.
        OSError: no such folder or id, or the hub cannot be reached.
    """
    source = str(LAB_MODELS.get(name, name))
    try:
        config = AutoConfig.from_pretrained(source)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"model {name!r} cannot be loaded ({reason}): pass 'lab', a folder or an id of the hub") from None
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"model {name!r} is a {config.model_type!r}, not one of {sorted(ARCHITECTURES)}: choose one of these, or "
            "add a line that says where its FFNs are to ARCHITECTURES in kn_utils/models.py"
        )
    kind = ARCHITECTURES[config.model_type].kind
    model, report = AUTO_MODELS[kind].from_pretrained(
        source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(
            f"model {name!r} has no {kind}-LM head (its file lacks {sorted(report['missing_keys'])[0]!r}): "
            f"load a checkpoint saved from {type(model).__name__}"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return wrap_model(model.to(device), AutoTokenizer.from_pretrained(source), products, max_memory)


def wrap_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    products: str = "float32",
    max_memory: int | None = None,
) -> LanguageModel:
    """Freeze `model` and find its layers and their FFNs.

    Raises:
        ValueError: `products` is unknown, or the weights have half precision.
    """
    if products not in PRODUCTS:
        raise ValueError(f"products {products!r} is unknown: choose one of {PRODUCTS}")
    if model.dtype in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"the model's weights are {model.dtype}: so coarse a residual stream changes which neurons are found; load "
            "it in float32, and pass products='float16' for speed"
        )
    model.eval().requires_grad_(False)
    architecture = ARCHITECTURES[model.config.model_type]
    layers = [module for name, module in model.named_modules() if re.fullmatch(architecture.layers, name)]
    layers = _in_order_of_use(model, layers)
    slots = tuple(layer.get_submodule(architecture.down_projection) for layer in layers)
    return LanguageModel(model, tokenizer, layers, slots, products, max_memory)


@torch.no_grad()
def _in_order_of_use(model: PreTrainedModel, layers: list[nn.Module]) -> tuple[nn.Module, ...]:
    """The layers as a forward pass calls them; one that is shared comes as often as it is called."""
    used: list[nn.Module] = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: used.append(module)) for layer in layers]
    ids = torch.tensor([[2, 2]], device=model.device)  # any two tokens
    model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    for hook in hooks:
        hook.remove()
    return tuple(used)


def weights_digest(lm: LanguageModel) -> str:
    """sha256 of all weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def answer_ids(lm: LanguageModel, answer: str) -> list[int]:
    """The tokens of an answer that follows a word: with the space before it, where the vocabulary has one.

    Raises:
        ValueError: `answer` is empty or not in the vocabulary.
    """
    before, both = lm.tokenizer(["a", f"a {answer.strip()}"], add_special_tokens=False)["input_ids"]
    ids = both[len(before) :]
    if not ids or lm.tokenizer.unk_token_id in ids:
        raise ValueError(f"answer {answer!r} is unknown to the vocabulary: choose an answer the model can say")
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
