"""Who answers when the agent speaks and calls no tool."""

from toolrl.users.definition import User

__all__ = ["User"]
