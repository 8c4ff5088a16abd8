"""BingREL: sentences from the web with a fact's head and tail, or its head alone (Dai et al. 2022, section 4.4).

The release has one JSON file per relation, a list with one {"th_bags": [...], "h_bags": [...]} per fact: at most ten
sentences each. Some of the `h_bags` hold the tail as well. For the lab's facts there are sentences of our own.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tqdm.auto import tqdm

from ..data.download import cache_folder, cached, fetch
from ..data.files import checked_path, is_text, parse_json, read_bytes, read_json
from ..data.pararel import LABELS, RELEASE
from ..facts import Fact, load_facts, relation_id, relation_names

LAB_SENTENCES = Path(__file__).parent.parent / "lab" / "sentences.json"
FOLDER = "BingDistantTREx/final"
NAME = "final_distant_allbags_{}_new.json"
AGAIN = "fetch it again"
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


def load_prompts(
    source: str | Path = "bingrel", relations: Iterable[str] | str | None = None
) -> dict[str, list[Bag]]:
    """Read `"bingrel"` (downloaded once, then cached), `"lab"`, or a folder of BingREL's files, plain or gzipped.

    A download of P19, P36 or P101 is checked against its checksum. For the other relations none is known: they are
    counted, against the paper's two numbers, whenever all 34 are read, and a warning names them when they come. What
    was downloaded once must stay as it is.

    Args:
        relations: read these, given as "P36" or "P36(capital)", of which the id counts; when None all there are.

    Returns:
        {"P36": [Bag, ...]}: bag number i belongs to fact number i of the relation in ParaRel, or in the lab's world.

    Raises:
        ConnectionError: a file is not cached and cannot be downloaded.
        FileNotFoundError: the folder lacks a relation.
        OSError: a file that cannot be read, or a cache that cannot be written.
        ValueError: an unknown relation, or none; a file that is truncated or not in BingREL's format; a download that
            is not the release or has changed since; or an empty source.
        TypeError: the source is neither a text nor a Path, or a relation not a text.
    """
    wanted = None if relations is None else list(dict.fromkeys(map(relation_id, relation_names(relations))))
    folder, source = checked_path("source", source), os.fspath(source)
    if source == "lab":
        return _from_lab(wanted)
    return _from_release(wanted) if source == "bingrel" else _from_folder(folder, wanted)


def _from_lab(wanted: list[str] | None) -> dict[str, list[Bag]]:
    facts, bags = load_facts("lab", relations=wanted), {}
    for fact, bag in zip(facts, lab_bags(facts), strict=True):
        bags.setdefault(relation_id(fact.relation), []).append(bag)
    return bags


def _from_release(wanted: list[str] | None) -> dict[str, list[Bag]]:
    for name in wanted or ():
        if name not in LABELS:
            raise ValueError(f"relation {name!r} is not in BingREL: choose from {', '.join(LABELS)}")
    bags, new = {}, []
    for name in tqdm(wanted or LABELS, desc="BingREL", unit="relation"):
        bags[name] = _cached(name, new)
    _verify_counts(bags)
    if unknown := [name for name in new if name not in SHA256]:
        warnings.warn(
            f"BingREL's {', '.join(unknown)}: no checksum is known, so the text that was downloaded is not verified; "
            "from now on it is compared with this download",
            stacklevel=3,
        )
    return bags


def _from_folder(folder: Path, wanted: list[str] | None) -> dict[str, list[Bag]]:
    found: dict[str, Path] = {}
    for path in sorted(path for ending in ("", ".gz") for path in folder.glob(NAME.format("*") + ending)):
        name = path.name.split("_")[3]
        if name in found:
            raise ValueError(f"{str(folder)!r} has two files of {name}: remove {found[name].name} or {path.name}")
        found[name] = path
    if not found:
        raise FileNotFoundError(f"{str(folder)!r} holds no BingREL files: pass 'bingrel', 'lab' or their folder")
    for name in wanted or ():
        if name not in found:
            raise FileNotFoundError(f"{str(folder)!r} has no file of {name}: it holds {', '.join(found)}")
    paths = {name: found[name] for name in wanted or found}
    return {name: _parse(read_bytes(path, "BingREL's file", AGAIN), repr(str(path))) for name, path in paths.items()}


def lab_bags(facts: Sequence[Fact]) -> list[Bag]:
    """Free sentences about each fact of the lab's world, written for this purpose; no template is among them."""
    frames = read_json(LAB_SENTENCES, "the lab's sentences", "install kn_utils again")
    if unknown := {fact.relation for fact in facts} - frames["head"].keys():
        raise ValueError(f"the lab has no sentences about {sorted(unknown)[0]!r}: pass facts of load_facts('lab')")

    def filled(part, fact):
        return tuple(
            frame.replace("[X]", fact.subject).replace("[Y]", fact.answer) for frame in frames[part][fact.relation]
        )

    return [Bag(filled("with tail", fact), filled("head", fact)) for fact in facts]


def checksum(bags: dict[str, list[Bag]]) -> str:
    """sha256 of the sentences, whatever the files' white space or the relations' order."""
    return hashlib.sha256(json.dumps(bags, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _verify(relation: str, bags: list[Bag]) -> None:
    """Raise ValueError unless this is the released file of a relation, where its checksum is known."""
    if relation in SHA256 and (digest := checksum({relation: bags})) != SHA256[relation]:
        known = SHA256[relation][:12]
        raise ValueError(f"BingREL's {relation} has checksum {digest[:12]}, expected {known}: try again")


def _verify_counts(bags: dict[str, list[Bag]]) -> None:
    """Raise ValueError if all relations are there, but not as many sentences as the paper says."""
    every = [bag for relation in bags.values() for bag in relation]
    counts = sum(len(bag.head_and_tail) for bag in every), sum(len(bag.head) for bag in every)
    if bags.keys() == LABELS.keys() and counts != COUNTS:
        folder = str(cache_folder() / "bingrel")
        raise ValueError(f"BingREL has {counts} sentences, expected {COUNTS}: clear {folder!r} and try again")


def _parse(raw: bytes, origin: str) -> list[Bag]:
    rows = parse_json(raw, origin, AGAIN)

    def is_texts(value):
        return isinstance(value, list) and all(map(is_text, value))

    if not isinstance(rows, list) or not rows or not all(
        isinstance(row, dict) and is_texts(row.get("th_bags")) and is_texts(row.get("h_bags")) for row in rows
    ):
        expected = '[{"th_bags": [sentences], "h_bags": [sentences]}, ...]'
        raise ValueError(f"{origin} is not in BingREL's format: expected {expected}")
    return [Bag(tuple(row["th_bags"]), tuple(row["h_bags"])) for row in rows]


def _cached(relation: str, new: list[str]) -> list[Bag]:
    """The sentences of a relation; it is added to `new` if they had to be verified first."""
    url = f"{RELEASE}/{FOLDER}/{NAME.format(relation)}"

    def verify(bags):
        _verify(relation, bags)
        new.append(relation)

    return cached(
        cache_folder() / "bingrel" / (NAME.format(relation) + ".gz"),
        f"BingREL's {relation}",
        lambda: fetch(url, "BingREL", "pass load_prompts() the folder of a local copy"),
        _parse,
        verify,
    )
