"""The stages of a run: find the neurons of every fact, ask, suppress, amplify, update, erase, and activate."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import pandas as pd

from ..attribution import check_measure
from ..data.bingrel import Bag
from ..editing import has_update
from ..facts import Fact
from ..models import LanguageModel
from ..prompts import first_questions, questions_for, suits
from . import experiments
from .arguments import EXPERIMENTS
from .folder import claim
from .prompt_types import activations_by_type, typed_prompts
from .results import Results, neuron_lists, neurons_of, read_results, scores_of, write_results
from .shards import Shards

COARSE = {"knowledge": scores_of, "activation": scores_of, "most active": neurons_of, "scores": scores_of}
CHECKED = 1000  # facts whose prompts are tokenised together
MEASURED = 4000  # facts that are asked after each erasure, at most


class Run:
    """The stages of one run; each writes its shards below `folder` and reads those that are there."""

    def __init__(self, lm: LanguageModel, facts: list[Fact], bags: list[Bag], about: dict, folder: Path, chunk: int):
        self.lm, self.facts, self.bags, self.about, self.folder, self.chunk = lm, facts, bags, about, folder, chunk
        self.seed, self.shards = about["seed"], Shards(folder, about["fingerprint"])

    def results(self, experiment: str) -> Results:
        """Run the stages that `experiment` needs, beside those made before, and write the result file."""
        wanted = {"find"} | {name for name in EXPERIMENTS[2:] if experiment in ("all", name)}
        if not has_update(self.lm):
            wanted -= {"update"}
        if made := self.made():
            if wanted <= set(made.about["experiments"]):
                return made
            wanted |= set(made.about["experiments"])
        check_prompts(self.lm, self.facts, self.about["measure"])
        typed = self.typed_prompts(experiment) if "prompts" in wanted else None
        claim(self.folder, self.about)
        before = self.ask()
        coarse = self.find()
        neurons = experiments.refine(self.facts, coarse, self.lm.n_neurons, self.seed)
        tables = {}
        if "suppress_amplify" in wanted:
            tables["effects"] = self.suppress_amplify(neurons)
        if "update" in wanted:
            tables["updates"] = self.update(neurons, before.known)
        if "erase" in wanted:
            tables["erasures"] = self.erase(neurons)
        if "prompts" in wanted:
            tables["activations"] = self.activations(neurons, typed)
        about_facts = pd.DataFrame([(f.subject, f.relation, f.answer) for f in self.facts])
        about_facts.columns = ["subject", "relation", "answer"]
        rows = pd.concat([about_facts, coarse[["n_prompts", "scores"]], neurons, before.known], axis=1)
        about = self.about | {"experiments": [name for name in EXPERIMENTS if name in wanted]}
        return write_results(self.folder / "results.parquet", about, rows, tables)

    def made(self) -> Results | None:
        """The result file of this run, if it is there and whole."""
        with suppress(FileNotFoundError, ValueError):
            results = read_results(self.folder)
            return results if results.about.get("fingerprint") == self.about["fingerprint"] else None

    def find(self) -> pd.DataFrame:
        def find(rows):
            coarse = experiments.find_coarse(self.lm, self.part(rows), self.about["measure"])
            return coarse.assign(**{name: coarse[name].map(neuron_lists) for name in COARSE})

        coarse = self.shards.table("find", range(len(self.facts)), find, self.chunk)
        return coarse.assign(**{name: coarse[name].map(read) for name, read in COARSE.items()})

    def ask(self) -> pd.DataFrame:
        """`known`: the answer comes first on every held-out prompt."""

        def known(rows):
            return pd.DataFrame({"known": experiments.ask(self.lm, self.part(rows)).top1 == 1})

        return self.shards.table("known", range(len(self.facts)), known, self.chunk)

    def suppress_amplify(self, neurons: pd.DataFrame) -> pd.DataFrame:
        def effects(rows):
            table = experiments.suppress_amplify(self.lm, self.part(rows), neurons.iloc[rows])
            return table.assign(fact=table.fact + rows[0])

        return self.shards.table("suppress_amplify", range(len(self.facts)), effects, self.chunk)

    def update(self, neurons: pd.DataFrame, known: pd.Series) -> pd.DataFrame:
        own = experiments.own_neurons(self.facts, neurons.knowledge)
        edits = experiments.choose_edits(self.lm, self.facts, own, known, self.seed)

        def update(rows):
            return experiments.update_facts(self.lm, self.facts, own, edits.iloc[rows], self.seed)

        return self.shards.table("update", range(len(edits)), update, -(-self.chunk // 8))

    def erase(self, neurons: pd.DataFrame) -> pd.DataFrame:
        step = -(-len(self.facts) // MEASURED)
        measured = range(0, len(self.facts), step)

        def erase(rows):
            asked = [measured[i] for i in rows]
            return experiments.erase_relations(self.lm, self.facts, neurons, asked, self.seed)

        return self.shards.table("erase", range(len(measured)), erase, 4 * self.chunk)

    def typed_prompts(self, experiment: str) -> pd.DataFrame:
        """The prompts of each type that the model can be asked.

        Raises:
            ValueError: there are none, and `experiment` asks for them alone.
        """
        prompts = typed_prompts(self.facts, self.bags, seed=self.seed, fits=partial(suits, self.lm))
        if not can_read(self.lm, prompts.prompt):  # some not: leave them out, one by one
            fits = lambda prompt: can_read(self.lm, [prompt])  # noqa: E731
            prompts = typed_prompts(self.facts, self.bags, seed=self.seed, fits=fits)
        if experiment == "prompts" and prompts.empty:
            raise ValueError(
                f"experiment 'prompts' finds no sentence about the facts of {self.about['facts']!r} that the model can "
                "be asked: choose other facts, or another experiment"
            )
        return prompts

    def activations(self, neurons: pd.DataFrame, prompts: pd.DataFrame) -> pd.DataFrame:
        kinds = {kind: neurons[kind].tolist() for kind in ("knowledge", "most active", "random")}

        def activations(rows):
            return activations_by_type(self.lm, prompts[prompts.fact.isin(rows)], kinds)

        return self.shards.table("prompts", range(len(self.facts)), activations, 4 * self.chunk)

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
        rows = [(p, f.answer) for f in facts[start : start + CHECKED] for p in (*f.prompts, *f.heldout_prompts)]
        prompts, answers = map(list, zip(*rows, strict=True))
        check_measure(measure, questions_for(lm, prompts, answers), answers)
