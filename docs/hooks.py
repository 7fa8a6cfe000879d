"""What MkDocs cannot do by itself: pages that live next to what they describe, the reference, the commands' help.

- `OUTSIDE` are pages and images elsewhere in the repository. Links between them and docs/ are written as they hold in
  the repository, and rewritten here; a link to a file that is not on the site becomes its text.
- `::: PACKAGE` on a page of reference/ is followed by the public names of the package, in the order of its `__all__`.
- `<!-- commands -->` is replaced by the help of every command, read from the commands themselves.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# Where a page or an image is on the site, and where it is in the repository.
OUTSIDE = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "security_policy.md": "SECURITY.md",
    "changelog.md": "CHANGELOG.md",
    **{
        f"environments/{path.parent.name}.md": path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "envs" / "toolrl_envs").glob("*/README.md"))
    },
    **{
        f"images/{path.name}": path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "notebooks" / "images").glob("*.png"))
    },
}
_PLACES = {source: place for place, source in OUTSIDE.items()}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_FENCE = re.compile(r"^ *```.*?^ *```[^\n]*$", re.MULTILINE | re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and images from outside of docs/."""
    from mkdocs.structure.files import File

    for place, source in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrite links, and fill in what is generated."""
    place = page.file.src_uri
    if place == "reference/cli.md":
        markdown = markdown.replace("<!-- commands -->", "\n".join(commands()))
    elif place.startswith("reference/"):
        markdown = re.sub(r"^::: (toolrl[\w.]*)$", _with_members, markdown, flags=re.MULTILINE)
    # The lexer `console` takes what follows no prompt for output, and greys it out.
    return with_site_links(markdown.replace("```console\n", "```bash\n"), place)


def with_site_links(markdown: str, place: str) -> str:
    """The text of a page with links as they hold on the site; what is in code fences is left alone."""
    pieces, end = [], 0
    for fence in _FENCE.finditer(markdown):
        pieces += [_LINK.sub(lambda link: _on_site(link, place), markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, _LINK.sub(lambda link: _on_site(link, place), markdown[end:])])


def _on_site(link: re.Match[str], place: str) -> str:
    source = ROOT / OUTSIDE.get(place, f"docs/{place}")
    target = Path(os.path.normpath(source.parent / link[3]))
    if not target.is_relative_to(ROOT) or not target.exists():
        return link[0]  # MkDocs reports it
    found = target.relative_to(ROOT).as_posix()
    if found in _PLACES:
        found = _PLACES[found]
    elif target.is_relative_to(DOCS) and target.is_file():
        found = target.relative_to(DOCS).as_posix()
    else:
        return link[2]
    return f"{link[1]}[{link[2]}]({posixpath.relpath(found, posixpath.dirname(place) or '.')}{link[4] or ''})"


def _with_members(directive: re.Match[str]) -> str:
    module = importlib.import_module(directive[1])
    names = [name for name in getattr(module, "__all__", ()) if not name.startswith("__")]
    return f"{directive[0]}\n    options:\n      members: {names}" if names else directive[0]


def commands() -> Iterator[str]:
    """The reference of the command line, as lines of Markdown."""
    import typer

    from toolrl.cli import app

    yield from _command(typer.main.get_command(app), "toolrl")


def _command(command: Any, name: str) -> Iterator[str]:
    for short, child in getattr(command, "commands", {}).items():
        full = f"{name} {short}"
        if getattr(child, "commands", None):
            yield from _command(child, full)
            continue
        yield from (f"## {full}", "", _text(child.help or ""), "")
        arguments = [p for p in child.params if p.param_type_name == "argument"]
        options = [p for p in child.params if p.param_type_name == "option" and p.name != "help"]
        if full in ("toolrl train", "toolrl sft"):
            yield from _settings(full)
            continue
        usage = " ".join(
            [full, *(["[OPTIONS]"] if options else []), *(a.make_metavar_text() for a in map(_Shown, arguments))]
        )
        yield from ("```text", usage, "```", "")
        if arguments or options:
            yield from ("| | default | |", "|---|---|---|")
            yield from (_Shown(parameter).row() for parameter in (*arguments, *options))
            yield ""


class _Shown:
    """A parameter of a command, as a row of a table."""

    def __init__(self, parameter: Any):
        self.parameter = parameter

    def make_metavar_text(self) -> str:
        parameter = self.parameter
        name = parameter.metavar or parameter.name.upper()
        name = name if parameter.nargs == 1 or "..." in name else f"{name}..."
        return name if parameter.required or name.startswith("[") else f"[{name}]"

    def row(self) -> str:
        parameter = self.parameter
        if parameter.param_type_name == "argument":
            names = f"`{self.make_metavar_text()}`"
        else:
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
        default = parameter.default() if callable(parameter.default) else parameter.default
        shown = "required" if parameter.required else "" if default in (None, "", (), []) else f"`{_plain(default)}`"
        if type(default).__name__ == "Sentinel":
            shown = "required" if parameter.required else ""
        return f"| {names} | {shown} | {_text(getattr(parameter, 'help', None) or '')} |"


def _settings(command: str) -> Iterator[str]:
    """The settings of `train` and `sft`: toolrl's own with their help, TRL's by name."""
    from trl import GRPOConfig, ModelConfig, SFTConfig

    from toolrl.training import DemonstrationArguments, ToolrlArguments
    from toolrl.training.flags import TABLES

    own, theirs = (ToolrlArguments, GRPOConfig) if command == "toolrl train" else (DemonstrationArguments, SFTConfig)
    yield from ("```text", f"{command} [--config FILE|RECIPE] [--SETTING VALUE ...]", "```", "")
    yield from ("toolrl's own settings:", "", "| | default | |", "|---|---|---|")
    for field in dataclasses.fields(own):
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        shown = "" if default in ("", [], None) else f"`{_plain(default)}`"
        yield f"| `--{field.name}` | {shown} | {_text(field.metadata.get('help', ''))} |"
    taken = [name for part in (theirs, ModelConfig) for name, why in TABLES[part].items() if not isinstance(why, str)]
    yield from ("", f"Of TRL's `{theirs.__name__}` and `ModelConfig` it takes these, which mean what TRL says:", "")
    yield from (", ".join(f"`--{name}`" for name in sorted(set(taken))) + ".", "")


def _plain(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _text(help_text: str) -> str:
    """Help as one line of a table: what looks like a link or a tag in it is text."""
    line = " ".join(help_text.split())
    return re.sub(r"([|<>\[\]*_{}])", r"\\\1", line).replace("\\_", "\\_")
