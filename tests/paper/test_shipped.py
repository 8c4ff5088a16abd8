"""The shipped result files: a sample of each is computed again; how they are found, refused and made."""

import random
import sys
from copy import copy
from datetime import timedelta
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import kn_utils as kn
from kn_utils.data.shipped import how_made, time_left
from kn_utils.paper import experiments, runs, shipped
from kn_utils.paper.chapter import results_or_run
from kn_utils.paper.description import describe
from kn_utils.paper.experiments import THRESHOLDS
from kn_utils.paper.prompt_types import bags_of
from kn_utils.paper.registry import EXPERIMENTS
from kn_utils.paper.results import Results, read_results, write_results
from kn_utils.paper.stages import Run
from kn_utils.prompts import askable
from kn_utils.refinement import another_facts_neurons, coarse_counts, shared_neurons

N_FACTS, N_EDITS = 12, 2  # of each file, computed again
CLOSE = 1e-5  # of the highest score
SHARES = [i / 100 for i in range(40, 101, 5)]  # the values of p that six steps of 0.05 can reach


class Sample:
    """Some facts of a shipped file, and what is computed again for them."""

    def __init__(self, name, folder):
        self.name, arguments = name, shipped.RUNS[name]
        self.results = read_results(shipped.FOLDER / f"{name}.parquet")
        lm = kn.load_model(arguments["model"], device="cpu")
        facts = askable(lm, kn.load_facts(arguments["facts"], n_facts=arguments.get("n_facts")))
        bags = bags_of(facts, arguments["facts"], None)
        about = describe(lm, arguments["model"], facts, arguments["facts"], 0, bags, "probability")
        self.run = Run(lm, facts, bags, about, folder / "whole", 64)
        self.run.known, self.run.neurons = self.results.facts.known, self.results.facts
        own = experiments.own_neurons(facts, self.results.facts.knowledge)
        self.edits = experiments.choose_edits(lm, facts, own, self.results.facts.known)
        rng = random.Random(0)
        self.edited = rng.sample(self.edits.fact.tolist(), N_EDITS)
        self.rows = sorted({*rng.sample(range(len(facts)), N_FACTS), *self.edited})
        part = Run(lm, self.run.part(self.rows), [], about, folder / "part", 64)
        self.known, self.coarse = part.ask().known, part.find()
        self.scores = kn.knowledge_attributions(lm, part.facts)
        self.activations = [kn.ffn_activations(lm, fact.prompts) for fact in part.facts]
        most_active = self.results.facts["most active"].map(sorted)
        most_active[self.rows] = self.coarse["most active"].tolist()
        self.run.coarse = pd.DataFrame({"most active": most_active})
        made = self.results.about["experiments"]
        self.tables = {e.table: self.computed(e) for name, e in EXPERIMENTS.items() if name in made}

    def computed(self, experiment):
        """The rows of an experiment's table that are of sampled facts; of its items, one is one fact or one edit."""
        plan, items = experiment.plan(self.run), self.rows
        if experiment.table == "updates":
            items = [self.edits.fact.tolist().index(i) for i in self.edited]
        assert plan.n_items == (len(self.edits) if experiment.table == "updates" else len(self.run.facts))
        return plan.compute(items)


@pytest.fixture(scope="module", params=shipped.RUNS)
def sample(request, tmp_path_factory):
    return Sample(request.param, tmp_path_factory.mktemp(request.param))


def differences(sample, results):
    """What of the sampled facts is not in `results` as it was computed again."""
    facts, found = results.facts.loc[sample.rows].reset_index(drop=True), set()
    if facts.known.tolist() != sample.known.tolist():
        found.add("known")
    for row, again in zip(facts.itertuples(), sample.coarse.itertuples(), strict=True):
        if not same_scores(row.scores, again.scores):
            found.add("scores")
    for kind, scores in (("knowledge", sample.scores), ("activation", sample.activations)):
        for _, group in facts.groupby("relation"):
            shares = group.share.unique() if kind == "knowledge" else SHARES
            if not any(all(same_set(scores[i], group[kind][i], kind, p) for i in group.index) for p in shares):
                found.add(kind)
    for active, own, top in zip(sample.activations, facts.knowledge, facts["most active"], strict=True):
        mean = active.mean(0)
        lowest = mean.flatten().topk(len(own)).values.min() if own else 0
        if len(top) != len(own) or any(mean[neuron] < lowest - CLOSE * mean.max() for neuron in top):
            found.add("most active")
    others = another_facts_neurons(sample.run.facts, results.facts.knowledge, 0)
    for i, own, drawn, other in zip(sample.rows, facts.knowledge, facts.random, facts["another fact"], strict=True):
        if drawn != kn.random_neurons(own, results.n_neurons, i):
            found.add("random")
        if other != others[i]:
            found.add("another fact")
    for name, table in sample.tables.items():
        if not same_rows(results.tables[name], table):
            found.add(name)
    edits = results.updates[["fact", "new"]].drop_duplicates() if len(results.updates) else sample.edits
    if sorted(edits.itertuples(index=False)) != sorted(sample.edits.itertuples(index=False)):
        found.add("updates")
    return found


def same_scores(scores, again):
    """Equal to 1e-5 of the highest; what only one of them has lies that close to 0.1 of it."""
    highest = max(again.values())
    both = scores.keys() & again.keys()
    only = {**{n: scores[n] for n in scores.keys() - both}, **{n: again[n] for n in again.keys() - both}}
    return all(abs(scores[n] - again[n]) <= CLOSE * highest for n in both) and all(
        abs(score - 0.1 * highest) <= CLOSE * highest for score in only.values()
    )


def same_set(scores, neurons, kind, share):
    """Equal but for neurons whose scores are within 1e-5 of a prompt's highest from the threshold."""
    t, least = THRESHOLDS[kind], min(3, len(scores))
    few, many = (
        shared_neurons(coarse_counts(scores, threshold), len(scores), share, least)
        for threshold in (t + CLOSE, t - CLOSE)
    )
    return few <= neurons <= many


def same_rows(table, again):
    """Whether the rows of these facts are those computed again, numbers equal to 1e-5 and 0.1 %."""
    names = [column for column in again if not pd.api.types.is_float_dtype(again[column])]
    numbers = [column for column in again if column not in names]
    own = table[table.fact.isin(again.fact)]
    both = own.merge(again, on=names, suffixes=("", " again"))
    if not len(both) == len(own) == len(again):
        return False
    return all(np.allclose(both[n], both[f"{n} again"], rtol=1e-3, atol=CLOSE, equal_nan=True) for n in numbers)


def test_a_sample_computed_again_is_what_is_shipped(sample):
    assert differences(sample, sample.results) == set()


def test_it_is_found_by_the_run_that_it_is_of(sample, capsys):
    experiment = shipped.RUNS[sample.name].get("experiment", "all")
    assert shipped.shipped_results(sample.run, experiment).about == sample.results.about
    assert capsys.readouterr().out == ""


def copy_of(results):
    """Results that can be changed: their sets and scores, too, are copies."""
    facts = results.facts.assign(**{name: results.facts[name].map(copy) for name in (*experiments.KINDS, "scores")})
    return Results(results.about, facts, {name: table.copy() for name, table in results.tables.items()})


def first_with(sample, kind):
    """A sampled fact that has neurons of this kind."""
    return next(i for i in sample.rows if len(sample.results.facts[kind][i]) > 1)


@pytest.mark.parametrize("kind", experiments.KINDS)
def test_a_changed_set_is_noticed(sample, kind):
    changed = copy_of(sample.results)
    changed.facts[kind][first_with(sample, kind)].pop()
    assert kind in differences(sample, changed)


def test_a_changed_score_is_noticed(sample):
    changed = copy_of(sample.results)
    scores = changed.facts.scores[sample.rows[3]]
    scores[max(scores, key=scores.get)] *= 1 + 1e-4
    assert differences(sample, changed) == {"scores"}


def test_another_fact_that_is_known_is_noticed(sample):
    changed = copy_of(sample.results)
    changed.facts.loc[sample.rows[0], "known"] ^= True
    assert "known" in differences(sample, changed)


def test_a_changed_effect_is_noticed(sample):
    for table, rows in sample.tables.items():
        number = next(column for column in rows if pd.api.types.is_float_dtype(rows[column]))
        changed = copy_of(sample.results)
        row = changed.tables[table].index[changed.tables[table].fact == rows.fact[0]][-1]
        changed.tables[table].loc[row, number] += 0.002
        assert differences(sample, changed) == {table}


FOUND = {"model": "lab", "facts": "lab", "experiment": "find", "n_facts": 4}


@pytest.fixture
def package(monkeypatch, tmp_path, cache, lab):
    """An empty folder of shipped files, and one small run that belongs there."""
    monkeypatch.setattr(runs, "load_model", lambda *args: lab)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "results")
    monkeypatch.setattr(shipped, "RUNS", {"few": FOUND})
    return tmp_path / "results"


def ship(monkeypatch, *names):
    monkeypatch.setattr(sys, "argv", ["shipped", *names])
    shipped.main()


def test_the_command_continues_and_its_file_is_found_by_the_same_run_only(package, cache, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(experiments, "refine", stop)
        ship(monkeypatch, "few")
    assert not package.exists() and list(cache.rglob("find/*.parquet"))
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "find_coarse", None)  # was made before
        ship(monkeypatch)
    assert [path.name for path in package.iterdir()] == ["few.parquet"]
    capsys.readouterr()
    run = SimpleNamespace(about={})
    monkeypatch.setattr(Run, "results", lambda *_: run)
    assert results_or_run("", **FOUND).about["command"] == "make results"
    assert len(capsys.readouterr().out.splitlines()) == 1
    for change in {"n_facts": 3}, {"seed": 1}, {"experiment": "suppress_amplify"}, {"measure": "log_probability"}:
        assert results_or_run("", **FOUND | change) is run
        assert "not used" not in capsys.readouterr().out


@pytest.mark.parametrize("key", shipped.STALE)
def test_a_file_made_otherwise_is_named_and_not_used(package, monkeypatch, capsys, key):
    ship(monkeypatch)
    path = package / "few.parquet"
    results = read_results(path)
    write_results(path, results.about | {key: "another"}, results.facts, {})
    capsys.readouterr()
    assert "command" not in results_or_run("", **FOUND).about
    line, made = capsys.readouterr().out.splitlines()
    assert made.startswith("made by `python -m kn_utils.paper`")
    assert "few.parquet" in line and key in line and "not used" in line


def test_a_damaged_file_is_named_and_not_used(package, monkeypatch, capsys):
    ship(monkeypatch)
    path = package / "few.parquet"
    path.write_bytes(path.read_bytes()[:-50])
    capsys.readouterr()
    assert "command" not in results_or_run("", **FOUND).about
    line, made = capsys.readouterr().out.splitlines()
    assert made.startswith("made by `python -m kn_utils.paper`")
    assert "few.parquet" in line and "not used" in line and "damaged" in line


def test_an_unknown_name_is_refused(package, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        ship(monkeypatch, "many")
    assert "'many'" in capsys.readouterr().err and not package.exists()


def test_every_file_is_there_and_the_folder_is_small():
    files = list(shipped.FOLDER.iterdir())
    assert {*shipped.RUNS, "answer_key"} == {path.stem for path in files}
    assert sum(path.stat().st_size for path in files) < 6e6  # bytes


@pytest.mark.parametrize("name", shipped.RUNS)
def test_how_it_was_made_is_one_line_with_all_that_identifies_it(name):
    about = read_results(shipped.FOLDER / f"{name}.parquet").about
    line = how_made(about)
    for part in ("make results", about["model_digest"][:8], f"{about['n_facts']:,} facts {about['facts_digest'][:8]}"):
        assert part in line
    assert all(f"{library} {number}" in line for library, number in about["versions"].items()) and "\n" not in line


def test_what_an_older_file_does_not_say_is_left_out():
    assert how_made({"n_layers": 4}) == "made by `python -m kn_utils.paper`"


def test_a_duration_in_words():
    spans = [timedelta(seconds=40), timedelta(minutes=5), timedelta(hours=2.5)]
    assert [time_left(span.total_seconds()) for span in spans] == ["less than a minute", "5 minutes", "2.5 hours"]
