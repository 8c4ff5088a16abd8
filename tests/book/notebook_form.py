"""What tests of the notebooks share: where they are, which cells a page shows, which names code uses."""

import ast
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
ADDRESS = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CHAPTERS = [path for path in NOTEBOOKS if path.stem != "lab_model_card"]


def code(notebook, tag=None):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if tag is None or tag in cell.metadata.get("tags", [])]


def assigned(source):
    """Names and literal values of the assignments in a cell."""
    statements = [s for s in ast.parse(source).body if isinstance(s, ast.Assign)]
    return {s.targets[0].id: ast.literal_eval(s.value) for s in statements}


def has_claims(notebook):
    """Whether its sentences are claims; the other notebooks are still to be written so."""
    return any("kn_utils.page" in cell.source for cell in code(notebook))


def is_shown(cell):
    """A folded cell is shown; one that is removed is not."""
    return cell.cell_type == "code" and "remove-cell" not in cell.metadata.get("tags", [])


def defined(tree):
    """Names that code binds, at any depth."""
    imports = [a for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom) for a in n.names]
    made = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    bound = [n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]
    arguments = [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]
    return {(a.asname or a.name).partition(".")[0] for a in imports} | {*made, *bound, *arguments}


def used(tree):
    return {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
