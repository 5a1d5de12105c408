from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "magg"
FLOORS = {
    "cli": 12,
    "__main__": 13,
    "demo": 11,
    "cli_results": 11,
    "runner": 10,
    "notebook": 9,
    "summary": 9,
    "indexing": 9,
    "preflight": 9,
    "checkup": 9,
    "deploy": 9,
    "aws": 8,
    "exports": 8,
    "plan": 8,
    "drain": 8,
    "maps": 8,
    "report": 8,
    "worker": 7,
    "cell": 6,
    "access": 6,
    "results": 6,
    "catalog": 5,
    "store": 5,
    "granules": 4,
    "failure": 4,
    "config": 3,
    "executors": 3,
    "statistics": 2,
    "buckets": 2,
    "progress": 2,
    "html": 2,
    "credentials": 1,
    "grid": 1,
    "wire": 1,
    "yamltext": 1,
    "events": 1,
    "projections": 1,
    "errors": 0,
}
MODULES = sorted(PACKAGE.rglob("*.py"))
HEAVY = ("boto3", "lithops", "earthaccess", "pandas", "mortie", "matplotlib", "h5py", "zarr")


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "magg":
            names = node.module.split(".")[1:] or [alias.name for alias in node.names]
            yield names[0]
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            yield from (p[1] for p in parts if p[0] == "magg" and len(p) > 1)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_from_floors_below_its_own(path):
    here = room(path)
    if here in ("__init__", "testing"):
        pytest.skip("stands beside the floors")
    upward = {
        there
        for there in imported_rooms(path)
        if there in FLOORS and there != here and FLOORS[there] >= FLOORS[here]
    }
    assert not upward, f"{here} (floor {FLOORS[here]}) imports {upward}"


def test_every_module_has_a_floor():
    assert {room(path) for path in MODULES} - {"__init__", "testing"} == set(FLOORS)


def test_modules_within_a_room_do_not_import_each_other_in_a_circle():
    edges = {}
    for path in MODULES:
        name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        tree = ast.parse(path.read_text())
        edges[name] = {
            node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("magg.")
        }

    def reaches(start, goal, seen):
        for there in edges.get(start, ()):
            if there == goal:
                return True
            if there not in seen:
                seen.add(there)
                if reaches(there, goal, seen):
                    return True
        return False

    assert not [name for name in edges if reaches(name, name, set())]


def test_files_stay_small():
    lines = {str(p.relative_to(PACKAGE)): len(p.read_text().splitlines()) for p in MODULES}
    assert not {name: n for name, n in lines.items() if n > 400}


def test_the_house_stays_small():
    assert sum(code_lines(p) for p in MODULES if room(p) != "testing") < 18_000


def code_lines(path):
    """Count the lines that are neither blank nor comment nor docstring."""
    text = path.read_text()
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(text.splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.lstrip().startswith("#") and number not in prose
        for number, line in lines
    )


@pytest.mark.parametrize("statement", ["import magg", "from magg import load_config, run"])
def test_importing_magg_imports_nothing_heavy(statement):
    code = f"import sys; {statement}; print(*sorted(set({HEAVY!r}) & set(sys.modules)))"
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert told == []
