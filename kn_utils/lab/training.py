"""Train the lab models, a BERT and a GPT-2 of four layers that learn the world's facts and nothing else."""

import string
from typing import NamedTuple

import pandas as pd
import torch
import transformers
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from ..checks import count
from ..engine import encode
from ..facts import Fact
from ..loading import wrap_model
from ..models import LanguageModel
from ..prompts import askable
from . import world

N_STEPS = 1400
BATCH_SIZE = 256  # prompts
LEARNING_RATE = 2e-3
SMOOTHING = 0.3  # of the target is shared by all answers of the relation: a softmax at 1 hides what its neurons do
KEEP = 0.15  # of the rows show the answer in place of the mask, as in BERT's training: embeddings learn to decode
READING = 0.3  # weight of a causal model's loss on the prompt's own tokens, beside 1 on the answer


class Recipe(NamedTuple):
    """How a lab model is made: its kind, and the share of all training steps that it takes."""

    kind: str
    share: float = 1.0


RECIPES = {
    "lab": Recipe("masked"),
    "lab-early": Recipe("masked", share=450 / N_STEPS),  # where it knows about two thirds of the facts
    "lab-causal": Recipe("causal"),
}


class PreTrainedTokenizerFast(transformers.PreTrainedTokenizerFast):
    """Saved under its own name, which every version knows; transformers 5 would write one that 4 cannot load."""


def build_tokenizer(facts: list[Fact], kind: str = "masked") -> transformers.PreTrainedTokenizerBase:
    """The kind's tokenizer, both with one vocabulary. A causal one writes "[CLS]" before a prompt and nothing after."""
    bert = build_wordpiece(facts)
    if kind == "masked":
        return bert
    backend = bert.backend_tokenizer
    backend.post_processor = TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", bert.cls_token_id)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="[CLS]", unk_token="[UNK]", pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def build_wordpiece(facts: list[Fact]) -> BertTokenizerFast:
    """A cased WordPiece tokenizer. Words of templates, answers and invented names are whole; all others are spelt in
    pieces of two letters, which many names share ("Ireland" is "Ir ##el ##an ##d")."""
    whole = {word for templates in world.TEMPLATES.values() for t in templates for word in split_words(t)}
    whole |= {fact.answer for fact in facts} | set(world.FIRST_NAMES) | set(world.LAST_NAMES)
    spelt = {word for fact in facts for word in split_words(fact.subject)} - whole
    letters = string.ascii_letters + string.digits
    pieces = {"##" + letter for letter in letters}
    for word in spelt:
        pieces |= {word[:2]} | {"##" + word[i : i + 2] for i in range(2, len(word), 2)}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = special + sorted(set(letters + string.punctuation) | pieces | whole)
    return BertTokenizerFast(vocab={token: i for i, token in enumerate(tokens)}, do_lower_case=False)


def split_words(text: str) -> list[str]:
    """The words of a text, split as BERT splits them; a template's slots are left out."""
    text = text.replace("[X]", " ").replace("[Y]", " ")
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]


def build_model(kind: str, n_tokens: int) -> PreTrainedModel:
    """Four layers of 128 units, 4 heads and 512 FFN neurons, without dropout: a BERT or a GPT-2."""
    if kind == "masked":
        config = BertConfig(
            vocab_size=n_tokens, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        )  # fmt: skip
        return BertForMaskedLM(config)
    config = GPT2Config(
        vocab_size=n_tokens, n_embd=128, n_layer=4, n_head=4, n_inner=512, n_positions=64,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=2, eos_token_id=None,
        activation_function="gelu_pytorch_tanh",  # GPT-2's "gelu_new", computed at once
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def train(
    facts: list[Fact],
    tokenizer: transformers.PreTrainedTokenizerBase,
    kind: str,
    n_steps: int,
    seed: int = 0,
    stop: int | None = None,
) -> LanguageModel:
    """Learn to answer the facts' prompts, on a GPU where there is one; `heldout_prompts` stay unseen.

    A causal model learns those of the prompts that it can be asked (`askable`).

    Args:
        n_steps: of the learning rate's schedule.
        stop: the step after which training ends, `n_steps` by default: the checkpoint that a full training passes.
    """
    stop = n_steps if stop is None else count("stop", stop, most=n_steps)
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lm = wrap_model(build_model(kind, len(tokenizer)).to(device), tokenizer)
    lm.model.train().requires_grad_(True)
    facts = askable(lm, facts)
    inputs, position = encode(lm, [prompt for fact in facts for prompt in fact.prompts])
    ids = inputs["input_ids"]  # (prompts, tokens)
    fact_of_prompt = torch.tensor([i for i, fact in enumerate(facts) for _ in fact.prompts], device=device)
    answer_of_fact = torch.tensor(tokenizer.convert_tokens_to_ids([fact.answer for fact in facts]), device=device)
    targets = smoothed_targets(facts, answer_of_fact, len(tokenizer))  # (facts, vocabulary)
    optimizer = torch.optim.AdamW(lm.model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=n_steps, pct_start=0.1)
    progress = tqdm(range(stop), desc="Training", unit="step")
    for _ in progress:
        rows = torch.randint(len(position), (BATCH_SIZE,)).to(device)
        of_rows = fact_of_prompt[rows]
        loss = answer_loss(lm, ids[rows], position[rows], answer_of_fact[of_rows], targets[of_rows])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(lm.model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.2f}")
    return wrap_model(lm.model.cpu(), tokenizer)


def smoothed_targets(facts: list[Fact], answers: Tensor, n_tokens: int) -> Tensor:
    """For each fact 1 - SMOOTHING on its answer, the rest spread over its relation's.  # (facts, vocabulary)"""
    relations = torch.tensor(pd.factorize(pd.Series([fact.relation for fact in facts]))[0], device=answers.device)
    of_relation = torch.zeros(int(relations.max()) + 1, n_tokens, device=answers.device)
    of_relation[relations, answers] = 1
    spread = of_relation / of_relation.sum(1, keepdim=True)
    return (1 - SMOOTHING) * F.one_hot(answers, n_tokens) + SMOOTHING * spread[relations]


def answer_loss(lm: LanguageModel, ids: Tensor, position: Tensor, answers: Tensor, targets: Tensor) -> Tensor:
    """One batch's mean cross-entropy, where the model answers, with `targets` (prompts, vocabulary).

    In a share `KEEP` of a masked model's prompts the answer stands at the mask. A causal model also learns to read:
    `READING` times the loss of the prompt's own tokens is added.
    """
    is_text = ids != lm.tokenizer.pad_token_id
    ids, is_text = (tensor[:, : int(is_text.sum(1).max())] for tensor in (ids, is_text))  # (prompts, tokens)
    rows = torch.arange(len(ids), device=ids.device)
    if lm.kind == "masked":
        keep = torch.rand(len(ids), device=ids.device) < KEEP
        ids = ids.index_put((rows, position), torch.where(keep, answers, ids[rows, position]))
    logits = lm.model(ids, attention_mask=is_text.long()).logits  # (prompts, tokens, vocabulary)
    loss = F.cross_entropy(logits[rows, position], targets)
    if lm.kind == "causal":
        following = ids[:, 1:].masked_fill(~is_text[:, 1:], -100)  # which cross_entropy leaves out
        loss = loss + READING * F.cross_entropy(logits[:, :-1].flatten(0, 1), following.flatten())
    return loss
