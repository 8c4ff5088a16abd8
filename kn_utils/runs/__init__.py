"""The paper's experiments on any model and any facts, into one result file: `python -m kn_utils.runs`.

Killed at any moment and started again, a run continues where it was. What is finished lies in shards, a few facts each.
Any number of processes may work on one run. They share its folder and nothing else, and none waits for another.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from .. import experiments
from ..attribution import check_measure
from ..bingrel import Bag
from ..editing import check_update, has_update
from ..facts import Fact, load_facts
from ..models import LanguageModel, load_model, weights_digest
from ..prompt_types import activations_by_type, bags_of, typed_prompts
from ..prompts import askable, suits
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
SHARD = b"kn_utils shard"  # the key of the run's fingerprint in a shard's metadata
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
    measure: str = "probability",
    products: str = "float32",
) -> Results:
    """Find the neurons of every fact, then suppress, amplify, update and erase.

    Processes that call this with the same arguments, at the same time or later, share the work.

    Args:
        model, device, products: as `load_model` takes them.
        facts, relations, n_facts: as `load_facts` takes them. A causal model is asked those that are `askable`.
        experiment: one of EXPERIMENTS; all begin with finding. What `out` holds already stays in the result file.
        prompts: "bingrel" or a folder of its files, for the prompt types of facts that come from a ParaRel file.
        out: the folder of the run. By default one in the user's cache, which the same call finds again.
        chunk: facts in one shard, the most that a kill can cost a process.
        measure: by which neurons are found, as `knowledge_attribution` takes it.

    Raises:
        ValueError: an unknown experiment, a fact that the model cannot be asked or whose answer the measure does not
            allow, an update of a model that has none, or `out` holds another run.
    """
    if experiment not in EXPERIMENTS:
        raise ValueError(f"experiment {experiment!r} is unknown: choose one of {EXPERIMENTS}")
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: pass at least 1 fact")
    lm = load_model(model, device, products)
    if experiment == "update":
        check_update(lm)
    chosen = askable(lm, load_facts(facts, relations, n_facts, seed))
    if not chosen:
        raise ValueError(
            f"no fact of {str(facts)!r} can be asked of {str(model)!r}: give facts prompts that end with [MASK]"
        )
    check_measure(lm, [fact.answer for fact in chosen], measure)
    bags = bags_of(chosen, str(facts), prompts)
    about = describe(lm, str(model), chosen, str(facts), seed, bags, measure)
    folder = Path(out or Path(platformdirs.user_cache_dir("kn_utils")) / "runs" / about["fingerprint"][:16])
    claim(folder, about)
    return Run(lm, chosen, bags, about, folder, chunk).results(experiment)


def describe(
    lm: LanguageModel, model: str, facts: Sequence[Fact], source: str, seed: int, bags: list[Bag], measure: str
) -> dict:
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
        "measure": measure,
        "products": lm.products,
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

    def __init__(self, lm: LanguageModel, facts: list[Fact], bags: list[Bag], about: dict, folder: Path, chunk: int):
        self.lm, self.facts, self.bags, self.about, self.folder, self.chunk = lm, facts, bags, about, folder, chunk
        self.seed = about["seed"]

    def results(self, experiment: str) -> Results:
        """Run the stages that `experiment` needs, beside those made before, and write the result file."""
        wanted = {"find"} | {name for name in EXPERIMENTS[2:] if experiment in ("all", name)}
        if not has_update(self.lm):
            wanted -= {"update"}
        if made := self.made():
            if wanted <= set(made.about["experiments"]):
                return made
            wanted |= set(made.about["experiments"])
        before = self.ask()  # takes little time, and names a fact that cannot be asked
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
            tables["activations"] = self.activations(neurons)
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
        edits = experiments.choose_edits(self.lm, self.facts, own, known, self.seed)

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
        prompts = typed_prompts(self.facts, self.bags, seed=self.seed, fits=partial(suits, self.lm))
        kinds = {kind: neurons[kind].tolist() for kind in ("knowledge", "matched", "random")}

        def activations(rows):
            return activations_by_type(self.lm, prompts[prompts.fact.isin(rows)], kinds)

        return self.shards("prompts", range(len(self.facts)), activations, 4 * self.chunk)

    def part(self, rows: Sequence[int]) -> list[Fact]:
        return [self.facts[i] for i in rows]

    def shards(self, name: str, items: range, compute: Callable[[list[int]], pd.DataFrame], chunk: int = 0):
        """`compute` a table for a few items at a time, each kept as one Parquet file, and join the tables.

        A shard depends on the run and its items alone, and appears at once. So who makes it does not matter: a process
        makes what is missing, reads what others have made, and goes on when it holds all.
        """
        folder, chunk = self.folder / name, chunk or self.chunk
        folder.mkdir(exist_ok=True)
        parts = (list(items[start : start + chunk]) for start in range(0, len(items), chunk))
        shards = {folder / f"{i * chunk:07d}-{i * chunk + len(rows):07d}.parquet": rows for i, rows in enumerate(parts)}
        tables = self.finished(shards)
        n_done = sum(len(shards[path]) for path in tables)
        with tqdm(total=len(items), initial=n_done, desc=name, unit="item") as progress:
            while missing := [path for path in shards if path not in tables]:
                path = take(missing)
                table = pa.Table.from_pandas(compute(shards[path]), preserve_index=False)
                table = table.replace_schema_metadata({**table.schema.metadata, SHARD: self.about["fingerprint"]})
                write_table(table, path)
                new = self.finished(missing) | {path: table.to_pandas()}
                progress.update(sum(len(shards[path]) for path in new))
                tables |= new
        return pd.concat([tables[path] for path in shards], ignore_index=True) if shards else pd.DataFrame()

    def finished(self, paths: Iterable[Path]) -> dict[Path, pd.DataFrame]:
        """The shards that are there, whole, and of this run.

        Parquet keeps its directory at the end of the file and a checksum of every page.
        """
        tables = {}
        for path in paths:
            with suppress(pa.ArrowException, OSError):
                table = pq.read_table(path, page_checksum_verification=True)
                if (table.schema.metadata or {}).get(SHARD) == self.about["fingerprint"].encode():
                    tables[path] = table.to_pandas()
        return tables


def take(shards: list[Path]) -> Path:
    """Choose the first shard that no process has begun, or else the one begun longest ago: its process may be dead."""
    marks = [path.with_suffix(".begun") for path in shards]
    for path, mark in zip(shards, marks, strict=True):
        with suppress(FileExistsError):
            mark.touch(exist_ok=False)
            return path
    oldest = min(marks, key=lambda mark: mark.stat().st_mtime)
    oldest.touch()
    return oldest.with_suffix(".parquet")
