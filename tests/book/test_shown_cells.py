"""A reader who copies what a page shows, and nothing else, into a fresh notebook gets what the page shows."""

import nbformat
import papermill
import pytest
from notebook_form import NOTEBOOKS, assigned, code, has_claims, is_shown

FEW = 12  # facts, where a chapter computes


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_shown_cells_run_alone(path, tmp_path, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    notebook = nbformat.read(path, as_version=4)
    if not has_claims(notebook):
        pytest.skip("its sentences are not claims yet")
    (parameters,) = code(notebook, "parameters")
    n_facts = assigned(parameters.source)["N_FACTS"]
    notebook.cells = [cell for cell in notebook.cells if is_shown(cell)]
    nbformat.write(notebook, tmp_path / path.name)
    executed = papermill.execute_notebook(
        tmp_path / path.name, tmp_path / "executed.ipynb", {} if n_facts is None else {"N_FACTS": min(FEW, n_facts)},
        kernel_name="python3", cwd=path.parent, progress_bar=False,
    )  # fmt: skip
    assert [cell.source for cell in executed.cells if not cell.execution_count and cell.source.strip()] == []
