"""The answer key that the book shows, shipped as one file: `make results` makes it.

One row per fact: subject, relation, answer, prompt, probability, and per baseline log P(w) - log P(w_i at its baseline)
of every neuron i, layer after layer. The effects on P follow from these.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from ..asking import answer_probability
from ..checks import one_of
from ..command_line import one_line_errors
from ..data.download import cache_folder
from ..data.files import parse_json
from ..data.shipped import COMMAND, FOLDER, time_left
from ..data.tables import read_table, write_table
from ..engine.weights import is_edited
from ..facts import Fact, load_facts
from ..loading import load_model
from ..models import LanguageModel
from .answer_key import BASELINES, AnswerKey, answer_key, describe_key, effect_on_probability, key_digest

FILE = FOLDER / "answer_key.parquet"
MODEL, FACTS, N_FACTS, SEED = "lab", "lab", 48, 0
ABOUT = b"kn_utils answer key"  # the key of the description in the file's metadata
SAME = ("model_digest", "facts_digest")  # what a shipped key and the one that is asked for have in common


def key_or_ablations(lm: LanguageModel, facts: Sequence[Fact], baseline: str = "mean") -> AnswerKey:
    """The shipped answer key of this model and these facts; where there is none, that of `answer_key`.

    Ablations are kept in the user's cache and found again. Before they begin, a line says how long they will take.

    Args:
        baseline: "zero" or "mean".

    Raises:
        ValueError, OSError: as `answer_key`.
    """
    if is_edited(lm.model):
        return answer_key(lm, facts, baseline)
    if (key := shipped_key(lm, facts, baseline)) is not None:
        return key
    out = key_folder(describe_key(lm, facts), baseline)
    if not out.exists():
        print(f"no answer key is shipped for this model and these facts: it takes {how_long(lm, facts)}")
        out.parent.mkdir(parents=True, exist_ok=True)
    return answer_key(lm, facts, baseline, out)


def key_folder(about: dict, baseline: str) -> Path:
    """Where the ablations of a key are kept in the user's cache.

    Args:
        about: of `describe_key`.
    """
    return cache_folder() / "keys" / key_digest(about, baseline)[:16]


def shipped_key(lm: LanguageModel, facts: Sequence[Fact], baseline: str) -> AnswerKey | None:
    """The shipped answer key of this model and these facts, on the model's device; None if it is of others.

    A line names a file that is damaged, or was made for the same facts with another model or other prompts.
    """
    one_of("baseline", baseline, BASELINES)
    if not FILE.exists():
        return None
    try:
        table, about = read_key(FILE)
    except ValueError as error:
        print(f"not used: {error}")
        return None
    wanted = describe_key(lm, facts)
    if any(about.get(key) != wanted[key] for key in SAME):
        if table.subject.tolist() == [f.subject for f in facts]:
            print(f"not used: the shipped {FILE.name!r} has another model or other prompts")
        return None
    shape = (len(facts), lm.n_layers, lm.n_neurons)
    log_effect = torch.tensor(np.stack(table[baseline]), device=lm.device).reshape(shape)
    p = torch.tensor(table.probability.to_numpy(np.float32), device=lm.device)
    return AnswerKey(table.prompt.tolist(), effect_on_probability(p, log_effect), log_effect, about)


def how_long(lm: LanguageModel, facts: Sequence[Fact]) -> str:
    """How long the ablations of these facts take, from the first fact's."""
    start = perf_counter()
    answer_key(lm, facts[:1], "zero")
    return f"{time_left((perf_counter() - start) * len(facts))} for {len(facts)} facts"


def read_key(path: str | Path) -> tuple[pd.DataFrame, dict]:
    """The rows of a key's file, and its description.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or no answer key.
    """
    table, _ = read_table(path, "answer key", f"make it again: {COMMAND}")
    raw = (table.schema.metadata or {}).get(ABOUT)
    if raw is None:
        raise ValueError(f"{str(path)!r} is no answer key: make it again: {COMMAND}")
    return table.to_pandas(), parse_json(raw, f"the description in answer key {str(path)!r}")


def ship() -> None:
    """Make the key, or continue it in the user's cache, and write its file into the package."""
    lm, facts = load_model(MODEL), load_facts(FACTS, n_facts=N_FACTS, seed=SEED)
    rows = pd.DataFrame([(f.subject, f.relation, f.answer) for f in facts], columns=["subject", "relation", "answer"])
    about = describe_key(lm, facts)
    for baseline in BASELINES:
        key = answer_key(lm, facts, baseline, key_folder(about, baseline))
        rows[baseline] = key.log_probability.flatten(1).cpu().numpy().tolist()
    rows.insert(3, "prompt", key.prompts)
    rows.insert(4, "probability", answer_probability(lm, key.prompts, rows.answer.tolist()).cpu().numpy())
    table = pa.Table.from_pandas(rows, preserve_index=False)
    table = table.replace_schema_metadata({ABOUT: json.dumps(about | {"command": COMMAND})})
    for baseline in BASELINES:
        column = table.column(baseline).cast(pa.list_(pa.float32()))
        table = table.set_column(table.column_names.index(baseline), baseline, column)
    FOLDER.mkdir(exist_ok=True)
    write_table(table, FILE)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kn_utils.beyond.shipped_key", description=__doc__.splitlines()[0])
    parser.parse_args()
    with one_line_errors("what is finished is kept; the same command continues"):
        print(f"answer key: {N_FACTS} facts of {FACTS!r}, model {MODEL!r}", flush=True)
        ship()
