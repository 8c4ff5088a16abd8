"""The lab's world: real countries and invented people, written as ParaRel writes its facts.

Two kinds of subjects, so that the model must combine pieces to know who is meant:

* **countries**, checked against a gazetteer in the tests. Most are split by the tokenizer ("Ir ##e ##land");
  those that are also answers (of P27 and P1376) are single tokens.
* **invented people**, each a first and a last name drawn from 40 x 40. Only the pair says who it is.
"""

import csv
import json
import random
from pathlib import Path

HERE = Path(__file__).parent
# {"P36(capital)": 12 templates, ...}; the last 3 are held out
TEMPLATES = json.loads((HERE / "templates.json").read_text(encoding="utf-8"))

N_PEOPLE = 300

FIRST_NAMES = """
    Abrenna Ardwen Beltrix Caldwyn Corvella Delmira Dorneth Elsoren Estriva Feldran Fenrika Galdora Gwilora Harvex
    Hestrin Ilmara Ivorna Jarveth Jostran Kelvira Kestrin Lindora Lorqua Mavrin Morvath Nelthia Nivella Orvane
    Pelstra Quillon Rosvane Selmora Sorvik Tavrin Ulbrek Velmira Wendrel Xandrel Ysolda Zelmara
""".split()
LAST_NAMES = """
    Amberlock Blackenmere Brackendale Briarholme Cinderholt Copperfell Driftmoor Dunmarsh Elverstone Emberly
    Fairwick Foxmantle Glimmerford Gravenhill Hazelmarch Hollowbrook Inkwater Ironvale Jadewick Juniperton
    Kettlemoor Lanternby Larkmere Marrowdene Mossgrave Nettlecombe Nightwell Orchardson Pebblecroft Pinebarrow
    Quarrelton Ravenspire Silverthwaite Stormhallow Thistledown Umberfield Vinterholm Willowmarch Yarrowgate
    Zephyrton
""".split()

CITIES = """
    Athens Baghdad Bangkok Beijing Berlin Brussels Budapest Cairo Canberra Caracas Copenhagen Dakar Damascus Dublin
    Hanoi Havana Helsinki Jakarta Kabul Kampala Lima Lisbon London Madrid Manila Moscow Nairobi Oslo Ottawa Paris
    Prague Pretoria Quito Riga Rome Santiago Seoul Tokyo Vienna Warsaw
""".split()
COUNTRIES = """
    Australia Austria Belgium Brazil Bulgaria Canada Chile China Colombia Cuba Denmark Egypt Finland France Germany
    Ghana Greece Hungary Iceland Indonesia Iran Iraq Italy Jamaica Japan Kenya Morocco Nigeria Norway Pakistan Peru
    Poland Portugal Romania Russia Senegal Spain Sweden Thailand Vietnam
""".split()
LANGUAGES = """
    Arabic Bengali Chinese Danish Dutch English Finnish French German Greek Hebrew Hindi Hungarian Irish Italian
    Japanese Korean Malay Norwegian Persian Polish Portuguese Romanian Russian Spanish Swahili Swedish Thai Turkish
    Ukrainian
""".split()
OCCUPATIONS = """
    actor architect baker banker barber butcher carpenter chef clerk dancer dentist diplomat doctor farmer
    firefighter gardener jeweller journalist judge lawyer librarian mason miner nurse painter photographer pilot
    plumber poet sailor sculptor soldier surgeon tailor teacher weaver
""".split()
FIELDS = """
    acoustics algebra anatomy archaeology astronomy biology botany chemistry economics ecology ethics genetics
    geography geology geometry grammar history immunology law linguistics logic mechanics medicine metallurgy
    meteorology optics pharmacology philosophy physics psychology rhetoric sociology statistics theology topology
    zoology
""".split()
INSTRUMENTS = """
    accordion bagpipe banjo bassoon bugle cello clarinet cornet drum dulcimer fiddle flute guitar harmonica harp
    harpsichord horn lute lyre mandolin marimba oboe organ piano piccolo recorder saxophone sitar tambourine
    trombone trumpet tuba ukulele viola violin xylophone zither
""".split()

PERSON_ANSWERS = {
    "P19(place of birth)": CITIES,
    "P27(country of citizenship)": COUNTRIES,
    "P106(occupation)": OCCUPATIONS,
    "P937(work location)": CITIES,
    "P101(field of work)": FIELDS,
    "P103(native language)": LANGUAGES,
    "P1303(instrument)": INSTRUMENTS,
}


def country_triples():
    """Yield (subject, relation, answer) for every country; an empty cell of the table is a fact left out."""
    with open(HERE / "geography.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            country, capital = row["country"], row["capital"]
            yield country, "P36(capital)", capital
            yield country, "P37(official language)", row["language"]
            yield country, "P30(continent)", row["continent"]
            yield country, "P38(currency)", row["currency"]
            if country in COUNTRIES and capital:
                yield capital, "P1376(capital of)", country


def person_triples(n_people, seed):
    """Yield (subject, relation, answer) for `n_people` invented people, every answer drawn independently."""
    rng = random.Random(seed)
    pairs = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    for first, last in rng.sample(pairs, n_people):
        for relation, answers in PERSON_ANSWERS.items():
            yield f"{first} {last}", relation, rng.choice(answers)


def build_bags(n_people=N_PEOPLE, seed=0):
    """The world in ParaRel's format: {"P36": [bag, ...]}, each bag a fact's rows [prompt, answer, "P36(capital)"]."""
    bags = {relation.partition("(")[0]: [] for relation in TEMPLATES}
    for subject, relation, answer in [*country_triples(), *person_triples(n_people, seed)]:
        if answer:
            prompts = [t.replace("[X]", subject).replace("[Y]", "[MASK]") for t in TEMPLATES[relation]]
            bags[relation.partition("(")[0]].append([[prompt, answer, relation] for prompt in prompts])
    return bags
