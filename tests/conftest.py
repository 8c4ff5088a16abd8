"""Models and files that several test modules share."""

import pytest
import torch
from common import shared_file, tiny_model

import kn_utils as kn
from kn_utils.data import download


def pytest_addoption(parser):
    parser.addoption("--write-pages", action="store_true", help="write what the tests say into the book's tables")


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache folder in place of the user's."""
    monkeypatch.setattr(download.platformdirs, "user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    return tmp_path / "cache" / "kn_utils"


@pytest.fixture(scope="session")
def tiny():
    """A random BERT of three layers."""
    return tiny_model()


@pytest.fixture(scope="session")
def tiny64():
    """The same in double precision."""
    return tiny_model(dtype=torch.float64)


@pytest.fixture(scope="session")
def lab():
    return kn.load_model("lab", device="cpu")


@pytest.fixture(scope="session")
def lab_facts():
    return kn.load_facts("lab")


@pytest.fixture(scope="session")
def pararel_file():
    """The authors' facts, where they lie beside the checkout."""
    return shared_file("pararel", "data_all_allbags.json.gz")


@pytest.fixture(scope="session")
def neurons_file():
    """Facts with their subjects as an independent publication lists them."""
    return shared_file("bert_base_uncased_neurons", "facts.jsonl.gz")
