"""The shape of the code base, read from its sources: which imports are allowed, and how long a file may be."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

import toolrl

ROOT = Path(__file__).parent.parent
MODULE_NAME = re.compile(r"toolrl(\.[a-z]\w*)+\.?")  # as a string, or the beginning of an f-string
MAX_LINES = 400

# Imports run up this list, never down and never sideways.
LAYERS = (
    "errors",
    "support",
    "types",
    "gym tasks trajectory",
    "chat sandbox search",
    "policy tools",
    "users",
    "rewards",
    "episode",
    "env",
    "players",
    "rollout",
    "evaluation tiny",
    "audit gateway view",
    "distributed",
    "interop scaffold training",
    "cli",
    "__main__",
)

# Heavy or optional packages, and the units of toolrl that may import them.
OWNERS = {
    "torch": "policy tiny training",
    "transformers": "chat policy tiny training",
    "trl": "training",
    "vllm": "policy.vllm",
    "e2b": "sandbox.e2b",
    "e2b_code_interpreter": "sandbox.e2b",
    "ddgs": "search.web",
    "jinja2": "chat view",
    "httpx2": "tools.mcp",
    "langdetect": "rewards.instructions",
    "mcp": "gateway.mcp interop tools.mcp",
    "msgspec": "support.json_text trajectory view",
    "sentence_transformers": "search.corpus",
    "ray": "distributed",
    "starlette": "distributed.rates gateway interop sandbox.server search.server support.serving view",
    "trafilatura": "search.web",
    "usearch": "search.corpus",
    "uvicorn": "support.serving",
    "webencodings": "search.web",
}

# Packages that a dependency always brings, so that the core declares ten.
BROUGHT_BY = {"rich": "typer", "pygments": "rich", "referencing": "jsonschema"}

PACKAGE_FOLDERS = {"toolrl": ROOT / "toolrl", "toolrl_envs": ROOT / "envs" / "toolrl_envs"}
RANK = {unit: rank for rank, units in enumerate(LAYERS) for unit in units.split()}


@dataclass(frozen=True)
class Import:
    """`from target import name`, or `import target` where name is None."""

    importer: str
    line: int
    target: str
    name: str | None

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}" + (f".{self.name}" if self.name else "")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes except those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if is_type_checking(node):
            assert isinstance(node, ast.If)
            for statement in node.orelse:
                yield from (statement, *running_nodes(statement))
        else:
            yield node
            yield from running_nodes(node)


def imports_of(source: str, module: str, is_package: bool = False) -> list[Import]:
    """All imports that can run, including those in functions; relative ones are made absolute."""
    imports = []
    for node in running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            imports += [Import(module, node.lineno, alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            target = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else is_package - node.level]
                target = ".".join([*parents, target] if target else parents)
            imports += [Import(module, node.lineno, target, alias.name) for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and MODULE_NAME.fullmatch(node.value):
            imports.append(Import(module, node.lineno, node.value.rstrip("."), None))
    return imports


# Files of tasks that models work on, with their tests, and packages that `toolrl init` writes.
DATA_FOLDERS = {ROOT / "envs/toolrl_envs/terminal/tasks", ROOT / "toolrl/scaffold/templates"}


@cache
def modules(package: str) -> dict[str, Path]:
    folder = PACKAGE_FOLDERS[package]
    return {
        ".".join([package, *path.relative_to(folder).with_suffix("").parts]).removesuffix(".__init__"): path
        for path in sorted(folder.rglob("*.py"))
        if not DATA_FOLDERS & {*path.parents}
    }


@cache
def package_imports(package: str) -> list[Import]:
    return [
        entry
        for module, path in modules(package).items()
        for entry in imports_of(path.read_text("utf-8"), module, path.name == "__init__.py")
    ]


def unit_of(module: str) -> str:
    """The entry of LAYERS to which a module of toolrl belongs: its longest prefix."""
    parts = module.split(".")[1:]
    return next((unit for end in range(len(parts), 0, -1) if (unit := ".".join(parts[:end])) in RANK), parts[0])


def internal_edges() -> Iterator[tuple[Import, str, str]]:
    """Imports within toolrl, with their source and target units."""
    for entry in package_imports("toolrl"):
        target = entry.target
        if target == "toolrl" and entry.name:  # a submodule, or a public name defined in one
            target = toolrl._MODULE_OF.get(entry.name, f"toolrl.{entry.name}")
        elif target.startswith("toolrl.") and f"{target}.{entry.name}" in modules("toolrl"):
            target = f"{target}.{entry.name}"
        if entry.importer == "toolrl" or target == "toolrl.__version__" or not target.startswith("toolrl."):
            continue
        if entry.name or target in modules("toolrl"):  # a string may name other things
            yield entry, unit_of(entry.importer), unit_of(target)


def within(module: str, units: str) -> bool:
    return any(f"{module}.".startswith(f"toolrl.{unit}.") for unit in units.split())


def test_every_module_has_a_layer_and_every_layer_has_modules() -> None:
    assert {unit_of(module) for module in modules("toolrl") if module != "toolrl"} == set(RANK)


def test_the_owners_of_heavy_packages_exist() -> None:
    owners = {f"toolrl.{unit}" for units in OWNERS.values() for unit in units.split()}
    assert owners - modules("toolrl").keys() == set()


def test_only_the_spine_is_outside_the_rooms() -> None:
    loose = {path.stem for path in (ROOT / "toolrl").glob("*.py")}
    spine = {"types", "errors", "tasks", "episode", "env", "players", "rollout", "trajectory"}
    assert loose == {"__init__", "__main__", *spine}


def test_imports_run_one_way_through_the_layers() -> None:
    strays = [
        str(entry)
        for entry, source, target in internal_edges()
        if RANK[source] < RANK[target] or (RANK[source] == RANK[target] and source != target)
    ]
    assert strays == []


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for entry in package_imports("toolrl"):
        target = f"{entry.target}.{entry.name}"
        target = target if target in modules("toolrl") else entry.target
        # A package's __init__ collects names; its modules import siblings by their full names.
        if target in modules("toolrl") and target != entry.importer and not entry.importer.startswith(f"{target}."):
            graph.setdefault(entry.importer, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' <- '.join(error.args[1])}")


def test_heavy_packages_are_imported_only_by_their_owners() -> None:
    strays = [
        str(entry)
        for package in PACKAGE_FOLDERS
        for entry in package_imports(package)
        if (heavy := entry.target.split(".")[0]) in OWNERS and not within(entry.importer, OWNERS[heavy])
    ]
    assert strays == []


def test_toolrl_never_imports_its_environments() -> None:
    assert [str(entry) for entry in package_imports("toolrl") if entry.target.split(".")[0] == "toolrl_envs"] == []


def test_environments_use_only_public_names_of_toolrl() -> None:
    strays = []
    for entry in package_imports("toolrl_envs"):
        if entry.target.split(".")[0] != "toolrl":
            continue
        path = modules("toolrl").get(entry.target)
        is_package = path is not None and path.name == "__init__.py"
        if not (entry.name and is_package and entry.name in importlib.import_module(entry.target).__all__):
            strays.append(str(entry))
    assert strays == [], "import a name that is in `__all__` of toolrl or of one of its packages"


def test_every_imported_package_is_declared_as_a_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    names = {normalised(re.split(r"[^\w.-]", line)[0]) for line in declared}
    distributions = packages_distributions()
    imported = {
        top
        for package in PACKAGE_FOLDERS
        for entry in package_imports(package)
        if (top := entry.target.split(".")[0]) not in sys.stdlib_module_names and top not in PACKAGE_FOLDERS
    }
    for package, owner in BROUGHT_BY.items():
        assert any(normalised(re.split(r"[^\w.-]", line)[0]) == package for line in requires(owner) or ()), owner
    names |= BROUGHT_BY.keys()
    # A package that is not installed cannot be looked up; its own name is used.
    missing = {top for top in imported if not {normalised(name) for name in distributions.get(top, [top])} & names}
    assert missing == set()


def normalised(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@pytest.mark.parametrize("folder", ["toolrl", "envs", "tests"])
def test_a_file_has_one_subject_and_fewer_lines_than_the_limit(folder: str) -> None:
    lengths = {path: len(path.read_text("utf-8").splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert {str(path.relative_to(ROOT)): n for path, n in lengths.items() if n >= MAX_LINES} == {}


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for package in PACKAGE_FOLDERS for path in modules(package).values()}
    assert [str(folder.relative_to(ROOT)) for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_imports_in_functions_are_seen_and_those_for_type_checkers_skipped() -> None:
    source = """
import torch.nn
from .sibling import a
from ..other import b
from . import c
if TYPE_CHECKING:
    import trl
else:
    import vllm
def f():
    if True:
        import ray
"""
    in_module = [(entry.target, entry.name) for entry in imports_of(source, "toolrl.search.x")]
    assert in_module == [
        ("torch.nn", None),
        ("toolrl.search.sibling", "a"),
        ("toolrl.other", "b"),
        ("toolrl.search", "c"),
        ("vllm", None),
        ("ray", None),
    ]
    in_package = {entry.target for entry in imports_of(source, "toolrl.search", is_package=True)}
    assert {"toolrl.search.sibling", "toolrl.other", "toolrl.search"} <= in_package
