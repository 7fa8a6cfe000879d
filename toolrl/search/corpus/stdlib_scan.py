"""Collects the documentation of the standard library from its docstrings, and prints it as JSON.

This file is a script. `toolrl.search.corpus.pydocs` runs it in an isolated child interpreter (`-I -S`), so
that importing about 500 modules does not affect the caller's process, no file in the working directory
or site-packages shadows a standard module, and the output of modules is discarded. It therefore imports
the standard library only.

The output is one object: `documents`, a list of [id, title, text], and `symbols`, a list of
[name, module, qualname, kind, parameters, summary, value, document id]; parameters are [name,
default, kind], or null if unknown. Both are sorted and contain no addresses or paths.

Not covered: properties and other data descriptors, nested classes, names that start with an
underscore, and objects without their own docstring.
"""

from __future__ import annotations

import dis
import enum
import functools
import importlib
import importlib.util
import inspect
import json
import os
import pkgutil
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

# Importing these opens a browser, prints, changes the terminal or reads the working directory;
_WITH_SIDE_EFFECTS = {"antigravity", "readline", "rlcompleter", "this", "turtle"}
# these are test suites, applications, deprecated copies, or only needed for pydoc's topics;
_UNSUITABLE = {"distutils", "idlelib", "lib2to3", "pydoc_data", "test", "turtledemo"}
_UNSUITABLE |= {"sre_compile", "sre_constants", "sre_parse"}
# these have another public name: os, os.path, xml.parsers.expat.
_PLUMBING = {"genericpath", "nt", "ntpath", "posix", "posixpath", "pyexpat"}
_SKIPPED_MODULES = _WITH_SIDE_EFFECTS | _UNSUITABLE | _PLUMBING
_WITHOUT_SUBMODULES = {"encodings"}  # one per codec
_SKIPPED_SUBMODULES = {"__main__", "test", "tests", "idle_test"}
# Taken from the environment, so not facts about the library.
_SKIPPED_CONSTANTS = {"time.altzone", "time.daylight", "time.timezone", "sys.ps1", "sys.ps2"}

_MAX_DEFAULT_CHARACTERS = 80
_MAX_CONSTANT_CHARACTERS = 2000
_MAX_SUMMARY_CHARACTERS = 300
_CALL = re.compile(r"(\w+\.)*(?P<name>\w+)(?=\()")
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_SENTENCE_END = re.compile(r"(?<!e\.g\.)(?<!i\.e\.)(?<!etc\.)(?<!vs\.)(?<=[.!?])\s+(?=[\"'(`A-Z])")

Parameters = list[tuple[str, str | None, str]]


class _Scan:
    """Collects documents and symbols."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[str, str]] = {}
        self.symbols: list[tuple[Any, ...]] = []

    def add(
        self,
        module: str,
        qualname: str,
        kind: str,
        text: str,
        *,
        parameters: Parameters | None = None,
        summary: str = "",
        value: int | float | str | None = None,
    ) -> None:
        title = f"{module}.{qualname}" if qualname else module
        identifier = self.add_document(title, text, kind)
        name = title.rpartition(".")[2]
        self.symbols.append((name, module, qualname, kind, parameters, summary, value, identifier))

    def add_document(self, title: str, text: str, kind: str) -> str:
        """Add a document; its id is its title, or its title and kind if the title is taken."""
        identifier = f"{title} ({kind})" if title in self.documents else title
        self.documents[identifier] = (title, text)
        return identifier


def scan() -> dict[str, Any]:
    """Import the standard library and collect its documentation."""
    modules = dict(_public_modules())
    found = _Scan()
    for name, module in modules.items():
        if doc := _docstring(module):
            found.add(name, "", "module", f"{name}\n\n{doc}", summary=_summary(doc, name))
    for module_name, name, value in _canonical_objects(modules):
        if inspect.isclass(value):
            _add_class(found, module_name, name, value)
        else:
            _add_callable(found, module_name, name, value, "function")
    for module_name, name, value in _canonical_constants(modules):
        plain = value.value if isinstance(value, enum.Enum) else value
        note = f"\n\nA member of {_type_name(type(value))}." if isinstance(value, enum.Enum) else ""
        found.add(module_name, name, "constant", f"{module_name}.{name} = {plain!r}{note}", value=plain)
    for title, text in sorted(importlib.import_module("pydoc_data.topics").topics.items()):
        found.add_document(title, inspect.cleandoc(text), "topic")
    documents = sorted((key, title, text) for key, (title, text) in found.documents.items())
    return {"documents": documents, "symbols": sorted(found.symbols, key=lambda symbol: symbol[-1])}


# Modules


def _public_modules() -> Iterator[tuple[str, ModuleType]]:
    """Every public module that can be imported here, with its public submodules, by name."""
    for name in sorted(sys.stdlib_module_names - _SKIPPED_MODULES):
        if name.startswith("_") and name != "__future__":
            continue
        module = _import(name)
        if module is not None:
            yield name, module
            if name not in _WITHOUT_SUBMODULES:
                yield from _submodules(name, module)
    yield "os.path", os.path


def _submodules(name: str, package: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    for found in sorted(pkgutil.iter_modules(getattr(package, "__path__", [])), key=lambda found: found.name):
        if found.name.startswith("_") or found.name in _SKIPPED_SUBMODULES:
            continue
        submodule = _import(f"{name}.{found.name}")
        if submodule is not None:
            yield f"{name}.{found.name}", submodule
            yield from _submodules(f"{name}.{found.name}", submodule)


def _import(name: str) -> ModuleType | None:
    """Import a module; None if it needs another platform or a missing library."""
    try:
        return importlib.import_module(name)
    except (ImportError, OSError, AttributeError):
        return None


def _public_items(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The names pydoc would show: those in `__all__` if it exists, otherwise those without an underscore."""
    for name in sorted(set(getattr(module, "__all__", None) or vars(module))):
        if not name.startswith("_") and hasattr(module, name):  # some names in `__all__` are made on demand
            yield name, getattr(module, name)


# The canonical name of an object


def _canonical_objects(modules: dict[str, ModuleType]) -> list[tuple[str, str, Any]]:
    """Functions and classes under their canonical names, as (module, name, object)."""
    places, objects = defaultdict[int, list[tuple[str, str]]](list), dict[int, Any]()
    for module_name, module in modules.items():
        for name, value in _public_items(module):
            if _is_routine(value) or inspect.isclass(value):
                objects[id(value)] = value
                places[id(value)].append((module_name, name))
    chosen = [(*_canonical_place(objects[key], places[key], modules), objects[key]) for key in places]
    return sorted(chosen, key=lambda place: place[:2])


def _canonical_place(value: Any, places: list[tuple[str, str]], modules: dict[str, ModuleType]) -> tuple[str, str]:
    """Choose among the names under which an object is reachable.

    Builtins come first (builtins.open, not io.open), then a package that exports the object in `__all__`
    for its submodules (asyncio.gather, not asyncio.tasks.gather). Otherwise it is the defining module,
    then the public counterpart of a private one (heapq for _heapq), an `__all__`, and the shortest name.
    """
    home = getattr(value, "__module__", None) or ""
    own_name = getattr(value, "__name__", "")

    def rank(place: tuple[str, str]) -> tuple[Any, ...]:
        module, name = place
        exported = name in getattr(modules[module], "__all__", ())
        speaks_for_home = exported and home.startswith(module + ".")
        is_face = home.lstrip("_") == module
        return (
            module != "builtins",
            not speaks_for_home,
            module != home,
            not is_face,
            not exported,
            name != own_name,
            len(f"{module}.{name}"),
            place,
        )

    return min(places, key=rank)


def _canonical_constants(modules: dict[str, ModuleType]) -> list[tuple[str, str, int | float | str]]:
    """Public int, float and str constants, as (module, name, value).

    Equal numbers are not one object, so a definition is told from an import by the modules' code: a constant
    is listed where it is defined, not where it is imported, except that a package that exports it
    (`__all__` or a star import) takes precedence over its submodules.
    """
    holders: dict[tuple[str, str], list[str]] = defaultdict(list)
    for module_name, module in modules.items():
        for name, value in _public_items(module):
            if _is_constant(value) and f"{module_name}.{name}" not in _SKIPPED_CONSTANTS:
                holders[name, repr(value)].append(module_name)
    chosen = []
    for (name, _), group in holders.items():
        dropped = set()
        for holder in group if len(group) > 1 else ():
            origin = _origin(modules[holder], name, group)
            if origin is not None:
                speaks = origin.startswith(holder + ".") and name in getattr(modules[holder], "__all__", [name])
                dropped.add(origin if speaks else holder)
        chosen += [(holder, name, getattr(modules[holder], name)) for holder in group if holder not in dropped]
    return sorted(chosen, key=lambda constant: constant[:2])


def _origin(module: ModuleType, name: str, group: list[str]) -> str | None:
    """The module of the group from which `module` imports `name`; None if it does not."""
    source = _top_level(module)
    if name in source.assigned:
        return None
    candidates = [source.imported[name]] if name in source.imported else source.stars
    return next((candidate for candidate in candidates if candidate in group), None)


@dataclass
class _TopLevel:
    """The names bound by a module's top-level code: assigned, imported, and star imports."""

    assigned: set[str] = field(default_factory=set)
    imported: dict[str, str] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)


@functools.cache
def _top_level(module: ModuleType) -> _TopLevel:
    found = _TopLevel()
    spec = module.__spec__
    code = spec.loader.get_code(spec.name) if spec and hasattr(spec.loader, "get_code") else None  # type: ignore[union-attr]
    if code is None:
        return found
    source = ""
    instructions = list(dis.get_instructions(code))
    for index, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":  # preceded by the level and the list of names
            level, names = instructions[index - 2].argval, instructions[index - 1].argval
            source = importlib.util.resolve_name("." * level + instruction.argval, module.__package__)
            if names == ("*",):
                found.stars.append(source)
        elif instruction.opname in ("STORE_NAME", "STORE_GLOBAL"):
            previous = instructions[index - 1].opname
            if previous == "IMPORT_FROM":
                found.imported[instruction.argval] = source
            elif previous != "IMPORT_NAME":
                found.assigned.add(instruction.argval)
    return found


def _is_constant(value: Any) -> bool:
    plain = value.value if isinstance(value, enum.Enum) else value
    if not isinstance(value, int | float | str) or type(plain) not in (int, float, str):  # no bool
        return False
    return not isinstance(value, str) or (len(value) <= _MAX_CONSTANT_CHARACTERS and not _is_local(value))


def _is_local(text: str) -> bool:
    """Whether a text is a path within this installation."""
    return text.startswith((sys.prefix, sys.base_prefix, os.path.dirname(sys.executable)))


def _is_routine(value: Any) -> bool:
    return isinstance(value, FunctionType | BuiltinFunctionType | MethodType) or (
        inspect.isroutine(value) and not inspect.isclass(value) and hasattr(value, "__name__")
    )


# Classes, functions and their signatures


def _add_class(found: _Scan, module: str, name: str, cls: type) -> None:
    _add_callable(found, module, name, cls, "exception" if issubclass(cls, BaseException) else "class")
    seen: set[int] = set()
    for attribute, raw in sorted(vars(cls).items(), key=lambda item: _method_order(*item)):
        if attribute.startswith("_") or not _is_method(raw) or id(raw) in seen:
            continue
        seen.add(id(raw))
        _add_callable(found, module, f"{name}.{attribute}", getattr(cls, attribute), "method")


def _method_order(attribute: str, raw: Any) -> tuple[bool, str]:
    """Sort key: a method's own name before its aliases."""
    function = getattr(raw, "__func__", raw)
    return (getattr(function, "__name__", "") != attribute, attribute)


def _is_method(raw: Any) -> bool:
    return isinstance(raw, classmethod | staticmethod) or _is_routine(raw)


def _add_callable(found: _Scan, module: str, qualname: str, value: Any, kind: str) -> None:
    doc = _docstring(value)
    if not doc:
        return
    title = f"{module}.{qualname}"
    name = qualname.rpartition(".")[2]
    parameters, signature = _signature(value)
    if signature is not None:
        text = f"{title}{signature}\n\n{doc}"
    elif own := _own_signature(doc, name):
        text = title + doc[own.end() :]
    else:
        text = f"{title}(...)\n\n{doc}"
    found.add(module, qualname, kind, text, parameters=parameters, summary=_summary(doc, name))


def _docstring(value: Any) -> str:
    """The object's own cleaned docstring, for a class also that of `__init__`; empty if it has none."""
    if inspect.isclass(value):
        initializer = vars(value).get("__init__")
        doc = vars(value).get("__doc__") or (initializer.__doc__ if isinstance(initializer, FunctionType) else None)
    else:
        doc = getattr(value, "__doc__", None)
    return _ADDRESS.sub("", inspect.cleandoc(doc)).strip() if isinstance(doc, str) else ""


def _own_signature(doc: str, name: str) -> re.Match[str] | None:
    """Match the name in the signature that docstrings of C functions may start with."""
    call = _CALL.match(doc)
    return call if call and call["name"] == name else None


def _signature(value: Any) -> tuple[Parameters, str] | tuple[None, None]:
    """Parameters and the signature's text; None if Python does not know them."""
    try:
        signature = inspect.signature(value)
    except (ValueError, TypeError, AttributeError):  # AttributeError: in curses, a default that only exists later
        return None, None
    parameters: Parameters = []
    replaced = []
    for parameter in signature.parameters.values():
        default = None if parameter.default is parameter.empty else _default_text(parameter.default)
        parameters.append((parameter.name, default, parameter.kind.name.lower()))
        replaced.append(parameter if default is None else parameter.replace(default=_Verbatim(default)))
    return parameters, _ADDRESS.sub("", str(signature.replace(parameters=replaced)))


class _Verbatim(str):
    """A default value whose repr is the text itself."""

    __repr__ = str.__str__


def _default_text(default: Any) -> str:
    """A repr that is the same on every run and machine."""
    if isinstance(default, FunctionType | BuiltinFunctionType | type):
        return _type_name(default)
    text = _ADDRESS.sub("", repr(default))
    unordered = isinstance(default, set | frozenset | os._Environ) and bool(default)
    if unordered or len(text) > _MAX_DEFAULT_CHARACTERS or _is_local(text.strip("'\"")):
        return f"<{_type_name(type(default))}>"
    return text


def _type_name(value: Any) -> str:
    home = getattr(value, "__module__", None)
    return value.__qualname__ if home in (None, "builtins") else f"{home}.{value.__qualname__}"


def _summary(doc: str, name: str) -> str:
    """The first sentence after any signatures, on one line; the first line if there is nothing else."""
    summary = doc.partition("\n")[0]
    for paragraph in doc.split("\n\n"):
        lines = paragraph.splitlines()
        while lines and (_own_signature(lines[0], name) or lines[0].lstrip().startswith("-> ")):
            lines.pop(0)
        if text := " ".join(" ".join(lines).split()):
            summary = _SENTENCE_END.split(text, maxsplit=1)[0]
            break
    return textwrap.shorten(summary, _MAX_SUMMARY_CHARACTERS) if len(summary) > _MAX_SUMMARY_CHARACTERS else summary


def main() -> None:
    """Write the result of `scan` to standard output, which is hidden from the imported modules."""
    stdout = sys.stdout.fileno()
    with os.fdopen(os.dup(stdout), "w") as output, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stdout)
        output.write(json.dumps(scan()))


if __name__ == "__main__":
    main()
