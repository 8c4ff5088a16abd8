"""The neurons of 27,610 facts that EleutherAI published for bert-base-uncased, and the figures that the book shows.

`python -m kn_utils.beyond.published [PATH]` derives the shipped figures anew, from a local copy or from a download.
"""

import argparse
import hashlib
import json
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from ..command_line import one_line_errors
from ..data.download import cache_folder, cached, fetch
from ..data.files import is_text, one_line, parse_json, parse_json_lines, read_bytes, read_json, write_atomically
from ..data.pararel import LABELS
from ..models import Neuron
from ..paper.sharing import describe
from ..stats import Interval

# Their results give a uuid and its neurons; ParaRel tells which fact has the uuid. One commit each.
NEURONS = (
    "https://raw.githubusercontent.com/EleutherAI/knowledge-neurons/cc1b8d45260602e5c2e7baf46d7c323a86508ac9/"
    "bert_base_uncased_neurons/bert-base-uncased_pararel_neurons_{}.json"
)
SHARDS = range(8)
FACTS = (
    "https://raw.githubusercontent.com/yanaiela/pararel/845c42a218d9d26ae9d2cc9ba2ba780741c4e57e/"
    "data/trex_lms_vocab/{}.jsonl"
)
NAME = "EleutherAI's list of neurons"
N_FACTS = 27_610
SHA256 = "cc86910a86f7fce0cc879ebc311cb16225b6ffe313426febfe18cb995c4ba664"  # of the facts, see `checksum`

RELATIONS = LABELS | {  # Dai et al. left these five out
    "P17": "country", "P131": "located in the administrative territorial entity", "P276": "location",
    "P361": "part of", "P1001": "applies to jurisdiction",
}  # fmt: skip
N_LAYERS = 12
ABOUT = {"model": "bert-base-uncased", "threshold": 0.3, "share": 0.3, "n_neurons": 3072}
SHIPPED = Path(__file__).parent.parent / "data" / "published_neurons.json"


def published_figures() -> dict:
    """What `sharing.describe` says of the published facts, with "about"; shipped, so nothing is downloaded."""
    return _intervals(read_json(SHIPPED, "the shipped figures", "install kn_utils again"))


def load_published_neurons(path: str | Path | None = None) -> pd.DataFrame:
    """Read the published facts: downloaded once, verified and cached, or from `path`, a file of the cached form.

    Returns:
        One row per fact: relation ("P36(capital)"), subject, answer, neurons (frozenset of Neuron, counted from 0).

    Raises:
        ConnectionError: they are not cached and cannot be downloaded.
        FileNotFoundError: no file at `path`.
        OSError: the file cannot be read, or the cache not be written.
        ValueError: what was downloaded is not what was published, or the file is damaged.
    """
    return _table(_cached() if path is None else read_rows(path))


def read_rows(path: str | Path) -> list[dict]:
    """Read one JSON object a line, gzipped or plain: uuid, relation, subject, answer, neurons.

    A flipped bit in a gzipped file is noticed; in a plain one it may not be.
    """
    raw = read_bytes(path, "file of published facts", "pass the path of another copy, or none")
    return _parse(raw, f"file of published facts {str(path)!r}")


def download_rows() -> list[dict]:
    """Join the published neurons with ParaRel's facts by their uuid; the rows of `read_rows`."""
    with tqdm(total=len(SHARDS) + len(RELATIONS), desc="Downloading published neurons", unit="file") as progress:
        neurons: dict[str, list] = {}
        for shard in SHARDS:
            neurons |= parse_json(_fetch(NEURONS.format(shard)), f"shard {shard}")  # {uuid: [[layer, index], ...]}
            progress.update()
        rows = []
        for relation in RELATIONS:
            for fact in parse_json_lines(_fetch(FACTS.format(relation)), relation):
                names = {"uuid": fact["uuid"], "subject": fact["sub_label"], "answer": fact["obj_label"]}
                rows.append({**names, "relation": relation, "neurons": neurons[fact["uuid"]]})
            progress.update()
    return rows


def verify(rows: list[dict]) -> None:
    """Raise ValueError unless `rows` are the published facts and neurons, all of them."""
    if len(rows) != N_FACTS or checksum(rows) != SHA256:
        raise ValueError(
            f"the published neurons hold {len(rows)} facts with checksum {checksum(rows)[:12]}, expected {N_FACTS} and "
            f"{SHA256[:12]}: try again, or pass load_published_neurons() the path of a copy you trust"
        )


def checksum(rows: list[dict]) -> str:
    """sha256 of the facts, whatever the order of facts and neurons."""
    facts = [[row[key] for key in ("uuid", "relation", "subject", "answer")] for row in rows]
    neurons = [sorted([int(layer), int(index)] for layer, index in row["neurons"]) for row in rows]
    canonical = sorted([*fact, own] for fact, own in zip(facts, neurons, strict=True))
    return hashlib.sha256(json.dumps(canonical, separators=(",", ":")).encode()).hexdigest()


def _parse(raw: bytes, origin: str) -> list[dict]:
    damaged = "damaged or of another form"
    try:
        rows = parse_json_lines(raw, origin)
    except ValueError as error:
        raise ValueError(f"{origin} is {damaged} ({one_line(error)}): delete or replace the file") from None
    if wrong := next((row for row in rows if not _is_row(row)), None if rows else "no facts"):
        raise ValueError(f"{origin} is {damaged} ({str(wrong)[:100]!r}): delete or replace the file")
    return rows


def _is_row(row) -> bool:
    """Whether this is a fact of ParaRel with neurons of BERT."""
    return (
        isinstance(row, dict)
        and all(is_text(row.get(name)) for name in ("uuid", "relation", "subject", "answer"))
        and row["relation"] in RELATIONS
        and isinstance(row.get("neurons"), list)
        and all(map(_is_neuron, row["neurons"]))
    )


def _is_neuron(pair) -> bool:
    bounds = (N_LAYERS, ABOUT["n_neurons"])
    whole = isinstance(pair, list) and len(pair) == 2 and all(type(number) is int for number in pair)
    return whole and all(0 <= number < bound for number, bound in zip(pair, bounds, strict=True))


def _table(rows: list[dict]) -> pd.DataFrame:
    facts = pd.DataFrame(rows, columns=["uuid", "relation", "subject", "answer", "neurons"])
    facts["relation"] = [f"{relation}({RELATIONS[relation]})" for relation in facts.relation]
    facts["neurons"] = [frozenset(Neuron(*neuron) for neuron in neurons) for neurons in facts.neurons]
    return facts.drop(columns="uuid")


def _cached() -> list[dict]:
    return cached(cache_folder() / "published_neurons.jsonl.gz", NAME, _download, _parse, verify)


def _download() -> bytes:
    try:
        return "\n".join(map(json.dumps, download_rows())).encode()
    except (KeyError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise ValueError(f"the published neurons are not in the form they had ({reason}): try again") from None


def _fetch(address: str) -> bytes:
    return fetch(address, NAME, "pass load_published_neurons() the path of a local copy")


def _intervals(value):
    """From JSON: an object with an Interval's names becomes one."""
    if isinstance(value, list):
        return [_intervals(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    value = {key: _intervals(entry) for key, entry in value.items()}
    return Interval(**value) if value.keys() == set(Interval._fields) else value


def _plain(value):
    """For JSON: an Interval becomes an object, a float keeps six digits."""
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def derive(path: str | Path | None = None) -> dict:
    """The content of the shipped file, derived anew from `path` or a download."""
    rows = _cached() if path is None else read_rows(path)
    verify(rows)
    about = ABOUT | {"neurons": NEURONS, "facts": FACTS, "sha256": SHA256}
    return _plain({"about": about} | describe(_table(rows), N_LAYERS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kn_utils.beyond.published", description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="a local copy of the facts; downloaded when left out")
    with one_line_errors(f"{SHIPPED.name} is as it was; start the command again"):
        text = json.dumps(derive(parser.parse_args().path), indent=1) + "\n"
        write_atomically(SHIPPED, lambda partial: partial.write_bytes(text.encode()))
        print(f"wrote {SHIPPED}")
