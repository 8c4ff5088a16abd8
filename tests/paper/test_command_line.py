"""The commands: every bad argument is refused in one line, before a model is loaded; ctrl-C says how to go on."""

import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from common import one_line_error, printed

import kn_utils as kn
from kn_utils import command_line
from kn_utils.data import files
from kn_utils.lab import __main__ as lab_command
from kn_utils.lab import seeds
from kn_utils.paper import __main__ as runs_command
from kn_utils.paper import experiments, runs
from kn_utils.paper.results import read_results
from kn_utils.paper.runs import run_experiments

ROOT = Path(__file__).resolve().parents[2]
NO_NETWORK = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture
def no_model(monkeypatch):
    """Loading a model, or its facts, is too late to refuse an argument."""

    def refuse(*args):
        raise AssertionError("loaded before the arguments were checked")

    monkeypatch.setattr(runs, "load_model", refuse)
    monkeypatch.setattr(runs, "load_facts", refuse)


def command(main, monkeypatch, capsys, *words):
    """Run a command in this process: its exit code, and what it says of an error."""
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    with pytest.raises(SystemExit) as caught:
        main()
    code, said = caught.value.code, capsys.readouterr().err
    return (1, f"{said}{code}") if isinstance(code, str) else (code, said)  # Python prints a text and exits with 1


def assert_refused(found, *names):
    """Exit code 1, and one line that begins with "error:" and holds every one of `names`."""
    code, said = found
    lines = [line for line in said.splitlines() if not line.startswith("Loading weights")]
    assert code == 1 and len(lines) == 1 and lines[0].startswith("error: "), said
    assert all(str(name) in lines[0] for name in names), said


BAD_ARGUMENTS = [
    (["--prompts", "/nonexistent"], ["prompts", "/nonexistent", "leave prompts out"]),
    (["--facts", "pararel", "--prompts", "/nonexistent"], ["prompts", "no folder", "'bingrel'"]),
    (["--facts", "pararel", "--prompts", ""], ["prompts is ''"]),
    (["--facts", "pararel", "--prompts", "lab"], ["prompts is 'lab'", "no folder"]),
    (["--out", ""], ["out is ''", "pass a folder"]),
    (["--out", " "], ["out is ' '", "pass a folder"]),
    (["--model", ""], ["model is ''"]),
    (["--facts", ""], ["facts is ''"]),
    (["--device", ""], ["device is ''"]),
    (["--relations", ""], ["relation '' is no relation"]),
    (["--relations", "P36", "P19", "P36"], ["'P36'", "twice"]),
    (["--relations", "P36", "--relations", "P36(capital)"], ["'P36(capital)'", "twice"]),
    (["--n-facts", "0"], ["n_facts is 0", "at least 1"]),
    (["--n-facts", "-3"], ["n_facts is -3", "at least 1"]),
    (["--chunk", "0"], ["chunk is 0", "at least 1"]),
    (["--chunk", "-1"], ["chunk is -1", "at least 1"]),
    (["--seed", "-1"], ["seed is -1", "at least 0"]),
]


@pytest.mark.parametrize("words, names", BAD_ARGUMENTS, ids=lambda value: " ".join(value))
def test_an_argument_is_used_or_refused_before_anything_is_loaded(
    words, names, no_model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    out = [] if "--out" in words else ["--out", "run"]
    assert_refused(command(runs_command.main, monkeypatch, capsys, *words, *out), *names)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["--seed", "x"], ["--n-facts", "1.5"], ["--experiment", "none"], ["--relations"], []]
)
def test_usage_errors_are_those_of_argparse(words, monkeypatch, capsys):
    out = ["--out", "run"] if words else []
    code, said = command(runs_command.main, monkeypatch, capsys, *words, *out)
    assert code == 2 and " error: " in said.splitlines()[-1] and "Traceback" not in said


def test_relations_given_in_several_places_are_all_used():
    options = runs_command.parser().parse_args(["--relations", "P36", "--out", "run", "--relations", "P19", "P27"])
    assert options.relations == ["P36", "P19", "P27"]


@pytest.mark.parametrize(
    "arguments, kind, names",
    [
        ({"model": None}, TypeError, ["model is None", "'lab'"]),
        ({"model": 5}, TypeError, ["model is 5"]),
        ({"facts": None}, TypeError, ["facts is None"]),
        ({"facts": [kn.Fact("Ireland", "P36(capital)", "Dublin", ("[MASK]",))]}, TypeError, ["list", "write_facts"]),
        ({"facts": (fact for fact in ())}, TypeError, ["generator", "write_facts"]),
        ({"facts": ""}, ValueError, ["facts is ''"]),
        ({"experiment": None}, ValueError, ["experiment None", "suppress_amplify"]),
        ({"experiment": ["find"]}, ValueError, ["experiment ['find']"]),
        ({"measure": "odds"}, ValueError, ["measure 'odds'", "log_probability"]),
        ({"precision": "int8"}, ValueError, ["precision 'int8'", "tf32"]),
        ({"relations": "P36"}, TypeError, ["relations is 'P36'", "['P36']"]),
        ({"relations": []}, ValueError, ["relations is empty", "None"]),
        ({"relations": [36]}, ValueError, ["relation 36"]),
        ({"relations": ["P36", None]}, ValueError, ["relation None"]),
        ({"n_facts": 2.0}, TypeError, ["n_facts is 2.0", "whole number"]),
        ({"n_facts": "2"}, TypeError, ["n_facts is '2'"]),
        ({"n_facts": True}, TypeError, ["n_facts is True"]),
        ({"seed": 0.5}, TypeError, ["seed is 0.5"]),
        ({"seed": None}, TypeError, ["seed is None"]),
        ({"chunk": None}, TypeError, ["chunk is None"]),
        ({"facts": "pararel", "prompts": 3}, TypeError, ["prompts is 3", "'bingrel'"]),
        ({"prompts": "bingrel"}, ValueError, ["'bingrel'", "sentences of their own"]),
        ({"out": 3}, TypeError, ["out is 3"]),
        ({"out": "a\0b"}, ValueError, ["out is 'a\\x00b'"]),
        ({"device": 0}, TypeError, ["device is 0", "'cpu'"]),
    ],
    ids=printed,
)
def test_the_same_from_python(arguments, kind, names, no_model, tmp_path):
    with one_line_error(kind, *names):
        run_experiments(**{"out": tmp_path, **arguments})


def test_whole_numbers_of_other_libraries_and_paths_are_taken(tmp_path):
    options = {"experiment": "find", "device": torch.device("cpu"), "relations": ("P36",)}
    first = run_experiments(n_facts=3, seed=1, out=str(tmp_path / "a"), **options)
    second = run_experiments(n_facts=np.int64(3), seed=torch.tensor(1), out=tmp_path / "b", **options)
    assert first.facts.equals(second.facts) and first.about["fingerprint"] == second.about["fingerprint"]


def test_an_experiment_that_has_nothing_to_do_is_refused_before_the_model(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "load_model", None)
    with one_line_error(ValueError, "'erase'", "P19, P27, P106, P937", "P36"):
        run_experiments(experiment="erase", relations=["P36"], n_facts=4, out=tmp_path)
    with one_line_error(ValueError, "'update'", "another answer"):
        run_experiments(experiment="update", relations=["P36"], n_facts=1, out=tmp_path)


def test_prompts_without_sentences_are_refused_before_anything_is_found(monkeypatch, tmp_path):
    """A causal model answers last, and no held-out prompt that is answered ends in its answer, when it has a tail."""
    monkeypatch.setattr(experiments, "find_coarse", None)
    template = "Dublin and [MASK] of Ireland, {} Dublin"
    fact = kn.Fact("Ireland", "P36(capital)", "Dublin", tuple(template.format(w) for w in ("a", "the", "of", "in")))
    kn.write_facts([fact], tmp_path / "facts.json")
    with one_line_error(ValueError, "'prompts'", "facts.json", "sentence"):
        run_experiments("lab", tmp_path / "facts.json", "prompts", out=tmp_path / "run")


def test_a_prompt_too_long_for_the_model_is_found_before_anything_is_computed(monkeypatch, tmp_path):
    monkeypatch.setattr(experiments, "find_coarse", None)
    monkeypatch.setattr(experiments, "ask", None)
    prompts = ("The capital of Ireland is [MASK].", "of Ireland: [MASK]", "Ireland " * 90 + "[MASK]", "Ireland [MASK]")
    kn.write_facts([kn.Fact("Ireland", "P36(capital)", "Dublin", prompts)], tmp_path / "facts.json")
    with one_line_error(ValueError, "Ireland Ireland", "64", "shorten"):
        run_experiments("lab", tmp_path / "facts.json", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


DEEP = b"[" * 200_000 + b"]" * 200_000


@pytest.mark.parametrize("content", [b"[]", b"3", b"", b'{"model": "la', b"\xff\xfe\xfa{}", DEEP, b"{}" + b"\0" * 50])
def test_a_damaged_description_of_a_run_is_named(content, no_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "run.json").write_bytes(content)
    found = command(runs_command.main, monkeypatch, capsys, "--out", tmp_path)
    assert_refused(found, tmp_path / "run.json", "remove it", "choose another folder")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("below", [(), ("run",), ("a", "run")])
def test_a_run_folder_that_is_a_file_is_named(below, no_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("mine")
    found = command(runs_command.main, monkeypatch, capsys, "--out", tmp_path.joinpath("file", *below))
    assert_refused(found, tmp_path / "file", "is a file", "choose another folder")


def test_a_run_folder_without_permission_is_named(no_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    found = command(runs_command.main, monkeypatch, capsys, "--out", tmp_path / "run")
    assert_refused(found, tmp_path / "run", "no permission", "choose another folder")


def full_disk(n_bytes):
    """A stand-in for os.fsync on a disk that has room for `n_bytes` files, and then for none."""
    left = iter(range(n_bytes))

    def fsync(file):
        if next(left, None) is None:
            raise OSError(28, "No space left on device")

    return fsync


@pytest.mark.parametrize("n_files", [0, 1, 3])
def test_a_full_disk_is_one_line_and_the_same_command_continues(n_files, tmp_path, monkeypatch, capsys):
    words = ["--n-facts", "4", "--chunk", "2", "--experiment", "find", "--out", tmp_path / "run"]
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full_disk(n_files))
        code, said = command(runs_command.main, patch, capsys, *words)
    last = said.splitlines()[-1]
    assert code == 1 and "Traceback" not in said
    assert last.startswith("error: ") and "No space left" in last and "the same command continues" in last
    assert not list((tmp_path / "run").rglob("*.part"))
    monkeypatch.setattr(sys, "argv", ["command", *map(str, words)])
    runs_command.main()
    assert len(read_results(tmp_path / "run").facts) == 4


def test_a_model_that_cannot_be_loaded_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    words = ["--model", tmp_path / "model", "--out", tmp_path / "run"]
    assert_refused(command(runs_command.main, monkeypatch, capsys, *words), tmp_path / "model", "cannot be loaded")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("when", ["computing", "writing"])
def test_ctrl_c_says_how_to_go_on(when, tmp_path, monkeypatch, capsys):
    def stop(*args, **options):
        raise KeyboardInterrupt

    where = (experiments, "find_coarse") if when == "computing" else (files.os, "fsync")
    monkeypatch.setattr(*where, stop)
    code, said = command(runs_command.main, monkeypatch, capsys, "--n-facts", "4", "--out", tmp_path)
    last = said.splitlines()[-1]
    assert code == 130 and last.startswith("stopped: ") and str(tmp_path) in last and "same command" in last
    assert "Traceback" not in said and not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(os.name == "nt", reason="a console's ctrl-C cannot be sent to one process there")
def test_ctrl_c_stops_a_process_between_its_chunks(tmp_path):
    words = ["--n-facts", "60", "--chunk", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "kn_utils.paper", *words], stderr=subprocess.PIPE, env=NO_NETWORK,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in a shell's background ignore it
    )  # fmt: skip
    while not list(tmp_path.rglob("*.parquet")) and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1].decode()
    assert process.returncode == 130 and "Traceback" not in said
    assert said.splitlines()[-1].startswith("stopped: ")


@pytest.mark.parametrize("rank", ["x", "-1", "", "1.0"])
def test_the_launchers_rank_is_checked(rank, no_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert_refused(command(runs_command.main, monkeypatch, capsys, "--out", tmp_path), "LOCAL_RANK", "whole number")


def test_an_error_that_nobody_foresaw_says_where_it_arose(monkeypatch, capsys):
    def fails(**options):
        raise KeyError("a\nb")

    monkeypatch.setattr(runs_command, "run_experiments", fails)
    found = command(runs_command.main, monkeypatch, capsys, "--out", "run")
    assert_refused(found, "KeyError", "__main__.py, line", "report")


@pytest.mark.parametrize(
    "words, names",
    [
        (["--people", "0"], ["people is 0", "at least 1"]),
        (["--people", "1601"], ["people is 1601", "at most 1600"]),
        (["--steps", "0"], ["steps is 0", "at least 11"]),
        (["--steps", "10"], ["steps is 10", "at least 11"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--seed", str(2**63)], ["seed is", "at most"]),
        (["--sample", "0"], ["sample is 0"]),
        (["--sample", "-5"], ["sample is -5"]),
    ],
    ids=str,
)
def test_the_lab_refuses_bad_numbers(words, names, tmp_path, monkeypatch, capsys):
    out = tmp_path / "lab"
    assert_refused(command(lab_command.main, monkeypatch, capsys, *words, "--out", out), *names)
    assert not out.exists()


def test_the_lab_refuses_a_folder_that_is_none(tmp_path, monkeypatch, capsys):
    file = tmp_path / "file"
    file.write_text("mine")
    assert_refused(command(lab_command.main, monkeypatch, capsys, "--out", file), file, "pass a folder")
    code, said = command(lab_command.main, monkeypatch, capsys, "--out", "")
    assert code == 2 and "empty" in said


def test_ctrl_c_in_the_lab(tmp_path, monkeypatch, capsys):
    def stop(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(lab_command.training, "train", stop)
    code, said = command(lab_command.main, monkeypatch, capsys, "--people", "2", "--out", tmp_path)
    assert code == 130 and said.splitlines()[-1].startswith("stopped: ") and "anew" in said


@pytest.mark.parametrize(
    "words, names", [(["--facts", "0"], ["facts is 0"]), (["--planted", "-1"], ["planted is -1"])], ids=str
)
def test_the_seeds_refuse_bad_numbers(words, names, tmp_path, monkeypatch, capsys):
    assert_refused(command(seeds.main, monkeypatch, capsys, *words, "--models", tmp_path), *names)


def test_a_training_that_fails_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "seed1").write_text("a file where a folder should be")
    monkeypatch.setattr(seeds, "measure", lambda *args: {})
    assert_refused(command(seeds.main, monkeypatch, capsys, "--models", tmp_path), "seed 1", "not trained")


def test_the_published_neurons_refuse_a_bad_file(tmp_path, monkeypatch, capsys):
    def main():
        monkeypatch.delitem(sys.modules, "kn_utils.beyond.published", raising=False)
        runpy.run_module("kn_utils.beyond.published", run_name="__main__")

    assert_refused(command(main, monkeypatch, capsys, tmp_path / "none.jsonl"), "none.jsonl")


def test_an_error_of_many_lines_is_told_in_one():
    assert command_line.told(OSError("a\n  b\n\nc")) == "a b c"
    assert command_line.told(MemoryError()).startswith("MemoryError in unknown place")
