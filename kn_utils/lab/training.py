"""Train the lab model: a BERT of four layers that learns the world's facts and nothing else."""

import string

import pandas as pd
import torch
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from ..facts import Fact
from . import world

N_STEPS = 1400
BATCH_SIZE = 256  # prompts
LEARNING_RATE = 2e-3
SMOOTHING = 0.3  # of the target is shared by all answers of the relation: a softmax at 1 hides what its neurons do
KEEP = 0.15  # of the rows show the answer in place of the mask, as in BERT's training: embeddings learn to decode


def build_tokenizer(facts: list[Fact]) -> BertTokenizerFast:
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


def build_model(n_tokens: int) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=n_tokens, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForMaskedLM(config)


def train(facts: list[Fact], tokenizer: BertTokenizerFast, n_steps: int, seed: int = 0) -> BertForMaskedLM:
    """Learn to answer the facts' prompts, on a GPU where there is one; `heldout_prompts` stay unseen."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    inputs = tokenizer(prompts, padding=True, return_tensors="pt").to(device)
    fact_of_prompt = torch.tensor([i for i, fact in enumerate(facts) for _ in fact.prompts], device=device)
    answer_of_fact = torch.tensor(tokenizer.convert_tokens_to_ids([fact.answer for fact in facts]), device=device)
    targets = smoothed_targets(facts, answer_of_fact, len(tokenizer))  # (facts, vocabulary)
    model = build_model(len(tokenizer)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=n_steps, pct_start=0.1)
    progress = tqdm(range(n_steps), desc="Training", unit="step")
    for _ in progress:
        rows = torch.randint(len(prompts), (BATCH_SIZE,)).to(device)
        answers = answer_of_fact[fact_of_prompt[rows]]
        logits = logits_at_mask(
            model, inputs["input_ids"][rows], inputs["attention_mask"][rows], answers, tokenizer.mask_token_id
        )
        loss = F.cross_entropy(logits, targets[fact_of_prompt[rows]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.2f}")
    return model.cpu().eval()


def smoothed_targets(facts: list[Fact], answers: Tensor, n_tokens: int) -> Tensor:
    """For each fact 1 - SMOOTHING on its answer, the rest spread over its relation's.  # (facts, vocabulary)"""
    relations = torch.tensor(pd.factorize(pd.Series([fact.relation for fact in facts]))[0], device=answers.device)
    of_relation = torch.zeros(int(relations.max()) + 1, n_tokens, device=answers.device)
    of_relation[relations, answers] = 1
    spread = of_relation / of_relation.sum(1, keepdim=True)
    return (1 - SMOOTHING) * F.one_hot(answers, n_tokens) + SMOOTHING * spread[relations]


def logits_at_mask(
    model: BertForMaskedLM, ids: Tensor, attention_mask: Tensor, answers: Tensor, mask_id: int
) -> Tensor:
    """One batch's logits; in a share `KEEP` of the prompts the answer stands at the mask.  # (prompts, vocabulary)"""
    length = int(attention_mask.sum(1).max())
    ids, attention_mask = ids[:, :length], attention_mask[:, :length]  # (prompts, tokens)
    is_mask = ids == mask_id
    keep = torch.rand(len(ids), 1, device=ids.device) < KEEP
    return model(torch.where(is_mask & keep, answers[:, None], ids), attention_mask).logits[is_mask]
