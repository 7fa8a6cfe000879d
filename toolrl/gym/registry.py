"""Environments by id: Gymnasium's registry, and the modules and installed packages that fill it."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.metadata
import inspect
import re
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

from toolrl.errors import ConfigError, EnvironmentNotFound


@functools.cache
def load_plugins() -> None:
    """Register the environments of installed packages, by the entry points of the group `gymnasium.envs`.

    Gymnasium itself stopped reading that group in 1.0. An entry point is a function that registers environments, or a
    module that does so on import. One that fails is skipped with a warning.
    """
    for entry_point in importlib.metadata.entry_points(group="gymnasium.envs"):
        if entry_point.module.split(".")[0] == "gymnasium":
            continue
        try:
            register = entry_point.load()
            if callable(register):
                register()
        except Exception as error:  # noqa: BLE001 - a bug in one package must not hide all environments
            warnings.warn(f"the environments of {entry_point.value!r} are skipped: {error!r}", stacklevel=3)


def environment_ids() -> list[str]:
    """Registered ids that may belong to a `ToolEnv`; Gymnasium's own and classes of other types are excluded."""
    load_plugins()
    return sorted(env_id for env_id, spec in gymnasium.registry.items() if _may_be_tool_env(spec))


class Introduction(NamedTuple):
    """What is known of an environment without making it."""

    env_id: str
    package: str
    about: str
    entry_point: str


def introduced(env_id: str) -> Introduction:
    """An environment's package, or its module if it is in none, and the first line of what its class says."""
    entry_point, about = entry_point_name(gymnasium.registry[env_id]), ""
    try:
        creator = creator_of(env_id)
        about = inspect.cleandoc(getattr(creator, "__doc__", "") or "").partition("\n")[0]
    except Exception as error:  # noqa: BLE001 - a bug in one package must not hide all environments
        about = f"cannot be loaded: {error!r}"
    module = re.split("[.:]", entry_point)[0]
    package = next(iter(importlib.metadata.packages_distributions().get(module, ())), "")
    version = f" {importlib.metadata.version(package)}" if package else ""
    return Introduction(env_id, f"{package or module}{version}", about, entry_point)


def import_module_of(env_id: str) -> str:
    """Import the module of an id such as `my_envs:mine/Shopping-v0` and return the registered id.

    Raises:
        EnvironmentNotFound: No module has this name.
    """
    module, separator, name = env_id.rpartition(":")
    if separator:
        import_module(module, env_id)
        return name
    return env_id


def import_module(module: str, env_id: str) -> ModuleType:
    """Import the module of an environment's name.

    Raises:
        EnvironmentNotFound: No module has this name.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, TypeError, ValueError) as error:
        missing = error.name or "" if isinstance(error, ModuleNotFoundError) else None
        if missing is None and isinstance(error, ImportError):
            raise  # a mistake inside the module
        if missing and not f"{module}.".startswith(f"{missing}."):
            raise  # it imports another module, which is missing
        raise EnvironmentNotFound(
            f"no environment {env_id.removesuffix(':')!r}: there is no module {module!r} here or installed"
        ) from None


def unknown(env_id: str, reason: object) -> EnvironmentNotFound:
    """The error for an id that is not registered, with close matches."""
    ours = environment_ids()
    near = difflib.get_close_matches(env_id.rpartition(":")[2], ours, n=3, cutoff=0.4) or ours
    own = f"if a module of yours registers it, write MODULE:{env_id or 'ID'}, and if it is in a file, FILE.py:NAME"
    hint = "" if ":" in env_id else f"; {own}"
    return EnvironmentNotFound(f"no environment {env_id!r}; did you mean {', '.join(near)}? ({reason}{hint})")


def creator_of(env_id: str) -> Callable[..., Any] | None:
    """The class or function that makes a registered environment; None if the id is not registered.

    Raises:
        ConfigError: Its entry point cannot be loaded.
    """
    load_plugins()
    spec = gymnasium.registry.get(import_module_of(env_id))
    if spec is None or spec.entry_point is None:
        return None
    if callable(spec.entry_point):
        return spec.entry_point
    try:
        creator: Callable[..., Any] = load_env_creator(spec.entry_point)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        module = str(spec.entry_point).partition(":")[0]
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # a mistake inside the module
        raise ConfigError(
            f"{env_id} is registered with entry_point={spec.entry_point!r}, which cannot be loaded: {error}; write "
            "'MODULE:CLASS', or give the class itself"
        ) from None
    return creator


def settings_of(creator: Callable[..., Any]) -> list[str]:
    """The names of the settings that a creator takes, according to its signature."""
    try:
        parameters = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return []
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _may_be_tool_env(spec: EnvSpec) -> bool:
    entry_point: Any = spec.entry_point
    module = entry_point_name(spec)
    if not module or module.startswith(("gymnasium.", "shimmy")):
        return False
    return not (isinstance(entry_point, type) and not hasattr(entry_point, "open_episode"))


def entry_point_name(spec: EnvSpec) -> str:
    """The entry point of an environment as `module:name`; empty if it has none."""
    entry_point: Any = spec.entry_point
    if entry_point is None or isinstance(entry_point, str):
        return entry_point or ""
    return f"{entry_point.__module__}:{getattr(entry_point, '__qualname__', type(entry_point).__name__)}"
