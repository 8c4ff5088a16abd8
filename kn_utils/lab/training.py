"""Train the lab model: a BERT of four layers that learns the world's facts and nothing else."""

import string

import torch
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor
from torch.nn import functional as F
from tqdm.auto import tqdm
from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

from ..facts import Fact
from . import world

N_STEPS = 3000
BATCH_SIZE = 256  # prompts
LEARNING_RATE = 2e-3
LABEL_SMOOTHING = 0.2  # keeps P(answer) below 1: a saturated softmax hides what its neurons do


def build_tokenizer(facts: list[Fact]) -> BertTokenizerFast:
    """A cased WordPiece tokenizer: words of templates, answers and invented names are whole, all others are spelt in pieces
    of two letters, shared by many names ("Ireland" is "Ir ##el ##an ##d")."""
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
    """The words of a text with a template's slots left out, split as BERT splits them: at white space and punctuation."""
    text = text.replace("[X]", " ").replace("[Y]", " ")
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(text)]


def build_model(n_tokens: int) -> BertForMaskedLM:
    config = BertConfig(
        vocab_size=n_tokens, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, intermediate_size=512,
        max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForMaskedLM(config)


def train(facts: list[Fact], tokenizer: BertTokenizerFast, n_steps: int, seed: int = 0) -> BertForMaskedLM:
    """Learn P(answer) at the mask of the facts' prompts; `heldout_prompts` are never seen. On a GPU where there is one."""
    torch.manual_seed(seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompts = [prompt for fact in facts for prompt in fact.prompts]
    answers = tokenizer.convert_tokens_to_ids([fact.answer for fact in facts for _ in fact.prompts])
    inputs = tokenizer(prompts, padding=True, return_tensors="pt").to(device)
    targets = torch.tensor(answers, device=device)
    model = build_model(len(tokenizer)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=n_steps, pct_start=0.1)
    progress = tqdm(range(n_steps), desc="Training", unit="step")
    for _ in progress:
        rows = torch.randint(len(prompts), (BATCH_SIZE,)).to(device)
        loss = F.cross_entropy(
            logits_at_mask(model, inputs["input_ids"][rows], inputs["attention_mask"][rows], tokenizer.mask_token_id),
            targets[rows],
            label_smoothing=LABEL_SMOOTHING,
        )
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.2f}")
    return model.cpu().eval()


def logits_at_mask(model: BertForMaskedLM, ids: Tensor, attention_mask: Tensor, mask_id: int) -> Tensor:
    """The head is applied at the masks only, which saves a third of the time.  # (prompts, vocabulary)"""
    length = int(attention_mask.sum(1).max())
    ids, attention_mask = ids[:, :length], attention_mask[:, :length]
    hidden = model.bert(ids, attention_mask).last_hidden_state  # (prompts, tokens, hidden)
    return model.cls(hidden[ids == mask_id])
