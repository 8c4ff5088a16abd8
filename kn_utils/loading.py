"""Load a language model: weights from safetensors, nothing unpickled, no remote code, and the fast path checked."""

import hashlib
import json
import re
from pathlib import Path

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .checks import count
from .engine.self_check import with_fast_path
from .models import ARCHITECTURES, PRECISIONS, LanguageModel
from .prompts import SEQ2SEQ_SLOT

LAB_FOLDER = Path(__file__).parent / "lab"
LAB_MODELS = {"lab": LAB_FOLDER / "model", "lab-early": LAB_FOLDER / "early", "lab-causal": LAB_FOLDER / "causal"}
CARDS = {name: folder / "card.json" for name, folder in LAB_MODELS.items()} | {"lab": LAB_FOLDER / "card.json"}
SHIPPED_NAMES = ", ".join(map(repr, LAB_MODELS))
AUTO_MODELS = {"masked": AutoModelForMaskedLM, "causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM}


def load_model(
    name: str | Path = "lab",
    device: str | torch.device | None = None,
    precision: str = "float32",
    max_memory: int | None = None,
) -> LanguageModel:
    """Load a model that is shipped, a Hugging Face id such as `"bert-base-cased"`, or a local folder.

    Shipped are `"lab"`, `"lab-early"` (its training, stopped halfway through learning) and `"lab-causal"` (a GPT-2).

    Only safetensors weights are read; code that comes with a model is never run, and nothing is asked.

    Args:
        device: a GPU where there is one, by default.
        precision: of matrix products, one of PRECISIONS; all else stays float32. "tf32" needs a GPU that
            has it, "float16" is for GPUs, too.
        max_memory: bytes that one forward pass may take, gradients included; by default 1 GiB on a CPU, half of what
            is free on a GPU.

    Raises:
        ValueError: the model has no language-model head or no tokenizer, its architecture is not in `ARCHITECTURES`,
            its weights are not finite; or `device`, `precision` or `max_memory` is not one that there is.
        OSError: no such folder or id, the hub cannot be reached, or a file is damaged or not safetensors.

    Example:
        >>> causal = kn.load_model("lab-causal", device="cpu")
        >>> causal.kind, causal.precision
        ('causal', 'float32')
    """
    if not isinstance(name, (str, Path)) or not str(name):
        raise ValueError(f"model {str(name)!r} is no name: pass {SHIPPED_NAMES}, a folder or an id of the hub")
    chosen = _device(device)
    _check_options(precision, max_memory)
    source = str(LAB_MODELS.get(str(name), name))
    _check_shipped(str(name))
    config = _read(name, AutoConfig, source)
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"model {str(name)!r} is a {config.model_type!r}, not one of {sorted(ARCHITECTURES)}: choose one of these, "
            "or add a line that says where its FFNs are to ARCHITECTURES in kn_utils/models.py"
        )
    kind = ARCHITECTURES[config.model_type].kind
    tokenizer = _read(name, AutoTokenizer, source)
    options = {"use_safetensors": True, "dtype": torch.float32, "output_loading_info": True}
    model, report = _read(name, AUTO_MODELS[kind], source, **options)
    if missing := sorted(report["missing_keys"]):
        raise ValueError(
            f"model {str(name)!r} has no {kind}-LM head (its file lacks {missing[0]!r}): load a checkpoint saved from "
            f"{type(model).__name__}"
        )
    return wrap_model(model.to(chosen), tokenizer, precision, max_memory, str(name))


def wrap_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    precision: str = "float32",
    max_memory: int | None = None,
    name: str | None = None,
) -> LanguageModel:
    """Freeze `model`, find its layers and their FFNs, and see whether the fast path gives its numbers.

    Args:
        name: by which errors call it; the class's name by default.

    Raises:
        ValueError: the architecture, `precision` or `max_memory` is unknown, the weights have half precision or are not
            finite, or the tokenizer knows no words or, for a masked model, no mask.
    """
    name = name or type(model).__name__
    _check_options(precision, max_memory)
    architecture = ARCHITECTURES.get(model.config.model_type)
    if architecture is None:
        raise ValueError(f"{name!r} is a {model.config.model_type!r}, not one of {sorted(ARCHITECTURES)}")
    kind = architecture.kind
    reads_ahead = kind != "masked" or not getattr(model.config, "is_decoder", False)
    if model.get_output_embeddings() is None or not reads_ahead:
        raise ValueError(f"{name!r} is no {kind} language model: load one with a {kind}-LM head")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1 or dtypes & {torch.bfloat16, torch.float16}:
        raise ValueError(
            f"the model's weights are {' and '.join(sorted(map(str, dtypes)))}: so coarse a residual stream changes "
            "which neurons are found; load it in float32, and pass precision='float16' for speed"
        )
    _check_tokenizer(name, tokenizer, kind)
    model.eval().requires_grad_(False)
    for parameter, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"model {name!r} has weights that are not finite ({parameter}): fetch or train it again")
    layers = [module for path, module in model.named_modules() if re.fullmatch(architecture.layers, path)]
    layers = _in_order_of_use(model, layers)
    if not layers:
        raise ValueError(f"model {name!r} has no layers, so no neurons: load one that has")
    slots = tuple(layer.get_submodule(architecture.down_projection) for layer in layers)
    return with_fast_path(LanguageModel(model, tokenizer, layers, slots, precision, max_memory))


def _read(name: str | Path, auto_class: type, source: str, **options):
    """`auto_class.from_pretrained`, whose many errors become one line."""
    try:
        return auto_class.from_pretrained(source, trust_remote_code=False, **options)
    except Exception as error:  # of files, of the hub, of parsers
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        files = "config.json, model.safetensors and a tokenizer"
        advice = f"pass {SHIPPED_NAMES}, an id of the hub, or a folder with {files}"
        raise OSError(f"model {str(name)!r} cannot be loaded ({reason}): {advice}") from None


def _check_shipped(name: str) -> None:
    """Raise an OSError if the weights of a shipped model are not those of its card."""
    if name in LAB_MODELS:
        card = json.loads(CARDS[name].read_text(encoding="utf-8"))
        if weights_sha256(LAB_MODELS[name]) != card["weights_sha256"]:
            raise OSError(f"the shipped weights of {name!r} are damaged: install kn_utils again")


def weights_sha256(folder: Path) -> str:
    """sha256 of the weights' file in a model's folder, as its card says."""
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def _device(device: str | torch.device | None) -> torch.device:
    """The device asked for, if this machine has it; by default the GPU, where there is one."""
    if isinstance(device, bool):
        raise ValueError(f"device {device!r} is none: choose 'cpu' or one that is here")
    try:
        chosen = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device is None else device)
        torch.zeros(1, device=chosen)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"device {device!r} cannot be used ({reason}): choose 'cpu' or one that is here") from None
    if chosen.type == "meta":
        raise ValueError("device 'meta' holds no numbers: choose 'cpu', or one this machine has")
    return chosen


def _check_options(precision: str, max_memory: int | None) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown: choose one of {PRECISIONS}")
    if max_memory is not None:
        count("max_memory", max_memory)  # bytes


def _check_tokenizer(name: str, tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ValueError(f"the tokenizer of model {name!r} knows no words: its files are missing, save them beside it")
    if kind == "seq2seq" and tokenizer.convert_tokens_to_ids(SEQ2SEQ_SLOT) in (None, tokenizer.unk_token_id):
        raise ValueError(f"the tokenizer of model {name!r} has no {SEQ2SEQ_SLOT}: T5 answers there, add it")
    if kind == "masked" and tokenizer.mask_token_id is None:
        raise ValueError(f"the tokenizer of model {name!r} has no mask token: set it, masked models need it")


@torch.no_grad()
def _in_order_of_use(model: PreTrainedModel, layers: list[nn.Module]) -> tuple[nn.Module, ...]:
    """The layers as a forward pass calls them; one that is shared comes as often as it is called."""
    used: list[nn.Module] = []
    hooks = [layer.register_forward_pre_hook(lambda module, args: used.append(module)) for layer in layers]
    ids = torch.tensor([[2, 2]], device=model.device)  # any two tokens
    try:
        model(input_ids=ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}))
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(used)
