"""Long runs: divided, killed and continued, damaged and repaired, never mixed; the result file and its errors."""

import dataclasses
import json
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from common import asked_within, one_line_error, tiny_config, tiny_tokenizer
from transformers import BertForMaskedLM

import kn_utils as kn
from kn_utils.data import download
from kn_utils.data.files import write_atomically
from kn_utils.data.store import ABOUT as CHUNK_OF
from kn_utils.data.store import TABLE, Store
from kn_utils.data.tables import write_table
from kn_utils.lab.training import split_words
from kn_utils.paper import __main__ as main
from kn_utils.paper import description, experiments
from kn_utils.paper.experiments import KINDS
from kn_utils.paper.registry import EXPERIMENTS, Experiment, Plan, tables
from kn_utils.paper.results import ABOUT, read_results
from kn_utils.paper.runs import run_experiments

ROOT = Path(__file__).resolve().parents[2]
N_FACTS = 16
RUN = ["--n-facts", str(N_FACTS), "--relations", "P36", "P19", "--chunk", "4", "--out"]
COMMAND = [sys.executable, "-m", "kn_utils.paper", *RUN]


@pytest.fixture(scope="module")
def small_chunks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments, "EDITS_PER_RELATION", 2)
        yield


@pytest.fixture(scope="module")
def finished(small_chunks, tmp_path_factory):
    """A run that nobody disturbed: its folder and its results."""
    folder = tmp_path_factory.mktemp("run")
    return folder, run(folder)


def run(folder, **options):
    return run_experiments(relations=["P36", "P19"], n_facts=N_FACTS, out=folder, **{"chunk": 4, **options})


def chunks_only(folder, copy):
    """A copy of a run that was stopped before it wrote its result file."""
    shutil.copytree(folder, copy)
    (copy / "results.parquet").unlink()
    return copy


def read_bytes(folder):
    return (folder / "results.parquet").read_bytes()


def test_results_are_complete(finished):
    folder, results = finished
    assert len(results.facts) == N_FACTS
    assert len(results.effects) == N_FACTS * 2 * (1 + 2 * len(KINDS))
    assert set(results.updates.kind) == {"none", *KINDS} - {"activation"}
    assert set(results.erasures.erased) == {"none", "P19"}
    assert results.about["model"] == "lab" and results.about["seed"] == 0
    assert (results.n_layers, results.n_neurons) == (4, 512)
    assert all(isinstance(neuron, kn.Neuron) for own in results.facts.knowledge for neuron in own)
    assert results.effects.relation.tolist() == [results.facts.relation[i] for i in results.effects.fact]


def test_effects_are_those_of_the_library(finished, lab):
    _, results = finished
    facts = kn.load_facts("lab", relations=["P36", "P19"], n_facts=N_FACTS)
    rows = results.effects.query("prompts == 'heldout' and operation == 'suppress' and kind == 'knowledge'")
    after = asked_within(lab, facts, [kn.suppress(lab, neurons) for neurons in results.facts.knowledge])
    assert rows.probability.tolist() == pytest.approx(after.probability.tolist(), abs=1e-5)
    assert rows.fact.tolist() == list(range(N_FACTS))


def test_a_second_run_is_identical(finished, small_chunks, tmp_path):
    run(tmp_path)
    assert read_bytes(tmp_path) == read_bytes(finished[0])


def test_a_finished_run_is_read_not_repeated(finished, monkeypatch):
    monkeypatch.setattr(experiments, "find_coarse", None)
    monkeypatch.setattr(experiments, "suppress_amplify", None)
    assert run(finished[0]).facts.equals(finished[1].facts)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start the command on a folder, by itself or by a launcher, with the small chunks of the other tests."""
    package = tmp_path_factory.mktemp("package")
    (package / "small_run.py").write_text(
        "import runpy\nfrom kn_utils.paper import experiments\n"
        "experiments.EDITS_PER_RELATION = 2\nrunpy.run_module('kn_utils.paper', run_name='__main__')\n"
    )
    path = os.pathsep.join(map(str, [package, ROOT]))

    def start(folder, launcher=()):
        command = [sys.executable, *launcher, "-m", "small_run", *RUN, str(folder)]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment.pop("TQDM_DISABLE", None)
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    return start


def launcher(n_processes, *options):
    """As `accelerate launch`; without a GPU its --multi_gpu starts processes on the CPU."""
    port = ["--main_process_port", "0"]
    return ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(n_processes), *port, *options]


def wait_for_a_chunk(folder, process):
    n_chunks = len(list(folder.rglob("*.parquet")))
    while len(list(folder.rglob("*.parquet"))) == n_chunks and process.poll() is None:
        time.sleep(0.02)


def kill_soon(process, folder, rng):
    """Kill a process at a random moment after the next chunk; whether it was still at work."""
    wait_for_a_chunk(folder, process)
    time.sleep(rng.uniform(0, 0.3))
    alive = process.poll() is None
    process.kill()
    process.communicate()
    return alive


def test_a_killed_run_continues_to_the_same_file(finished, start, tmp_path):
    """Two at once as well, of which one is killed: the other does not wait for it."""
    rng = random.Random(0)
    assert kill_soon(start(tmp_path), tmp_path, rng)
    lost, other = start(tmp_path), start(tmp_path)
    kill_soon(lost, tmp_path, rng)
    _, errors = other.communicate()
    assert other.returncode == 0, errors.decode()
    assert read_bytes(tmp_path) == read_bytes(finished[0])


@pytest.mark.slow
def test_launched_processes_are_killed_and_fewer_continue(finished, start, tmp_path):
    """The launcher starts all three again when one is killed, as often as it may; then two finish the run."""
    process = start(tmp_path, launcher(3, "--max_restarts", "1"))
    for _ in range(2):
        wait_for_a_chunk(tmp_path, process)
        workers = psutil.Process(process.pid).children()
        assert len(workers) == 3
        workers[1].kill()
        psutil.wait_procs(workers)
    process.communicate()
    assert process.returncode != 0
    assert not (tmp_path / "results.parquet").exists()
    process = start(tmp_path, launcher(2))
    output, errors = process.communicate()
    assert process.returncode == 0, errors.decode()
    assert read_bytes(tmp_path) == read_bytes(finished[0])
    assert output.decode().count(f"{N_FACTS} facts in") == 1  # the first process speaks for both
    bars = [line for line in errors.decode().replace("\r", "\n").splitlines() if line.startswith("prompts:")]
    assert f"{N_FACTS}/{N_FACTS}" in bars[-1] and "item/s" in bars[-1]


def chunks_of(folder, n_items, made, seconds=0.0):
    """The stages' way to make chunks, on a table that takes `seconds` for each item; `made` lists the items."""

    def compute(rows):
        made.extend(rows)
        time.sleep(seconds)
        return pd.DataFrame({"row": rows})

    return Store(folder, "a").table("stage", range(n_items), compute, 1)


def test_processes_divide_the_chunks(tmp_path):
    n_items, made = 60, [[] for _ in range(3)]
    with ThreadPoolExecutor() as pool:
        tables = list(pool.map(lambda own: chunks_of(tmp_path, n_items, own, 0.02), made))
    assert all(table.row.tolist() == list(range(n_items)) for table in tables)
    assert min(map(len, made)) > n_items / 6
    assert sum(map(len, made)) <= n_items + 2 * len(made)  # at the end, idle ones make what is still in work


def test_chunks_of_dead_processes_are_made_last(tmp_path):
    chunks_of(tmp_path, 6, [])
    for i in (4, 1):
        chunk = tmp_path / "stage" / f"{i:07d}-{i + 1:07d}.parquet"
        chunk.unlink()
        os.utime(chunk.with_suffix(".begun"), (i, i))
    made = []
    assert chunks_of(tmp_path, 9, made).row.tolist() == list(range(9))
    assert made == [6, 7, 8, 1, 4]


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:60] + b"\0" * 40 + b[100:]])
def test_a_damaged_chunk_is_made_again(finished, small_chunks, tmp_path, damage):
    folder = chunks_only(finished[0], tmp_path / "run")
    for name in ("find", "suppress_amplify"):
        chunk = sorted((folder / name).glob("*.parquet"))[1]
        chunk.write_bytes(damage(chunk.read_bytes()))
    run(folder)
    assert read_bytes(folder) == read_bytes(finished[0])


def test_a_chunk_of_another_run_is_made_again(finished, small_chunks, tmp_path):
    folder = chunks_only(finished[0], tmp_path / "run")
    chunk = next((folder / "known").glob("*.parquet"))
    table = pq.read_table(chunk)
    others = table.replace_schema_metadata({**table.schema.metadata, CHUNK_OF: "another"})
    write_table(others.set_column(0, "known", [[not known for known in table["known"].to_pylist()]]), chunk)
    run(folder)
    assert read_bytes(folder) == read_bytes(finished[0])


def without_a_row(table):
    return table.slice(1)


def with_other_values(table):
    return table.set_column(0, "known", [[not known for known in table["known"].to_pylist()]])


@pytest.mark.parametrize("change", [without_a_row, with_other_values, lambda table: table.rename_columns(["knows"])])
def test_a_chunk_whose_rows_do_not_fit_is_made_again(finished, small_chunks, tmp_path, change):
    folder = chunks_only(finished[0], tmp_path / "run")
    chunk = next((folder / "known").glob("*.parquet"))
    table = pq.read_table(chunk)
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), chunk)
    run(folder)
    assert read_bytes(folder) == read_bytes(finished[0])


def test_a_chunk_in_the_place_of_another_is_made_again(finished, small_chunks, tmp_path):
    folder = chunks_only(finished[0], tmp_path / "run")
    for name in ("find", "known", "suppress_amplify"):
        first, second, *_ = sorted((folder / name).glob("*.parquet"))
        shutil.copyfile(first, second)
    run(folder)
    assert read_bytes(folder) == read_bytes(finished[0])


def test_no_flipped_bit_of_a_chunk_goes_unnoticed(tmp_path):
    rng = random.Random(0)
    store = Store(tmp_path, "a")
    path = store.path("stage", 0, 3, TABLE)
    path.parent.mkdir()
    rows = pd.DataFrame({"text": ["a", "b", "c"], "number": [0.5, 1.5, None], "neurons": [[[0, 1]], [], [[2, 3]]]})
    store.write(path, rows, TABLE)
    whole, table = path.read_bytes(), store.finished([path], TABLE)[path]
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        assert all(found.equals(table) for found in store.finished([path], TABLE).values())


def test_all_files_of_the_method_are_in_the_fingerprint(tmp_path, monkeypatch):
    package = Path(kn.__file__).parent
    assert all(list(package.glob(name)) for name in description.CODE)
    before = description.code_digest()
    shutil.copytree(package, tmp_path / "kn_utils", ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    monkeypatch.setattr(description.experiments, "__file__", str(tmp_path / "kn_utils" / "paper" / "experiments.py"))
    changed = tmp_path / "kn_utils" / "engine" / "passes.py"
    text = changed.read_text(encoding="utf-8")
    changed.write_bytes(text.replace("\n", "\r\n").encode())
    assert description.code_digest() == before  # as git writes it on Windows
    changed.write_text(text + "# changed\n", encoding="utf-8")
    assert description.code_digest() != before


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", None])
def test_a_result_file_that_is_damaged_or_of_another_run_is_written_again(finished, small_chunks, tmp_path, damage):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    path = folder / "results.parquet"
    if damage is None:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[ABOUT]) | {"fingerprint": "another"}
        write_table(table.replace_schema_metadata({**table.schema.metadata, ABOUT: json.dumps(about)}), path)
    else:
        path.write_bytes(damage(path.read_bytes()))
    run(folder)
    assert read_bytes(folder) == read_bytes(finished[0])


def test_a_file_appears_when_it_is_on_disk(tmp_path, monkeypatch):
    def power_cut(file):
        raise OSError("power cut")

    path = tmp_path / "file.txt"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_atomically(path, lambda partial: partial.write_text("new"))
    assert path.read_text() == "old"


def test_runs_never_mix(finished):
    with one_line_error(ValueError, finished[0], "seed", "another folder"):
        run(finished[0], seed=1)
    with one_line_error(ValueError, finished[0], "n_facts", "another folder"):
        run_experiments(n_facts=12, out=finished[0])


def test_experiments_can_be_left_out(small_chunks, tmp_path):
    results = run_experiments(n_facts=12, experiment="find", out=tmp_path)
    assert len(results.facts) == 12 and all(getattr(results, table).empty for table in tables())
    with one_line_error(ValueError, "experiment 'everything'", "suppress_amplify"):
        run_experiments(n_facts=12, experiment="everything", out=tmp_path)


def test_experiments_add_up_in_one_folder(finished, small_chunks, tmp_path):
    """One after the other, in any order, they make the file that all of them together make."""
    for experiment in ("erase", "suppress_amplify", "prompts"):
        results = run(tmp_path, experiment=experiment)
    assert results.updates.empty and results.effects.equals(finished[1].effects)
    assert results.about["experiments"] == ["find", "suppress_amplify", "erase", "prompts"]
    run(tmp_path, experiment="update")
    assert read_bytes(tmp_path) == read_bytes(finished[0])


def test_another_chunk_takes_no_chunk_of_other_facts(finished, small_chunks, tmp_path):
    folder = chunks_only(finished[0], tmp_path / "run")
    results = run(folder, chunk=3)
    assert results.facts.knowledge.equals(finished[1].facts.knowledge)
    measures = ["probability", "log_odds", "rank", "top1"]
    both = results.effects[measures], finished[1].effects[measures]
    pd.testing.assert_frame_equal(*both, atol=1e-5)
    with one_line_error(ValueError, "chunk is 0"):
        run(folder, chunk=0)


def test_an_experiment_is_one_entry(finished, small_chunks, tmp_path, monkeypatch):
    """It is a choice of the command, a stage of the run and a table of its results, which is empty in older files."""

    def plan(run):
        sizes = run.neurons.knowledge.map(len)
        return Plan(len(run.facts), lambda rows: pd.DataFrame({"fact": rows, "size": sizes[rows]}))

    monkeypatch.setitem(EXPERIMENTS, "count", Experiment("sizes", plan, chunk=0.5))
    assert read_results(finished[0]).sizes.empty
    results = run(tmp_path, experiment="count")
    assert results.sizes["size"].tolist() == finished[1].facts.knowledge.map(len).tolist()
    assert results.sizes.columns.tolist() == ["fact", "size", "relation", "known"]
    assert results.about["experiments"] == ["find", "count"] and results.effects.empty
    assert len(list((tmp_path / "count").glob("*.parquet"))) == N_FACTS / 2
    assert "count" in main.parser().format_help()
    with pytest.raises(AttributeError, match="no 'weights'.*sizes"):
        print(results.weights)


def test_facts_that_cannot_be_asked_are_named_first(small_chunks, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "find_coarse", None)
    facts = kn.load_facts("lab", n_facts=3)
    kn.write_facts([*facts[:2], dataclasses.replace(facts[2], answer="Unheard-of")], tmp_path / "facts.json")
    with one_line_error(ValueError, "'Unheard-of'"):
        run_experiments("lab", tmp_path / "facts.json", out=tmp_path / "run")


def test_the_cache_is_found_again(monkeypatch, tmp_path):
    monkeypatch.setattr(download.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    run_experiments(n_facts=12, experiment="find")
    monkeypatch.setattr(experiments, "find_coarse", None)
    assert len(run_experiments(n_facts=12, experiment="find").facts) == 12


def test_bad_result_files_are_named(finished, tmp_path):
    with one_line_error(FileNotFoundError, "nowhere.parquet", "kn_utils.paper"):
        read_results(tmp_path / "nowhere.parquet")
    cut = tmp_path / "cut.parquet"
    cut.write_bytes(read_bytes(finished[0])[:-200])
    with one_line_error(ValueError, cut, "run again"):
        read_results(cut)
    foreign = tmp_path / "foreign.parquet"
    pq.write_table(pa.Table.from_pandas(pd.DataFrame({"x": [1]})), foreign)
    with one_line_error(ValueError, foreign, "no result file"):
        read_results(foreign)
    older = tmp_path / "older.parquet"
    table = pq.read_table(finished[0] / "results.parquet")
    write_table(table.drop_columns(["erasures"]).replace_schema_metadata(table.schema.metadata), older)
    results = read_results(older)
    assert results.erasures.empty and results.effects.equals(finished[1].effects)
    write_table(table.drop_columns(["another fact"]).replace_schema_metadata(table.schema.metadata), older)
    assert read_results(older).facts.columns.tolist() == [c for c in finished[1].facts if c != "another fact"]
    write_table(table.drop_columns(["knowledge"]).replace_schema_metadata(table.schema.metadata), older)
    with one_line_error(ValueError, older, "knowledge", "run again"):
        read_results(older)


def test_the_description_is_readable(finished):
    about = json.loads((finished[0] / "run.json").read_text())
    assert {"model", "model_digest", "versions", "parameters", "seed", "facts_digest", "code"} <= about.keys()
    assert about == {name: value for name, value in finished[1].about.items() if name != "experiments"}


def test_command_line_names_the_error(tmp_path):
    found = subprocess.run(
        [*COMMAND, str(tmp_path), "--model", "no/such-model"], capture_output=True, text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert found.returncode == 1 and "Traceback" not in found.stderr and "no/such-model" in found.stderr


def test_a_causal_model_is_asked_what_it_can_answer(small_chunks, tmp_path):
    facts = kn.askable(kn.load_model("lab-causal", device="cpu"), kn.load_facts("lab", ["P36", "P19"], N_FACTS))
    results = run(tmp_path, model="lab-causal")
    assert results.facts.subject.tolist() == [fact.subject for fact in facts]
    assert results.facts.n_prompts.tolist() == [len(fact.prompts) for fact in facts]
    assert not {"T1", "T5"} - set(results.activations.type)
    assert set(results.updates.kind) == {"none", *KINDS} - {"activation"}


def test_no_fact_for_a_causal_model(tmp_path):
    prompts = ("[MASK] of Ireland", "[MASK] in Ireland", "[MASK], Ireland")
    kn.write_facts([kn.Fact("Ireland", "P36(capital)", "Dublin", prompts)], tmp_path / "facts.json")
    with one_line_error(ValueError, "facts.json", "lab-causal", "end with [MASK]"):
        run_experiments("lab-causal", tmp_path / "facts.json", out=tmp_path / "run")


@pytest.mark.parametrize(
    "n_facts, shape",
    [
        pytest.param(8, {}, id="tiny"),
        pytest.param(
            1,
            {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 768},
            id="as deep as BERT-base",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_command_takes_any_bert_and_pararel(n_facts, shape, pararel_file, tmp_path):
    relations = ["P19", "P36"][:n_facts]
    facts = kn.load_facts(pararel_file, relations, n_facts)
    texts = [text.replace("[MASK]", " ") for f in facts for text in (f.answer, *f.all_prompts)]
    tokenizer = tiny_tokenizer(sorted({word for text in texts for word in split_words(text)}))
    tokenizer.save_pretrained(tmp_path / "bert")
    BertForMaskedLM(tiny_config(tokenizer, **shape)).save_pretrained(tmp_path / "bert")
    command = [
        sys.executable, "-m", "kn_utils.paper", "--model", str(tmp_path / "bert"), "--facts", str(pararel_file),
        "--relations", *relations, "--n-facts", str(n_facts), "--experiment", "all", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr[-2000:]
    results = read_results(tmp_path / "out")
    assert [(f.subject, f.answer) for f in facts] == list(zip(results.facts.subject, results.facts.answer, strict=True))
    assert results.n_layers == shape.get("num_hidden_layers", 3)
    assert len(results.effects) == n_facts * 2 * (1 + 2 * len(KINDS)) and results.effects.log_probability.lt(0).all()
    assert set(results.erasures.erased) == {"none", "P19"}
