"""What a result says about the machine, and what the benchmarks share."""

import os
import platform

import pytest
import torch
import transformers
from cpuinfo import get_cpu_info


def pytest_benchmark_generate_machine_info(config):
    return {
        "cpu": get_cpu_info()["brand_raw"],
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def found():
    """What the ways compared in one module have found; the reference comes first."""
    return {}
