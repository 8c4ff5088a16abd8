"""A masked language model and its feed-forward neurons. The only file that knows where an architecture keeps its FFN.

A *knowledge neuron* is one input of an FFN's second linear map (the down projection), read at the `[MASK]`:
`FFN(h) = gelu(h W1) W2`, the neuron's activation is an entry of `gelu(h W1)` and its *value slot* the matching row of
`W2` (a column of PyTorch's `weight`). Dai et al. 2022, section 2.
"""

import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

LAB_FOLDER = Path(__file__).parent / "lab" / "model"

# model_type -> where the layers are, and the down projection within each.
DOWN_PROJECTIONS = {
    "bert": (r"bert\.encoder\.layer\.\d+", "output.dense"),
    "roberta": (r"roberta\.encoder\.layer\.\d+", "output.dense"),
    "electra": (r"electra\.encoder\.layer\.\d+", "output.dense"),
    "distilbert": (r"distilbert\.transformer\.layer\.\d+", "ffn.lin2"),
}


ROWS = 256  # prompts, or copies of them, in one forward pass; more is not faster on a CPU
MEMORY = 2**30  # bytes that a forward pass may take, gradients included


class Neuron(NamedTuple):
    """One FFN neuron: `layer` and `index`, both from 0."""

    layer: int
    index: int


@dataclass(frozen=True)
class LanguageModel:
    """A masked language model in evaluation mode, its parameters frozen, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: tuple[nn.Module, ...]
    down_projections: tuple[nn.Linear, ...]

    @property
    def n_layers(self) -> int:
        return len(self.down_projections)

    @property
    def n_neurons(self) -> int:
        """FFN neurons of one layer."""
        return self.down_projections[0].in_features

    @property
    def device(self) -> torch.device:
        return self.down_projections[0].weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.down_projections[0].weight.dtype

    def value_slot(self, neuron: Neuron) -> Tensor:
        """The vector that `neuron` writes into the residual stream, a view into the weights.  # (hidden,)"""
        return self.down_projections[neuron.layer].weight[:, neuron.index]

    def embedding(self, token: str) -> Tensor:
        """The input embedding of the one-token string `token`.  # (hidden,)"""
        return self.model.get_input_embeddings().weight[answer_id(self, token)]


def load_model(name: str | Path = "lab", device: str | torch.device | None = None) -> LanguageModel:
    """Load `"lab"` (the shipped model), a Hugging Face id such as `"bert-base-cased"`, or a local folder.

    Only safetensors weights are read and no remote code is run. `device` defaults to a GPU where there is one.

    Raises:
        ValueError: the model has no masked-LM head, or its architecture is not in `DOWN_PROJECTIONS`.
        OSError: no such folder or id, or the hub cannot be reached.
    """
    source = str(LAB_FOLDER if name == "lab" else name)
    try:
        config = AutoConfig.from_pretrained(source)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise OSError(f"model {name!r} cannot be loaded ({reason}): pass 'lab', a folder or an id of the hub") from None
    if config.model_type not in DOWN_PROJECTIONS:
        raise ValueError(
            f"model {name!r} is a {config.model_type!r}, not one of {sorted(DOWN_PROJECTIONS)}: "
            "choose one of these, or add where its FFN is to DOWN_PROJECTIONS in kn_utils/models.py"
        )
    model, report = AutoModelForMaskedLM.from_pretrained(
        source, use_safetensors=True, dtype=torch.float32, output_loading_info=True
    )
    if report["missing_keys"]:
        raise ValueError(
            f"model {name!r} has no masked-LM head (its file lacks {sorted(report['missing_keys'])[0]!r}): "
            "load a checkpoint saved from a ...ForMaskedLM class"
        )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return wrap_model(model.to(device), AutoTokenizer.from_pretrained(source))


def wrap_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> LanguageModel:
    """Freeze `model` and find its layers and their FFNs."""
    model.eval().requires_grad_(False)
    path, down_projection = DOWN_PROJECTIONS[model.config.model_type]
    layers = tuple(module for name, module in model.named_modules() if re.fullmatch(path, name))
    return LanguageModel(model, tokenizer, layers, tuple(layer.get_submodule(down_projection) for layer in layers))


def weights_digest(lm: LanguageModel) -> str:
    """sha256 of all weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in lm.model.state_dict().items():
        digest.update(name.encode() + tensor.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def answer_id(lm: LanguageModel, answer: str) -> int:
    """The vocabulary index of a one-token answer.

    Raises:
        ValueError: `answer` is not in the vocabulary, or takes more than one token.
    """
    pieces = lm.tokenizer.tokenize(answer)
    if len(pieces) == 1 and pieces[0] != lm.tokenizer.unk_token:
        return lm.tokenizer.convert_tokens_to_ids(pieces[0])
    if not pieces or lm.tokenizer.unk_token in pieces:
        raise ValueError(f"answer {answer!r} is unknown to the vocabulary: choose an answer the model can say")
    raise ValueError(f"answer {answer!r} takes {len(pieces)} tokens {pieces}: choose an answer of exactly one token")


def encode(lm: LanguageModel, prompts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """Tokenize `prompts`, padded to the longest, and find the mask of each.

    Returns:
        The model's inputs, each (prompts, tokens), and the masks' positions (prompts,).

    Raises:
        ValueError: no prompts, or one without exactly one mask.
    """
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the string {prompts!r}: pass a list of prompts, such as [{prompts!r}]")
    if len(prompts) == 0:
        raise ValueError("prompts is empty: pass at least one prompt with one mask")
    inputs = lm.tokenizer(list(prompts), padding=True, return_tensors="pt").to(lm.device)
    is_mask = inputs["input_ids"] == lm.tokenizer.mask_token_id  # (prompts, tokens)
    for prompt, n_masks in zip(prompts, is_mask.sum(1).tolist(), strict=True):
        if n_masks != 1:
            mask = lm.tokenizer.mask_token
            raise ValueError(f"prompt {prompt!r} has {n_masks} masks: write exactly one {mask} where the answer goes")
    return dict(inputs), is_mask.int().argmax(1)


Edit = Callable[[int, Tensor], Tensor]


@contextmanager
def edit_activations(lm: LanguageModel, edit: Edit) -> Iterator[None]:
    """Within the block, each layer's FFN activations at the mask become `edit(layer, activations)`.

    They have shape (prompts, neurons). Reading is editing by the identity.
    Every forward pass of `lm.model` is affected, and nothing remains afterwards.

    >>> with edit_activations(lm, lambda layer, w: 0 * w):   # switch off every neuron at the mask
    ...     answer_probability(lm, ["The capital of Ireland is [MASK]."], "Dublin")
    """
    position = None  # (prompts,) of the forward pass that is running

    def remember_mask(module, args, kwargs):
        nonlocal position
        input_ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        position = (input_ids == lm.tokenizer.mask_token_id).int().argmax(1)

    def edit_at_mask(layer):
        def hook(module, args):
            (activations,) = args  # (prompts, tokens, neurons)
            rows = torch.arange(len(activations), device=activations.device)
            own = position[: len(rows)]  # a layer that is taken up again has the first of the copies' prompts
            at_mask = activations[rows, own]
            edited = edit(layer, at_mask)
            if edited is at_mask:
                return None  # read only
            return activations.index_put((rows, own), edited.to(activations.dtype))

        return hook

    with ExitStack() as hooks:
        hooks.enter_context(lm.model.register_forward_pre_hook(remember_mask, with_kwargs=True))
        for layer, module in enumerate(lm.down_projections):
            hooks.enter_context(module.register_forward_pre_hook(edit_at_mask(layer)))
        yield


def mask_logits(lm: LanguageModel, inputs: dict[str, Tensor], position: Tensor) -> Tensor:
    """Logits over the vocabulary at the mask; the head runs there only.  # (prompts, vocabulary)"""

    def keep_mask(module, args, output):  # (prompts, tokens, hidden) -> (prompts, 1, hidden)
        return output[torch.arange(len(position), device=position.device), position][:, None]

    with lm.layers[-1].register_forward_hook(keep_mask):
        return lm.model(**inputs).logits[:, 0]


def log_odds(logits: Tensor, target: Tensor) -> Tensor:
    """log(P / (1 - P)) of each row's target token, exact also where P is close to 0 or 1.  # (rows,)

    P is its sigmoid, log P its log-sigmoid.
    """
    others = logits.scatter(1, target[:, None], -torch.inf)
    return logits.gather(1, target[:, None])[:, 0] - others.logsumexp(1)


def batches(
    lm: LanguageModel, prompts: Sequence[str], n_copies: int = 1
) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """`prompts` in batches of which `n_copies` fit into one forward pass; prompts of one length go together.

    Yields:
        (rows, inputs, position): which prompts these are (batch,), and what `encode` returns for them, unpadded.
    """
    inputs, position = encode(lm, prompts)  # checks every prompt before the first batch runs
    lengths = inputs["attention_mask"].sum(1)
    order = lengths.argsort(stable=True)
    for _, rows in itertools.groupby(order.tolist(), key=lengths.tolist().__getitem__):
        length = int(lengths[(rows := list(rows))[0]])
        token = 4 * lm.n_layers * (12 * lm.model.config.hidden_size + 3 * lm.n_neurons)  # bytes that gradients need
        size = max(1, min(ROWS, MEMORY // (token * length)) // n_copies)
        for chunk in torch.tensor(rows, device=lm.device).split(size):
            yield chunk, {name: tensor[chunk, :length] for name, tensor in inputs.items()}, position[chunk]
