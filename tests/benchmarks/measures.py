"""What is measured beside the time, and on which model."""

import multiprocessing
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from common import tiny_tokenizer
from torch.nn.functional import linear
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForMaskedLM

import kn_utils as kn
from kn_utils.lab.training import split_words
from kn_utils.loading import wrap_model

BERT_BASE = BertConfig(vocab_size=28_996)  # 12 layers, hidden size 768, 3,072 neurons; the vocabulary is cased BERT's
SUBJECT, RELATION = "Ireland", "P36"


def one_fact():
    """A fact of the lab with nine prompts."""
    return next(fact for fact in kn.load_facts("lab", relations=[RELATION]) if fact.subject == SUBJECT)


def random_bert(facts, config=BERT_BASE, device="cpu", **options):
    """A random BERT, the same one at every call, whose vocabulary begins with the words of these facts."""
    texts = [text for fact in facts for text in (fact.answer, *fact.prompts)]
    words = sorted({word for text in texts for word in split_words(text.replace("[MASK]", " "))})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BertForMaskedLM(config)
    return wrap_model(model.to(device), tiny_tokenizer(words), **options)


def executed_flop(call, *args, **options):
    """The floating-point operations of one call. On a CPU, torch counts all matrix products but those within attention.

    They are the queries times the keys and the weights times the values, a few thousandths of all for short prompts.
    """
    with FlopCounterMode(display=False) as counter:
        call(*args, **options)
    return counter.get_total_flops()


def peak_memory(call, *args, **options):
    """(bytes that a process needs at most during the call, of these bytes above what it held before).

    It runs in a process of its own, with a random BERT-base for one fact: `call(lm, *args, **options)`.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_peak_memory, call, args, options).result()


def _peak_memory(call, args, options):
    lm, before = random_bert([one_fact()]), _peak()
    call(lm, *args, **options)
    return _peak(), _peak() - before


def _peak():
    """The most bytes this process has held. `ru_maxrss` would be the parent's on Linux, where that is higher."""
    if sys.platform == "linux":
        (line,) = (s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def matrix_rate(lm, n_rows, n_rounds=30):
    """The best rate of products of `n_rows` rows with the weights of one layer's FFN, in operations per second."""
    up, down = torch.randn(2, lm.n_neurons * lm.hidden_size, device=lm.device)
    weights = up.view(lm.n_neurons, -1), down.view(lm.hidden_size, -1)
    rows = torch.randn(n_rows, lm.hidden_size, device=lm.device)
    seconds = []
    with torch.no_grad(), lm.autocast():
        for _ in range(n_rounds):
            start = time.perf_counter()
            linear(linear(rows, weights[0]), weights[1])
            if lm.device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    return 4 * n_rows * lm.hidden_size * lm.n_neurons / min(seconds)
