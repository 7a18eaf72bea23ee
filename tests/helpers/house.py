"""Rules on how the product is built, each a function from the root of a checkout to a list of violations.

The product is every Python file outside `tests`. A violation is one line that names the file. What is read of a file
is kept: a tree must not change between two questions.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

LEAVES = ("students", "teachers", "eval")
ROOMS = ("swapcore", *LEAVES, "distill")
SCRIPTS = ("benchmarks", "datasets", "experiments")  # folders of commands
IMPORTERS = ("import_module", "__import__", "run_module", "find_spec")
MOST_LINES, MOST_FILES, MOST_FILES_AT_THE_TOP = 399, 11, 10
REGISTRIES = {
    "STUDENTS": "students/__init__.py",
    "TEACHERS": "teachers/__init__.py",
    "METRICS": "eval/__init__.py",
    "TARGETS": "students/export/targets.py",
    "LEARNERS": "distill/train/learners.py",
}


def sources(root: Path, folders: tuple[str, ...] = (*ROOMS, *SCRIPTS)) -> list[Path]:
    return [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]


@cache
def modules(root: Path) -> dict[str, Path]:
    """Every module of the rooms, by its dotted name."""
    found = {}
    for path in sources(root, ROOMS):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstrings(tree: ast.Module) -> set[int]:
    """The nodes, by id(), of text that stands alone."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


@cache
def imports(root: Path, path: Path) -> set[str]:
    """Our modules that a file imports anywhere: at its top, in functions, under TYPE_CHECKING, or by a string that is
    given to one of IMPORTERS. `from a import b` is a.b where that is a module, else a."""
    known, names = modules(root), set()
    package = path.relative_to(root).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                names.add(f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in IMPORTERS and node.args:
            if isinstance(node.args[0], ast.Constant):
                names.add(str(node.args[0].value))
    return names & known.keys()


@cache
def names_in_strings(root: Path, path: Path) -> set[str]:
    """Dotted names in literals that begin with a room of ours, as `distill.export` or `distill.export.convert:main`."""
    tree = parsed(path)
    alone, found = docstrings(tree), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            match = re.fullmatch(rf"((?:{'|'.join(ROOMS)})(?:\.\w+)+)(?::\w+)?", node.value)
            if match and (match[1] in modules(root) or match[1].rpartition(".")[0] in modules(root)):
                found.add(match[1])
    return found


def relative(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def foreign_imports(root: Path) -> list[str]:
    """Leaves import swapcore and themselves, swapcore imports itself; by statement or by string."""
    wrong = []
    for room in ("swapcore", *LEAVES):
        for path in sources(root, (room,)):
            foreign = {
                name
                for name in imports(root, path) | names_in_strings(root, path)
                if name.split(".")[0] not in (room, "swapcore")
            }
            wrong += [f"{relative(root, path)}: imports {name}" for name in sorted(foreign)]
    return wrong


def imports_of_the_command(root: Path) -> list[str]:
    """Nothing imports distill.run."""
    return [
        f"{relative(root, path)}: imports distill.run"
        for path in sources(root)
        if "distill.run" in imports(root, path) | names_in_strings(root, path)
    ]


def cycles(root: Path) -> list[str]:
    """No module imports itself by way of others."""
    graph = {name: imports(root, path) for name, path in modules(root).items()}
    reachable = {name: reached(graph, graph[name]) for name in graph}
    circles = {
        frozenset(m for m in reachable[name] if name in reachable[m]) for name in graph if name in reachable[name]
    }
    return sorted(f"cycle: {', '.join(sorted(circle))}" for circle in circles)


def reached(graph: dict[str, set[str]], start: set[str]) -> set[str]:
    """All modules that imports lead to from `start`, which belongs to them."""
    seen, left = set(), list(start)
    while left:
        name = left.pop()
        if name not in seen:
            seen.add(name)
            left += graph[name]
    return seen


def is_command(path: Path) -> bool:
    """Whether Python can be started with a file: `__main__.py`, or one with `if __name__ == "__main__"`."""
    tests = (ast.unparse(node.test) for node in parsed(path).body if isinstance(node, ast.If))
    return path.name == "__main__.py" or "__name__ == '__main__'" in tests


def late_starts(root: Path) -> list[str]:
    """Every command calls `start.command(__name__)` before it imports anything beyond Python's own library."""
    return [
        f"{relative(root, path)}: start.command(__name__) is not called before the imports"
        for path in sources(root)
        if is_command(path) and not starts_first(parsed(path))
    ]


def starts_first(tree: ast.Module) -> bool:
    for node in tree.body:
        if isinstance(node, ast.Expr) and ast.unparse(node).startswith("start.command(__name__"):
            return True
        if isinstance(node, ast.Import | ast.ImportFrom) and ast.unparse(node) != "from swapcore import start":
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            if any(name.split(".")[0] not in sys.stdlib_module_names for name in names):
                return False
    return False


def unused_modules(root: Path) -> list[str]:
    """Every module is a command or imported, directly or not, by a command. Importing a module imports its packages."""
    known = modules(root)
    graph = {}
    for name, path in known.items():
        packages = {p for p in known if name.startswith(f"{p}.")}
        graph[name] = imports(root, path) | names_in_strings(root, path) & known.keys() | packages
    commands = {name for name, path in known.items() if is_command(path)}
    scripts = set().union(*(imports(root, path) for path in sources(root, SCRIPTS)))
    return sorted(
        f"{relative(root, known[name])}: no command uses it"
        for name in known.keys() - reached(graph, commands | scripts)
    )


def long_files(root: Path) -> list[str]:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root)}
    return [f"{relative(root, path)}: {length} lines" for path, length in lengths.items() if length > MOST_LINES]


def full_folders(root: Path) -> list[str]:
    """Files of distill, its folders and swapcore are few; `__init__.py` does not count."""
    wrong = []
    folders = {path.parent for path in sources(root, ("distill", "swapcore"))}
    for folder in sorted(folders):
        files = [p for p in folder.iterdir() if p.is_file() and p.name != "__init__.py" and p.suffix != ".pyc"]
        most = MOST_FILES_AT_THE_TOP if relative(root, folder) == "distill" else MOST_FILES
        if len(files) > most:
            wrong.append(f"{relative(root, folder)}: {len(files)} files, at most {most}")
    return wrong


def registries(root: Path) -> list[str]:
    """Each registry is one literal dict in its file, nothing adds to it elsewhere, and no other dict of the rooms lists
    its names: one more entry is one line."""
    wrong = []
    for name, file in REGISTRIES.items():
        dicts = [(path, value) for path in sources(root, ROOMS) for value in assignments(path, name)]
        if len(dicts) != 1 or dicts[0][0] != root / file:
            places = ", ".join(relative(root, path) for path, _ in dicts) or "no file"
            wrong.append(f"{name}: assigned in {places}, not in {file} alone")
            continue
        value = dicts[0][1]
        if not isinstance(value, ast.Dict) or not all(isinstance(key, ast.Constant) for key in value.keys):
            wrong.append(f"{file}: {name} is no literal dict")
            continue
        entries = {key.value for key in value.keys}
        for path in sources(root, ROOMS):
            for node in ast.walk(parsed(path)):
                if changes(node, name):
                    wrong.append(f"{relative(root, path)}:{node.lineno}: changes {name}")
                if isinstance(node, ast.Dict) and node is not value:
                    also = entries & {key.value for key in node.keys if isinstance(key, ast.Constant)}
                    if len(also) > 1:
                        wrong.append(
                            f"{relative(root, path)}:{node.lineno}: lists names of {name}: {', '.join(sorted(also))}"
                        )
    return wrong


def assignments(path: Path, name: str) -> Iterator[ast.expr]:
    """What a module assigns to a name at its top."""
    for node in parsed(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets) and node.value is not None:
                yield node.value


def changes(node: ast.AST, name: str) -> bool:
    """Whether a node adds to, or takes from, the dict of that name."""
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        return last_name(node.value) == name
    if isinstance(node, ast.AugAssign):
        return last_name(node.target) == name
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("update", "setdefault", "pop", "clear") and last_name(node.func.value) == name
    return False


def last_name(node: ast.AST) -> str | None:
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", None)


def tests_that_import_tests(root: Path) -> list[str]:
    """Test files share helpers, they do not import from each other."""
    files = sorted((root / "tests").rglob("test_*.py"))
    stems, wrong = {path.stem for path in files}, []
    for path in [*files, *sorted((root / "tests" / "helpers").glob("*.py"))]:
        for node in ast.walk(parsed(path)):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            also = {part for name in names for part in name.split(".")} & stems
            wrong += [f"{relative(root, path)}: imports {name}" for name in sorted(also)]
    return wrong


RULES = (
    foreign_imports, imports_of_the_command, cycles, late_starts, unused_modules, long_files, full_folders, registries,
    tests_that_import_tests,
)  # fmt: skip
