"""Facts as cloze prompts, in the format of ParaRel (Elazar et al. 2021) as released by Dai et al. 2022."""

import os
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .checks import count, integer, list_of
from .data.bags import COLUMNS, ROLES, read_bags, write_bags
from .data.files import checked_path, is_text
from .data.pararel import pararel_bags
from .data.subjects import infer_subjects

__all__ = ["LAB_FACTS", "Fact", "load_facts", "read_bags", "relation_id", "relation_names", "write_bags", "write_facts"]

LAB_FACTS = Path(__file__).parent / "lab" / "facts.json.gz"


@dataclass(frozen=True)
class Fact:
    """A triple <subject, relation, answer> and the prompts that ask for its answer at `[MASK]`.

    Neurons are found with `prompts`; `select_prompts` tell whether the fact is known; effects are measured on
    `heldout_prompts`, which nothing else sees.
    `relation` carries its Wikidata id and label: "P36(capital)".

    Raises:
        TypeError: prompts that are one text instead of several.

    Example:
        >>> prompts = ["The capital of Ireland is [MASK]."]
        >>> ireland = kn.Fact("Ireland", "P36(capital)", "Dublin", prompts)
        >>> ireland.prompts
        ('The capital of Ireland is [MASK].',)
    """

    subject: str
    relation: str
    answer: str
    prompts: tuple[str, ...]
    heldout_prompts: tuple[str, ...] = ()
    select_prompts: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("prompts", "heldout_prompts", "select_prompts"):
            if isinstance(prompts := getattr(self, name), str):
                raise TypeError(f"{name} is the text {prompts!r}: pass a tuple of prompts, ({prompts!r},)")
            object.__setattr__(self, name, tuple(prompts))
        asked = self.all_prompts
        if len(set(asked)) < len(asked):
            twice = next(prompt for prompt in asked if asked.count(prompt) > 1)
            raise ValueError(f"fact {self.subject!r} asks {twice!r} twice: each wording has one role, once")

    @property
    def all_prompts(self) -> tuple[str, ...]:
        """Those that find, that select and that measure, in this order."""
        return self.prompts + self.select_prompts + self.heldout_prompts


def load_facts(
    source: str | Path = "lab",
    relations: Iterable[str] | str | None = None,
    n_facts: int | None = None,
    seed: int = 0,
) -> list[Fact]:
    """Read `"lab"` (the shipped world), `"pararel"` (downloaded once, then cached), or a ParaRel JSON or JSON.gz file.

    A prompt that a fact has twice counts once, where it first stands. Unless the file says what each is for, the last
    quarter of a fact's prompts, at least two of five or more and at least one of two, does not find neurons: the first
    of these selects, the others measure; one alone measures. A fact that a file has twice, as ParaRel has 17, stays two
    facts; so each keeps its number in the file.

    Args:
        relations: keep these, given as "P36" or "P36(capital)", of which the id counts; all when None.
        n_facts: a random sample of this many, spread evenly over the relations; all when None or if there are no more.
        seed: of that sample.

    Raises:
        ValueError: a relation the source lacks, none at all, or n_facts below 1; or a file that is truncated, not in
            ParaRel's format, or without subjects where these cannot be told from its prompts.
        TypeError: n_facts or seed is not a whole number, or a relation not a text.
        FileNotFoundError: no such file.
        OSError: a folder, or a file that cannot be read.
        ConnectionError: ParaRel is not cached and cannot be downloaded.

    Example:
        >>> fact = kn.load_facts("lab", relations="P36")[1]
        >>> fact.subject, fact.answer, len(fact.prompts)
        ('Albania', 'Tirana', 9)
        >>> len(fact.select_prompts), len(fact.heldout_prompts)
        (1, 2)
    """
    wanted = None if relations is None else relation_names(relations)
    n_facts = None if n_facts is None else count("n_facts", n_facts)
    seed = integer("seed", seed)
    checked_path("source", source)
    source = os.fspath(source)
    bags = pararel_bags() if source == "pararel" else read_bags(LAB_FACTS if source == "lab" else source)
    facts = _facts_of(bags, f"facts file {str(source)!r}")
    if wanted is not None:
        facts = _keep_relations(facts, wanted, source)
    return facts if n_facts is None else _sample(facts, n_facts, seed)


def write_facts(facts: Iterable[Fact], path: str | Path) -> None:
    """Write `facts` in ParaRel's format, gzipped when `path` ends in .gz. The inverse of `load_facts(path)`.

    The file has ParaRel's three columns if the same facts can be read from these, else subjects as a fourth column, or
    those and each prompt's role as a fourth and fifth. Facts of one relation stand together in it.

    Raises:
        ValueError: no facts, or one without prompts to find neurons with, or with an empty text.
        TypeError: something that is no Fact.
        OSError: the file cannot be written.

    Example:
        >>> kn.write_facts(facts, "capitals.json.gz")
        >>> kn.load_facts("capitals.json.gz") == facts
        True
    """
    checked_path("path", path)
    facts = list_of("facts", [facts] if isinstance(facts, Fact) else facts, Fact)
    if not facts:
        raise ValueError(f"there are no facts to write into {str(path)!r}: pass at least one")
    for fact in facts:
        _check_writable(fact)
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(relation_id(fact.relation), []).append(fact)
    for n_columns in range(3, len(COLUMNS) + 1):
        bags = {group: [_rows(fact, n_columns) for fact in own] for group, own in groups.items()}
        if list(_each_fact(bags)) == [fact for own in groups.values() for fact in own]:
            break
    write_bags(bags, path)


def relation_id(relation: str) -> str:
    """The Wikidata id of a relation.

    Example:
        >>> kn.relation_id("P36(capital)")
        'P36'
    """
    return relation.partition("(")[0]


def relation_names(relations: Iterable[str] | str) -> list[str]:
    """The relations that a caller names as a list, each once; one name alone, "P36", is a list of one.

    Raises:
        ValueError: there are none.
        TypeError: one is no text.
    """
    try:
        names = [relations] if isinstance(relations, str) else list(relations)
    except TypeError:
        raise TypeError(
            f"relations is {relations!r}: name them as in ['P36', 'P19'], or leave it out for all of them"
        ) from None
    if not names:
        raise ValueError("relations is empty: name at least one, such as 'P36', or leave it out for all of them")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"relation {name!r} is no text: name it as in 'P36'")
    return list(dict.fromkeys(names))


def _facts_of(bags: dict[str, list], name: str) -> list[Fact]:
    """The facts of a file, or ValueError where a subject cannot be told."""
    facts = list(_each_fact(bags))
    for fact in facts:
        if fact.subject is None:
            raise ValueError(
                f"{name} does not tell the subject of {fact.prompts[0]!r} in {fact.relation}: add it to each of the "
                "relation's rows as a fourth column, [prompt, answer, relation, subject]"
            )
        if not fact.prompts:
            raise ValueError(
                f"{name} has no 'find' among the roles of {fact.subject!r} in {fact.relation}: mark one so"
            )
    return facts


def _each_fact(bags: dict[str, list]) -> Iterator[Fact]:
    """The fact of each bag; its subject is None where that cannot be told."""
    for group in bags.values():
        prompts = [list(dict.fromkeys(row[0] for row in bag)) for bag in group]
        inferred = infer_subjects(prompts) if any(len(bag[0]) < 4 for bag in group) else [None] * len(group)
        for bag, own, subject in zip(group, prompts, inferred, strict=True):
            _, answer, relation, *given = bag[0]
            yield Fact(given[0] if given else subject, relation, answer, *_split(bag, own))


def _split(bag: list, prompts: list[str]) -> tuple[list[str], list[str], list[str]]:
    """A fact's distinct prompts to find neurons with, those held out to measure, and those that select."""
    if len(bag[0]) == len(COLUMNS):
        roles = {row[0]: row[4] for row in reversed(bag)}  # of a prompt that stands there twice, the first
        find, select, heldout = ([prompt for prompt in prompts if roles[prompt] == role] for role in ROLES)
        return find, heldout, select
    n_others = max(len(prompts) // 4, 2 if len(prompts) >= 5 else min(1, len(prompts) - 1))
    find, others = prompts[: len(prompts) - n_others], prompts[len(prompts) - n_others :]
    return (find, others[1:], others[:1]) if n_others > 1 else (find, others, [])


def _rows(fact: Fact, n_columns: int) -> list[list[str]]:
    """The first columns of the rows of a fact."""
    of_role = zip(ROLES, (fact.prompts, fact.select_prompts, fact.heldout_prompts), strict=True)
    whole = [[p, fact.answer, fact.relation, fact.subject, role] for role, prompts in of_role for p in prompts]
    return [row[:n_columns] for row in whole]


def _check_writable(fact: Fact) -> None:
    """Raise a ValueError, of one line, for a fact that cannot be written."""
    texts = (fact.subject, fact.relation, fact.answer, *fact.all_prompts)
    if not fact.prompts or not all(is_text(text) and text.strip() for text in texts):
        triple = f"the fact {(fact.subject, fact.relation, fact.answer)}"
        raise ValueError(f"{triple} cannot be written: give it a prompt, and no text that is empty or half a character")
    if fact.relation != fact.relation.strip():
        raise ValueError(f"{fact.relation!r} cannot be written: leave out the space around it")


def _keep_relations(facts: list[Fact], wanted: Sequence[str], source) -> list[Fact]:
    known = {relation_id(fact.relation) for fact in facts}
    for name in wanted:
        if relation_id(name) not in known:
            raise ValueError(f"relation {name!r} is not in {str(source)!r}: choose from {', '.join(sorted(known))}")
    ids = {relation_id(name) for name in wanted}
    return [fact for fact in facts if relation_id(fact.relation) in ids]


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
