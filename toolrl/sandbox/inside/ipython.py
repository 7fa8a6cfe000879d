"""A substitute for IPython: `IPython.display` and simple magics. Standard library only.

Names and representations follow https://ipython.readthedocs.io/en/stable/api/generated/IPython.display.html. Runs where
the code runs; in an IPython kernel the real modules are used.
"""

import ast
import base64
import json
import os
import re
import sys
import types
from collections.abc import Callable
from typing import Any

_TEXTS = {  # class: MIME type
    "HTML": "text/html",
    "Markdown": "text/markdown",
    "Latex": "text/latex",
    "Math": "text/latex",
    "SVG": "image/svg+xml",
    "Javascript": "application/javascript",
    "JSON": "application/json",
    "GeoJSON": "application/geo+json",
    "Pretty": "text/plain",
    "Code": "text/plain",
}
_NAMES = ("IPython", "IPython.core", "IPython.display", "IPython.core.display", "IPython.core.display_functions")
_IGNORED = ("matplotlib", "load_ext", "autoreload", "config", "reload_ext", "pylab", "precision")  # have no effect here
_SHELLS = ("bash", "sh", "system", "sx", "script")


class DisplayObject:
    """An object with one representation, given as data or as a file."""

    def __init__(self, data: Any = None, url: Any = None, filename: Any = None, metadata: Any = None, **_: Any) -> None:
        if url is not None:
            raise ValueError("there is no network here: give data or filename in place of url")
        if filename is not None:
            with open(filename, "rb") as file:
                data = file.read()
        self.data, self.filename, self.metadata = data, filename, metadata

    def __repr__(self) -> str:
        return f"<{type(self).__module__}.{type(self).__qualname__} object>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        mime, data = _TEXTS[type(self).__name__], self.data
        if isinstance(data, bytes):
            data = data.decode("utf-8", "replace")
        if type(self).__name__ == "Math":
            data = f"$\\displaystyle {str(data).strip('$')}$"
        if type(self).__name__ in ("JSON", "GeoJSON") and isinstance(data, str):
            data = json.loads(data)
        return {mime: data}


class Image(DisplayObject):
    """A PNG or JPEG image."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        data = self.data
        if isinstance(data, str) and os.path.exists(data):
            with open(data, "rb") as file:
                data = file.read()
        kind = "jpeg" if bytes(data)[:2] == b"\xff\xd8" else "gif" if bytes(data)[:3] == b"GIF" else "png"
        return {f"image/{kind}": base64.b64encode(data).decode()}


class IFrame:
    """A page within the page."""

    def __init__(self, src: str, width: Any = "100%", height: Any = 150, **_: Any) -> None:
        self.src, self.width, self.height = src, width, height

    def _repr_html_(self) -> str:
        return f'<iframe width="{self.width}" height="{self.height}" src="{self.src}" frameborder="0"></iframe>'


class DisplayHandle:
    """Returned by `display(..., display_id=...)`, to replace the display later."""

    def __init__(self, display: Callable[..., Any], display_id: str) -> None:
        self._display, self.display_id = display, display_id

    def display(self, value: object, **options: Any) -> None:
        """Show a value."""
        self._display(value, display_id=self.display_id, **options)

    update = display


def stand_in(display: Callable[..., Any]) -> None:
    """Make this module importable as IPython, unless this is an IPython kernel.

    Args:
        display: Shows values.
    """
    real = sys.modules.get("IPython")
    if real is not None and real.get_ipython() is not None:
        return
    names: dict[str, Any] = {"Image": Image, "IFrame": IFrame, "DisplayObject": DisplayObject, "display": display}
    for name in _TEXTS:
        names[name] = type(name, (DisplayObject,), {})
    for thing in names.values():
        if isinstance(thing, type):
            thing.__module__ = "IPython.core.display"
    for name, mime in (*_TEXTS.items(), ("PNG", "image/png"), ("JPEG", "image/jpeg"), ("PDF", "application/pdf")):
        names[f"display_{name.lower()}"] = lambda *values, mime=mime, **options: display(
            *({mime: value} if isinstance(value, str | bytes) else value for value in values),
            raw=all(isinstance(value, str | bytes) for value in values),
        )
    names |= {
        "DisplayHandle": DisplayHandle,
        "TextDisplayObject": DisplayObject,
        "clear_output": lambda wait=False: None,
        "publish_display_data": lambda data, *_, **options: display(data, raw=True),
        "update_display": lambda value, *, display_id, **options: display(value, display_id=display_id),
        "set_matplotlib_formats": lambda *_, **options: None,
    }
    modules = {name: types.ModuleType(name) for name in _NAMES}
    for name, module in modules.items():
        if name in ("IPython", "IPython.core"):
            module.__path__ = []
        else:
            vars(module).update(names)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(modules[parent], last, module)
    vars(modules["IPython"]).update(get_ipython=lambda: None, version_info=(9, 0, 0), __version__="9.0.0")
    sys.meta_path.insert(0, _Finder(modules))


class _Finder:
    def __init__(self, modules: dict[str, types.ModuleType]) -> None:
        self._modules = modules
        self._spec: Any = type(ast.__spec__)  # ModuleSpec, without importlib.machinery

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return self._spec(name, self, is_package=name in _NAMES[:2]) if name in self._modules else None

    def create_module(self, spec: Any) -> types.ModuleType:
        return self._modules[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        """The module is complete already."""


# ---- magics


def parsed(code: str, filename: str) -> ast.Module:
    """Parse a cell; magics become calls of `__magic__`.

    Only lines that Python's parser rejects are considered.

    Raises:
        SyntaxError: A line is neither Python nor a known magic.
    """
    head = code.lstrip()
    if head.startswith("%%"):
        line, _, body = head.partition("\n")
        name = line[2:].split()[0] if line[2:].split() else ""
        if name in ("time", "capture"):
            return parsed(f"{code[: len(code) - len(head)]}\n{body}", filename)
        return ast.parse(f"__magic__({line!r}, {body!r})", filename)
    while True:
        try:
            return ast.parse(code, filename)
        except SyntaxError as error:
            lines, number = code.split("\n"), (error.lineno or 0) - 1
            text = lines[number] if 0 <= number < len(lines) else ""
            found = re.fullmatch(r"(\s*(\w+\s*=\s*)?)([!%].*)", text)
            if found is None:
                raise
            lines[number] = f"{found[1]}__magic__({found[3]!r}, None, {bool(found[2])})"
            code = "\n".join(lines)


def magic(line: str, body: str | None, is_wanted: bool, namespace: dict[str, Any]) -> Any:
    """Run a magic.

    Args:
        line: `!command` or `%name arguments`; `%%name arguments` with a body.
        body: The lines below.
        is_wanted: Whether the output is assigned instead of shown.
        namespace: The code's names, for `{name}` and `$name` in commands.

    Returns:
        The lines of the output, if wanted.

    Raises:
        SyntaxError: Only IPython has this magic.
    """
    sign = re.match(r"[!%]+", line)[0]  # type: ignore[index]
    name, _, rest = line[len(sign) :].strip().partition(" ")
    if sign[0] == "!":
        return _shell(line.lstrip("!"), is_wanted, namespace)
    if sign == "%%" and body is not None and name in _SHELLS:
        return _shell(body, is_wanted, {})
    if sign == "%%" and body is not None and name in ("writefile", "file"):
        with open(rest.strip(), "w", encoding="utf-8") as file:
            file.write(body)
        return print(f"Writing {rest.strip()}")
    if sign == "%" and name in _SHELLS:
        return _shell(rest, is_wanted, namespace)
    if sign == "%" and name in ("pip", "conda"):
        return _shell(f"{name} {rest}", is_wanted, namespace)
    if sign == "%" and name == "cd":
        os.chdir(os.path.expanduser(rest.strip() or "~"))
        return print(os.getcwd())
    if sign == "%" and name == "pwd":
        return os.getcwd()
    if sign == "%" and name == "time":
        return eval(compile(rest.strip(), "<magic>", "single"), namespace)
    if sign == "%" and name in ("timeit",):
        import timeit

        number, seconds = timeit.Timer(rest, globals=namespace).autorange()
        return print(f"{seconds / number:.3g} s per loop ({number} loops)")
    if sign == "%" and name in _IGNORED:
        return None
    raise SyntaxError(f"the magic {sign}{name} is IPython's and not available here; write Python")


def _shell(command: str, is_wanted: bool, namespace: dict[str, Any]) -> list[str] | None:
    import subprocess

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        return str(namespace[name]) if name in namespace else found[0]

    command = re.sub(r"\{(\w+)\}|\$(\w+)", value, command)
    sys.stdout.flush()
    kept: list[str] = []
    options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, shell=True, text=True, errors="replace", **options) as process:
        for text in process.stdout or ():
            if is_wanted:
                kept.append(text.rstrip("\n"))
            else:
                sys.stdout.write(text)
    namespace["_exit_code"] = process.returncode
    return kept if is_wanted else None
