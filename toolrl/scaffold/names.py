"""One name, and what follows from it: a distribution, a module, a class and the id of an environment."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass

from toolrl.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_RULE = "write lower-case words, with digits if you like, joined by hyphens: my-shop"


@dataclass(frozen=True)
class Names:
    """What a package and the things in it are called.

    Attributes:
        distribution: The name that pip installs, such as `my-shop`.
        module: The name that Python imports, such as `my_shop`.
        class_name: The environment's class, such as `MyShop`.
    """

    distribution: str
    module: str
    class_name: str

    @classmethod
    def of(cls, name: str) -> Names:
        """Derive all names from one.

        Raises:
            ConfigError: The name has other characters, is reserved by Python, or belongs to a module that exists.
        """
        if not _NAME.fullmatch(name):
            raise ConfigError(f"a package cannot be called {name!r}; {_RULE}{_suggestion(name)}")
        words = re.split("[-_]", name)
        names = cls("-".join(words), "_".join(words), "".join(word.capitalize() for word in words))
        if owner := _owner_of(names):
            raise ConfigError(f"{name!r} is the name of {owner}; choose another, such as {names.distribution}-env")
        return names

    @property
    def env_id(self) -> str:
        """The id of the environment, such as `my_shop/MyShop-v0`."""
        return f"{self.module}/{self.class_name}-v0"


def _suggestion(name: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", name)
    close = re.sub(r"[^a-z0-9]+", "-", spaced.lower()).strip("-").lstrip("0123456789-")
    return f". {close!r} would do" if _NAME.fullmatch(close) else ""


def _owner_of(names: Names) -> str:
    """Whoever has the module's name or the distribution's already; empty if nobody does."""
    if keyword.iskeyword(names.module):
        return "a keyword of Python"
    if names.module in sys.stdlib_module_names:
        return "a module of Python's standard library"
    if names.module in ("toolrl", "toolrl_envs"):
        return "a module of toolrl"
    spec = importlib.util.find_spec(names.module)
    if spec is not None and spec.origin is not None:  # a folder without code has none, and is in nobody's way
        return "a module that can be imported here"
    try:
        importlib.metadata.distribution(names.distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""
    return "a package that is installed here"
