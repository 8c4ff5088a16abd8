"""BingREL: sentences from the web with a fact's head and tail, or its head alone (Dai et al. 2022, section 4.4)."""

import gzip
import hashlib
import json
import os
import urllib.request
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import platformdirs
from tqdm.auto import tqdm

from .facts import relation_id
from .pararel import LABELS, RELEASE

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
    """Read `"bingrel"` (downloaded once, then cached), or a folder of its files, plain or gzipped.

    Args:
        relations: read these, given as "P36" or "P36(capital)"; when None all 34 of the release, or all in the folder.

    Returns:
        {"P36": [Bag, ...]}: bag number i belongs to fact number i of the relation in ParaRel.

    Raises:
        ConnectionError: a file is not cached and cannot be downloaded.
        FileNotFoundError: the folder lacks a relation.
        ValueError: a file that is truncated or not in BingREL's format, or a download that is not the release.
    """
    wanted = None if relations is None else [relation_id(relation) for relation in relations]
    if source == "bingrel":
        unknown = sorted(set(wanted or ()) - LABELS.keys())
        if unknown:
            raise ValueError(f"relation {unknown[0]!r} is not in BingREL: choose from {', '.join(LABELS)}")
        names = wanted or list(LABELS)
        bags = {name: _read(_cached(name)) for name in tqdm(names, desc="BingREL", unit="relation")}
        _verify(bags)
        return bags
    folder = Path(source)
    found = {path.name.split("_")[3]: path for path in sorted(folder.glob(NAME.format("*") + "*"))}
    for name in wanted or ():
        if name not in found:
            raise FileNotFoundError(f"{str(folder)!r} has no file of {name}: it holds {', '.join(found) or 'none'}")
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} holds no BingREL files: pass 'bingrel' or their folder")
    return {name: _read(found[name]) for name in wanted or found}


def checksum(bags: dict[str, list[Bag]]) -> str:
    """sha256 of the sentences, whatever the files' white space or the relations' order."""
    return hashlib.sha256(json.dumps(bags, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _verify(bags: dict[str, list[Bag]]) -> None:
    again = "clear the cache and download it again"
    for name in bags.keys() & SHA256.keys():
        if checksum({name: bags[name]}) != SHA256[name]:
            raise ValueError(f"BingREL's {name} has checksum {checksum({name: bags[name]})[:12]}: {again}")
    every = [bag for relation in bags.values() for bag in relation]
    counts = sum(len(bag.head_and_tail) for bag in every), sum(len(bag.head) for bag in every)
    if bags.keys() == LABELS.keys() and counts != COUNTS:
        raise ValueError(f"BingREL has {counts} sentences, expected {COUNTS}: {again}")


def _read(path: Path) -> list[Bag]:
    try:
        raw = path.read_bytes()
        rows = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is truncated or not JSON ({error}): fetch it again") from None

    def is_texts(value):
        return isinstance(value, list) and all(isinstance(text, str) for text in value)

    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and is_texts(row.get("th_bags")) and is_texts(row.get("h_bags")) for row in rows
    ):
        expected = '[{"th_bags": [sentences], "h_bags": [sentences]}, ...]'
        raise ValueError(f"{str(path)!r} is not in BingREL's format: expected {expected}")
    return [Bag(tuple(row["th_bags"]), tuple(row["h_bags"])) for row in rows]


def _cached(relation: str) -> Path:
    path = Path(platformdirs.user_cache_dir("kn_utils")) / "bingrel" / (NAME.format(relation) + ".gz")
    if not path.exists():
        url = f"{RELEASE}/{FOLDER}/{NAME.format(relation)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                raw = response.read()
        except OSError as error:
            raise ConnectionError(
                f"BingREL is not cached and {url} cannot be reached ({error}): connect once to download it, or pass "
                "load_prompts() the folder of a local copy"
            ) from None
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(gzip.compress(raw))
        partial.replace(path)  # at once: a download that is cut short leaves nothing behind
    return path
