"""Tools: typed Python functions that a model may call."""

from toolrl.tools.dispatch import Toolbox
from toolrl.tools.python import python_tool
from toolrl.tools.search import open_tool, search_tool
from toolrl.tools.submit import submit

__all__ = ["Toolbox", "open_tool", "python_tool", "search_tool", "submit"]
