"""Attribution of many prompts on a random BERT-base on a GPU, in each precision. Skipped without one."""

import pytest
import torch
from measures import executed_flop, matrix_rate, random_bert

import kn_utils as kn
from kn_utils.data.pararel import COUNTS
from kn_utils.models import PRECISIONS

N_FACTS = 500
ROWS = 2**15  # of the matrix products with which the share is taken


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.benchmark(group="gpu")
@pytest.mark.parametrize("way", PRECISIONS)
def test_attribution(benchmark, way):
    facts = kn.load_facts("lab", n_facts=N_FACTS, seed=0)
    lm = random_bert(facts, device="cuda", precision=way)

    def attribute(some):
        scores = kn.knowledge_attributions(lm, some)
        torch.cuda.synchronize()
        return scores

    attribute(facts[:32])  # what is set up once
    torch.cuda.reset_peak_memory_stats()
    rate = matrix_rate(lm, ROWS)
    n_prompts = sum(map(len, benchmark.pedantic(attribute, (facts,), rounds=3)))
    assert n_prompts == sum(len(fact.prompts) for fact in facts)
    benchmark.extra_info.update(
        prompts=n_prompts,
        pararel_prompts=COUNTS[2],
        memory=torch.cuda.max_memory_allocated(),
        flop=executed_flop(attribute, facts),
        matrix_rate=max(rate, matrix_rate(lm, ROWS)),
    )
