"""Attribution of one fact's nine prompts on a random BERT-base, on one thread: the plain reference and `kn_utils`."""

from functools import partial

import pytest
import torch
from measures import executed_flop, matrix_rate, one_fact, peak_memory, random_bert

import kn_utils as kn
import reference
from kn_utils.engine import integration

FACT = one_fact()
LONGEST = max(FACT.prompts, key=len)
WAYS = {  # each with the prompts that it treats together, for its memory
    "reference": (reference.attribution, [LONGEST]),
    "all points": (partial(kn.knowledge_attribution, exact_steps=True), FACT.prompts),
    "kn_utils": (kn.knowledge_attribution, FACT.prompts),
}
TOLERANCE = 1e-5  # of the highest score
RATE_ROWS = 2560  # of the matrix products with which the share is taken: about the tokens of a full batch


@pytest.fixture(scope="module")
def bert():
    return random_bert([FACT])


@pytest.mark.benchmark(group="bert")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("way", WAYS)
def test_attribution(benchmark, bert, found, way):
    attribute, together = WAYS[way]
    rate = matrix_rate(bert, RATE_ROWS)
    rounds = 3 if way == "kn_utils" else 1
    found[way] = benchmark.pedantic(attribute, (bert, FACT.prompts, FACT.answer), rounds=rounds)
    rate = max(rate, matrix_rate(bert, RATE_ROWS))
    memory, more_memory = peak_memory(attribute, together, FACT.answer)
    expected = found["reference"]
    difference = ((found[way] - expected).abs().amax((1, 2)) / expected.abs().amax((1, 2))).max().item()
    benchmark.extra_info.update(
        prompts=len(FACT.prompts),
        tokens=[len(ids) for ids in bert.tokenizer(list(FACT.prompts))["input_ids"]],
        nodes=integration.N_NODES,
        threads=torch.get_num_threads(),
        memory=memory,
        more_memory=more_memory,
        flop=executed_flop(attribute, bert, FACT.prompts, FACT.answer),  # apart: to count takes time, too
        matrix_rate=rate,
        rate_rows=RATE_ROWS,
        difference=difference,
    )
    assert torch.equal(kn.coarse_neurons(found[way]), kn.coarse_neurons(expected))
    assert difference <= TOLERANCE
