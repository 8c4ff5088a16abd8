"""The published neurons: their download on a stand-in for the network, and the shipped figures derived anew."""

import gzip
import http.client
import json
import urllib.error
import urllib.request
from collections import Counter

import numpy as np
import pandas as pd
import platformdirs
import pytest
from common import cached_files, one_line_error, serve, shared_file

from kn_utils.beyond import published
from kn_utils.models import Neuron

# The order of ParaRel's relations in their script, which dealt the facts out to eight processes.
ORDER = """P39 P264 P37 P108 P131 P103 P176 P30 P178 P138 P47 P17 P413 P27 P463 P364 P495 P449 P20 P1376 P1001 P361 P36
    P1303 P530 P19 P190 P740 P136 P127 P1412 P407 P140 P279 P276 P159 P106 P101 P937""".split()


@pytest.fixture(scope="module")
def rows(neurons_file):
    return published.read_rows(neurons_file)


@pytest.fixture(scope="module")
def facts(neurons_file):
    return published.load_published_neurons(neurons_file)


@pytest.fixture(scope="module")
def release(rows):
    """{address: content} as the two repositories hold them: {uuid: neurons} in eight files, and ParaRel's facts."""
    by_relation = {relation: [row for row in rows if row["relation"] == relation] for relation in ORDER}
    order = [row for own in by_relation.values() for row in own]
    files = {}
    for shard in published.SHARDS:
        neurons = {row["uuid"]: row["neurons"] for row in order[shard :: len(published.SHARDS)]}
        files[published.NEURONS.format(shard)] = json.dumps(neurons, indent=4)
    for relation, own in by_relation.items():
        lines = [{"sub_label": r["subject"], "obj_label": r["answer"], "uuid": r["uuid"]} for r in own]
        files[published.FACTS.format(relation)] = "".join(json.dumps(line) + "\n" for line in lines)
    return files


@pytest.fixture
def online(release, tmp_path, monkeypatch):
    """A network that serves the release; returns (files it serves, addresses that were asked for)."""
    files = dict(release)
    return files, serve(files, monkeypatch, tmp_path)


def test_the_stand_in_has_the_form_of_the_release(release):
    """Characters of the files in the two repositories at these commits: the stand-in differs in none."""
    shards = [2224765, 2210424, 2198700, 2194681, 2170113, 2230870, 2206169, 2200472]
    vocabulary = {"P264": 5500, "P36": 49253, "P1412": 96832, "P279": 94792, "P1001": 75378}
    assert [len(release[published.NEURONS.format(shard)]) for shard in published.SHARDS] == shards
    assert {r: len(release[published.FACTS.format(r)]) for r in vocabulary} == vocabulary


def test_downloaded_once_and_then_cached(online, facts, tmp_path):
    _, asked = online
    order = ["relation", "subject", "answer"]
    downloaded = published.load_published_neurons()
    assert len(downloaded) == 27_610
    assert downloaded.sort_values(order).values.tolist() == facts.sort_values(order).values.tolist()
    assert cached_files(tmp_path) == ["published_neurons.jsonl.gz", "published_neurons.jsonl.gz.sha256"]
    assert len(asked) == len(set(asked)) == 8 + 39
    pd.testing.assert_frame_equal(published.load_published_neurons(), downloaded)
    assert len(asked) == 8 + 39  # the second time nothing was asked for


@pytest.mark.parametrize(
    "address, old, new",
    [
        (published.NEURONS.format(3), "2778", "2777"),
        (published.FACTS.format("P36"), "Leicestershire", "Rutland"),
        (published.FACTS.format("P264"), '"obj_label": "Swan"', '"obj_label": "Word"'),
    ],
    ids=["a neuron", "a subject", "an answer"],
)
def test_a_changed_release_is_refused(online, tmp_path, address, old, new):
    files, _ = online
    assert old in files[address]
    files[address] = files[address].replace(old, new, 1)
    with one_line_error(ValueError, "27610", published.SHA256[:12], "try again"):
        published.load_published_neurons()
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize(
    "address, content",
    [
        (published.NEURONS.format(0), "{}"),
        (published.NEURONS.format(7), '{"48a2b323'),
        (published.FACTS.format("P19"), '{"subject": "Plato"}'),
    ],
    ids=["a file without facts", "not JSON", "other keys"],
)
def test_another_form_is_refused(online, tmp_path, address, content):
    files, _ = online
    files[address] = content
    with one_line_error(ValueError, "not in the form they had", "try again"):
        published.load_published_neurons()
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("served", [0, 5, 20], ids=["offline from the start", "cut off early", "cut off late"])
def test_offline(online, tmp_path, served):
    files, _ = online
    for address in list(files)[served:]:
        del files[address]
    with one_line_error(ConnectionError, "githubusercontent", "connect once", "load_published_neurons()"):
        published.load_published_neurons()
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), http.client.IncompleteRead(b"no route")])
def test_a_failing_network(error, tmp_path, monkeypatch):
    def urlopen(address, timeout):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    with one_line_error(ConnectionError, "cannot be reached", "connect once"):
        published.load_published_neurons()


ROW = {"uuid": "1", "relation": "P36", "subject": "Peru", "answer": "Lima", "neurons": [[1, 20], [0, 3]]}


@pytest.mark.parametrize("name", ["facts.jsonl", "facts.jsonl.gz"])
def test_read_from_a_path(tmp_path, name):
    text = json.dumps(ROW) + "\n" + json.dumps({**ROW, "uuid": "2", "subject": "Perú", "neurons": []})
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    facts = published.load_published_neurons(tmp_path / name)
    assert facts.columns.tolist() == ["relation", "subject", "answer", "neurons"]
    assert facts.relation.tolist() == ["P36(capital)"] * 2
    assert facts.neurons.tolist() == [{Neuron(1, 20), Neuron(0, 3)}, set()]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1, 2]",
        b'{"uuid": "1"',
        gzip.compress(json.dumps(ROW).encode())[:40],
        json.dumps({**ROW, "relation": "P9999"}).encode(),
        json.dumps({**ROW, "neurons": [[1, 2, 3]]}).encode(),
        json.dumps({**ROW, "neurons": None}).encode(),
        json.dumps({**ROW, "neurons": [[12, 0]]}).encode(),
        json.dumps({**ROW, "neurons": [[0, 3072]]}).encode(),
        json.dumps({**ROW, "neurons": [[0, -1]]}).encode(),
        json.dumps({**ROW, "neurons": [[0, 1.5]]}).encode(),
        json.dumps({**ROW, "neurons": [[True, 1]]}).encode(),
        json.dumps({**ROW, "subject": 7}).encode(),
        b"[" * 200_000,
        json.dumps({key: ROW[key] for key in ROW if key != "answer"}).encode(),
    ],
    ids=[
        "empty", "a list", "cut", "cut gzip", "unknown relation", "three numbers", "no neurons", "no such layer",
        "no such neuron", "below zero", "half a neuron", "a truth value", "a number as a name", "deep", "no answer",
    ],  # fmt: skip
)
def test_a_damaged_file_is_named(tmp_path, content):
    path = tmp_path / ("facts.jsonl.gz" if content[:1] == b"\x1f" else "facts.jsonl")
    path.write_bytes(content)
    with one_line_error(ValueError, path, "damaged"):
        published.load_published_neurons(path)


def test_no_such_file(tmp_path):
    with one_line_error(FileNotFoundError, tmp_path / "none.jsonl", "does not exist"):
        published.load_published_neurons(tmp_path / "none.jsonl")


def test_checksum_heeds_content_not_order():
    other = {**ROW, "uuid": "2", "neurons": [[0, 1]]}
    assert published.checksum([ROW, other]) == published.checksum([other, {**ROW, "neurons": [[0, 3], [1, 20]]}])
    assert published.checksum([ROW, other]) != published.checksum([{**ROW, "answer": "Cusco"}, other])
    assert published.checksum([ROW, other]) != published.checksum([ROW, {**other, "neurons": [[1, 0]]}])


@pytest.mark.slow
def test_the_shipped_figures_are_those_of_the_facts(neurons_file):
    derived, shipped = published.derive(neurons_file), json.loads(published.SHIPPED.read_text(encoding="utf-8"))
    assert list(flat(derived)) == list(flat(shipped))
    for (name, ours), (_, theirs) in zip(flat(derived).items(), flat(shipped).items(), strict=True):
        assert ours == (pytest.approx(theirs, rel=1e-4) if isinstance(theirs, float) else theirs), name


def flat(value, name=""):
    """{"number/mean/low": 10.9, ...}"""
    if not isinstance(value, dict | list):
        return {name: value}
    entries = value.items() if isinstance(value, dict) else enumerate(value)
    return {path: leaf for key, entry in entries for path, leaf in flat(entry, f"{name}/{key}").items()}


def test_the_shipped_figures_by_plain_counting(facts):
    figures = published.published_figures()
    number = facts.neurons.map(len)
    assert (figures["facts"], figures["relations"]) == (len(facts), facts.relation.nunique())
    assert figures["number"]["mean"].value == pytest.approx(number.mean(), rel=1e-5)
    assert figures["number"]["histogram"] == np.bincount(number).tolist()
    for relation, own in facts.groupby("relation"):
        counts = Counter(neuron for neurons in own.neurons for neuron in neurons)
        *first, share = figures["by_relation"][relation]["commonest"][0]
        assert counts[tuple(first)] == max(counts.values())
        assert share == pytest.approx(counts[tuple(first)] / len(own), rel=1e-5)
        assert figures["by_relation"][relation]["share"].value == pytest.approx(share, rel=1e-5)


def test_the_shipped_figures_are_a_small_file():
    assert published.SHIPPED.stat().st_size < 100_000


@pytest.fixture(scope="module")
def reference():
    """Figures of the same facts that were derived elsewhere."""
    path = shared_file("reference_numbers.json")
    entries = json.loads(path.read_text(encoding="utf-8"))["published_bert_base_uncased_neurons"]
    return {name: entry["value"] for name, entry in entries.items()}


def test_reference_counts(reference):
    figures = published.published_figures()
    assert figures["facts"] == reference["facts"]
    assert round(figures["number"]["mean"].value, 2) == reference["mean_number"]
    assert figures["number"]["median"].value == reference["median_number"]
    assert [round(100 * share.value, 1) for share in figures["layers"]] == reference["percent_per_layer"]
    top = reference["median_share_of_a_relations_facts_holding_its_top_neuron_percent"]
    assert round(100 * figures["commonest"]["median"].value) == top


def in_common(facts):
    """How many neurons all ordered pairs of two of these facts have in common, summed, and the number of pairs."""
    counts = Counter(neuron for own in facts.neurons for neuron in own)
    return np.array([sum(c * (c - 1) for c in counts.values()), len(facts) * (len(facts) - 1)])


def test_reference_sharing(reference, facts):
    """The reference gives every relation, or every answer, the same weight, and draws pairs. So weighted, the exact
    means agree to 2 %. The book gives every fact the same weight, as `sharing.shared` does.
    """
    same, other = np.zeros(2), np.zeros(2)
    for _, own in facts.groupby("relation"):
        everyone, alike = in_common(own), sum(in_common(group) for _, group in own.groupby("answer"))
        same, other = same + alike / everyone[1], other + (everyone - alike) / everyone[1]
    assert same[0] / same[1] == pytest.approx(reference["shared_same_relation_same_answer"], rel=0.02)
    assert other[0] / other[1] == pytest.approx(reference["shared_same_relation_different_answer"], rel=0.02)

    across = []
    for _, own in facts.groupby("answer"):
        common, pairs = in_common(own) - sum(in_common(group) for _, group in own.groupby("relation"))
        across += [common / pairs] if pairs else []
    assert np.mean(across) == pytest.approx(reference["shared_different_relation_same_answer"], rel=0.02)

    held = facts.explode("neurons").groupby(["relation", "neurons"]).size().unstack(fill_value=0)
    share = held.div(facts.groupby("relation").size(), axis=0).to_numpy()  # (relations, neurons)
    pairs = (share @ share.T)[~np.eye(len(share), dtype=bool)]
    assert pairs.mean() == pytest.approx(reference["shared_different_relation"], rel=0.02)
