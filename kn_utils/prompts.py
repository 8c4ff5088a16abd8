"""Prompts as a model reads them, and where it answers: at the mask, after the prompt, or in the decoder.

A prompt is a text with `[MASK]` where the answer goes, whatever the model calls its own mask. An answer of several
tokens is asked for token by token, each at its own position: a masked model reads as many masks, a causal model the
tokens before (teacher forcing).
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import list_of
from .facts import Fact
from .models import LanguageModel, answer_ids

SLOT = "[MASK]"
SEQ2SEQ_SLOT = "<extra_id_0>"  # of T5


class Question(NamedTuple):
    """What a model reads, and the position where it gives one token of the answer."""

    ids: tuple[int, ...]
    position: int  # in the decoder, where there is one
    decoder_ids: tuple[int, ...] = ()


class Questions(NamedTuple):
    """One question for each token of each prompt's answer: n, as many as prompts if answers are single tokens."""

    questions: list[Question]  # n
    targets: Tensor  # (n,) the answer tokens
    prompt: Tensor  # (n,) which prompt each belongs to


def questions_for(lm: LanguageModel, prompts: Sequence[str], answers: str | Sequence[str]) -> Questions:
    """One question for each token of each prompt's answer.

    Args:
        answers: the same for every prompt, or one per prompt.

    Raises:
        ValueError: a prompt that does not suit the model, no prompts, an answer outside the vocabulary, or another
            number of answers than of prompts.
    """
    prompts = as_list(prompts)
    first = first_questions(lm, prompts)
    answers = [answers] * len(prompts) if isinstance(answers, str) else list_of("answers", answers, str)
    if len(answers) != len(prompts):
        raise ValueError(f"there are {len(answers)} answers for {len(prompts)} prompts: pass one, or one for each")
    ids = cache(lambda answer, before: answer_ids(lm, answer, before))
    asked = []
    for i, (prompt, question, answer) in enumerate(zip(prompts, first, answers, strict=True)):
        own = ids(answer, _before(lm, prompt))
        asked += [(_at_token(lm, question, own, j), own[j], i) for j in range(len(own))]
    questions, targets, owner = zip(*asked, strict=True)
    for question, target, i in asked:
        _check_tokens(lm, f"prompt {prompts[i][:60]!r} with the answer {answers[i]!r}", question, target)
    return Questions(list(questions), torch.tensor(targets, device=lm.device), torch.tensor(owner, device=lm.device))


def first_questions(lm: LanguageModel, prompts: Sequence[str]) -> list[Question]:
    """One question per prompt: the first token of whatever the answer is.

    Raises:
        ValueError: no prompts, or one that does not suit the model: without one `[MASK]`, with special tokens or an
            unfilled slot of a template, too long, or with tokens that the model has no embedding for.
    """
    prompts = as_list(prompts)
    for prompt in prompts:
        _check_text(lm, prompt)
    questions = _before_the_answer(lm, prompts) if lm.kind == "causal" else _at_the_slot(lm, prompts)
    for prompt, question in zip(prompts, questions, strict=True):
        _check_tokens(lm, f"prompt {prompt[:60]!r}", question)
    return questions


def _before_the_answer(lm: LanguageModel, prompts: list[str]) -> list[Question]:
    """A causal model's questions. A token that the tokenizer puts at the end of texts would end the text: it is left
    out."""
    texts = [_before_answer(prompt) for prompt in prompts]
    start = [lm.tokenizer.bos_token_id] if lm.tokenizer.bos_token_id is not None else []
    read, bare = (lm.tokenizer(texts, add_special_tokens=special)["input_ids"] for special in (True, False))
    questions = []
    for prompt, ids, words in zip(prompts, read, bare, strict=True):
        while words and ids[-len(words) :] != words and ids[-1] in lm.tokenizer.all_special_ids:
            ids = ids[:-1]
        ids = ids if words else start
        if not ids:
            raise ValueError(f"prompt {prompt!r} has nothing before the answer: this model needs a word to start")
        questions.append(Question(tuple(ids), len(ids) - 1))
    return questions


def _at_the_slot(lm: LanguageModel, prompts: list[str]) -> list[Question]:
    """A masked or seq2seq model's questions."""
    slot = lm.tokenizer.mask_token if lm.kind == "masked" else SEQ2SEQ_SLOT
    slot_id = lm.tokenizer.convert_tokens_to_ids(slot)
    questions = []
    for prompt, ids in zip(prompts, lm.tokenizer([p.replace(SLOT, slot) for p in prompts])["input_ids"], strict=True):
        if (n_slots := ids.count(slot_id)) != 1:
            raise ValueError(f"prompt {prompt!r} has {n_slots} masks: write exactly one {SLOT} where the answer goes")
        if lm.kind == "masked":
            questions.append(Question(tuple(ids), ids.index(slot_id)))
        else:
            questions.append(Question(tuple(ids), 1, (lm.model.config.decoder_start_token_id, slot_id)))
    return questions


def as_list(prompts: Iterable[str]) -> list[str]:
    """The prompts as a list, if they are some."""
    if isinstance(prompts, str):
        raise ValueError(f"prompts is the string {prompts!r}: pass a list of prompts, such as [{prompts!r}]")
    prompts = list_of("prompts", prompts, str)
    if not prompts:
        raise ValueError(f"prompts is empty: pass at least one prompt with one {SLOT}")
    return prompts


def _check_text(lm: LanguageModel, prompt: str) -> None:
    """Raise a ValueError if a prompt holds what is not text to the model."""
    for slot in ("[X]", "[Y]"):
        if slot in prompt:
            raise ValueError(f"prompt {prompt!r} has an unfilled {slot}: write the subject, and {SLOT} for the answer")
    if (n_slots := prompt.count(SLOT)) != 1:
        raise ValueError(f"prompt {prompt!r} has {n_slots} masks: write exactly one {SLOT} where the answer goes")
    if unicodedata.category(prompt.partition(SLOT)[0][-1:] or " ") in ("Ll", "Lu", "Nd"):
        raise ValueError(f"prompt {prompt!r} has a letter right before {SLOT}: put a space before it")
    text = prompt.replace(SLOT, "")
    if special := [token for token in lm.tokenizer.all_special_tokens if token in text]:
        raise ValueError(f"prompt {prompt!r} holds the special token {special[0]!r}: leave it out, and write {SLOT}")


def _check_tokens(lm: LanguageModel, name: str, question: Question, target: int = 0) -> None:
    """Raise a ValueError if the model cannot read a question, or cannot give its answer."""
    if (n_tokens := max(len(question.ids), len(question.decoder_ids))) > lm.max_tokens:
        raise ValueError(f"{name} has {n_tokens} tokens, the model reads {lm.max_tokens}: shorten it")
    highest = max(*question.ids, *question.decoder_ids, target)
    if highest >= lm.model.get_input_embeddings().num_embeddings:
        token = lm.tokenizer.convert_ids_to_tokens(highest)
        raise ValueError(
            f"{name} holds {token!r}, for which the model has no embedding: leave it out, or call "
            "model.resize_token_embeddings(len(tokenizer)) and train it"
        )


def _before(lm: LanguageModel, prompt: str) -> str:
    """What stands before the answer, as far as its tokens depend on that: T5 writes every answer after a slot."""
    return "a " if lm.kind == "seq2seq" else prompt.partition(SLOT)[0][-1:]


def askable(lm: LanguageModel, facts: Sequence[Fact], min_prompts: int = 3) -> list[Fact]:
    """The facts with those of their prompts that the model can be asked.

    All, for a model that can answer anywhere. For a causal model facts keep the prompts that it `suits`, and are left
    out where fewer than `min_prompts`, or no held-out prompt, remain. Where no select prompt remains, the first of
    several held-out ones selects.

    Example:
        >>> from kn_utils.prompts import askable
        >>> causal = kn.load_model("lab-causal", device="cpu")
        >>> len(fact.prompts), len(askable(causal, [fact])[0].prompts)
        (9, 6)
    """
    facts = list_of("facts", facts, Fact)
    if lm.kind != "causal":
        return facts

    def fitting(prompts):
        return tuple(prompt for prompt in prompts if suits(lm, prompt))

    def keep(fact):
        find, select, heldout = map(fitting, (fact.prompts, fact.select_prompts, fact.heldout_prompts))
        if fact.select_prompts and not select and len(heldout) > 1:
            select, heldout = heldout[:1], heldout[1:]
        return replace(fact, prompts=find, select_prompts=select, heldout_prompts=heldout)

    return [fact for fact in map(keep, facts) if len(fact.prompts) >= min_prompts and fact.heldout_prompts]


def suits(lm: LanguageModel, prompt: str) -> bool:
    """Whether the prompt has its `[MASK]` where this model can answer: a causal model answers last."""
    return lm.kind != "causal" or not _after_answer(prompt)


def _at_token(lm: LanguageModel, question: Question, answer: list[int], j: int) -> Question:
    """The question for token j of an answer."""
    if lm.kind == "causal":
        return Question((*question.ids, *answer[:j]), question.position + j)
    if lm.kind == "seq2seq":
        return question._replace(decoder_ids=(*question.decoder_ids, *answer[:j]), position=question.position + j)
    before, (mask, *after) = question.ids[: question.position], question.ids[question.position :]
    return Question((*before, *[mask] * len(answer), *after), question.position + j)


def _after_answer(prompt: str) -> str:
    """What follows the slot, but for punctuation."""
    return re.sub(r"[\W_]", "", prompt.partition(SLOT)[2])


def _before_answer(prompt: str) -> str:
    """What a causal model reads of a prompt. The space before the answer belongs to the answer's first token."""
    if _after_answer(prompt):
        raise ValueError(
            f"prompt {prompt!r} goes on after {SLOT}: a causal model answers last, so end the prompt with {SLOT}, or "
            "choose the facts' fitting prompts with askable()"
        )
    return prompt.partition(SLOT)[0].removesuffix(" ")
