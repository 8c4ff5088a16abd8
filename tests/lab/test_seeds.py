"""The tables of three training seeds: whole, and of the shipped model what can be measured today."""

import pytest

import kn_utils as kn
from kn_utils.lab.headline import headline
from kn_utils.lab.seeds import SEEDS, read_seeds
from kn_utils.paper.experiments import ERASED, KINDS

UPDATED = ("knowledge", "another fact", "most active", "random")
ERASING = ("knowledge", "activation", "most active", "random")
SMALL_SAMPLE = 0.25  # how far apart the intervals of a few facts and of all may lie, in shares


def expected_keys():
    """(quantity, kind) of every headline number."""
    rates = [(rate, kind) for rate in ("change", "success") for kind in UPDATED]
    effects = [(operation, kind) for operation in ("suppress", "amplify") for kind in KINDS]
    growth = [
        (f"{group}, {name}", kind) for name in ERASED for group in ("growth", "growth of others") for kind in ERASING
    ]
    single = [("recall, select", "none"), ("recall, measure", "none"), ("neurons per fact", "knowledge")]
    return {*single, *effects, *rates, *growth}


@pytest.fixture(scope="module")
def tables():
    return read_seeds()


def test_every_seed_has_every_headline_number(tables):
    for seed in SEEDS:
        rows = tables["headline"][tables["headline"].seed == seed]
        keys = list(zip(rows.quantity, rows.kind, strict=True))
        assert len(keys) == len(set(keys)) and set(keys) == expected_keys()
        assert (rows.low <= rows.value).all() and (rows.value <= rows.high).all()
    assert set(tables["headline"].seed) == set(SEEDS)


def test_every_seed_has_its_leaderboards(tables):
    for name, keys in {"ablation": ["method", "key"], "planted": ["method"]}.items():
        assert set(tables[name].seed) == set(SEEDS)
        assert not tables[name].duplicated([*keys, "seed"]).any()
        assert tables[name].groupby("seed").size().nunique() == 1
        assert tables[name][["precision", "auc"]].stack().between(0, 1).all()


def test_the_shipped_models_numbers_are_measured_today(tables, lab):
    """On few facts, so the intervals of the two need only come near each other."""
    facts, everything = kn.load_facts("lab", n_facts=24), kn.load_facts("lab", n_facts=240)
    found = headline(lab, facts, everything).set_index(["quantity", "kind"])
    shipped = tables["headline"].query("seed == 0").set_index(["quantity", "kind"])
    assert found.index.equals(shipped.index)
    for quantity in ("recall, select", "recall, measure", "suppress", "amplify", "change", "success"):
        for kind in found.loc[quantity].index:
            ours, theirs = found.loc[quantity, kind], shipped.loc[quantity, kind]
            gap = max(ours.low, theirs.low) - min(ours.high, theirs.high)
            assert gap < SMALL_SAMPLE, (quantity, kind)
    for table in (found, shipped):
        assert table.value["suppress", "knowledge"] < table.value["suppress", "another fact"] - 0.2
        assert all(table.value[f"growth, {name}", "knowledge"] > 0 for name in ERASED)
