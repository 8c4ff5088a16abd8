"""The numbers that Dai et al. print about their results, and which of them their claims compare.

Knowledge Neurons in Pretrained Transformers (ACL 2022, 2022.acl-long.581; arXiv 2104.08696), for bert-base-cased.
"""

# (section, quantity, unit, value, version, mark). ACL is the published paper, arXiv v1 its first preprint;
# "unchecked" numbers are widely quoted and could not be confirmed.
PAPER = [
    ("neurons", "neurons per fact, knowledge", "", 4.13, "ACL", ""),
    ("neurons", "neurons per fact, activation", "", 3.96, "ACL", ""),
    ("neurons", "in common, same relation, knowledge", "", 1.23, "ACL", ""),
    ("neurons", "in common, same relation, activation", "", 2.85, "ACL", "unchecked"),
    ("neurons", "in common, other relation, knowledge", "", 0.09, "ACL", ""),
    ("neurons", "in common, other relation, activation", "", 1.92, "ACL", "unchecked"),
    ("effects", "suppress, knowledge", "%", -29.03, "ACL", ""),
    ("effects", "suppress, activation", "%", -1.47, "ACL", ""),
    ("effects", "amplify, knowledge", "%", 31.17, "ACL", ""),
    ("effects", "amplify, activation", "%", -1.27, "ACL", ""),
    ("effects", "suppress, knowledge", "%", -37.03, "arXiv v1", ""),
    ("effects", "suppress, unrelated", "%", -0.39, "arXiv v1", ""),
    ("effects", "amplify, knowledge", "%", 46.42, "arXiv v1", ""),
    ("effects", "amplify, unrelated", "%", -0.15, "arXiv v1", ""),
    ("prompts", "activation, head and tail (T1)", "", 0.485, "ACL", ""),
    ("prompts", "activation, head only (T2)", "", 0.019, "ACL", ""),
    ("prompts", "activation, random (T3)", "", -0.018, "ACL", ""),
    ("update", "change rate, knowledge", "%", 48.5, "ACL", ""),
    ("update", "change rate, random", "%", 4.7, "ACL", ""),
    ("update", "success rate, knowledge", "%", 34.4, "ACL", ""),
    ("update", "success rate, random", "%", 0.0, "ACL", ""),
    ("update", "perplexity, same relation, knowledge", "", 8.4, "ACL", ""),
    ("update", "perplexity, same relation, random", "", 10.1, "ACL", "unchecked"),
    ("update", "perplexity, other relations, knowledge", "", 7.2, "ACL", ""),
    ("update", "perplexity, other relations, random", "", 4.3, "ACL", ""),
    ("erase", "P19", "%", 106.6, "ACL", ""),
    ("erase", "P27", "%", 36.7, "ACL", "unchecked"),
    ("erase", "P106", "%", 128.2, "ACL", ""),
    ("erase", "P937", "%", 141.2, "ACL", "unchecked"),
    ("erase", "least harmed other relation", "%", 1.1, "ACL", ""),
    ("erase", "most harmed other relation", "%", 10.1, "ACL", ""),
]
NEAR_ZERO = {  # up to here a number counts as zero: a tenth of the paper's main number of its kind, to one digit
    "in common": 0.1,
    "suppress": 3,
    "amplify": 3,
    "activation": 0.05,
    "change rate": 5,
    "success rate": 3,
    "erase": 10,
}
ERASED_PERPLEXITY = {  # of each erased relation, before and after; ACL, their growth is in PAPER
    "P19": (1450.0, 2996.0),
    "P27": (28.0, 38.3),
    "P106": (2279.0, 5202.0),
    "P937": (58.0, 140.0),
}
CONTRASTS = [  # two quantities of one section: what the paper's claims compare
    ("neurons", "in common, same relation, knowledge", "in common, same relation, activation"),
    ("neurons", "in common, other relation, knowledge", "in common, other relation, activation"),
    ("neurons", "in common, same relation, knowledge", "in common, other relation, knowledge"),
    ("effects", "suppress, knowledge", "suppress, activation"),
    ("effects", "amplify, knowledge", "amplify, activation"),
    ("prompts", "activation, head and tail (T1)", "activation, head only (T2)"),
    ("prompts", "activation, head and tail (T1)", "activation, random (T3)"),
    ("update", "change rate, knowledge", "change rate, random"),
    ("update", "success rate, knowledge", "success rate, random"),
    ("update", "perplexity, same relation, knowledge", "perplexity, same relation, random"),
    ("update", "perplexity, other relations, knowledge", "perplexity, other relations, random"),
    *(("erase", erased, "most harmed other relation") for erased in ("P19", "P27", "P106", "P937")),
]
NOT_APPLICABLE = {  # what else the paper prints, by its names in the table of its numbers, and why it has no row
    ("protocol", "lambda1", "lambda2", "neurons_erased"): (
        "Settings of the method are inputs of the run, not results; seconds per fact depend on the machine."
    ),
    ("dataset",): "Counts of facts and sentences are checked when ParaRel and BingREL are loaded.",
    ("before", "after"): (
        "Perplexities before and after erasing depend on what a model knew: the ledger compares their growth."
    ),
    ("published_bert_base_uncased_neurons",): (
        "Neurons published for another BERT are not the paper's: see *What do 27,610 published facts say?*"
    ),
}


def number(section: str, quantity: str, version: str = "ACL") -> float:
    """A number of the paper, in the unit of its row of `PAPER`.

    Raises:
        KeyError: this version of the paper prints no such number.
    """
    return row(section, quantity, version)[3]


def near_zero(section: str, quantity: str) -> float:
    """Up to where a number counts as zero, in the unit of its row of `PAPER`.

    0 for neurons per fact, of which there is no control, and for perplexities, whose growth in plain numbers depends on
    where they start.
    """
    return NEAR_ZERO.get(quantity.split(", ")[0], NEAR_ZERO.get(section, 0))


def contrast_name(first: str, second: str) -> str:
    """What two quantities have in common, and how they differ: "suppress: knowledge − activation"."""
    pairs = list(zip(first.split(", "), second.split(", "), strict=True))
    common = ", ".join(a for a, b in pairs if a == b)
    minus = " − ".join(", ".join(parts) for parts in zip(*((a, b) for a, b in pairs if a != b), strict=True))
    return f"{common}: {minus}" if common else minus


def is_amount(section: str, quantity: str) -> bool:
    """A count or a rate: never below 0, so that its sign says nothing."""
    return section == "neurons" or " rate, " in quantity


def printed(section: str, quantity: str, version: str = "ACL", spec: str = "") -> str:
    """A number of the paper as a table shows it, with its unit and its mark: "+36.7 % (unchecked)".

    Args:
        spec: the format of the number, such as "+.1f".

    Raises:
        KeyError: this version of the paper prints no such number.
    """
    _, _, unit, value, _, mark = row(section, quantity, version)
    return f"{value:{spec}}" + (f" {unit}" if unit else "") + (f" ({mark})" if mark else "")


def row(section: str, quantity: str, version: str = "ACL") -> tuple:
    """The row of `PAPER`.

    Raises:
        KeyError: this version of the paper prints no such number.
    """
    for found in PAPER:
        if (found[0], found[1], found[4]) == (section, quantity, version):
            return found
    raise KeyError(f"the paper ({version}) prints no {quantity!r} under {section!r}: see kn_utils.paper.numbers.PAPER")
