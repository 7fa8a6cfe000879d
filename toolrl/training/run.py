"""`toolrl train`: from settings to the run's folder.

The folder holds `config.yaml`, `trajectories.jsonl`, `metrics.jsonl`, `curves.png`, `report.json` (held-out results
before and after), `README.md`, TRL's checkpoints, and the trained model in `model/`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, ModelConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.chat.variants import read_template
from toolrl.distributed import RolloutPool
from toolrl.env import ToolEnv
from toolrl.errors import ConfigError
from toolrl.evaluation import before_after_table, terminal
from toolrl.evaluation.inputs import named
from toolrl.policy.models import load_tokenizer
from toolrl.training.arguments import ToolrlArguments
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.dry_run import dry_run
from toolrl.training.flags import refuse_unsupported
from toolrl.training.folder import StampCallback, find_checkpoint, run_folder, skipped_checkpoints, write_config
from toolrl.training.held_out import EnvReports, HeldOut
from toolrl.training.layout import check_schedule
from toolrl.training.loading import adapter_settings, load_for_training, loading_options
from toolrl.training.memory import check_memory, longest_prompt, read_size, weight_bytes
from toolrl.training.monitors import HackCallback
from toolrl.training.parsing import parse
from toolrl.training.trackers import EpisodeTables
from toolrl.training.trl import GRPORun
from toolrl.trajectory import TrajectoryWriter, read_trajectories


def parse_arguments(arguments: list[str]) -> tuple[ToolrlArguments, GRPOConfig, ModelConfig]:
    """Read the settings of a run; see `toolrl.training.parsing.parse`."""
    return parse((ToolrlArguments, GRPOConfig, ModelConfig), "toolrl train", arguments)


def train(
    envs: str | ToolEnv | Sequence[str | ToolEnv] = (),
    model: str = "",
    *,
    config: str = "",
    console: Console | None = None,
    **settings: Any,
) -> dict[str, EnvReports]:
    """Train from Python; `toolrl train` does the same from the command line.

        train([my_env, "toolrl/PythonMath-v0"], "tiny", max_steps=20, output_dir="runs/mine")

    Args:
        envs: What to train on: names, as `toolrl.make` takes them, perhaps with a weight (`ID:2`), and environments
            themselves. Of an environment that was not made for a split, a fifth of the tasks is held out.
        model: "tiny", "smollm2", a folder or a hub id.
        config: A YAML file or the name of a recipe, whose settings are used where none is given here.
        console: Where to print; default: stdout.
        settings: By the names of the flags of `toolrl train`.

    Returns:
        The held-out reports `before` and `after` by environment; empty if `eval_tasks` is 0.

    Raises:
        UserError: A setting is wrong; nothing has been trained.
    """
    given = named(envs)
    if given:
        settings["envs"] = list(given)
    if model:
        settings["model_name_or_path"] = model
    flags = [f"--config={config}"] if config else []
    arguments, args, model_config = parse((ToolrlArguments, GRPOConfig, ModelConfig), "train", flags, settings)
    objects = {name: env for name, env in given.items() if isinstance(env, ToolEnv)}
    return run_training(arguments, args, model_config, console, objects)


def run_training(
    arguments: ToolrlArguments,
    args: GRPOConfig,
    model_config: ModelConfig,
    console: Console | None = None,
    objects: Mapping[str, ToolEnv] | None = None,
) -> dict[str, EnvReports]:
    """Train with settings that were read, and return the held-out reports as `train` does.

    Args:
        arguments: Our settings.
        args: TRL's.
        model_config: Which model.
        console: Where to print; default: stdout.
        objects: Environments by their names among `arguments.envs`, which are used as they are.

    Raises:
        UserError: A setting is wrong; nothing has been trained.
    """
    console = console or terminal()
    silence_libraries()
    refuse_unsupported(arguments, args, model_config)
    schedule = {name: getattr(arguments, name) for name in ("refill", "curriculum", "max_staleness")}
    check_schedule(args, "workers" if arguments.rollout_workers else arguments.sampler_settings().sampler, **schedule)
    credit = arguments.credit_settings()
    credit.refuse_conflicts(args)
    if arguments.patience and not args.eval_steps:
        raise ConfigError(f"--patience {arguments.patience} counts held-out evaluations; pass --eval_steps too")
    checkpoint = None if arguments.dry_run else find_checkpoint(args)
    environments = arguments.make_envs("train", objects)
    if arguments.stop_on_hack and not any(env.grader.gold for env in environments.values()):
        raise ConfigError(
            "stop_on_hack=True, but no environment has a gold reward; pass ToolEnv(gold=), or leave it out"
        )
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, **loading_options(args, model_config))
    settings: dict[str, Any] = {
        "weights": arguments.weighted_envs(),
        "chat_template": read_template(arguments.chat_template),
        "dialect": arguments.dialect or None,
        "tool_prompt": arguments.tool_prompt,
        "peft_config": adapter_settings(name, model_config),
        "sampler": arguments.sampler_settings(),
        "workers": arguments.pool_settings(),
        "agent": arguments.agent_program(),
        **schedule,
        "credit": credit,
    }
    for field in (
        "task_seed", "train_tasks", "max_turn_tokens", "concurrency", "retries", "policy_timeout_seconds",
        "mismatch_limit",
    ):  # fmt: skip
        settings[field] = getattr(arguments, field)
    if arguments.dry_run:
        del settings["workers"]
        dry_run(name, tokenizer, environments, args, model_config, console, **settings)
        return {}
    if arguments.check_memory:
        samples = settings["sampler"].sampler == "transformers" and not args.use_vllm
        prompt_tokens = longest_prompt(environments, tokenizer)
        warn_about_memory(console, args, model_config, settings["peft_config"], prompt_tokens, samples=samples)
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder(args, checkpoint, overwrite=arguments.overwrite_output_dir))
        held_out = arguments.make_envs("test", objects) if arguments.eval_tasks else {}
        for env in held_out.values():
            stack.callback(env.close)
        writer = stack.enter_context(TrajectoryWriter(folder / "trajectories.jsonl"))
        shown, tables = ProgressCallback(console, arguments.sample_every), EpisodeTables(arguments.sample_every)
        evaluation = HeldOut(held_out, arguments, writer, folder, console, resumes=bool(checkpoint))
        hacks = HackCallback(folder, console, stop=arguments.stop_on_hack)
        run = GRPORun(
            load_for_training(name, args, model_config),
            tokenizer,
            environments,
            args,
            model_name=name,
            writer=writer,
            callbacks=[MetricsCallback(folder), StampCallback(), shown, tables, evaluation, hacks],
            **settings,
        )
        stack.enter_context(closing(run))
        shown.run = tables.run = evaluation.run = run
        hacks.monitor = run.monitor
        if checkpoint and any(env.grader.gold for env in environments.values()):
            run.recall(read_trajectories(folder / "trajectories.jsonl"), int(checkpoint.name.rpartition("-")[2]))
        if run.renderer.remark and run.trainer.accelerator.is_main_process:
            console.print(run.renderer.remark, soft_wrap=True)
        is_main = begin_run(run.trainer, folder, checkpoint, console, arguments, args, model_config)
        if held_out and "before" not in evaluation.reports:
            evaluation.play("before")
        about = run.policy.status if isinstance(run.policy, RolloutPool) else None
        with shown.steps(is_main=is_main, about=about):
            run.train(checkpoint)
        save_run(run.trainer, folder)
        if held_out:
            evaluation.finish()
            run.trainer.create_model_card()
            if is_main:
                console.print(before_after_table(evaluation.reports["before"], evaluation.reports["after"]))
        run.trainer.accelerator.wait_for_everyone()
    if is_main:
        console.print(f"run folder: {folder} (curves.png, trajectories.jsonl, model/)", soft_wrap=True)
    return evaluation.reports


def warn_about_memory(
    console: Console,
    args: GRPOConfig | SFTConfig,
    model_config: ModelConfig,
    peft_config: Any,
    prompt_tokens: int,
    *,
    samples: bool,
) -> None:
    """Print a warning if training may run out of memory; see `check_memory`.

    Raises:
        ConfigError: The model cannot fit.
    """
    name = model_config.model_name_or_path or "tiny"
    size = read_size(name, peft_config=peft_config, **loading_options(args, model_config))
    bytes_per_weight = weight_bytes(model_config)
    if warning := check_memory(size, args, prompt_tokens, bytes_per_weight, device=args.device, samples=samples):
        console.print(warning, style="yellow", soft_wrap=True, markup=False)


def begin_run(trainer: Any, folder: Path, checkpoint: Path | None, console: Console, *settings: Any) -> bool:
    """Write config.yaml and README.md, and name the checkpoints that were skipped.

    Returns:
        Whether this is the main process.
    """
    for replaced in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(replaced)
    if not trainer.is_world_process_zero():
        return False
    write_config(folder / "config.yaml", *settings)
    trainer.create_model_card()
    for problem in skipped_checkpoints(checkpoint, trainer.args.world_size) if checkpoint else []:
        console.print(f"resuming from {checkpoint}; skipped {problem}", style="yellow", markup=False)
    return True


def save_run(trainer: Any, folder: Path) -> None:
    """Write the trained model and its README.md."""
    trainer.save_model(str(folder / "model"))
    trainer.create_model_card()


def silence_libraries() -> None:
    """Keep the notices of libraries out of a run's output; warnings and errors stay."""
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # prints unscored samples in full
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*experimental.*", module="trl.*")
