"""The command line: `toolrl train`, `eval`, `check`, `audit`, `envs`, `doctor`, `sandbox serve` and `search`."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from toolrl.errors import ConfigError, InfrastructureError, UserError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="RL for tool-using language models.",
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train a policy with TRL's GRPOTrainer. Takes TRL's own flags and toolrl's; see `toolrl train --help`.",
)
def train(context: typer.Context) -> None:
    """Train a policy."""
    from toolrl.training.run import parse_arguments, train as run_training

    run_training(*parse_arguments(context.args))


@app.command(name="eval")
def evaluate_command(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    model: Annotated[str, typer.Option(help="'tiny', a folder (a run's model/), or a hub id.")] = "tiny",
    policy: Annotated[str, typer.Option(help="'model', or 'oracle' to replay each task's solution.")] = "model",
    n: Annotated[int, typer.Option("--n", min=1, help="Tasks per environment.")] = 100,
    k: Annotated[int, typer.Option("--k", min=1, help="Episodes per task; pass@1 ... pass@k are reported.")] = 1,
    split: Annotated[str, typer.Option(help="'train' or 'test'.")] = "test",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Sampled tokens per turn.")] = 512,
    env_settings: Annotated[str, typer.Option(help='JSON: {"ID": {"setting": value}}.')] = "{}",
    out: Annotated[Path | None, typer.Option(help="Append the trajectories to this JSONL file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reports as JSON.")] = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' ...; default: a GPU if there is one.")] = "",
) -> None:
    """Play tasks and report success with intervals, pass@k and tool use."""
    from toolrl.chat import Renderer
    from toolrl.env import make
    from toolrl.evaluation import evaluate, report_table, terminal
    from toolrl.models import load_for_generation, load_tokenizer
    from toolrl.policy import TransformersPolicy
    from toolrl.training.arguments import parse_env_settings
    from toolrl.trajectory import TrajectoryWriter
    from toolrl.types import Sampling

    if policy not in ("model", "oracle"):
        raise ConfigError(f"--policy must be 'model' or 'oracle', got {policy!r}")
    settings = parse_env_settings(env_settings)
    made = {env_id: make(env_id, **{"split": split, **settings.get(env_id, {})}) for env_id in environments}
    renderer = Renderer(load_tokenizer(model))
    player = None
    if policy == "model":
        weights = load_for_generation(model, device)
        player = TransformersPolicy(weights, stop_token_ids=[renderer.end_of_turn_id])
    writer = TrajectoryWriter(out) if out else None
    try:
        reports = evaluate(
            made,
            player,
            renderer,
            tasks=n,
            samples=k,
            sampling=Sampling(temperature, max_turn_tokens),
            on_trajectory=writer.write if writer else None,
            info={"mode": "eval", "model": model if policy == "model" else "oracle"},
        )
    finally:
        if player is not None:
            player.close()
        if writer is not None:
            writer.close()
        for env in made.values():
            env.close()
    if as_json:
        typer.echo(json.dumps({env_id: dataclasses.asdict(report) for env_id, report in reports.items()}, indent=1))
    else:
        terminal().print(report_table(reports))


@app.command()
def envs() -> None:
    """List the environments that are installed."""
    import gymnasium

    from toolrl.env import load_plugins

    load_plugins()
    for env_id, spec in sorted(gymnasium.registry.items()):
        if env_id.startswith("toolrl/"):
            typer.echo(f"{env_id}  {spec.entry_point}")


SETTINGS = typer.Option("--settings", help='JSON: {"setting": value}.')


@app.command()
def check(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that are played.")] = 20,
    settings: Annotated[str, SETTINGS] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check that environments keep their promises; status 1 if one does not."""
    from toolrl.audit.cli import run_check

    _report(run_check, environments, tasks, settings, as_json)


@app.command()
def audit(
    environments: Annotated[list[str], typer.Argument(metavar="ENV...", help="Environment ids.")],
    tasks: Annotated[int, typer.Option(min=1, help="Tasks that each exploit is tried on.")] = 8,
    settings: Annotated[str, SETTINGS] = "{}",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Try to earn reward without solving the task; status 1 if that works somewhere."""
    from toolrl.audit.cli import run_audit

    _report(run_audit, environments, tasks, settings, as_json)


def _report(run: Callable[..., tuple[str, bool]], ids: list[str], tasks: int, settings: str, as_json: bool) -> None:
    from toolrl.audit.cli import parse_settings

    chosen = parse_settings(settings)
    failed = False
    for env_id in ids:
        text, passed = run(env_id, tasks=tasks, settings=chosen, as_json=as_json)
        typer.echo(text)
        failed = failed or not passed
    if failed:
        raise typer.Exit(1)


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the diagnosis as JSON.")] = False,
) -> None:
    """Say how well the model's code is walled in on this machine; status 1 if too little."""
    from toolrl.sandbox.doctor import as_text, examine

    diagnosis = examine()
    typer.echo(json.dumps(dataclasses.asdict(diagnosis), indent=1) if as_json else as_text(diagnosis))
    if not diagnosis.usable:
        raise typer.Exit(1)


sandbox_app = typer.Typer(no_args_is_help=True, help="Sandboxes for code.")
app.add_typer(sandbox_app, name="sandbox")


@sandbox_app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback an API key must be set.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 49999,
    api_key: Annotated[str, typer.Option(envvar="TOOLRL_SANDBOX_API_KEY", help="What clients must know.")] = "",
    packages: Annotated[bool, typer.Option(help="Let the code import the packages of this Python.")] = False,
    max_sandboxes: Annotated[int, typer.Option(min=1, help="At a time.")] = 20,
    memory_mb: Annotated[int, typer.Option(min=64, help="Address space of each process.")] = 1024,
    run_seconds: Annotated[float, typer.Option(min=0.1, help="Time of a run that nobody else limits.")] = 3600.0,
) -> None:
    """Serve local sandboxes through E2B's protocol, for E2B's own SDK, until Ctrl-C or SIGTERM."""
    from toolrl.sandbox.server import HostSettings, SandboxServer

    wait_for_end = _expect_end()
    limits = dataclasses.replace(HostSettings().limits, seconds=run_seconds, memory_mb=memory_mb)
    settings = HostSettings(limits, packages, max_sandboxes, api_key=api_key or None)
    with SandboxServer(settings, host=host, port=port) as server:
        typer.echo(f"export E2B_API_URL={server.url} E2B_SANDBOX_URL={server.url} E2B_API_KEY={api_key or 'any'}")
        wait_for_end()


search_app = typer.Typer(no_args_is_help=True, help="Search backends.")
app.add_typer(search_app, name="search")

RETRIEVER = typer.Argument(
    metavar="BACKEND",
    help="bm25:CORPUS, dense:CORPUS, hybrid:CORPUS, web, or a server's address; a corpus is python-docs, a .jsonl or "
    ".parquet file, a folder of texts, or hf:OWNER/NAME.",
)
MODEL = typer.Option(help="Sentence-transformers model of a dense or hybrid backend.")
STORE = typer.Option(help="SQLite file that remembers the answers.")
MODE = typer.Option(help="'cache', 'record' or 'replay'; with --store.")


@search_app.command(name="query")
def search_query(
    backend: Annotated[str, RETRIEVER],
    query: Annotated[str, typer.Argument(help="What to search for.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Results.")] = 5,
    model: Annotated[str, MODEL] = "",
    store: Annotated[Path | None, STORE] = None,
    mode: Annotated[str, MODE] = "cache",
) -> None:
    """Search once, and print what is found."""
    from toolrl.search import open_retriever

    with open_retriever(backend, model=model or None, store=store, mode=mode) as retriever:  # type: ignore[arg-type]
        for document in retriever.search(query, k):
            text = " ".join(document.text.split())
            typer.echo(f"{document.score:8.3f}  {document.id}  {document.title}\n          {text[:200]}")


@search_app.command(name="serve")
def search_serve(
    backend: Annotated[str, RETRIEVER],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[str, typer.Option(envvar="TOOLRL_SEARCH_API_KEY", help="What clients must send.")] = "",
    model: Annotated[str, MODEL] = "",
    store: Annotated[Path | None, STORE] = None,
    mode: Annotated[str, MODE] = "cache",
) -> None:
    """Serve a backend through Search-R1's protocol (POST /retrieve) until Ctrl-C or SIGTERM."""
    from toolrl.search import RetrievalServer, open_retriever

    wait_for_end = _expect_end()
    with (
        open_retriever(backend, model=model or None, store=store, mode=mode) as retriever,  # type: ignore[arg-type]
        RetrievalServer(retriever, host=host, port=port, api_key=api_key or None) as server,
    ):
        typer.echo(f"serving {backend} at {server.url}/retrieve")
        wait_for_end()


def _expect_end() -> Callable[[], None]:
    """From now on Ctrl-C and SIGTERM end what is returned, which waits for one; a further one ends the process."""
    over = threading.Event()
    before = {number: signal.signal(number, lambda *_: over.set()) for number in (signal.SIGINT, signal.SIGTERM)}

    def wait() -> None:
        over.wait()
        for number, handler in before.items():
            signal.signal(number, handler)

    return wait


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line. Wrong input prints one line and exits with status 2, a fault of a service with 1."""
    try:
        app(args=arguments)
    except (UserError, InfrastructureError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


if __name__ == "__main__":
    main()
