"""Questions as the model's inputs, in batches that fit into the memory."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..models import LanguageModel
from ..prompts import Question, first_questions

ROWS = 2**14  # prompts, or copies of them, in one forward pass at most, whatever the memory
MEMORY = 2**30  # bytes that a forward pass may take on a CPU


def unique(lm: LanguageModel, questions: Sequence[Question]) -> tuple[list[Question], Tensor]:
    """The questions without repetitions, and which of these each one is, (questions,)."""
    order = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    return list(order), torch.tensor([order[question] for question in questions], device=lm.device)


def encode(lm: LanguageModel, prompts: Sequence[str]) -> tuple[dict[str, Tensor], Tensor]:
    """The model's inputs for `prompts`, each (prompts, tokens), and where it answers, (prompts,).

    Raises:
        ValueError: no prompts, or one that does not suit the model.
    """
    return collate(lm, first_questions(lm, prompts))


def collate(lm: LanguageModel, questions: Sequence[Question]) -> tuple[dict[str, Tensor], Tensor]:
    """`encode` for questions, padded to the longest."""

    def padded(rows, value):
        tensors = [torch.tensor(row) for row in rows]
        return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(lm.device)

    pad = lm.tokenizer.pad_token_id or 0
    inputs = {"input_ids": padded([question.ids for question in questions], pad)}
    if len({len(question.ids) for question in questions}) > 1:
        inputs["attention_mask"] = padded([[1] * len(question.ids) for question in questions], 0)
    if lm.kind == "seq2seq":
        inputs["decoder_input_ids"] = padded([question.decoder_ids for question in questions], pad)
    return inputs, torch.tensor([question.position for question in questions], device=lm.device)


def batches(
    lm: LanguageModel, questions: Sequence[Question], n_copies: int = 1
) -> Iterator[tuple[Tensor, dict[str, Tensor], Tensor]]:
    """Questions in batches of which `n_copies` fit into one forward pass; those of one length go together, unpadded.

    Yields:
        (rows, inputs, position): which questions these are, ascending, (batch,), and what `collate` returns for them.
    """

    def length(i):
        return len(questions[i].ids), len(questions[i].decoder_ids)

    for (n_tokens, n_decoder), group in itertools.groupby(sorted(range(len(questions)), key=length), key=length):
        group = list(group)
        size = max(1, n_rows(lm, n_tokens + n_decoder) // n_copies)
        size = -(-len(group) // -(-len(group) // size))  # as many batches, but of equal size
        for start in range(0, len(group), size):
            rows = group[start : start + size]
            yield torch.tensor(rows, device=lm.device), *collate(lm, [questions[i] for i in rows])


def n_rows(lm: LanguageModel, n_tokens: int) -> int:
    """How many rows of `n_tokens` tokens fit into one forward pass, with all that its gradients need."""
    memory = lm.max_memory or (torch.cuda.mem_get_info(lm.device)[0] // 2 if lm.device.type == "cuda" else MEMORY)
    return max(1, min(ROWS, memory // copy_bytes(lm, n_tokens)))


def copy_bytes(lm: LanguageModel, n_tokens: int) -> int:
    """What one row of a forward pass takes at most, with its gradients."""
    per_token = 8 * lm.hidden_size + 3 * lm.n_neurons
    values = 4 * lm.model.config.vocab_size
    if lm.kind == "causal" and lm.fast:  # all tokens of one layer or one of all, and the others' keys and values
        values += max(n_tokens, lm.n_layers) * per_token + lm.n_layers * n_tokens * 4 * lm.hidden_size
    else:
        values += lm.n_layers * n_tokens * per_token
    return 4 * values
