"""What each of the five types of prompts promises about its sentences."""

import re

from kn_utils.paper.prompt_types import mask_answer, same_answer_type


def check_types(facts, bags, prompts):
    """Every prompt is what its type says, judged from the sentences that it can come from."""
    same_type, sentence_of = same_answer_type(facts), {}
    for fact, bag in zip(facts, bags, strict=True):
        for sentence in bag.head_and_tail:
            sentence_of.setdefault(mask_answer(sentence, fact), []).append(fact)
    everything = {s for bag in bags for s in (*bag.head_and_tail, *bag.head)}
    assert (prompts.prompt.str.count(r"\[MASK\]") == 1).all()
    for i, kind, prompt in prompts.itertuples(index=False):
        fact = facts[i]
        if kind == "T1":
            assert fact.subject in prompt
            assert prompt.replace("[MASK]", fact.answer) in bags[i].head_and_tail
            continue
        before, after = prompt.split("[MASK]")
        if kind == "T2":
            assert fact.subject in prompt
            own = [s for s in bags[i].head if s.startswith(before) and s.endswith(after)]
            assert own and not re.search(rf"\b{fact.answer}\b", prompt.replace(fact.subject, ""))
            continue
        assert fact.subject not in prompt and fact.answer not in prompt
        if kind == "T3":
            assert any(s.startswith(before) and s.endswith(after) for s in everything)
            continue
        others = [f for f in sentence_of[prompt] if f.subject != fact.subject and f.answer != fact.answer]
        if kind == "T5":
            assert any(f.relation == fact.relation for f in others)
        elif kind == "T4":
            assert any(f.relation in same_type[fact.relation] for f in others)
        else:
            assert kind == "T4*" and not same_type[fact.relation] and any(f.relation != fact.relation for f in others)
