"""What a chapter about a run begins with."""

from itertools import count

import pytest

import kn_utils.paper.chapter as chapter
from kn_utils.paper.chapter import how_long, how_made, model_name, results_or_run
from kn_utils.paper.description import describe
from kn_utils.paper.stages import Run


class About:
    def __init__(self, model):
        self.about = {"model": model}


def test_a_named_file_is_read_and_nothing_is_run(monkeypatch):
    monkeypatch.setattr(chapter, "read_results", lambda path: About(path))
    monkeypatch.setattr(chapter, "run_experiments", pytest.fail)
    assert results_or_run("run.parquet", "lab", "lab", n_facts=2).about == {"model": "run.parquet"}


def test_without_a_file_the_run_is_made_and_a_line_says_how_long_it_takes(cache, capsys):
    for expected in ("2 facts", ""):  # the second time it is there
        results = results_or_run("", "lab", "lab", experiment="find", n_facts=2, seed=1)
        assert len(results.facts) == 2 and results.about["seed"] == 1
        *lines, made = capsys.readouterr().out.splitlines()
        assert len(lines) == bool(expected) and expected in "".join(lines)
        assert made == how_made(results.about)


def test_how_long_follows_the_number_of_facts(lab, lab_facts, monkeypatch, tmp_path):
    """On a clock that goes on by two seconds whenever it is read, which is once at each end of a fact."""
    seconds = count(0, 2)
    monkeypatch.setattr(chapter, "perf_counter", lambda: next(seconds))
    about = describe(lab, "lab", lab_facts, "lab", 0, [], "probability")
    run = Run(lab, lab_facts, [], about, tmp_path, 64)
    hours = 2 * len(lab_facts) / 3600
    assert f"{len(lab_facts):,} facts" in how_long(run, "find") and f"{hours:.1f} hours" in how_long(run, "find")
    assert f"{chapter.WHOLE * hours:.1f} hours" in how_long(run, "all")


@pytest.mark.parametrize(
    ("model", "name"),
    [("lab", "the lab model"), ("bert-base-cased", "bert-base-cased"), ("google/gemma", "gemma"), ("a/b/c", "c")],
)
def test_a_model_is_named_as_a_sentence_names_it(model, name):
    assert model_name(About(model)) == name
