"""Promises about classes that cannot be toolkits: each is refused with what to write."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from toolrl import tool, toolkit
from toolrl.errors import ConfigError, ToolDefinitionError
from toolrl.tools import Toolbox


class Calendar:
    def add(self, event: str) -> str:
        """Add an event.

        Args:
            event: Its title.
        """
        return event

    def move(self, event: str) -> str:
        """Move an event.

        Args:
            event: Its title.
        """
        return event

    def snapshot(self):
        return 1

    def reset(self) -> None:
        """Start over."""


class NoDocstring:
    def add(self, event: str) -> str:
        return event


class ReturnHintOnly:
    def show(self) -> str:
        return ""


class NoHint:
    def add(self, event):
        """Add an event.

        Args:
            event: Its title.
        """


class NoDescription:
    def add(self, event: str) -> str:
        """Add an event."""
        return event


class NoSelf:
    def add():
        """Add an event."""


class Nothing:
    def snapshot(self):
        return 1


class Worker(threading.Thread):
    def work(self):
        """Work."""


class NeedsMore:
    def __init__(self, path: str, size: int, *, color: str = "red"):
        pass

    def show(self):
        """Show something."""


class OwnName:
    def find(self, own_name: str) -> str:
        """Find something.

        Args:
            own_name: What.
        """
        return own_name


UNLESS = r"\(or, if it is not a tool, begin its name with _ or name the tools with only=\[...\]\)"


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (NoDocstring, rf"NoDocstring\.add has no docstring: .* when to use it {UNLESS}"),
        (ReturnHintOnly, r"ReturnHintOnly\.show has no docstring"),
        (NoHint, rf"NoHint\.add: tool 'add': parameter 'event' has no type hint; add one {UNLESS}"),
        (NoDescription, r"NoDescription\.add: tool 'add': parameter 'event' is not described"),
        (NoSelf, r"NoSelf\.add: a method's first parameter is self; add it, or make it a @staticmethod"),
        (Nothing, "Nothing has no method that can be a tool: a public one with a docstring and type hints"),
        (int, "int has no method that can be a tool"),
        (Worker, r"Worker inherits .*start.* from threading, which .* as in toolkit\(Worker, only=\['work'\]\)"),
        (NeedsMore, r"NeedsMore\(\) needs path, size, and an .* toolkit\(NeedsMore, instance=lambda task: NeedsMore\("),
        (OwnName, r"OwnName\.find: its parameter 'own_name' has the name of the instance; rename it, or write"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_class_that_would_surprise_its_author_is_refused(cls: type, message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        Toolbox([cls])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["add", "remove"]}, "Calendar has no public method 'remove'; it has: add, move"),
        ({"only": ["reset"]}, "Calendar has no public method 'reset'"),
        ({"only": []}, "Calendar has no method that can be a tool"),
        ({"only": "add"}, r"only must be a list of names, got 'add'; write only=\['add'\]"),
        ({"only": ["snapshot"]}, "Calendar.snapshot has no docstring"),
        ({"name": "my calendar"}, "the name of a toolkit's instance must be an identifier, got 'my calendar'"),
        ({"instance": Calendar()}, r"per_episode\(...\) takes a function that opens the resource, got <.*Calendar"),
        ({"timeout_seconds": 0}, "Calendar.add: tool 'add': timeout_seconds=0"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ToolDefinitionError, match=message):
        toolkit(Calendar, **options)


def test_only_accepts_what_a_foreign_base_would_add() -> None:
    assert [entry.name for entry in toolkit(Worker, only=["work"])] == ["work"]


def test_an_instance_in_place_of_its_class_is_told_what_to_write() -> None:
    with pytest.raises(ToolDefinitionError, match=r"toolkit takes a class, got <.*write the class without calling it"):
        toolkit(Calendar())  # type: ignore[arg-type]
    with pytest.raises(ToolDefinitionError, match=r"made from a function, got Calendar: .*write the class, Calendar,"):
        Toolbox([Calendar()])
    with pytest.raises(ToolDefinitionError, match=r"'add' is a method of a Calendar, .*: write tools=\[Calendar\]"):
        Toolbox([Calendar().add])
    with pytest.raises(ToolDefinitionError, match=r"method without its object .* or drop @tool and write tools="):
        tool(Calendar.add)


def test_two_toolkits_must_not_share_a_name() -> None:
    class Diary(Calendar):
        pass

    with pytest.raises(ConfigError, match=r"two tools are named 'add'; rename one with .*, or a method in its class"):
        Toolbox([Calendar, Diary])
    with pytest.raises(ConfigError, match="different resources under the name 'calendar'"):
        Toolbox([toolkit(Calendar, only=["add"]), toolkit(Calendar, only=["move"])])
