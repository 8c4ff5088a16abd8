"""ParaRel as Dai et al. (2022) used it, rebuilt from the pairs and patterns they released, verified and cached."""

import hashlib
import json

from tqdm.auto import tqdm

from .bags import check_bags
from .download import cache_folder, cached, fetch
from .files import one_line, parse_json, parse_json_lines

RELEASE = (
    "https://raw.githubusercontent.com/Hunter-DDM/knowledge-neurons/"
    "c51b44a79bc935961c27fabf2c6f8e523a669cbb/data"  # one commit, so that the files cannot change under us
)
COUNTS = (34, 27_738, 253_448)  # relations, facts, prompts (section 4.1)
# Of the bags as JSON with sorted keys, see `checksum`.
SHA256 = "faff80808c3d5e70dafeb38009c2baa43e3dc4c5f0bec1b733402c23c4636cf5"

LABELS = {
    "P19": "place of birth", "P20": "place of death", "P27": "country of citizenship", "P30": "continent",
    "P36": "capital", "P37": "official language", "P39": "position held", "P47": "shares border with",
    "P101": "field of work", "P103": "native language", "P106": "occupation", "P108": "employer", "P127": "owned by",
    "P136": "genre", "P138": "named after", "P140": "religion", "P159": "headquarters location",
    "P176": "manufacturer", "P178": "developer", "P190": "twinned administrative body", "P264": "record label",
    "P279": "subclass of", "P364": "original language of film or TV show", "P407": "language of work or name",
    "P413": "position played on team / speciality", "P449": "original network", "P463": "member of",
    "P495": "country of origin", "P530": "diplomatic relation", "P740": "location of formation",
    "P937": "work location", "P1303": "instrument", "P1376": "capital of",
    "P1412": "languages spoken, written or signed",
}  # fmt: skip


def pararel_bags() -> dict[str, list]:
    """ParaRel, see `data.bags`: from the user's cache folder; downloaded, rebuilt and verified the first time.

    Raises:
        ConnectionError: it is not cached and the release cannot be reached.
        ValueError: what was downloaded is not the release, or the cached file has changed since.
        OSError: the cache cannot be written.
    """

    def parse(raw: bytes, origin: str) -> dict[str, list]:
        bags = parse_json(raw, origin, "delete it and try again")
        check_bags(bags, origin)
        return bags

    def make() -> bytes:
        return json.dumps(download_bags(), ensure_ascii=False).encode()

    return cached(cache_folder() / "pararel.json.gz", "ParaRel", make, parse, verify)


def download_bags() -> dict[str, list]:
    """Fill every released pattern of a relation with every released <subject, answer> pair of it."""
    address = "BingDistantTREx/query_pairs.json"
    pairs = parse_json(_fetch(address), address, "try again")  # {"P36": [["Ireland", "Dublin"], ...]}
    bags = {}
    for relation in tqdm(LABELS, desc="Downloading ParaRel", unit="relation"):
        address = f"PARAREL/raw_data/patterns/{relation}.jsonl"
        try:
            patterns = [line["pattern"] for line in parse_json_lines(_fetch(address), address, "try again")]
            if not patterns or not pairs[relation]:
                raise ValueError("it is empty")
            label = f"{relation}({LABELS[relation]})"
            bags[relation] = [
                [[pattern.replace("[X]", subject).replace("[Y]", "[MASK]"), answer, label] for pattern in patterns]
                for subject, answer in pairs[relation]
            ]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            raise ValueError(f"ParaRel's {relation} is not in the form it had ({reason}): try again") from None
    return bags


def verify(bags: dict[str, list]) -> None:
    """Raise ValueError unless `bags` are the authors' 27,738 facts, to the letter."""
    facts = [bag for relation_bags in bags.values() for bag in relation_bags]
    counts = (len(bags), len(facts), sum(len(bag) for bag in facts))
    if counts != COUNTS or checksum(bags) != SHA256:
        raise ValueError(
            f"ParaRel has {counts} relations, facts and prompts with checksum {checksum(bags)[:12]}, expected {COUNTS} "
            f"and {SHA256[:12]}: try again, or pass load_facts() the path of a copy you trust"
        )


def checksum(bags: dict[str, list]) -> str:
    """sha256 of the facts, whatever the file's white space or order of relations."""
    return hashlib.sha256(json.dumps(bags, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fetch(path: str) -> bytes:
    return fetch(f"{RELEASE}/{path}", "ParaRel", "pass load_facts() the path of a local copy")
