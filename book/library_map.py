"""Draw the library as one house, from its real imports: `python book/library_map.py`.

It writes `book/_static/library_map.svg` and prints the lines of code of every room.
"""

import ast
import io
import tokenize
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "kn_utils"
FIGURE = ROOT / "book/_static/library_map.svg"

# Floors from the top down, each a list of rows: where a room's middle lies, and its name. A room is a file of kn_utils
# or a folder. It may import from the rows below it and from no other.
FLOORS = {
    "Around it": [{"lab": 150, "figures": 405}],
    "What it is used for": [{"beyond": 150}, {"paper": 150, "page": 405}],
    "The method": [
        {"command_line": 60, "attribution": 185, "refinement": 288, "asking": 385},
        {"loading": 120, "editing": 350, "stats": 422},
    ],
    "What makes it fast": [{"engine": 215}],
    "The base": [{"prompts": 215}, {"facts": 150}, {"data": 60, "checks": 255}, {"models": 255}],
}
CORE = "models facts prompts loading attribution refinement editing asking stats".split()  # reads like the paper
RUN_UP: set[tuple[str, str]] = set()  # imports that run up, drawn as dashed lines
WIDTH, ROW, GAP, BOX = 460, 54, 30, 30  # pixels: the figure, from row to row, between floors, a room's height


def rows() -> list[dict[str, int]]:
    """The rows of all floors, from the top down."""
    return [row for floor in FLOORS.values() for row in floor]


def level(room: str) -> int:
    """The number of a room's row, from the top down."""
    return next(number for number, row in enumerate(rows()) if room in row)


def module_name(path: Path, package: Path) -> str:
    """`engine.passes` of `engine/passes.py`, `engine` of `engine/__init__.py`, the empty text of the package's own."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Every import of one module of the package by another: (importing, imported).

    Imports inside functions count; those that only type checkers read do not. What the package's own `__init__.py`
    hands on is left out.
    """
    modules = {module_name(path, package): path for path in package.rglob("*.py")}
    return {
        (name, imported)
        for name, path in modules.items()
        if name
        for node in _nodes_that_run(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom)
        for imported in _imported(node, name, path.name == "__init__.py", modules)
        if imported not in ("", name)
    }


def _nodes_that_run(node: ast.AST):
    """All nodes of a module but those of `if TYPE_CHECKING:`."""
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield child
            yield from _nodes_that_run(child)


def _imported(node: ast.ImportFrom, importing: str, is_folder: bool, modules) -> set[str]:
    """The modules of the package that `from ... import ...` names, or whose contents it names."""
    named = (node.module or "").split(".")
    if node.level:
        parts = importing.split(".")
        source = [*parts[: len(parts) - node.level + is_folder], *named]
    elif named[0] == PACKAGE.name:
        source = named[1:]
    else:
        return set()
    source = ".".join(filter(None, source))
    names = {f"{source}.{alias.name}".lstrip(".") for alias in node.names}
    return {name if name in modules else source for name in names}


def arrows(package: Path = PACKAGE) -> set[tuple[str, str]]:
    """Every import of one room by another."""
    pairs = {(start.split(".")[0], end.split(".")[0]) for start, end in imports(package)}
    return {(start, end) for start, end in pairs if start != end}


def find_cycle(pairs: set[tuple[str, str]]) -> list[str]:
    """Names that import each other in a circle, in order; an empty list if there is no circle."""
    imported = defaultdict(set)
    for start, end in pairs:
        imported[start].add(end)
    try:
        TopologicalSorter(imported).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def needed(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The arrows that no chain of others says already. The arrows must not form a cycle."""

    def leads(start: str, end: str) -> bool:
        return (start, end) in pairs or any(leads(middle, end) for first, middle in pairs if first == start)

    return {
        (start, end)
        for start, end in pairs
        if not any(leads(middle, end) for first, middle in pairs if first == start and middle != end)
    }


def code_lines(source: str) -> int:
    """Lines of code: without docstrings, comments and blank lines."""
    quiet = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    code = {line for t in tokens if t.type not in quiet for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_text and isinstance(node.value.value, str):
            code -= set(range(node.lineno, node.end_lineno + 1))
    return len(code)


def room_lines(package: Path = PACKAGE) -> dict[str, int]:
    """Lines of code of every room, from the top of the house down."""
    lines = {room: 0 for row in rows() for room in row}
    for path in package.rglob("*.py"):
        if name := module_name(path, package):
            lines[name.split(".")[0]] += code_lines(path.read_text(encoding="utf-8"))
    return lines


def places() -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """The middle of every room, and the top and height of every floor, in pixels."""
    middles, floors, top = {}, {}, 8
    for floor, floor_rows in FLOORS.items():
        floors[floor] = (top, GAP + ROW * len(floor_rows))
        for number, row in enumerate(floor_rows):
            middles |= {room: (x, top + GAP + ROW * number + BOX // 2) for room, x in row.items()}
        top += GAP + ROW * len(floor_rows) + 8
    return middles, floors


STYLE = """
    text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #1f2933 }
    .floor { fill: #f5f7fa }
    .label { font-size: 13px; fill: #52606d; stroke: #f5f7fa; stroke-width: 5px; paint-order: stroke }
    .room { fill: #fff; stroke: #7b8794; stroke-width: 1.5 }
    .core { fill: #e6f1f8; stroke: #0173b2 }
    .arrow { fill: none; stroke: #7b8794; stroke-width: 1.5; marker-end: url(#tip) }
    .up { fill: none; stroke: #d55e00; stroke-width: 1.5; stroke-dasharray: 5 3; marker-end: url(#up-tip) }"""
TIP = '<marker id="{}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">' \
      '<path d="M0 0 8 4 0 8z" fill="{}"/></marker>'  # fmt: skip


def draw(pairs: set[tuple[str, str]]) -> str:
    """The house as SVG: floors as bands, rooms as boxes, the core's in blue, arrows from a room to those it imports."""
    middles, floors = places()
    up = {(start, end) for start, end in pairs if level(start) >= level(end)}
    height = sum(floors["The base"]) + (34 if up else 8)
    parts = [f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#fff"/>']
    bands = [
        f'<rect x="4" y="{top}" width="{WIDTH - 8}" height="{tall}" rx="6" class="floor"/>'
        for top, tall in floors.values()
    ]
    parts += bands + [_arrow(middles[start], middles[end], "arrow") for start, end in sorted(needed(pairs - up))]
    parts += [_arrow(middles[start], middles[end], "up") for start, end in sorted(up)]
    parts += [f'<text x="12" y="{top + 18}" class="label">{floor}</text>' for floor, (top, _) in floors.items()]
    parts += [_room(room, *middle) for room, middle in middles.items()]
    if up:
        parts.append(f'<path class="up" d="M12 {height - 13}h34"/>')
        parts.append(f'<text x="54" y="{height - 8}" class="label">an import that still runs up</text>')
    title = "The rooms of kn_utils, floor by floor, and which room imports which"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
    tips = TIP.format("tip", "#7b8794") + TIP.format("up-tip", "#d55e00")
    return "\n".join([head, f"<style>{STYLE}\n</style>", f"<defs>{tips}</defs>", *parts, "</svg>", ""])


def _room(room: str, x: int, y: int) -> str:
    """A box with the room's name. A folder's name ends with a slash."""
    name = room if (PACKAGE / f"{room}.py").exists() else f"{room}/"
    wide = 14 + 7.9 * len(name)
    box = f'x="{x - wide / 2:.1f}" y="{y - BOX // 2}" width="{wide:.1f}" height="{BOX}"'
    kind = "room core" if room in CORE else "room"
    return f'<rect {box} rx="6" class="{kind}"/><text x="{x}" y="{y + 5}" text-anchor="middle">{name}</text>'


def _arrow(start: tuple[int, int], end: tuple[int, int], kind: str) -> str:
    """A curve from the lower edge of a room to the upper edge of another; the other way round if it runs up."""
    (x0, y0), (x1, y1) = start, end
    half = BOX // 2 if y1 > y0 else -BOX // 2
    y0, y1 = y0 + half, y1 - half
    x0, x1 = (x0, x1) if y1 > y0 else (x0 - 12, x1 - 12)  # beside an arrow that runs down between the two
    bend = (y0 + y1) // 2
    return f'<path class="{kind}" d="M{x0} {y0}C{x0} {bend} {x1} {bend} {x1} {y1}"/>'


if __name__ == "__main__":
    FIGURE.write_text(draw(arrows()), encoding="utf-8")
    counts = room_lines()
    for name, n_lines in counts.items():
        print(f"{name:14}{n_lines:6}{'  core' if name in CORE else ''}")
    print(f"{'core':14}{sum(counts[name] for name in CORE):6}")
