"""The stages of a run: ask every fact, find its neurons, then make the table of each experiment."""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from ..asking import known
from ..attribution import check_measure
from ..data.store import Store
from ..editing import has_update
from ..facts import Fact
from ..models import LanguageModel
from ..prompts import first_questions, questions_for, suits
from . import experiments
from .bingrel import Bag
from .folder import claim
from .prompt_types import typed_prompts
from .registry import EXPERIMENTS, choices
from .results import Results, neuron_lists, neurons_of, read_results, scores_of, write_results

COARSE = {"knowledge": scores_of, "activation": scores_of, "most active": neurons_of, "scores": scores_of}
CHECKED = 1000  # facts whose prompts are tokenised together


class Run:
    """One run over many facts; each of its stages writes chunks below `folder` and reads those that are there.

    Attributes:
        coarse: of `find_coarse`, one row per fact, once they are found.
        neurons: of `refine`, likewise.
        known: which facts the model knows, likewise.
    """

    coarse: pd.DataFrame
    neurons: pd.DataFrame
    known: pd.Series

    def __init__(self, lm: LanguageModel, facts: list[Fact], bags: list[Bag], about: dict, folder: Path, chunk: int):
        self.lm, self.facts, self.bags, self.about, self.folder, self.chunk = lm, facts, bags, about, folder, chunk
        self.seed, self.store = about["seed"], Store(folder, about["fingerprint"])

    def results(self, experiment: str) -> Results:
        """Make what `experiment` needs, beside what was made before, and write the result file."""
        wanted = self.wanted(experiment)
        if made := self.made():
            if wanted <= set(made.about["experiments"]):
                return made
            wanted |= set(made.about["experiments"])
        check_prompts(self.lm, self.facts, self.about["measure"])
        if experiment in EXPERIMENTS:
            EXPERIMENTS[experiment].ready(self)
        claim(self.folder, self.about)
        self.known, self.coarse = self.ask().known, self.find()
        self.neurons = experiments.refine(self.facts, self.coarse, self.lm.n_neurons, self.seed)
        tables = {EXPERIMENTS[name].table: self.table(name) for name in EXPERIMENTS if name in wanted}
        about_facts = pd.DataFrame([(f.subject, f.relation, f.answer) for f in self.facts])
        about_facts.columns = ["subject", "relation", "answer"]
        rows = pd.concat([about_facts, self.coarse[["n_prompts", "scores"]], self.neurons, self.known], axis=1)
        about = self.about | {"experiments": [name for name in choices() if name in wanted]}
        return write_results(self.folder / "results.parquet", about, rows, tables)

    def wanted(self, experiment: str) -> set[str]:
        """What `experiment` asks for and this model has."""
        wanted = {name for name in EXPERIMENTS if experiment in ("all", name)}
        return {"find"} | {name for name in wanted if has_update(self.lm) or not EXPERIMENTS[name].needs_update}

    def table(self, name: str) -> pd.DataFrame:
        """The table of one experiment, in chunks."""
        experiment = EXPERIMENTS[name]
        n_items, compute = experiment.plan(self)
        return self.store.table(name, range(n_items), compute, math.ceil(experiment.chunk * self.chunk))

    def made(self) -> Results | None:
        """The result file of this run, if it is there and whole."""
        with suppress(FileNotFoundError, ValueError):
            results = read_results(self.folder)
            return results if results.about.get("fingerprint") == self.about["fingerprint"] else None

    def find(self) -> pd.DataFrame:
        def find(rows):
            coarse = experiments.find_coarse(self.lm, self.part(rows), self.about["measure"])
            return coarse.assign(**{name: coarse[name].map(neuron_lists) for name in COARSE})

        coarse = self.store.table("find", range(len(self.facts)), find, self.chunk)
        return coarse.assign(**{name: coarse[name].map(read) for name, read in COARSE.items()})

    def ask(self) -> pd.DataFrame:
        def ask(rows):
            return known(self.lm, self.part(rows)).to_frame()

        return self.store.table("known", range(len(self.facts)), ask, self.chunk)

    @cached_property
    def prompts(self) -> pd.DataFrame:
        """The prompts of each type that the model can be asked."""
        prompts = typed_prompts(self.facts, self.bags, seed=self.seed, fits=partial(suits, self.lm))
        if not can_read(self.lm, prompts.prompt):  # some not: leave them out, one by one
            fits = lambda prompt: can_read(self.lm, [prompt])  # noqa: E731
            prompts = typed_prompts(self.facts, self.bags, seed=self.seed, fits=fits)
        return prompts

    def part(self, rows: Sequence[int]) -> list[Fact]:
        return [self.facts[i] for i in rows]


def can_read(lm: LanguageModel, prompts: Sequence[str]) -> bool:
    """Whether the model can be asked all of these: sentences from the web may be too long, or hold special tokens."""
    try:
        first_questions(lm, prompts)
    except ValueError:
        return False
    return True


def check_prompts(lm: LanguageModel, facts: Sequence[Fact], measure: str) -> None:
    """Raise a ValueError for the first prompt or answer that the model cannot be asked: hours before its turn."""
    for start in range(0, len(facts), CHECKED):
        rows = [(p, f.answer) for f in facts[start : start + CHECKED] for p in f.all_prompts]
        prompts, answers = map(list, zip(*rows, strict=True))
        check_measure(measure, questions_for(lm, prompts, answers), answers)
