"""`toolrl play`: a person is the policy."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolrl.cli.common import App, EnvSettings, opened_environments
from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.trajectory import Trajectory

app = App()


@app.command()
def play(
    env_id: Annotated[str, typer.Argument(metavar="ENV", help="The environment.")],
    split: Annotated[str, typer.Option(help="'train' or 'test'.")] = "train",
    task: Annotated[str, typer.Option(help="Id of the task; by default the first.")] = "",
    env_settings: EnvSettings = "{}",
    tokens: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokens /tokens shows: 'tiny', a folder, a hub id.")
    ] = "",
    save: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Add the episode to this JSONL file, for `toolrl demonstrations`; as .py, write a test.",
        ),
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="Play in the browser, on a page of this machine.")] = False,
) -> None:
    """Play an episode yourself: see what a model sees, type words or calls, and get the verdict. /help says how."""
    if page:
        if task or tokens or save:
            raise ConfigError(
                "--page has a choice of tasks and a button to save; leave out --task, --tokens and --save"
            )
        _serve_page(env_id, env_settings)
        return
    from toolrl.evaluation.tables import terminal
    from toolrl.rollout import RolloutEngine, RolloutRequest
    from toolrl.view.person import PersonPolicy, Quit, task_of
    from toolrl.view.terminal import print_verdict

    if save is not None and save.suffix not in (".jsonl", ".py"):
        raise ConfigError(f"--save {str(save)!r}: name a .jsonl file for the episode, or a .py file for a test")
    if save is not None and save.suffix == ".py" and save.exists():
        raise ConfigError(f"--save {str(save)!r} exists; name another file")
    with opened_environments(env_settings, [env_id]) as environment:
        env = environment(env_id, split)
        chosen = task_of(env, task)
        console = terminal()
        console.print(f"task {chosen.id} of {env_id}; /help says what you can type", style="dim", markup=False)
        person = PersonPolicy(
            console,
            _reader(env.toolbox.schemas),
            tokens=_as_tokens(tokens) if tokens else None,
            oracle=lambda: env.oracle(chosen),
        )
        facts = {"mode": "play", "split": split, "model": "person"}
        request = RolloutRequest(env, chosen, env_id, f"play/{env_id}/{chosen.id}", info=facts)
        engine = RolloutEngine(person, None, retries=0, policy_timeout_seconds=sys.float_info.max)
        try:
            (trajectory,) = person.serve(lambda: engine.run([request]))
        except Quit:
            console.print("ended without an answer", style="dim")
            return
        print_verdict(console, trajectory)
        if save is not None:
            _save(save, env.made_from or (env_id, {}), trajectory)
            console.print(f"saved to {save}", style="dim", markup=False)


def _serve_page(env_id: str, env_settings: str) -> None:
    from toolrl.cli.common import catch_signals
    from toolrl.interop.serve import EnvironmentServer

    wait = catch_signals()
    with opened_environments(env_settings, [env_id]) as environment:
        environment(env_id, "train")
        with EnvironmentServer([env_id], environment) as server:
            typer.echo(f"play {env_id} at {server.url}/play; Ctrl-C ends it")
            wait()


def _save(path: Path, made_from: tuple[str, dict[str, Any]], trajectory: Trajectory) -> None:
    from toolrl.support.outputs import writing
    from toolrl.trajectory import TrajectoryWriter
    from toolrl.view.person import as_test

    with writing(path):
        if path.suffix == ".py":
            path.write_text(as_test(*made_from, trajectory), "utf-8")
            return
        with TrajectoryWriter(path) as writer:
            writer.write(trajectory)


def _reader(tools: Sequence[Any]) -> Callable[[str], str]:
    """`input`, with completion where the terminal can do it."""
    from toolrl.view.person import completions

    with contextlib.suppress(ImportError):
        import readline

        found: list[str] = []

        def complete(text: str, state: int) -> str | None:
            if state == 0:
                found[:] = completions(text, readline.get_line_buffer()[: readline.get_endidx()], tools)
            return found[state] if state < len(found) else None

        readline.set_completer_delims(" \n")
        readline.set_completer(complete)
        readline.parse_and_bind("tab: complete")
    return input


def _as_tokens(model: str) -> Callable[..., Any]:
    """Shows a conversation as a model's tokens."""
    from rich.text import Text

    from toolrl.chat import Renderer
    from toolrl.policy.models import load_tokenizer
    from toolrl.support.visible import plain

    renderer = Renderer(load_tokenizer(model))

    def show(messages: Sequence[Any], tools: Sequence[Any]) -> Text:
        first = next((place for place, message in enumerate(messages) if message.role == "assistant"), len(messages))
        ids = renderer.prompt_ids(messages[:first], tools)
        for message in messages[first:]:
            ids += (
                renderer.assistant_ids(message, tools)
                if message.role == "assistant"
                else renderer.observation_ids([message], after=ids[-1])
            )
        text = Text()
        for token in ids:
            text.append(plain(str(renderer.tokenizer.decode([token]))).replace("\n", "\u240a"), style="dim")
            text.append("\u00b7", style="cyan")
        return text.append(f" {len(ids)} tokens", style="bold")

    return show
