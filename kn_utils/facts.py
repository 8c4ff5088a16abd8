"""Facts as cloze prompts, in the format of ParaRel (Elazar et al. 2021) as released by Dai et al. 2022."""

import gzip
import json
import random
import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path

from .pararel import cached_pararel

LAB_FACTS = Path(__file__).parent / "lab" / "facts.json.gz"


@dataclass(frozen=True)
class Fact:
    """A triple <subject, relation, answer> and the prompts that ask for its answer at `[MASK]`.

    Neurons are found with `prompts`; effects are measured on `heldout_prompts`, which nothing else sees.
    `relation` carries its Wikidata id and label: "P36(capital)".
    """

    subject: str
    relation: str
    answer: str
    prompts: tuple[str, ...]
    heldout_prompts: tuple[str, ...] = ()


def load_facts(
    source: str | Path = "lab",
    relations: Iterable[str] | None = None,
    n_facts: int | None = None,
    seed: int = 0,
) -> list[Fact]:
    """Read `"lab"` (the shipped world), `"pararel"` (downloaded once, then cached), or a ParaRel JSON or JSON.gz file.

    The last quarter of each fact's prompts, at least one, is held out.

    Args:
        relations: keep these, given as "P36" or "P36(capital)"; all when None.
        n_facts: a random sample of this many, spread evenly over the relations; all when None.
        seed: of that sample.

    Raises:
        ValueError: a relation the source lacks, or a file that is truncated or not in ParaRel's format.
        FileNotFoundError: no such file.
        ConnectionError: ParaRel is not cached and cannot be downloaded.
    """
    path = LAB_FACTS if source == "lab" else cached_pararel() if source == "pararel" else source
    bags = read_bags(path)
    facts = [fact for relation_bags in bags.values() for fact in _facts_of_relation(relation_bags)]
    if relations is not None:
        facts = _keep_relations(facts, list(relations), source)
    return facts if n_facts is None else _sample(facts, n_facts, seed)


def read_bags(path: str | Path) -> dict[str, list]:
    """Read {"P36": [bag, ...], ...}; a bag is one fact's rows [prompt, answer, "P36(capital)"]."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(
            f"facts file {str(path)!r} does not exist: pass 'lab', 'pararel' or a path to a JSON file"
        )
    try:
        raw = path.read_bytes()
        bags = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise ValueError(
            f"facts file {str(path)!r} is truncated or not JSON ({error}): fetch or write it again"
        ) from None
    if not _is_pararel(bags):
        raise ValueError(
            f"facts file {str(path)!r} is not in ParaRel's format: expected "
            '{"P36": [[["The capital of Ireland is [MASK].", "Dublin", "P36(capital)"], ...], ...]}'
        )
    return bags


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Write `facts` in ParaRel's format, gzipped when `path` ends in .gz. The inverse of `load_facts(path)`."""
    bags: dict[str, list] = {}
    for fact in facts:
        rows = [[prompt, fact.answer, fact.relation] for prompt in (*fact.prompts, *fact.heldout_prompts)]
        bags.setdefault(relation_id(fact.relation), []).append(rows)
    write_bags(bags, path)


def write_bags(bags: dict[str, list], path: str | Path) -> None:
    """Write {"P36": [bag, ...], ...}, the format that `read_bags` reads."""
    raw = json.dumps(bags, ensure_ascii=False).encode()
    Path(path).write_bytes(gzip.compress(raw, mtime=0) if str(path).endswith(".gz") else raw)


def relation_id(relation: str) -> str:
    """The Wikidata id of a relation: "P36" for "P36(capital)"."""
    return relation.partition("(")[0]


def _is_pararel(bags) -> bool:
    def is_list_of(is_item, value):
        return isinstance(value, list) and len(value) > 0 and all(map(is_item, value))

    def is_row(row):
        return is_list_of(lambda cell: isinstance(cell, str), row) and len(row) == 3 and row[2] == row[2].strip()

    def is_bag(bag):
        return is_list_of(is_row, bag) and len({(answer, relation) for _, answer, relation in bag}) == 1

    return isinstance(bags, dict) and is_list_of(lambda group: is_list_of(is_bag, group), list(bags.values()))


def _facts_of_relation(bags: Sequence[list]) -> list[Fact]:
    facts = []
    for bag, subject in zip(bags, _subjects(bags), strict=True):
        prompts = tuple(row[0] for row in bag)
        n_heldout = max(1, len(prompts) // 4) if len(prompts) > 1 else 0
        cut = len(prompts) - n_heldout
        facts.append(Fact(subject, bag[0][2], bag[0][1], prompts[:cut], prompts[cut:]))
    return facts


def _subjects(bags: Sequence[list]) -> list[str]:
    """ParaRel stores no subjects. Prompts of one template share all but the subject, so the subject is what differs."""
    prompts = [bag[0][0] for bag in bags]
    if len(set(prompts)) == 1:
        return [_shared_text([row[0] for row in bags[0]])] * len(bags)
    # The shared text ends with a word, or two names that begin or end alike would lose those letters.
    before = re.search(r"^(.*\s)?", commonprefix(prompts)).group()
    after = re.search(r"(\W.*)?$", commonprefix([prompt[::-1] for prompt in prompts])[::-1]).group()
    subjects = [prompt[len(before) : len(prompt) - len(after)] for prompt in prompts]
    return [subject or _shared_text([row[0] for row in bag]) for subject, bag in zip(subjects, bags, strict=True)]


def _shared_text(prompts: Sequence[str]) -> str:
    """The longest text that stands in every prompt of a single fact: its subject."""
    first = prompts[0]
    spans = [first[i:j] for i in range(len(first)) for j in range(i + 1, len(first) + 1)]
    shared = [span for span in spans if "[" not in span and "]" not in span and all(span in p for p in prompts)]
    return max(shared, key=len, default="").strip(" .,")


def _keep_relations(facts: list[Fact], relations: list[str], source) -> list[Fact]:
    known = {relation_id(fact.relation) for fact in facts}
    for relation in relations:
        if relation_id(relation) not in known:
            raise ValueError(f"relation {relation!r} is not in {str(source)!r}: choose from {', '.join(sorted(known))}")
    wanted = {relation_id(relation) for relation in relations}
    return [fact for fact in facts if relation_id(fact.relation) in wanted]


def _sample(facts: list[Fact], n_facts: int, seed: int) -> list[Fact]:
    """`n_facts` facts, the relations taking turns so that each is represented as evenly as its size allows."""
    rng = random.Random(seed)
    by_relation: dict[str, list[Fact]] = {}
    ordered = sorted(facts, key=lambda fact: (fact.relation, fact.subject, fact.answer))  # whatever the file's order
    for fact in rng.sample(ordered, len(facts)):
        by_relation.setdefault(fact.relation, []).append(fact)
    turns = [(turn, fact) for group in by_relation.values() for turn, fact in enumerate(group)]
    chosen = {id(fact) for _, fact in sorted(turns, key=lambda pair: pair[0])[:n_facts]}
    return [fact for fact in facts if id(fact) in chosen]
