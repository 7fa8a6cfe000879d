"""Tools: typed Python functions that a model may call."""

from toolrl.tools.definition import Tool, tool
from toolrl.tools.dispatch import Toolbox
from toolrl.tools.python import python_tool
from toolrl.tools.resources import per_episode, per_run
from toolrl.tools.search import open_tool, search_tool

__all__ = ["Tool", "Toolbox", "open_tool", "per_episode", "per_run", "python_tool", "search_tool", "tool"]
