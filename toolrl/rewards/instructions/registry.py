"""The base class of instructions, and the registry of their kinds."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from toolrl.errors import ConfigError, TaskError

Relation = Literal["less than", "at least"]


class Instruction(BaseModel, ABC):
    """A requirement that a program can check. Its fields are the arguments (`kwargs`) of its kind.

    Attributes:
        id: The id of the kind; set by `instruction_kind`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: ClassVar[str] = ""

    @abstractmethod
    def check(self, response: str) -> bool:
        """Whether the response, which is never blank, follows the instruction."""


Kind = TypeVar("Kind", bound=type[Instruction])

kinds: dict[str, type[Instruction]] = {}
"""All registered kinds, by id."""


def instruction_kind(id: str) -> Callable[[Kind], Kind]:
    """Register a subclass of `Instruction` under an id of the form `group:name`.

        @instruction_kind("mine:greeting")
        class Greeting(Instruction):
            name: str

            def check(self, response: str) -> bool:
                return response.startswith(f"Dear {self.name}")

    Defining the same class again replaces it, as when a notebook cell runs twice.

    Raises:
        ConfigError: The id has another form, or belongs to another class.
    """
    group, colon, name = id.partition(":")
    if not (group and colon and name):
        raise ConfigError(f"the id of a kind of instruction must have the form 'group:name', got {id!r}")

    def register(kind: Kind) -> Kind:
        known = kinds.get(id)
        if known and (known.__module__, known.__qualname__) != (kind.__module__, kind.__qualname__):
            raise ConfigError(f"{id!r} is already the id of {known.__module__}.{known.__qualname__}; choose another id")
        kind.id = id
        kinds[id] = kind
        return kind

    return register


def instruction_kinds() -> tuple[str, ...]:
    """The ids of all registered kinds, sorted."""
    return tuple(sorted(kinds))


def make_instruction(id: str, kwargs: Mapping[str, Any] | None = None) -> Instruction:
    """Make an instruction from its id and its arguments, as a file has them.

    Args:
        id: The id of its kind.
        kwargs: Its arguments. None counts as absent, since tables have a column for each argument.

    Raises:
        TaskError: The kind is unknown, or an argument is missing, unknown or invalid.
        MissingExtra: The kind needs langdetect, which is not installed.
    """
    if id not in kinds:
        near = difflib.get_close_matches(str(id), kinds, n=3) or sorted(kinds)
        raise TaskError(f"no kind of instruction has the id {id!r}; did you mean {', '.join(near)}?")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise TaskError(f"the kwargs of {id} must be an object, got {kwargs!r}")
    given = {name: value for name, value in (kwargs or {}).items() if value is not None}
    try:
        return kinds[id](**given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "kwargs"
        raise TaskError(f"{id}: {place}: {first['msg']}; got {given!r}") from None


def holds(count: int, relation: Relation, threshold: int) -> bool:
    """Whether a count satisfies the relation to the threshold."""
    return count < threshold if relation == "less than" else count >= threshold
