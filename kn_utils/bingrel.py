"""BingREL: sentences from the web with a fact's head and tail, or its head alone (Dai et al. 2022, section 4.4).

The release has one JSON file per relation, a list with one {"th_bags": [...], "h_bags": [...]} per fact: at most ten
sentences each. Some of the `h_bags` hold the tail as well. For the lab's facts there are sentences of our own.
"""

import gzip
import hashlib
import http.client
import json
import os
import urllib.request
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import platformdirs
from tqdm.auto import tqdm

from .facts import Fact, load_facts, relation_id
from .pararel import LABELS, RELEASE

LAB_SENTENCES = Path(__file__).parent / "lab" / "sentences.json"
FOLDER = "BingDistantTREx/final"
NAME = "final_distant_allbags_{}_new.json"
COUNTS = (210_217, 266_020)  # sentences with head and tail, with the head alone, in all 34 relations
SHA256 = {  # of single relations, see `checksum`; the others are counted
    "P101": "b0c082ae70b30f8574b5a47adf35e3e5523d9b5c5da7adb368ef51fee24272fe",
    "P19": "7ef0514d5a106c0edd41df68706df90642f5ff27192b8d153dbdb2b42e9b1517",
    "P36": "307e1affeb9d4d0edc4760fd126d62d7dc551518364204ec7194219b91ac5556",
}


class Bag(NamedTuple):
    """The sentences of one fact, as they stand on the web."""

    head_and_tail: tuple[str, ...]
    head: tuple[str, ...]


def load_prompts(source: str | Path = "bingrel", relations: Iterable[str] | None = None) -> dict[str, list[Bag]]:
    """Read `"bingrel"` (downloaded once, then cached), `"lab"`, or a folder of BingREL's files, plain or gzipped.

    A download of P19, P36 or P101 is checked against its checksum. For the other relations none is known: they are
    counted, against the paper's two numbers, whenever all 34 are read.

    Args:
        relations: read these, given as "P36" or "P36(capital)"; when None all there are.

    Returns:
        {"P36": [Bag, ...]}: bag number i belongs to fact number i of the relation in ParaRel, or in the lab's world.

    Raises:
        ConnectionError: a file is not cached and cannot be downloaded.
        FileNotFoundError: the folder lacks a relation.
        ValueError: a file that is truncated or not in BingREL's format, or a download that is not the release.
    """
    wanted = None if relations is None else [relation_id(relation) for relation in relations]
    if source == "lab":
        facts = load_facts("lab", relations=wanted)
        bags: dict[str, list[Bag]] = {}
        for fact, bag in zip(facts, lab_bags(facts), strict=True):
            bags.setdefault(relation_id(fact.relation), []).append(bag)
        return bags
    if source == "bingrel":
        unknown = sorted(set(wanted or ()) - LABELS.keys())
        if unknown:
            raise ValueError(f"relation {unknown[0]!r} is not in BingREL: choose from {', '.join(LABELS)}")
        names = wanted or list(LABELS)
        bags = {name: _read(_cached(name)) for name in tqdm(names, desc="BingREL", unit="relation")}
        _verify(bags)
        return bags
    folder = Path(source)
    names = (NAME.format("*"), NAME.format("*") + ".gz")
    found = {path.name.split("_")[3]: path for name in names for path in sorted(folder.glob(name))}
    for name in wanted or ():
        if name not in found:
            raise FileNotFoundError(f"{str(folder)!r} has no file of {name}: it holds {', '.join(found) or 'none'}")
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} holds no BingREL files: pass 'bingrel', 'lab' or their folder")
    return {name: _read(found[name]) for name in wanted or found}


def lab_bags(facts: Sequence[Fact]) -> list[Bag]:
    """Free sentences about each fact of the lab's world, written for this purpose; no template is among them."""
    frames = json.loads(LAB_SENTENCES.read_text())

    def filled(part, fact):
        return tuple(
            frame.replace("[X]", fact.subject).replace("[Y]", fact.answer) for frame in frames[part][fact.relation]
        )

    return [Bag(filled("with tail", fact), filled("head", fact)) for fact in facts]


def checksum(bags: dict[str, list[Bag]]) -> str:
    """sha256 of the sentences, whatever the files' white space or the relations' order."""
    return hashlib.sha256(json.dumps(bags, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _verify(bags: dict[str, list[Bag]]) -> None:
    """Raise ValueError unless this is the release, as far as that can be told."""
    again = f"remove it from {str(_cache())!r} if it is there, and try again"
    for name in sorted(bags.keys() & SHA256.keys()):
        if (digest := checksum({name: bags[name]})) != SHA256[name]:
            raise ValueError(f"BingREL's {name} has checksum {digest[:12]}, expected {SHA256[name][:12]}: {again}")
    every = [bag for relation in bags.values() for bag in relation]
    counts = sum(len(bag.head_and_tail) for bag in every), sum(len(bag.head) for bag in every)
    if bags.keys() == LABELS.keys() and counts != COUNTS:
        raise ValueError(f"BingREL has {counts} sentences, expected {COUNTS}: clear {str(_cache())!r} and try again")


def _read(path: Path) -> list[Bag]:
    try:
        return _parse(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read ({error}): fetch it again") from None


def _parse(raw: bytes, origin: str | Path) -> list[Bag]:
    try:
        rows = json.loads(gzip.decompress(raw) if str(origin).endswith(".gz") else raw)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{str(origin)!r} is truncated or not JSON ({error}): fetch it again") from None

    def is_texts(value):
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and is_texts(row.get("th_bags")) and is_texts(row.get("h_bags")) for row in rows
    ):
        expected = '[{"th_bags": [sentences], "h_bags": [sentences]}, ...]'
        raise ValueError(f"{str(origin)!r} is not in BingREL's format: expected {expected}")
    return [Bag(tuple(row["th_bags"]), tuple(row["h_bags"])) for row in rows]


def _cache() -> Path:
    return Path(platformdirs.user_cache_dir("kn_utils")) / "bingrel"


def _cached(relation: str) -> Path:
    path = _cache() / (NAME.format(relation) + ".gz")
    if not path.exists():
        url = f"{RELEASE}/{FOLDER}/{NAME.format(relation)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                raw = response.read()
        except (OSError, http.client.HTTPException) as error:  # the latter where a download is cut short
            raise ConnectionError(
                f"BingREL is not cached and {url} cannot be reached ({error}): connect once to download it, or pass "
                "load_prompts() the folder of a local copy"
            ) from None
        _verify({relation: _parse(raw, url)})  # before it is kept
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(gzip.compress(raw))
        partial.replace(path)  # at once: a download that is cut short leaves nothing behind
    return path
