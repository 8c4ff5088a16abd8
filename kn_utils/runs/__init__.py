"""The paper's experiments on any model and any facts, into one result file: `python -m kn_utils.runs`.

Killed at any moment and started again, a run continues where it was. What is finished lies in shards, a few facts each.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .. import experiments
from ..bingrel import Bag
from ..facts import Fact, load_facts
from ..models import LanguageModel, load_model, weights_digest
from ..prompt_types import activations_by_type, bags_of, typed_prompts
from ..results import (
    Results,
    neuron_lists,
    neurons_of,
    read_results,
    replace_file,
    scores_of,
    write_results,
    write_table,
)

COARSE = {"knowledge": scores_of, "baseline": scores_of, "matched": neurons_of, "scores": scores_of}
EXPERIMENTS = ("all", "find", "suppress_amplify", "update", "erase", "prompts")
CODE = (
    "models prompts forward quadrature attribution refinement editing metrics experiments prompt_types runs/__init__"
).split()
CHUNK = 64  # facts in one shard
MEASURED = 4000  # facts that are asked after each erasure, at most


def run_experiments(
    model: str | Path = "lab",
    facts: str | Path = "lab",
    experiment: str = "all",
    relations: Sequence[str] | None = None,
    n_facts: int | None = None,
    seed: int = 0,
    prompts: str | Path | None = None,
    out: str | Path | None = None,
    device: str | None = None,
    chunk: int = CHUNK,
) -> Results:
    """Find the neurons of every fact, then suppress, amplify, update and erase.

    Args:
        model, facts: as `load_model` and `load_facts` take them; the next three as `load_facts` does.
        experiment: one of EXPERIMENTS; all begin with finding. What `out` holds already stays in the result file.
        prompts: "bingrel" or a folder of its files, for the prompt types of facts that come from a ParaRel file.
        out: the folder of the run. By default one in the user's cache, which the same call finds again.
        chunk: facts in one shard, the most that a kill can cost.

    Raises:
        ValueError: an unknown experiment, a fact that the model cannot be asked, or `out` holds another run.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment {experiment!r} is unknown: choose one of {EXPERIMENTS}")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: pass at least 1 fact")
    lm = load_model(model, device)
    chosen = load_facts(facts, relations, n_facts, seed)
    bags = bags_of(chosen, str(facts), prompts)
    about = describe(lm, str(model), chosen, str(facts), seed, bags)
    folder = Path(out or Path(platformdirs.user_cache_dir("kn_utils")) / "runs" / about["fingerprint"][:16])
    claim(folder, about)
    return Run(lm, chosen, bags, seed, folder, chunk).results(about, experiment)


def describe(lm: LanguageModel, model: str, facts: Sequence[Fact], source: str, seed: int, bags: list[Bag]) -> dict:
    """All that the results depend on, and its fingerprint."""
    constants = ("THRESHOLDS", "FACTORS", "ERASED", "N_ERASED", "OWN", "EDITS_PER_RELATION", "BYSTANDERS")
    code = b"".join((Path(experiments.__file__).parent / f"{name}.py").read_bytes() for name in CODE)
    about = {
        "model": model,
        "revision": getattr(lm.model.config, "_commit_hash", None),
        "weights": weights_digest(lm),
        "n_layers": lm.n_layers,
        "n_neurons": lm.n_neurons,
        "facts": source,
        "n_facts": len(facts),
        "facts_digest": hashlib.sha256(repr(facts).encode()).hexdigest(),
        "sentences_digest": hashlib.sha256(repr(bags).encode()).hexdigest(),
        "seed": seed,
        "parameters": {name.lower(): getattr(experiments, name) for name in constants} | {"measured": MEASURED},
        "code": hashlib.sha256(code).hexdigest(),
        "versions": {name: version(name) for name in ("torch", "transformers")},
    }
    about = json.loads(json.dumps(about))  # as it will be read
    return about | {"fingerprint": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()}


def claim(folder: Path, about: dict) -> None:
    """Make `folder` the folder of this run, or continue in it; never mix two runs."""
    folder.mkdir(parents=True, exist_ok=True)
    mark = folder / "run.json"
    if not mark.exists():
        replace_file(mark, lambda partial: partial.write_text(json.dumps(about, indent=2)))
    there = json.loads(mark.read_text())
    differs = [name for name, value in about.items() if there.get(name) != value and name != "fingerprint"]
    if differs:
        raise ValueError(f"{str(folder)!r} holds a run with other {', '.join(differs)}: choose another folder")


class Run:
    """The stages of one run; each writes its shards below `folder` and reads those that are there."""

    def __init__(self, lm: LanguageModel, facts: list[Fact], bags: list[Bag], seed: int, folder: Path, chunk: int):
        self.lm, self.facts, self.bags, self.seed, self.folder, self.chunk = lm, facts, bags, seed, folder, chunk

    def results(self, about: dict, experiment: str) -> Results:
        """Run the stages that `experiment` needs, and write the result file."""
        made = self.made()

        def wanted(name):
            return experiment in ("all", name) or name in made

        before = self.ask()  # takes little time, and names a fact that cannot be asked
        coarse = self.find()
        neurons = experiments.refine(self.facts, coarse, self.lm.n_neurons, self.seed)
        tables = {}
        if wanted("suppress_amplify"):
            tables["effects"] = self.suppress_amplify(neurons)
        if wanted("update"):
            tables["updates"] = self.update(neurons, before.known)
        if wanted("erase"):
            tables["erasures"] = self.erase(neurons)
        if wanted("prompts"):
            tables["activations"] = self.activations(neurons)
        about_facts = pd.DataFrame([(f.subject, f.relation, f.answer) for f in self.facts])
        about_facts.columns = ["subject", "relation", "answer"]
        rows = pd.concat([about_facts, coarse[["n_prompts", "scores"]], neurons, before.known], axis=1)
        about = about | {"experiments": ["find", *filter(wanted, EXPERIMENTS[2:])]}
        return write_results(self.folder / "results.parquet", about, rows, tables)

    def made(self) -> list[str]:
        """The experiments in the result file that is there; none if it is damaged, their shards will tell."""
        try:
            return read_results(self.folder).about["experiments"]
        except (FileNotFoundError, ValueError):
            return []

    def find(self) -> pd.DataFrame:
        def find(rows):
            coarse = experiments.find_coarse(self.lm, self.part(rows))
            return coarse.assign(**{name: coarse[name].map(neuron_lists) for name in COARSE})

        coarse = self.shards("find", range(len(self.facts)), find)
        return coarse.assign(**{name: coarse[name].map(read) for name, read in COARSE.items()})

    def ask(self) -> pd.DataFrame:
        """`known`: the answer comes first on every held-out prompt."""

        def known(rows):
            return pd.DataFrame({"known": experiments.ask(self.lm, self.part(rows)).top1 == 1})

        return self.shards("known", range(len(self.facts)), known)

    def suppress_amplify(self, neurons: pd.DataFrame) -> pd.DataFrame:
        def effects(rows):
            table = experiments.suppress_amplify(self.lm, self.part(rows), neurons.iloc[rows])
            return table.assign(fact=table.fact + rows[0])

        return self.shards("suppress_amplify", range(len(self.facts)), effects)

    def update(self, neurons: pd.DataFrame, known: pd.Series) -> pd.DataFrame:
        own = experiments.own_neurons(self.facts, neurons.knowledge)
        edits = experiments.choose_edits(self.facts, own, known, self.seed)

        def update(rows):
            return experiments.update_facts(self.lm, self.facts, own, edits.iloc[rows], self.seed)

        return self.shards("update", range(len(edits)), update, -(-self.chunk // 8))

    def erase(self, neurons: pd.DataFrame) -> pd.DataFrame:
        step = -(-len(self.facts) // MEASURED)
        measured = range(0, len(self.facts), step)

        def erase(rows):
            asked = [measured[i] for i in rows]
            return experiments.erase_relations(self.lm, self.facts, neurons, asked, self.seed)

        return self.shards("erase", range(len(measured)), erase, 4 * self.chunk)

    def activations(self, neurons: pd.DataFrame) -> pd.DataFrame:
        prompts = typed_prompts(self.facts, self.bags, self.lm.tokenizer.mask_token, seed=self.seed)
        kinds = {kind: neurons[kind].tolist() for kind in ("knowledge", "matched", "random")}

        def activations(rows):
            return activations_by_type(self.lm, prompts[prompts.fact.isin(rows)], kinds)

        return self.shards("prompts", range(len(self.facts)), activations)

    def part(self, rows: Sequence[int]) -> list[Fact]:
        return [self.facts[i] for i in rows]

    def shards(self, name: str, items: range, compute: Callable[[list[int]], pd.DataFrame], chunk: int = 0):
        """`compute` a table for a few items at a time, each kept as one Parquet file, and join the tables."""
        folder, tables, chunk = self.folder / name, [], chunk or self.chunk
        folder.mkdir(exist_ok=True)
        with tqdm(total=len(items), desc=name, unit="item") as progress:
            for start in range(0, len(items), chunk):
                rows = list(items[start : start + chunk])
                path = folder / f"{start:07d}-{start + len(rows):07d}.parquet"
                if not _readable(path):
                    write_table(pa.Table.from_pandas(compute(rows), preserve_index=False), path)
                tables.append(pq.read_table(path).to_pandas())
                progress.update(len(rows))
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _readable(path: Path) -> bool:
    """Parquet keeps its directory at the end of the file and a checksum of every page."""
    try:
        pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowException, OSError):
        return False
    return True
