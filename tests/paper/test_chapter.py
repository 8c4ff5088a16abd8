"""What a chapter about a run begins with."""

import pytest

import kn_utils.paper.chapter as chapter
from kn_utils.paper.chapter import model_name, results_or_run


class About:
    def __init__(self, model):
        self.about = {"model": model}


def test_a_named_file_is_read_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr(chapter, "read_results", lambda path: ("read", path))
    monkeypatch.setattr(chapter, "run_experiments", pytest.fail)
    assert results_or_run("run.parquet", "lab", "lab", n_facts=2) == ("read", "run.parquet")


def test_without_a_file_the_run_is_made(monkeypatch):
    monkeypatch.setattr(chapter, "read_results", pytest.fail)
    monkeypatch.setattr(chapter, "run_experiments", lambda *args, **options: (args, options))
    assert results_or_run("", "lab", "lab", n_facts=2, seed=1) == (("lab", "lab"), {"n_facts": 2, "seed": 1})


@pytest.mark.parametrize(
    ("model", "name"),
    [("lab", "the lab model"), ("bert-base-cased", "bert-base-cased"), ("google/gemma", "gemma"), ("a/b/c", "c")],
)
def test_a_model_is_named_as_a_sentence_names_it(model, name):
    assert model_name(About(model)) == name
