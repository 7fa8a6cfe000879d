"""Dockerfiles that a sandbox can do without an image: they only take files and variables to a plain base image."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from toolrl.errors import TaskError
from toolrl.sandbox import FileTree

WORKDIR = "/app"  # unless a Dockerfile names another
BASE_IMAGE = re.compile(r"((docker\.io/)?library/)?(ubuntu|debian|python)(:[\w.-]+)?")


@dataclass(frozen=True)
class _Copy:
    sources: list[str]
    folder: PurePosixPath
    name: str  # in the folder; empty to keep the source's
    line: str


class Image:
    """What a Dockerfile asks for.

    Attributes:
        workdir: The last WORKDIR.
        variables: From ENV.
        needs: Instructions that only building an image can follow.
    """

    def __init__(self, context: Path, text: str, workdir: str | None) -> None:
        self.workdir = PurePosixPath("/")
        self.variables: dict[str, str] = {}
        self.needs: list[str] = []
        self._context, self._copies = context, list[_Copy]()
        text = re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)
        for line in re.sub(r"\\[ \t]*\n", " ", text).splitlines():
            if line.strip() and not self._follows(*line.strip().split(None, 1)):
                self.needs.append(f"an image with {line.strip()[:80]!r}")
        self.workdir = PurePosixPath(workdir) if workdir else self.workdir
        if self.workdir == PurePosixPath("/"):
            self.workdir = PurePosixPath(WORKDIR)
        for copy in self._copies:
            if not copy.folder.is_relative_to(self.workdir) or ".." in copy.folder.parts:
                self.needs.append(f"an image with {copy.line!r}")

    def _follows(self, instruction: str, rest: str = "") -> bool:
        """Take an instruction in; False if that is impossible."""
        instruction = instruction.upper()
        if instruction == "FROM":
            return bool(BASE_IMAGE.fullmatch(rest.strip()))
        if instruction == "WORKDIR":
            self.workdir = self.workdir / rest.strip().strip("\"'")
            return "$" not in rest
        if instruction == "ENV":
            try:
                pairs = [word.partition("=") for word in shlex.split(rest)]
            except ValueError:
                return False
            self.variables.update({name: value for name, _, value in pairs})
            return all(equals for _, equals, _ in pairs) and "$" not in rest
        if instruction == "COPY":
            *sources, target = rest.split()
            if not sources or any(word.startswith(("--", "[")) or set(word) & set("$*?\"'") for word in rest.split()):
                return False
            place, name = self.workdir / target, ""
            if len(sources) == 1 and target[-1] not in "/." and (self._context / sources[0]).is_file():
                place, name = place.parent, place.name
            self._copies.append(_Copy(sources, place, name, f"COPY {rest}"))
            return not any(".." in PurePosixPath(source).parts for source in sources)
        return instruction == "LABEL"

    def tree(self) -> FileTree:
        """The files in the working directory.

        Raises:
            TaskError: A file to copy does not exist.
        """
        files: dict[str, bytes] = {}
        modes: dict[str, int] = {}
        links: dict[str, str] = {}
        for copy in self._copies:
            below = copy.folder.relative_to(self.workdir)
            for path in (self._context / source.lstrip("/") for source in copy.sources):
                if path.is_dir():
                    tree = FileTree.of_folder(path)
                    files |= {str(below / name): content for name, content in tree.files.items()}
                    modes |= {str(below / name): mode for name, mode in tree.modes.items()}
                    links |= {str(below / name): target for name, target in tree.links.items()}
                elif path.is_file():
                    name = str(below / (copy.name or path.name))
                    files[name], modes[name] = path.read_bytes(), path.stat().st_mode & 0o777
                else:
                    raise TaskError(f"{str(path)!r} does not exist, which {copy.line!r} copies")
        return FileTree(files, modes, links)
