"""Who answers when the agent speaks and calls no tool."""

from typing import TYPE_CHECKING, Any

from toolrl.users.definition import User
from toolrl.users.scripted import ScriptedUser

if TYPE_CHECKING:
    from toolrl.users.model import ModelUser

__all__ = ["ModelUser", "ScriptedUser", "User"]


def __getattr__(name: str) -> Any:
    if name == "ModelUser":  # an HTTP client loads only for those who ask for one
        from toolrl.users.model import ModelUser

        return ModelUser
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
