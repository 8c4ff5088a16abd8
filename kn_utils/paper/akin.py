"""Relations that share many of their answers: where people are born and where they work are the same cities."""

from collections.abc import Sequence

import pandas as pd

AKIN = 0.25  # share of the answers of two relations that they have in common (Jaccard)


def akin_relations(relations: Sequence[str], answers: Sequence[str]) -> dict[str, list[str]]:
    """For each relation the others that have at least `AKIN` of their answers in common with it.

    Args:
        relations, answers: of each fact. Few facts have few answers in common.
    """
    answers_of = pd.Series(list(answers)).groupby(list(relations), sort=False).agg(set)

    def akin(one: str, other: str) -> bool:
        common, either = answers_of[one] & answers_of[other], answers_of[one] | answers_of[other]
        return one != other and len(common) >= AKIN * len(either)

    return {one: [other for other in answers_of.index if akin(one, other)] for one in answers_of.index}
