"""BingREL: the authors' sentences, a network that serves them, and damaged files."""

import gzip
import http.client
import json
import shutil

import pytest
from common import one_line_error, shared_file
from test_prompt_types import check_types

import kn_utils as kn
from kn_utils import bingrel
from kn_utils.bingrel import Bag, checksum, load_prompts
from kn_utils.prompt_types import bags_of, mask_answer, typed_prompts


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


def test_download_is_cached_and_counted(tmp_path, monkeypatch):
    release = {"P36": [{"th_bags": ["Dublin is in Ireland."], "h_bags": ["Ireland is old.", "Ireland."]}]}
    fetched = []

    class Response:
        def __init__(self, body):
            self.read = lambda: body

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    def urlopen(url, timeout):
        fetched.append(url)
        relation = url.rpartition("_new")[0].rpartition("_")[2]
        if relation not in release:
            raise OSError("no network")
        return Response(json.dumps(release[relation]).encode())

    monkeypatch.setattr(bingrel.urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(bingrel.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    with one_line_error(ValueError, "P36", "checksum", bingrel.SHA256["P36"][:12]):
        load_prompts(relations=["P36"])
    assert not list(tmp_path.rglob("*json*"))  # what is not the release is not kept
    fetched.clear()
    monkeypatch.setattr(bingrel, "SHA256", {})
    expected = {"P36": [Bag(("Dublin is in Ireland.",), ("Ireland is old.", "Ireland."))]}
    assert load_prompts(relations=["P36(capital)"]) == expected == load_prompts(relations=["P36"])
    assert len(fetched) == 1 and "c51b44a79bc935961c27fabf2c6f8e523a669cbb/data/BingDistantTREx/final" in fetched[0]
    with one_line_error(ConnectionError, "P19", "no network"):
        load_prompts(relations=["P19"])
    with one_line_error(ValueError, "'P1'", "P36"):
        load_prompts(relations=["P1"])
    monkeypatch.setattr(bingrel, "LABELS", {"P36": "capital"})
    with one_line_error(ValueError, "(1, 2)", "210217"):
        load_prompts()
    monkeypatch.setattr(bingrel, "COUNTS", (1, 2))
    assert load_prompts() == expected


def test_a_download_cut_short_leaves_nothing(tmp_path, monkeypatch):
    class Response:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def read(self):
            raise http.client.IncompleteRead(b'[{"th_bags"', 900)

    monkeypatch.setattr(bingrel.urllib.request, "urlopen", lambda url, timeout: Response())
    monkeypatch.setattr(bingrel.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    with one_line_error(ConnectionError, "P20", "IncompleteRead", "local copy"):
        load_prompts(relations=["P20"])
    monkeypatch.setattr(Response, "read", lambda self: b'[{"th_bags"')
    with one_line_error(ValueError, "P20", "truncated"):
        load_prompts(relations=["P20"])
    assert not list(tmp_path.rglob("*json*"))


@pytest.mark.parametrize("relation", ["P19", "P36", "P101"])
def test_the_release_is_accepted(relation, tmp_path, monkeypatch):
    """Served as the authors serve them, the files pass the checksum; once cached, no network is needed."""
    name = f"final_distant_allbags_{relation}_new.json.gz"
    content = gzip.decompress(shared_file("bingrel", name).read_bytes())

    class Response:
        read = staticmethod(lambda: content)

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(bingrel.urllib.request, "urlopen", lambda url, timeout: Response())
    monkeypatch.setattr(bingrel.platformdirs, "user_cache_dir", lambda name: str(tmp_path))
    bags = load_prompts(relations=[relation])
    monkeypatch.setattr(bingrel.urllib.request, "urlopen", None)
    assert load_prompts(relations=[relation]) == bags
    folder = tmp_path / "by hand"
    folder.mkdir()
    shutil.copy(shared_file("bingrel", name), folder)
    (folder / (name + ".part")).write_bytes(b"half")  # is no file of the release
    assert load_prompts(folder) == bags
