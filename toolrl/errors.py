"""Every exception toolrl raises, each named after the boundary it crossed.

    ToolrlError
    ├── UserError                 the caller's input is wrong; the command line exits with 2
    │   ├── ConfigError           a setting or a combination of settings        (also a ValueError)
    │   ├── EnvironmentNotFound   no environment is registered under that id    (also a LookupError)
    │   ├── TaskError             a task or a task file is broken               (also a ValueError)
    │   ├── ToolDefinitionError   a function cannot become a tool               (also a TypeError)
    │   ├── QueryError            a query over trajectories cannot be understood (also a ValueError)
    │   ├── TemplateError         a chat template is missing or unusable        (also a ValueError)
    │   └── MissingExtra          an optional dependency is not installed       (also an ImportError)
    ├── ToolError                 the model's mistake; the message goes back to the model
    └── InfrastructureError       not caused by the model; retried, then the sample is unscored
        ├── SandboxFault          a sandbox died or could not be started
        ├── RetrieverFault        a search backend is down or rate-limits us
        ├── PolicyFault           the generator failed or is unreachable
        └── ProgramFault          an agent's program failed before it had asked for anything

An exception of any other type is a bug and propagates with its traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

# Packages that the core does without, by the extra that installs them.
EXTRA_OF = {
    **dict.fromkeys(("bm25s",), "search"),
    **dict.fromkeys(
        ("h11", "jinja2", "markupsafe", "matplotlib", "pandas", "pyarrow", "scipy", "starlette", "statsmodels",
         "uvicorn", "yaml"),
        "view",
    ),
    **dict.fromkeys(("websockets",), "serve"),
    **dict.fromkeys(("accelerate", "datasets", "safetensors", "tokenizers", "torch", "transformers", "trl"), "train"),
}  # fmt: skip


class ToolrlError(Exception):
    """Base of all exceptions defined by toolrl."""


class UserError(ToolrlError):
    """The caller's input is wrong; the message says what, gives the value, and says what to do."""


class ConfigError(UserError, ValueError):
    """A setting, or a combination of settings, is invalid."""


class EnvironmentNotFound(UserError, LookupError):
    """No environment is registered under this id."""


class TaskError(UserError, ValueError):
    """A task, or a file of tasks, is broken."""


class ToolDefinitionError(UserError, TypeError):
    """A function cannot be turned into a tool."""


class TemplateError(UserError, ValueError):
    """A chat template is missing, or does not allow append-only rendering."""


class QueryError(UserError, ValueError):
    """A query over trajectories cannot be understood."""


class MissingExtra(UserError, ImportError):
    """An optional dependency is not installed; the message has the `pip install` command that adds it."""

    def __init__(self, package: str, extra: str):
        super().__init__(f"{package} is not installed. Run: pip install 'toolrl[{extra}]'")


@contextmanager
def naming_extras() -> Iterator[None]:
    """Have the import of a package that is missing say which extra installs it.

    Raises:
        MissingExtra: The package is one of `EXTRA_OF`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        raise MissingExtra(package, EXTRA_OF[package]) from error


class ToolError(ToolrlError):
    """Raised by a tool for a mistake by the model; it becomes the observation.

    Attributes:
        observation: The text the model sees: `error: MESSAGE`, or `output` if given.
        timed_out: Whether the mistake was taking too long.
    """

    def __init__(self, message: str, *, output: str | None = None, timed_out: bool = False):
        super().__init__(message)
        self.observation = f"error: {message}" if output is None else output
        self.timed_out = timed_out


class InfrastructureError(ToolrlError, RuntimeError):
    """A fault not caused by the model: retried within bounds, then recorded; never a reward of zero."""


class SandboxFault(InfrastructureError):
    """A sandbox died, vanished or could not be started."""


class RetrieverFault(InfrastructureError):
    """A search backend is down, unreachable or rate-limits us."""


class PolicyFault(InfrastructureError):
    """A generator failed or is unreachable."""


class ProgramFault(InfrastructureError):
    """A program that plays an episode failed before it had asked the model or a tool for anything."""
