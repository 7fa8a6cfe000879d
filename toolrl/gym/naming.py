"""Environments by where they are: `my_env.py:Shopping`, `my_env.py`, `my_package.envs:Shopping`, `openenv:URL`.

What is named in Python is a `ToolEnv`, a class of them, or a function that returns one. Of anything else a scheme says
what makes an environment of it: an entry point of the group `toolrl.environments`, which is given what follows.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import inspect
import re
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium

from toolrl.errors import ConfigError, EnvironmentNotFound
from toolrl.gym.registry import import_module

_LABEL = re.compile(r"(?P<name>.+)@(?P<label>[\w.-]+)")


def without_label(name: str) -> str:
    """The name of an environment without its label: `my_env.py:Shopping@hard` is `my_env.py:Shopping`.

    A label tells apart the same environment with other settings.
    """
    found = _LABEL.fullmatch(name)
    return found["name"] if found else name


def found_by_place(name: str) -> Callable[..., Any] | None:
    """What makes the environment in a file or module; None if the name is an id of Gymnasium's registry.

    A `ToolEnv` that is written there is copied, so that each environment made of it has its own tasks and resources.

    Raises:
        EnvironmentNotFound: There is no such file, module or name.
        ConfigError: It is not an environment, or a file without a name has several.
    """
    scheme, _, address = name.partition(":")
    if address and scheme in schemes():
        return functools.partial(schemes()[scheme].load(), address)
    place, attribute = _split(name)
    if place.endswith(".py"):
        module = _run_file(Path(place).expanduser())
    elif place and attribute.isidentifier():
        module = import_module(place, name)
        if attribute in gymnasium.registry:
            return None
    else:
        return None
    known = _environments_in(module)
    if not attribute:
        if not known:
            raise ConfigError(f"{place} has no ToolEnv, no class of them, and no function that says it returns one")
        if len(known) > 1:
            raise ConfigError(f"{place} has several environments{_listed(known)}; write {place}:NAME")
        ((attribute, found),) = known.items()
    elif not hasattr(module, attribute):
        raise EnvironmentNotFound(f"{place} has no {attribute!r}; its environments{_listed(known) or ': none'}")
    else:
        found = getattr(module, attribute)
    if not callable(found) and not _is_environment(found):
        raise ConfigError(
            f"{attribute} in {place} is a {type(found).__name__}, not a ToolEnv, a class of them, or a function that "
            "returns one"
        )
    return _copier(found) if _is_environment(found) else found


def object_at(name: str) -> Any:
    """What `my_file.py:NAME` or `module:NAME` names.

    Raises:
        EnvironmentNotFound: There is no such file or module.
        ConfigError: It has no such name.
    """
    place, attribute = _split(name)
    module = _run_file(Path(place).expanduser()) if place.endswith(".py") else import_module(place, name)
    if not hasattr(module, attribute):
        raise ConfigError(f"{place} has no {attribute!r}")
    return getattr(module, attribute)


def absolute(name: str) -> str:
    """The same name for a process with another working directory."""
    scheme, _, address = name.partition(":")
    if address and scheme in schemes():
        is_path = Path(address).expanduser().exists()
        return f"{scheme}:{Path(address).expanduser().absolute() if is_path else absolute(address)}"
    place, attribute = _split(name)
    if not place.endswith(".py"):
        return name
    path = str(Path(place).expanduser().absolute())
    return f"{path}:{attribute}" if attribute else path


@functools.cache
def schemes() -> dict[str, importlib.metadata.EntryPoint]:
    """What makes environments of what is elsewhere, by the scheme of its name: `openenv`, `harbor` and others."""
    return {entry.name: entry for entry in importlib.metadata.entry_points(group="toolrl.environments")}


def _split(name: str) -> tuple[str, str]:
    if name.endswith(".py"):
        return name, ""
    place, _, attribute = name.rpartition(":")
    return place, attribute


def _run_file(path: Path) -> ModuleType:
    """Import a file, once, with its folder on the path, as `python FILE` has it."""
    path = path.absolute()
    if not path.is_file():
        raise EnvironmentNotFound(f"no environment {str(path)!r}: there is no such file")
    if (path.parent / "__init__.py").is_file():
        return _import_from_package(path)
    name = path.stem
    known = sys.modules.get(name)
    if known is not None and _file_of(known) == path.resolve():
        return known
    if known is not None or importlib.util.find_spec(name) is not None or not name.isidentifier():
        name = f"{name}_{zlib.crc32(str(path.resolve()).encode()):x}"  # `test.py` must not hide the module `test`
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_from_package(path: Path) -> ModuleType:
    """Import a file of a package under its name there, so that its relative imports work.

    Raises:
        ConfigError: Another package has this name.
    """
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        parts.insert(0, root.name)
        root = root.parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    name = ".".join(parts)
    module = importlib.import_module(name)
    if _file_of(module) != path.resolve():
        raise ConfigError(f"{path} is {name} in its package, and the {name} that Python finds is {module.__file__}")
    return module


def _file_of(module: ModuleType) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if file else None


def _environments_in(module: ModuleType) -> dict[str, Any]:
    """The environments that a module defines, by name: objects, classes, and functions that say so."""
    found: dict[str, Any] = {}
    for name, value in vars(module).items():
        if name.startswith("_"):
            continue
        is_its_own = getattr(value, "__module__", "") == module.__name__
        is_class = is_its_own and isinstance(value, type) and hasattr(value, "open_episode")
        if _is_environment(value) or is_class or (is_its_own and _returns_environment(value)):
            found[name] = value
    return found


def _is_environment(value: Any) -> bool:
    return isinstance(value, gymnasium.Env) and hasattr(value, "open_episode")


def _returns_environment(value: Any) -> bool:
    if not inspect.isfunction(value):
        return False
    returns = value.__annotations__.get("return", "")
    said = returns if isinstance(returns, str) else getattr(returns, "__name__", "")
    return said.strip("'\"").rpartition(".")[2] == "ToolEnv"


def _copier(env: Any) -> Callable[..., Any]:
    def make() -> Any:
        return env.copy()

    return make


def _listed(names: dict[str, Any]) -> str:
    return f": {', '.join(sorted(names))}" if names else ""
