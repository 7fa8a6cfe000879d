"""Reinforcement learning for language models that use tools.

Public names are imported on first use: `import toolrl` is fast and never imports torch. To add one, name it in
`_EXPORTS` for the interpreter and under `TYPE_CHECKING` for type checkers; a test compares the two.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolrl.errors import naming_extras

if TYPE_CHECKING:
    from toolrl.chat import Renderer as Renderer
    from toolrl.env import ToolEnv as ToolEnv, call as call, make as make, say as say
    from toolrl.errors import (
        ConfigError as ConfigError,
        InfrastructureError as InfrastructureError,
        MissingExtra as MissingExtra,
        PolicyFault as PolicyFault,
        RetrieverFault as RetrieverFault,
        SandboxFault as SandboxFault,
        TaskError as TaskError,
        ToolError as ToolError,
        ToolrlError as ToolrlError,
    )
    from toolrl.rollout import RolloutEngine as RolloutEngine, RolloutRequest as RolloutRequest
    from toolrl.support.retry import RetryPolicy as RetryPolicy
    from toolrl.support.rows import is_file_name as is_file_name, read_rows as read_rows
    from toolrl.tasks import TaskSet as TaskSet, is_held_out as is_held_out, of_split as of_split
    from toolrl.tools.awards import award as award
    from toolrl.tools.definition import Tool as Tool, tool as tool
    from toolrl.tools.resources import per_episode as per_episode, per_run as per_run
    from toolrl.tools.toolkit import toolkit as toolkit
    from toolrl.trajectory import (
        Trajectory as Trajectory,
        TrajectoryWriter as TrajectoryWriter,
        read_trajectories as read_trajectories,
    )
    from toolrl.types import (
        Award as Award,
        Ended as Ended,
        Episode as Episode,
        Limits as Limits,
        Message as Message,
        Sample as Sample,
        SamplingParams as SamplingParams,
        Score as Score,
        StopReason as StopReason,
        Task as Task,
        ToolCall as ToolCall,
        ToolFailure as ToolFailure,
        ToolResult as ToolResult,
    )
    from toolrl.view import load as load

__version__ = "0.1.0"

_EXPORTS = {
    "toolrl.chat": "Renderer",
    "toolrl.env": "ToolEnv call make say",
    "toolrl.errors": "ConfigError InfrastructureError MissingExtra PolicyFault RetrieverFault SandboxFault TaskError "
    "ToolError ToolrlError",
    "toolrl.rollout": "RolloutEngine RolloutRequest",
    "toolrl.support.retry": "RetryPolicy",
    "toolrl.support.rows": "is_file_name read_rows",
    "toolrl.tasks": "TaskSet is_held_out of_split",
    "toolrl.tools.awards": "award",
    "toolrl.tools.definition": "Tool tool",
    "toolrl.tools.resources": "per_episode per_run",
    "toolrl.tools.toolkit": "toolkit",
    "toolrl.trajectory": "Trajectory TrajectoryWriter read_trajectories",
    "toolrl.types": "Award Ended Episode Limits Message Sample SamplingParams Score StopReason Task ToolCall "
    "ToolFailure ToolResult",
    "toolrl.view": "load",
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names.split()}

__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'toolrl' has no attribute {name!r}")
    with naming_extras():
        value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _show_in_notebooks() -> None:
    """Make IPython show a `Trajectory` as HTML. The viewer is imported when it shows the first one."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    if shell is not None:
        html_formatter = shell.display_formatter.formatters["text/html"]
        html_formatter.for_type_by_name("toolrl.trajectory", "Trajectory", _trajectory_html)


def _trajectory_html(trajectory: Trajectory) -> str:
    from toolrl.view.html import notebook_html

    return notebook_html(trajectory)


_show_in_notebooks()
