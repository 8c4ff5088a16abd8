"""The lab models say the same with any version of the libraries that pyproject.toml allows, on any machine."""

import json

import pytest
import torch
from lab_numbers import FILE, lab_numbers

EXPECTED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPECTED)
def test_numbers_are_those_of_the_pinned_versions(name):
    torch.testing.assert_close(lab_numbers(name), EXPECTED[name], atol=1e-5, rtol=1e-4)
