"""ParaRel's download, on a release rebuilt from the authors' own file: verified, cached once, never half-written."""

import json
import urllib.error
import urllib.request

import platformdirs
import pytest
from common import cached_files, one_line_error, serve

import kn_utils as kn
from kn_utils.data import pararel
from kn_utils.facts import read_bags


@pytest.fixture(scope="session")
def release(pararel_file):
    """{path: content} of the two kinds of file that the authors released, taken apart from the finished facts."""
    bags, facts = read_bags(pararel_file), kn.load_facts(pararel_file)
    pairs: dict[str, list] = {}
    for fact in facts:
        pairs.setdefault(kn.relation_id(fact.relation), []).append([fact.subject, fact.answer])
    files = {"BingDistantTREx/query_pairs.json": json.dumps(pairs)}
    for relation, (first, *_) in bags.items():
        subject = pairs[relation][0][0]
        patterns = [prompt.replace(subject, "[X]").replace("[MASK]", "[Y]") for prompt, _, _ in first]
        lines = [json.dumps({"pattern": pattern, "lemma": "be"}) for pattern in patterns]
        files[f"PARAREL/raw_data/patterns/{relation}.jsonl"] = "\n".join(lines) + "\n\n"
    return files


@pytest.fixture
def online(release, tmp_path, monkeypatch):
    """A network that serves the release; returns (files it serves, addresses that were asked for)."""
    files = dict(release)
    return files, serve(files, monkeypatch, tmp_path, f"{pararel.RELEASE}/")


def test_downloaded_once_and_then_cached(online, pararel_file, tmp_path):
    _, asked = online
    facts = kn.load_facts("pararel")
    assert set(facts) == set(kn.load_facts(pararel_file))
    assert len(facts) == 27_738
    assert cached_files(tmp_path) == ["pararel.json.gz", "pararel.json.gz.sha256"]
    assert len(asked) == len(set(asked)) == 1 + len(pararel.LABELS)
    assert kn.load_facts("pararel", relations=["P36"]) == [fact for fact in facts if fact.relation == "P36(capital)"]
    assert len(asked) == 1 + len(pararel.LABELS)  # the second time nothing was asked for


@pytest.mark.parametrize(
    "path, old, new",
    [
        ("PARAREL/raw_data/patterns/P36.jsonl", "capital", "Capital"),
        ("PARAREL/raw_data/patterns/P1303.jsonl", "\n\n", '\n{"pattern": "[X] has a [Y]."}\n'),
        ("BingDistantTREx/query_pairs.json", "Dublin", "Publin"),
    ],
    ids=["a letter", "a pattern more", "an answer"],
)
def test_a_changed_release_is_refused(online, tmp_path, path, old, new):
    files, _ = online
    assert old in files[path]
    files[path] = files[path].replace(old, new, 1)
    with one_line_error(ValueError, "ParaRel", "27738", "253448", pararel.SHA256[:12], "try again"):
        kn.load_facts("pararel")
    assert cached_files(tmp_path) == []


@pytest.mark.parametrize(
    "path, content",
    [
        ("BingDistantTREx/query_pairs.json", b"[]"),
        ("BingDistantTREx/query_pairs.json", b"{}"),
        ("BingDistantTREx/query_pairs.json", b'{"P36": [["Ireland"'),
        ("BingDistantTREx/query_pairs.json", b"\xff\xfe\xff"),
        ("BingDistantTREx/query_pairs.json", b"[" * 200_000),
        ("PARAREL/raw_data/patterns/P36.jsonl", b"[]"),
        ("PARAREL/raw_data/patterns/P36.jsonl", b"{}"),
        ("PARAREL/raw_data/patterns/P36.jsonl", b'{"pattern": "[X]'),
        ("PARAREL/raw_data/patterns/P36.jsonl", b'{"pattern": 7}'),
        ("PARAREL/raw_data/patterns/P36.jsonl", b"\xff\xfe\xff"),
        ("PARAREL/raw_data/patterns/P36.jsonl", b""),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_another_form_is_refused(online, tmp_path, path, content):
    files, _ = online
    files[path] = content
    with one_line_error(ValueError, "try again"):
        kn.load_facts("pararel")
    assert cached_files(tmp_path) == []


def test_a_web_page_is_refused(online, tmp_path):
    files, _ = online
    files["BingDistantTREx/query_pairs.json"] = b"<!DOCTYPE html><title>Sign in</title>"
    with one_line_error(ConnectionError, "ParaRel", "query_pairs.json", "a web page came instead"):
        kn.load_facts("pararel")
    assert cached_files(tmp_path) == []


def test_the_cache_is_verified_whenever_it_is_read(online, pararel_file, tmp_path):
    """Another file in its place, also one without the digest that older versions did not keep."""
    kn.load_facts("pararel")
    (path,) = tmp_path.rglob("pararel.json.gz")
    whole, record = path.read_bytes(), path.with_name(path.name + ".sha256")
    kn.write_facts(kn.load_facts(pararel_file, relations="P36"), path)
    with one_line_error(ValueError, path, "has changed", "delete it"):
        kn.load_facts("pararel")
    record.unlink()
    with one_line_error(ValueError, "703", "27738", "try again"):
        kn.load_facts("pararel")
    path.write_bytes(whole)
    assert len(kn.load_facts("pararel")) == 27_738 and record.exists()


@pytest.mark.parametrize("served", [0, 5], ids=["offline from the start", "cut off on the way"])
def test_offline(online, tmp_path, served):
    files, _ = online
    for path in list(files)[served:]:
        del files[path]
    with one_line_error(ConnectionError, "ParaRel", pararel.RELEASE, "connect once", "load_facts()"):
        kn.load_facts("pararel")
    assert cached_files(tmp_path) == []


def test_offline_without_any_file(tmp_path, monkeypatch):
    """The same without the authors' data at hand: the network itself fails."""

    def urlopen(address, timeout):
        raise urllib.error.URLError("name resolution failed")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    with one_line_error(ConnectionError, "ParaRel", "name resolution failed", "connect once"):
        kn.load_facts("pararel")
    assert cached_files(tmp_path) == []


def test_the_authors_file_is_the_release(pararel_file):
    bags = read_bags(pararel_file)
    pararel.verify(bags)
    assert {relation: bag[0][0][2] for relation, bag in bags.items()} == {
        relation: f"{relation}({label})" for relation, label in pararel.LABELS.items()
    }


def test_checksum_heeds_content_not_order():
    bags = {"P36": [[["[MASK], capital of Peru", "Lima", "P36(capital)"]]], "P30": []}
    assert pararel.checksum(dict(reversed(bags.items()))) == pararel.checksum(bags)
    assert pararel.checksum({**bags, "P36": []}) != pararel.checksum(bags)
