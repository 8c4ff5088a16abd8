"""Files: written whole or not at all, read within bounds, refused in one line when a bit is flipped; downloads."""

import gzip
import http.server
import json
import random
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import platformdirs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from common import one_line_error

import kn_utils as kn
from kn_utils.beyond import published
from kn_utils.data import download, files
from kn_utils.data.files import checked_path, read_bytes, read_json, write_atomically
from kn_utils.data.tables import DIGESTS, read_table, write_table
from kn_utils.paper.bingrel import load_prompts
from kn_utils.paper.experiments import KINDS
from kn_utils.paper.registry import tables
from kn_utils.paper.results import ABOUT, read_results, write_results

# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError, OSError])
def test_a_stop_leaves_the_old_file(tmp_path, stop):
    def write(partial):
        partial.write_bytes(b"half")
        raise stop("stopped")

    path = tmp_path / "file.json.gz"
    path.write_bytes(b"old")
    with pytest.raises(stop, match="stopped"):
        write_atomically(path, write)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_writers_of_one_file_do_not_meet(tmp_path):
    path, contents = tmp_path / "file", [bytes([i]) * 100_000 for i in range(8)]

    def write(content):
        for _ in range(10):
            write_atomically(path, lambda partial: partial.write_bytes(content))

    writers = [threading.Thread(target=write, args=[content]) for content in contents]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("value", [1, True, None, ["file"], b"file", "", "a\0b", "\ud800"], ids=ascii)
def test_what_is_no_path(value):
    kind = ValueError if isinstance(value, str) else TypeError
    for use in (read_bytes, lambda path: write_atomically(path, Path.touch), lambda path: checked_path("path", path)):
        with one_line_error(kind, f"is {value!r}", "pass"):
            use(value)
    if value is not None:  # there it stands for the download
        with one_line_error(kind, f"is {value!r}", "pass"):
            published.load_published_neurons(value)


def test_a_path_is_a_text_or_a_path():
    assert checked_path("path", "lab") == checked_path("path", Path("lab")) == Path("lab")


def test_a_link_stays_a_link(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    try:
        link.symlink_to(target)
    except OSError:
        pytest.skip("this system makes no links")
    write_atomically(link, lambda partial: partial.write_bytes(b"new"))
    assert link.is_symlink() and target.read_bytes() == b"new"


def test_where_nothing_can_be_written(tmp_path):
    with one_line_error(IsADirectoryError, tmp_path, "is a folder"):
        write_atomically(tmp_path, Path.touch)
    with one_line_error(FileNotFoundError, "missing", "make the folder"):
        write_atomically(tmp_path / "missing" / "file", Path.touch)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_a_small_file_that_unpacks_to_a_large_one_is_refused(tmp_path):
    path = tmp_path / "facts.json.gz"
    path.write_bytes(gzip.compress(b" " * 400_000_000))
    assert path.stat().st_size < 400_000
    with one_line_error(ValueError, path, f"{files.LARGEST:,} bytes"):
        kn.load_facts(path)


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST", 10)
    (tmp_path / "file").write_bytes(b"[1, 2, 3, 4]")
    with one_line_error(ValueError, tmp_path / "file", "more than 10 bytes"):
        read_bytes(tmp_path / "file")


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    path = tmp_path / "facts.json"
    path.write_bytes(b"[]")

    def refuse(*args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with one_line_error(OSError, path, "cannot be read", "Permission denied"):
        kn.load_facts(path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'{"a": 1, "a": 2}', "'a' stands there twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a":' * 200_000, "nested too deeply"),
        (b"[1" + b"0" * 5000 + b"]", "digits"),
    ],
    ids=["a key twice", "NaN", "deep lists", "deep objects", "a long number"],
)
def test_json_that_is_no_value(tmp_path, content, reason):
    (tmp_path / "file").write_bytes(content)
    with one_line_error(ValueError, tmp_path / "file", reason, "fetch or write it again"):
        read_json(tmp_path / "file")


# --- one flipped bit -------------------------------------------------------------------------------------------------

N = kn.Neuron
RUN_ABOUT = {"n_layers": 4, "n_neurons": 512, "model": "lab"}


def small_results(path, about=RUN_ABOUT, **columns):
    """A result file of two facts."""
    facts = pd.DataFrame({
        "subject": ["Perú", "Ireland"], "relation": "P36(capital)", "answer": ["Lima", "Dublin"], "n_prompts": 9,
        "share": 0.7, "known": [True, False], "knowledge": [{N(0, 1), N(2, 5)}, set()], "activation": [{N(1, 1)}] * 2,
        "most active": [{N(1, 2)}] * 2, "random": [{N(1, 3)}] * 2, "another fact": [set(), {N(0, 1)}],
        "scores": [{N(0, 1): 0.5, N(2, 5): 0.1}, {}],
    })  # fmt: skip
    rows = [(i, p, "suppress", k, i + 0.5) for i in range(2) for p in ("find", "heldout") for k in KINDS]
    effects = pd.DataFrame(rows, columns=["fact", "prompts", "operation", "kind", "probability"])
    return write_results(path, about, facts.assign(**columns), {"effects": effects})


def plain(results):
    """What a result file says, in a form that can be compared."""
    return [results.about, *(getattr(results, name).to_dict("list") for name in ("facts", *tables()))]


def in_cache(read, name, raw):
    """Write a cached download and its digest, and read it back."""

    def write(folder):
        path = folder / name
        download._keep(raw, path, path.with_name(path.name + ".sha256"))
        return path, lambda: read(raw, path)

    return write


def cached_download(raw, path):
    def offline():
        raise AssertionError("nothing is to be downloaded")

    return download.cached(path, "list", offline, lambda raw, name: files.parse_json(raw, name), lambda content: None)


def result_file(folder):
    small_results(folder / "results.parquet")
    return folder / "results.parquet", lambda: plain(read_results(folder / "results.parquet"))


def facts_file(folder):
    kn.write_facts(kn.load_facts("lab", n_facts=20), folder / "facts.json.gz")
    return folder / "facts.json.gz", lambda: kn.load_facts(folder / "facts.json.gz")


def published_file(folder):
    row = {"uuid": "1", "relation": "P36", "subject": "Peru", "answer": "Lima", "neurons": [[1, 20], [0, 3]]}
    path = folder / "facts.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join([json.dumps(row)] * 9).encode()))
    return path, lambda: published.load_published_neurons(path).values.tolist()


def bingrel_file(folder):
    path = folder / "final_distant_allbags_P36_new.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"th_bags": ["Dublin, Ireland"], "h_bags": ["Ireland"]}] * 9).encode()))
    return path, lambda: load_prompts(folder, "P36")


@pytest.mark.parametrize(
    "write",
    [
        result_file,
        facts_file,
        published_file,
        bingrel_file,
        in_cache(cached_download, "download.json.gz", json.dumps([["Peru", "Lima"]] * 9).encode()),
    ],
    ids=["results", "facts", "published neurons", "BingREL", "cached download"],
)
def test_a_flipped_bit_is_noticed_or_does_no_harm(write, tmp_path):
    """Every kind of file with a checksum. Plain JSON has none: within a word of it a flip cannot be noticed."""
    path, read = write(tmp_path)
    expected, raw, rng = read(), path.read_bytes(), random.Random(0)
    outcomes = Counter()
    for bit in rng.sample(range(8 * len(raw)), min(400, 8 * len(raw))):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a flip in the name of the digest makes the file look older
            try:
                assert read() == expected, f"bit {bit}"
                outcomes["same"] += 1
            except ValueError as error:
                assert "\n" not in str(error) and path.name in str(error), f"bit {bit}"
                outcomes["refused"] += 1
    assert outcomes["refused"] > 100


def test_a_flipped_bit_in_the_digest_of_a_download(tmp_path):
    path, read = in_cache(cached_download, "download.json.gz", b"[1, 2]")(tmp_path)
    record = path.with_name(path.name + ".sha256")
    digest = record.read_bytes()
    for damaged in (digest[:-1], b"\xff" + digest[1:], b"", digest[:-1] + bytes([digest[-1] ^ 1])):
        record.write_bytes(damaged)
        with one_line_error(ValueError, path, "has changed", "delete it"):
            read()


# --- result files ----------------------------------------------------------------------------------------------------


def test_a_result_file_without_a_digest_is_read_with_a_warning(tmp_path):
    path = tmp_path / "older.parquet"
    expected = plain(small_results(path))
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({ABOUT: table.schema.metadata[ABOUT]}), path)
    with pytest.warns(UserWarning, match="older version, without a digest") as caught:
        assert plain(read_results(path)) == expected
    assert len(caught) == 1 and caught[0].filename == __file__ and str(path) in str(caught[0].message)


def test_a_result_file_with_the_former_names_of_the_controls_is_read(tmp_path):
    path = tmp_path / "older.parquet"
    expected = small_results(path)
    table = pq.read_table(path)
    former = {"activation": "baseline", "most active": "matched"}
    effects = [
        [row | {"kind": former.get(row["kind"], row["kind"])} for row in rows] for rows in table["effects"].to_pylist()
    ]
    place = table.column_names.index("effects")
    older = table.set_column(place, "effects", [effects]).rename_columns([former.get(n, n) for n in table.column_names])
    write_table(older.replace_schema_metadata(table.schema.metadata), path)
    assert plain(read_results(path)) == plain(expected)
    assert {"activation", "most active"} < {*expected.effects.kind}


@pytest.mark.parametrize("column", ["answer", "share", "known", "knowledge", "scores", "effects", "description"])
def test_a_result_file_that_was_changed_is_refused(tmp_path, column):
    """Written anew by a Parquet writer, so that each page has a right checksum, with one value changed."""
    path = tmp_path / "results.parquet"
    small_results(path)
    table = pq.read_table(path)
    described = dict(table.schema.metadata)
    if column == "description":
        described[ABOUT] = described[ABOUT].replace(b"lab", b"lob")
    else:
        values = table.column(column).to_pylist()
        place = table.column_names.index(column)
        changed = pa.array([values[1], values[0]], table.schema.field(column).type)
        values = changed if column != "share" else pa.array([0.7, 0.6])
        table = table.set_column(place, column, values)
    pq.write_table(table.replace_schema_metadata(described), path)
    with one_line_error(ValueError, path, "damaged or was changed by hand", column, "run again"):
        read_results(path)


@pytest.mark.parametrize(
    "columns",
    [
        {"knowledge": [{N(4, 0)}, set()]},
        {"activation": [{N(0, 512)}, set()]},
        {"most active": [{N(-1, 0)}, set()]},
        {"random": [set(), {N(0, -1)}]},
        {"scores": [{N(0, 512): 0.1}, {}]},
        {"scores": [{N(0, 1.5): 0.1}, {}]},
        {"scores": [{N(0, 1): float("nan")}, {}]},
    ],
    ids=str,
)
def test_neurons_that_the_model_does_not_have(tmp_path, columns):
    with one_line_error(ValueError, "results.parquet", next(iter(columns)), "4 layers of 512 neurons"):
        small_results(tmp_path / "results.parquet", **columns)


@pytest.mark.parametrize("about", [[], {}, {"n_layers": 4}, {"n_layers": 4, "n_neurons": "512"}, {"n_layers": True}])
def test_a_description_without_the_models_size(tmp_path, about):
    with one_line_error(ValueError, "results.parquet", "n_layers or n_neurons"):
        small_results(tmp_path / "results.parquet", about)


def test_a_description_that_is_not_json(tmp_path):
    path = tmp_path / "results.parquet"
    small_results(path)
    write_table(pq.read_table(path).replace_schema_metadata({ABOUT: b"[" * 200_000}), path)
    with one_line_error(ValueError, path, "nested too deeply", "run again"):
        read_results(path)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["a", None, ""]), pa.array([1, None, 0]), pa.array([0.5, None, float("nan")]),
        pa.array([[1, 2], None, []]), pa.array([{"a": 1, "b": ["x"]}, None, {"a": None, "b": []}]),
        pa.array([True, None, False]), pa.nulls(3), pa.array(["a", None, ""], pa.large_string()),
    ],
    ids=lambda values: str(values.type),
)  # fmt: skip
def test_tables_are_read_as_written(tmp_path, values):
    """Whatever the chunks; and a value that is missing is not the same as an empty one."""
    table = pa.table({"x": values, "y": [1, 2, 3]})
    write_table(pa.concat_tables([table[:1], table[1:]]), tmp_path / "table")
    read, verified = read_table(tmp_path / "table")
    assert verified and repr(read.to_pylist()) == repr(table.to_pylist())
    described = read.schema.metadata
    pq.write_table(table.take([0, 2, 2]).replace_schema_metadata(described), tmp_path / "table")
    if values.null_count < 3:
        with one_line_error(ValueError, tmp_path / "table", "x, y", "make it again"):
            read_table(tmp_path / "table")


def test_other_types_are_refused(tmp_path):
    """Among them extension types, whose reader may run code."""
    for values in (pa.array([1], pa.timestamp("s")), pa.array([b"0" * 16], pa.binary(16))):
        pq.write_table(pa.table({"x": values}), tmp_path / "table")
        with one_line_error(ValueError, tmp_path / "table", "a column of type"):
            read_table(tmp_path / "table")
    assert DIGESTS not in (pq.read_table(tmp_path / "table").schema.metadata or {})


# --- downloads -------------------------------------------------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves good and bad answers, one at each address."""

    def do_GET(self):
        body = {"/page": b"\n <!DOCTYPE html>", "/large": b"x" * 3000}.get(self.path, b'["Lima"]')
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path != "/endless":
            self.send_header("Content-Length", str(len(body) + (10 if self.path == "/cut" else 0)))
        self.end_headers()
        for byte in body if self.path == "/slow" else b"":
            self.wfile.write(bytes([byte]))
            time.sleep(0.05)
        if self.path != "/slow":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def server():
    """The address of a server on this machine."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("path", ["/whole", "/endless"])
def test_a_download(server, path):
    assert download.fetch(server + path, "ParaRel", "pass a copy") == b'["Lima"]'


@pytest.mark.parametrize(
    "path, reason, bounds",
    [
        ("/cut", "cut short after 8 bytes", {}),
        ("/page", "a web page came instead", {}),
        ("/missing", "404", {}),
        ("/large", "more than 1,000 bytes", {"LARGEST": 1000}),
        ("/slow", "more than 0.1 seconds", {"LONGEST": 0.1}),
    ],
    ids=lambda value: value if isinstance(value, str) and value.startswith("/") else "",
)
def test_a_bad_download_is_one_line(server, path, reason, bounds, monkeypatch):
    for name, bound in bounds.items():
        monkeypatch.setattr(download, name, bound)
    with one_line_error(ConnectionError, "ParaRel", server + path, reason, "connect once", "or pass a copy"):
        download.fetch(server + path, "ParaRel", "pass a copy")


def test_no_server():
    with one_line_error(ConnectionError, "http://127.0.0.1:9/list", "cannot be reached"):
        download.fetch("http://127.0.0.1:9/list", "ParaRel", "pass a copy")


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "kn_utils").write_bytes(b"a file where the folder belongs")
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    path = download.cache_folder() / "list.json.gz"
    with one_line_error(OSError, tmp_path / "kn_utils", "cannot be written"):
        download.cached(path, "list", lambda: b"[1]", files.parse_json, lambda content: None)


def test_a_download_is_made_verified_and_kept_once(tmp_path):
    calls, path = [], tmp_path / "cache" / "list.json.gz"

    def make():
        calls.append("make")
        return b"[1]"

    def verify(content):
        calls.append(f"verify {content}")

    for _ in range(2):
        assert download.cached(path, "list", make, files.parse_json, verify) == [1]
    assert calls == ["make", "verify [1]"]
    path.with_name(path.name + ".sha256").unlink()
    for _ in range(2):
        assert download.cached(path, "list", make, files.parse_json, verify) == [1]
    assert calls == ["make", "verify [1]", "verify [1]"]
