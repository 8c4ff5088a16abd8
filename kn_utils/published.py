"""The neurons of 27,610 facts that EleutherAI published for bert-base-uncased, and the figures that the book shows.

`python -m kn_utils.published [PATH]` derives the shipped figures anew, from a local copy or from a download.
"""

import argparse
import gzip
import hashlib
import json
import os
import urllib.request
import zlib
from http.client import HTTPException
from pathlib import Path

import pandas as pd
import platformdirs
from tqdm.auto import tqdm

from .holders import describe
from .metrics import Interval
from .models import Neuron
from .pararel import LABELS

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
N_FACTS = 27_610
SHA256 = "cc86910a86f7fce0cc879ebc311cb16225b6ffe313426febfe18cb995c4ba664"  # of the facts, see `checksum`

RELATIONS = LABELS | {  # Dai et al. left these five out
    "P17": "country", "P131": "located in the administrative territorial entity", "P276": "location",
    "P361": "part of", "P1001": "applies to jurisdiction",
}  # fmt: skip
N_LAYERS = 12
ABOUT = {"model": "bert-base-uncased", "threshold": 0.3, "share": 0.3, "n_neurons": 3072}
SHIPPED = Path(__file__).parent / "data" / "published_neurons.json"
_INTERVAL = set(Interval._fields)


def published_figures() -> dict:
    """What `holders.describe` says of the published facts, with "about"; shipped, so nothing is downloaded."""
    return json.loads(SHIPPED.read_text(), object_hook=lambda d: Interval(**d) if d.keys() == _INTERVAL else d)


def load_published_neurons(path: str | Path | None = None) -> pd.DataFrame:
    """Read the published facts: downloaded once, verified and cached, or from `path`, a file of the cached form.

    Returns:
        One row per fact: relation ("P36(capital)"), subject, answer, neurons (frozenset of Neuron, counted from 0).

    Raises:
        ConnectionError: they are not cached and cannot be downloaded.
        FileNotFoundError: no file at `path`.
        ValueError: what was downloaded is not what was published, or the file is damaged.
    """
    rows = read_rows(_cached() if path is None else path)
    facts = pd.DataFrame(rows, columns=["uuid", "relation", "subject", "answer", "neurons"])
    facts["relation"] = [f"{relation}({RELATIONS[relation]})" for relation in facts.relation]
    facts["neurons"] = [frozenset(Neuron(*neuron) for neuron in neurons) for neurons in facts.neurons]
    return facts.drop(columns="uuid")


def read_rows(path: str | Path) -> list[dict]:
    """Read one JSON object a line, gzipped where `path` ends in .gz: uuid, relation, subject, answer, neurons."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"published facts {str(path)!r} do not exist: pass the path of a copy, or none")
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        rows = [json.loads(line) for line in text.splitlines()]
        checksum(rows)  # reads every field
        unknown = {row["relation"] for row in rows} - RELATIONS.keys()
        if unknown or not rows:
            raise ValueError(f"relations {sorted(unknown)} are not ParaRel's" if unknown else "no facts")
    except (EOFError, KeyError, OSError, TypeError, ValueError, zlib.error) as error:
        raise ValueError(
            f"published facts {str(path)!r} are damaged or of another form ({error!r}): delete or replace the file"
        ) from None
    return rows


def download_rows() -> list[dict]:
    """Join the published neurons with ParaRel's facts by their uuid; the rows of `read_rows`."""
    with tqdm(total=len(SHARDS) + len(RELATIONS), desc="Downloading published neurons", unit="file") as progress:
        neurons: dict[str, list] = {}
        for shard in SHARDS:
            neurons |= json.loads(_fetch(NEURONS.format(shard)))  # {uuid: [[layer, index], ...]}
            progress.update()
        rows = []
        for relation in RELATIONS:
            facts = [json.loads(line) for line in _fetch(FACTS.format(relation)).splitlines() if line.strip()]
            for fact in facts:
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


def _cached() -> Path:
    path = Path(platformdirs.user_cache_dir("kn_utils")) / "published_neurons.jsonl.gz"
    if not path.exists():
        try:
            rows = download_rows()
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"the published neurons are not in the form they had ({error!r}): try again") from None
        verify(rows)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
        partial.replace(path)  # at once: a download that is cut short leaves nothing behind
    return path


def _fetch(address: str) -> str:
    try:
        with urllib.request.urlopen(address, timeout=60) as response:
            return response.read().decode()
    except (HTTPException, OSError) as error:
        raise ConnectionError(
            f"the published neurons are not cached and {address} cannot be reached ({error}): connect once to download "
            "them, or pass load_published_neurons() the path of a local copy"
        ) from None


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
    path = _cached() if path is None else path
    verify(read_rows(path))
    about = ABOUT | {"neurons": NEURONS, "facts": FACTS, "sha256": SHA256}
    return _plain({"about": about} | describe(load_published_neurons(path), N_LAYERS))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m kn_utils.published", description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", help="a local copy of the facts; downloaded when left out")
    try:
        figures = derive(parser.parse_args().path)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    SHIPPED.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {SHIPPED}")
