"""Writes a package from the templates.

The templates are a package themselves, called `my-env`, which is linted like any other code: a common part, and one
folder for each kind. Writing means replacing the names. A `dot-` at the start of a file's name stands for a dot.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from toolrl.errors import ConfigError
from toolrl.scaffold.names import Names

_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Kind:
    """A kind of environment to start from.

    Attributes:
        about: The environment in a sentence.
        requirement: What its package depends on.
    """

    about: str
    requirement: str = "toolrl"


KINDS: Mapping[str, Kind] = {
    "tools": Kind("Shopping questions, answered by looking up prices with a tool."),
    "search": Kind("Questions about islands, answered by searching documents that come with it.", "toolrl[search]"),
    "code": Kind("Number problems, solved by running Python in a sandbox."),
    "game": Kind("A game of many turns: collect the coins on a field."),
    "mcp": Kind("Questions about the weather, answered with the tools of an MCP server.", "toolrl[mcp]"),
    "terminal": Kind("Tasks in a shell, graded by a test script on the files that are left."),
    "conversation": Kind("A customer who writes back, graded by the bookings at the end and by what they were told."),
}


def make_package(name: str, kind: str = "tools", folder: str | Path | None = None) -> tuple[Names, list[Path]]:
    """Write a package with an environment that passes its checks, its audit and its tests as it is.

    Args:
        name: Such as `my-shop`; see `Names`.
        kind: A key of `KINDS`.
        folder: Where to write it: a new or empty folder. By default one with the package's name, here.

    Returns:
        The names in the package, and the paths of its files.

    Raises:
        ConfigError: The name or the kind cannot be used, or the folder is not empty.
    """
    if kind not in KINDS:
        raise ConfigError(f"no kind of environment is called {kind!r}; the kinds are {', '.join(KINDS)}")
    names = Names.of(name)
    filled = {
        "toolrl[my-extras]": KINDS[kind].requirement,
        "my-about": KINDS[kind].about,
        "my-env": names.distribution,
        "my_env": names.module,
        "MyEnv": names.class_name,
    }
    files = {path: file.read_text("utf-8") for path, file in _template_files(kind)}
    others = "\n".join(_filled_in(text, dict.fromkeys(filled, "")) for text in files.values())
    if re.search(rf"\b{names.class_name}\b", others):
        raise ConfigError(
            f"{name!r} would name the class {names.class_name}, which means something else in the code of this kind; "
            f"choose another, such as {names.distribution}-env"
        )
    home = Path(names.distribution if folder is None else folder)
    if home.exists() and not (home.is_dir() and not any(home.iterdir())):
        raise ConfigError(f"{str(home)!r} exists and is not an empty folder; choose another with --out, or remove it")
    written = []
    for path, text in files.items():
        target = home / _filled_in(path.as_posix(), filled)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(_filled_in(text, filled), "utf-8")
        except OSError as error:
            raise ConfigError(f"{str(target)!r} cannot be written: {error.strerror}; choose another --out") from None
        written.append(target)
    return names, sorted(written)


def _template_files(kind: str) -> Iterator[tuple[Path, Path]]:
    """The files of a kind: each with its path in the package, and the template."""
    for part in ("common", kind):
        for file in sorted((_TEMPLATES / part).rglob("*")):
            names = file.relative_to(_TEMPLATES / part).parts
            # Installers compile whatever ends with .py, and linters leave caches.
            if file.is_file() and not any(name.startswith((".", "__pycache__")) for name in names):
                yield Path(*(re.sub("^dot-", ".", name) for name in names)), file


def _filled_in(text: str, filled: Mapping[str, str]) -> str:
    """Replace each name in one pass, so that no replacement is replaced."""
    return re.sub("|".join(map(re.escape, filled)), lambda found: filled[found[0]], text)
