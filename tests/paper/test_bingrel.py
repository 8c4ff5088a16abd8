"""BingREL: the authors' sentences, a network that serves them, and damaged files."""

import gzip
import io
import json
import shutil
import urllib.request
import warnings
from pathlib import Path

import platformdirs
import pytest
from common import one_line_error, shared_file
from paper.type_rules import check_types

import kn_utils as kn
from kn_utils.paper import bingrel
from kn_utils.paper.bingrel import Bag, checksum, load_prompts
from kn_utils.paper.prompt_types import bags_of, mask_answer, typed_prompts


def test_the_authors_sentences():
    folder = shared_file("bingrel")
    bags = load_prompts(folder)
    assert {name: len(own) for name, own in bags.items()} == {"P101": 696, "P19": 944, "P36": 703}
    facts = kn.load_facts(shared_file("pararel", "data_all_allbags.json.gz"), relations=["P36", "P19", "P101"])
    by_relation = {name: [f for f in facts if f.relation.startswith(name + "(")] for name in bags}
    for name, own in bags.items():
        masked = [
            any(mask_answer(s, f) for s in bag.head_and_tail) for f, bag in zip(by_relation[name], own, strict=True)
        ]
        assert sum(masked) > 0.8 * sum(bool(bag.head_and_tail) for bag in own)  # bag i is of fact i
    assert {name: checksum({name: own}) for name, own in bags.items()} == bingrel.SHA256


def test_prompts_from_the_authors_sentences():
    folder, file = shared_file("bingrel"), shared_file("pararel", "data_all_allbags.json.gz")
    facts = [fact for r in ("P36", "P19", "P101") for fact in kn.load_facts(file, relations=[r])[:150]]
    bags = bags_of(facts, str(file), folder)
    prompts = typed_prompts(facts, bags)
    check_types(facts, bags, prompts)
    assert set(prompts.type) == {"T1", "T2", "T3", "T4", "T4*", "T5"}
    assert load_prompts(folder, ["P19"])["P19"][:150] == bags[150:300]


def test_facts_that_are_not_pararels_are_named(tmp_path):
    folder, file = shared_file("bingrel"), shared_file("pararel", "data_all_allbags.json.gz")
    kn.write_facts(kn.load_facts(file, relations=["P36"])[:10], tmp_path / "few.json")
    few = kn.load_facts(tmp_path / "few.json")
    with one_line_error(ValueError, "few.json", "10 facts of P36", "703"):
        bags_of(few, str(tmp_path / "few.json"), folder)


def test_the_labs_sentences():
    bags, facts = load_prompts("lab"), kn.load_facts("lab")
    assert sum(map(len, bags.values())) == len(facts) and len(bags) == 12
    peru = next(f for f in facts if f.subject == "Peru" and f.relation == "P36(capital)")
    number = [f for f in facts if f.relation == "P36(capital)"].index(peru)
    bag = load_prompts("lab", ["P36"])["P36"][number]
    assert all("Peru" in sentence for sentence in bag.head)
    assert bag.head_and_tail and all(mask_answer(sentence, peru) for sentence in bag.head_and_tail)


def write(folder, relation, content):
    path = folder / f"final_distant_allbags_{relation}_new.json"
    path.write_bytes(content)
    return path


def test_damaged_sentences_are_named(tmp_path):
    with one_line_error(FileNotFoundError, tmp_path, "no BingREL files"):
        load_prompts(tmp_path)
    path = write(tmp_path, "P36", b'[{"th_bags": ["a"], "h_bags"')
    with one_line_error(ValueError, path, "truncated or not JSON"):
        load_prompts(tmp_path)
    write(tmp_path, "P36", b'[{"th_bags": "a", "h_bags": []}]')
    with one_line_error(ValueError, path, "th_bags"):
        load_prompts(tmp_path)
    with one_line_error(FileNotFoundError, "P19", "P36"):
        load_prompts(tmp_path, ["P19"])
    cut = tmp_path / "final_distant_allbags_P36_new.json.gz"
    cut.write_bytes(gzip.compress(b"[]")[:-9])
    path.unlink()
    with one_line_error(ValueError, cut, "truncated"):
        load_prompts(tmp_path)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A network that serves {relation: content}; returns (what it serves, addresses that were asked for)."""
    files, asked = {}, []

    def urlopen(url, timeout):
        asked.append(url)
        relation = url.rpartition("_new")[0].rpartition("_")[2]
        if relation not in files:
            raise OSError("no network")
        return io.BytesIO(files[relation])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache"))
    return files, asked


SERVED = json.dumps([{"th_bags": ["Dublin is in Ireland."], "h_bags": ["Ireland is old.", "Ireland."]}]).encode()
BAGS = [Bag(("Dublin is in Ireland.",), ("Ireland is old.", "Ireland."))]


def test_a_download_that_is_not_the_release(online, tmp_path):
    online[0]["P36"] = SERVED
    with one_line_error(ValueError, "P36", "checksum", bingrel.SHA256["P36"][:12]):
        load_prompts(relations=["P36"])
    assert not list(tmp_path.rglob("*json*"))


def test_what_cannot_be_verified_is_named_and_must_not_change(online, tmp_path):
    files, asked = online
    files |= {"P20": SERVED, "P30": SERVED}
    with pytest.warns(UserWarning, match="BingREL's P20, P30: no checksum is known") as caught:
        assert load_prompts(relations=["P20(place of death)", "P30"]) == {"P20": BAGS, "P30": BAGS}
    assert len(caught) == 1 and caught[0].filename == __file__
    assert len(asked) == 2 and "c51b44a79bc935961c27fabf2c6f8e523a669cbb/data/BingDistantTREx/final" in asked[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_prompts(relations="P20") == {"P20": BAGS}
    (path,) = tmp_path.rglob("*P20_new.json.gz")
    path.write_bytes(gzip.compress(SERVED.replace(b"old", b"new")))
    with one_line_error(ValueError, path, "has changed", "delete it"):
        load_prompts(relations="P20")
    path.with_name(path.name + ".sha256").unlink()  # as an older version left it
    with pytest.warns(UserWarning, match="BingREL's P20: no checksum"):
        load_prompts(relations="P20")
    path.unlink()
    with pytest.warns(UserWarning, match="P20"):
        assert load_prompts(relations="P20") == {"P20": BAGS}
    assert len(asked) == 3


def test_all_relations_are_counted(online, monkeypatch):
    online[0]["P20"] = SERVED
    with one_line_error(ConnectionError, "P19", "no network", "local copy"):
        load_prompts(relations=["P19"])
    monkeypatch.setattr(bingrel, "LABELS", {"P20": "place of death"})
    with one_line_error(ValueError, "(1, 2)", "210217"):
        load_prompts()
    monkeypatch.setattr(bingrel, "COUNTS", (1, 2))
    assert load_prompts() == {"P20": BAGS}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"null", SERVED[:-9], b"\xff\xfe\xff", b'[{"th_bags": ["a"]}]', b"[" * 200_000]
)
def test_a_download_of_another_form_leaves_nothing(online, tmp_path, content):
    online[0]["P20"] = content
    with one_line_error(ValueError, "P20"):
        load_prompts(relations=["P20"])
    assert not list(tmp_path.rglob("*json*"))


@pytest.mark.parametrize("relation", ["P19", "P36", "P101"])
def test_the_release_is_accepted(relation, online, tmp_path):
    """Served as the authors serve them, the files pass the checksum; once cached, no network is needed."""
    name = f"final_distant_allbags_{relation}_new.json.gz"
    online[0][relation] = gzip.decompress(shared_file("bingrel", name).read_bytes())
    bags = load_prompts(relations=[relation])
    online[0].clear()
    assert load_prompts(relations=[relation]) == bags
    folder = tmp_path / "by hand"
    folder.mkdir()
    shutil.copy(shared_file("bingrel", name), folder)
    (folder / (name + ".part")).write_bytes(b"half")  # is no file of the release
    assert load_prompts(folder) == bags


@pytest.mark.parametrize("source", ["lab", "bingrel", "folder"])
def test_no_relations_are_refused_as_for_facts(source, tmp_path):
    write(tmp_path, "P36", SERVED)
    source = tmp_path if source == "folder" else source
    for nothing in ([], (), iter([])):
        with one_line_error(ValueError, "relations is empty", "leave it out"):
            load_prompts(source, nothing)
    with one_line_error(TypeError, "relation 36"):
        load_prompts(source, [36])
    with one_line_error(FileNotFoundError if source == tmp_path else ValueError, "P1", "P36"):
        load_prompts(source, "P1")


@pytest.mark.parametrize("source", [1, True, None, float("nan"), ["lab"], "", "a\0b"], ids=ascii)
def test_a_source_that_is_no_path(source):
    with one_line_error(ValueError if isinstance(source, str) else TypeError, f"source is {source!r}", "pass"):
        load_prompts(source)
    with one_line_error(TypeError, "relations is 5", "'P36'"):
        load_prompts("lab", 5)


def test_a_name_may_be_a_path():
    assert load_prompts(Path("lab"), "P36") == load_prompts("lab", "P36")


def test_one_relation_needs_no_list():
    assert load_prompts("lab", "P36") == load_prompts("lab", ["P36", "P36(capital)"])


def test_two_files_of_one_relation_are_refused(tmp_path):
    path = write(tmp_path, "P36", SERVED)
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(SERVED))
    with one_line_error(ValueError, tmp_path, "two files of P36", "remove"):
        load_prompts(tmp_path)


def test_the_lab_has_no_sentences_about_other_relations():
    with one_line_error(ValueError, "'P279(subclass of)'", "lab"):
        bingrel.lab_bags([kn.Fact("wine", "P279(subclass of)", "drink", ("wine is a [MASK]",))])
