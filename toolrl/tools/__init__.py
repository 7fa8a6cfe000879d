"""Tools: typed Python functions that a model may call."""

from toolrl.tools.dispatch import Toolbox
from toolrl.tools.mcp import mcp_tools
from toolrl.tools.python import python_tool
from toolrl.tools.search import open_tool, search_tool
from toolrl.tools.shell import Shell, ShellResult, shell_tool
from toolrl.tools.submit import submit

__all__ = [
    "Shell", "ShellResult", "Toolbox", "mcp_tools", "open_tool", "python_tool", "search_tool", "shell_tool", "submit",
]  # fmt: skip
