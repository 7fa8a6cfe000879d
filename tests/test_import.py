"""Promises about importing the two packages."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys

import pytest

import toolrl


def run_python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_importing_toolrl_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'trl', 'datasets', 'gymnasium', 'numpy'}"
    assert run_python(f"import sys, toolrl; dir(toolrl); print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_importing_toolrl_envs_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'transformers', 'trl', 'datasets'}"
    assert run_python(f"import sys, toolrl_envs; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_public_name_can_be_imported_and_type_checkers_see_the_same_names_from_the_same_modules() -> None:
    tree = ast.parse(inspect.getsource(toolrl))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert {*seen, "__version__"} == set(toolrl.__all__)
    for name, module in seen.items():
        assert getattr(toolrl, name).__module__.startswith(str(module)), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'toolrl' has no attribute 'Tusk'"):
        toolrl.Tusk  # noqa: B018


def test_dir_lists_public_names_before_their_first_use() -> None:
    assert set(toolrl.__all__) <= set(dir(toolrl))


def test_the_version_is_that_of_the_distribution() -> None:
    assert toolrl.__version__ == importlib.metadata.version("toolrl")


def test_importing_toolrl_envs_registers_its_environments_once_without_a_warning() -> None:
    code = (
        "import warnings; warnings.simplefilter('error')\n"
        "import gymnasium, toolrl_envs; toolrl_envs.register()\n"
        "print(sorted(name for name in gymnasium.registry if name.startswith('toolrl/')) "
        "== sorted(toolrl_envs.ENTRY_POINTS))"
    )
    assert run_python(code) == "True"


def test_the_entry_point_registers_the_environments_under_its_name() -> None:
    (point,) = importlib.metadata.entry_points(group="gymnasium.envs", name="toolrl")
    assert point.value == "toolrl_envs:register"
    assert all(name.startswith("toolrl/") for name in sys.modules[point.load().__module__].ENTRY_POINTS)
