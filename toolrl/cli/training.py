"""`toolrl train`."""

from __future__ import annotations

import typer

from toolrl.cli.common import App

app = App()


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    help="Train a policy with TRL's GRPOTrainer. Takes the flags of TRL and toolrl; see `toolrl train --help`.",
)
def train(context: typer.Context) -> None:
    """Train a policy."""
    from toolrl.training import parse_arguments, run_training as run_training

    run_training(*parse_arguments(context.args))
