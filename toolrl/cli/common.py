"""What commands share: their common options, the environments they name, and a clean end for servers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeVar

import typer
from typer.core import TyperCommand

from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.env import ToolEnv
    from toolrl.view import Trajectories


F = TypeVar("F", bound=Callable[..., Any])


class Command(TyperCommand):
    """A command whose flags are spelt as settings are everywhere: `--env_settings`. Dashes are understood too."""

    def __init__(self, *args: Any, **kwargs: Any):
        """Spell the flags."""
        super().__init__(*args, **kwargs)
        for parameter in self.params:
            parameter.opts = [spelt(flag) for flag in parameter.opts]
            parameter.secondary_opts = [spelt(flag) for flag in parameter.secondary_opts]
        self.context_settings = {**self.context_settings, "token_normalize_func": spelt}


class App(typer.Typer):
    """Commands of class `Command`."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[F], F]:
        """See `typer.Typer.command`."""
        return super().command(*args, **{"cls": Command, **kwargs})


def spelt(flag: str) -> str:
    """A flag with underscores."""
    dashes = len(flag) - len(flag.lstrip("-"))
    return flag[:dashes] + flag[dashes:].replace("-", "_")


EnvironmentIds = Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")]
EnvSettings = Annotated[
    str,
    typer.Option(help='Settings of the environments as JSON: {"toolrl/PythonMath-v0": {"size": 500}}.'),
]
Tasks = Annotated[int, typer.Option(min=1, help="Tasks per environment.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out if it exists.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or a file of trajectories.")]
Where = Annotated[str, typer.Option(help="A query, such as \"success == 0 and calls('python') > 2\".")]
Limit = Annotated[int, typer.Option(min=1, help="The most episodes, drawn at random.")]
Seed = Annotated[int, typer.Option(help="Seeds the draw.")]
Workers = Annotated[
    int,
    typer.Option("--rollout_workers", min=0, help="Play on this many workers of a Ray cluster; 0 for this process."),
]
RayAddress = Annotated[
    str,
    typer.Option(help="The cluster: 'auto' for the one that runs on this machine, HOST:PORT, or 'local' to start one."),
]
WorkerResources = Annotated[
    str,
    typer.Option(help='What a worker takes, by Ray\'s names, as JSON: {"CPU": 1, "GPU": 0, "sandbox": 1}.'),
]
Engines = Annotated[
    int,
    typer.Option("--rollout_engines", min=0, help="Engines there that sample for all workers; 0 for one in each."),
]
EngineResources = Annotated[str, typer.Option(help="What such an engine takes, as JSON.")]
Services = Annotated[
    str, typer.Option(help='Servers that the cluster offers to tools, as JSON: {"sandbox": {"count": 2}}.')
]
WorkerSilence = Annotated[
    float, typer.Option("--worker_silence_seconds", help="A worker that does not answer for this long is replaced.")
]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")]


@contextmanager
def opened_environments(
    env_settings: str, env_ids: Collection[str] | None = None
) -> Iterator[Callable[[str, str], ToolEnv]]:
    """Give a function that makes an environment by id and split, each one once; all are closed at the end.

    Args:
        env_settings: The option of that name.
        env_ids: The ids that the settings may name; by default any.

    Raises:
        ConfigError: The settings are wrong.
    """
    from toolrl.env import make
    from toolrl.support.json_settings import parse_env_settings

    settings = parse_env_settings(env_settings, env_ids)
    made: dict[tuple[str, str], ToolEnv] = {}

    def environment(env_id: str, split: str) -> ToolEnv:
        if (env_id, split) not in made:
            made[env_id, split] = make(env_id, **{"split": split, **settings.get(env_id, {})})
        return made[env_id, split]

    try:
        yield environment
    finally:
        for env in made.values():
            env.close()


def find_episodes(run: Path, where: str) -> tuple[Trajectories, int]:
    """The episodes of a run that match a query, and the number of all its episodes.

    Raises:
        ConfigError: No episode matches.
    """
    from toolrl.view import load

    episodes = load(run)
    found = episodes.where(where) if where else episodes
    if not len(found):
        raise ConfigError(f"no episode of {str(run)!r} matches {where!r}" if where else f"{str(run)!r} has no episodes")
    return found, len(episodes)


class Wait(Protocol):
    """Waits for a signal."""

    def __call__(self, seconds: float | None = None) -> bool:
        """Whether it came within so many seconds; None waits for it."""
        ...


def catch_signals() -> Wait:
    """Have Ctrl-C and SIGTERM end the function returned, which waits for the first; the next ends the process."""
    ended = threading.Event()
    before = {number: signal.signal(number, lambda *_: ended.set()) for number in (signal.SIGINT, signal.SIGTERM)}

    def wait(seconds: float | None = None) -> bool:
        if not ended.wait(seconds):
            return False
        for number, handler in before.items():
            signal.signal(number, handler)
        return True

    return wait
