"""`toolrl train`."""

from __future__ import annotations

import typer

app = typer.Typer()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train a policy with TRL's GRPOTrainer. Takes the flags of TRL and toolrl; see `toolrl train --help`.",
)
def train(context: typer.Context) -> None:
    """Train a policy."""
    from toolrl.training import parse_arguments, train as run_training

    run_training(*parse_arguments(context.args))
