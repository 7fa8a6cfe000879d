"""The cases on which a program is run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Step:
    """One run of a program, and what is right.

    Attributes:
        arguments: Its arguments.
        stdin: Its standard input.
        variables: Environment variables.
        status: The right exit status.
        output: The right standard output.
        names: The paths of the files and folders that are right afterwards.
    """

    arguments: Sequence[str] = ()
    stdin: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    output: str = ""
    names: Sequence[str] = ()

    def digest(self) -> str:
        """What the tests know of the right result."""
        return hashlib.sha256(json.dumps([self.status, self.output, sorted(self.names)]).encode()).hexdigest()


@dataclass(frozen=True)
class Session:
    """Runs in one folder.

    Attributes:
        steps: The runs.
        files: Texts by path that are in the folder at first.
        links: Targets of symbolic links by path.
        free: Paths that may exist or not.
    """

    steps: Sequence[Step]
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    free: Sequence[str] = ()


def cases_text(program: str, sessions: Sequence[Session]) -> str:
    """The text of `cases.json`."""
    entries = [
        {
            "files": session.files,
            "links": session.links,
            "free": session.free,
            "steps": [
                {
                    "arguments": step.arguments,
                    "stdin": step.stdin,
                    "variables": step.variables,
                    "digest": step.digest(),
                }
                for step in session.steps
            ],
        }
        for session in sessions
    ]
    return json.dumps({"program": program, "sessions": entries}, ensure_ascii=False) + "\n"
