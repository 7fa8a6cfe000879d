"""`toolrl train`: a run from its settings to its folder.

A run's folder holds `config.yaml`, `trajectories.jsonl`, `metrics.jsonl`, `curves.png`, `report.json`
(held-out results before and after), `README.md`, TRL's checkpoints, and the trained model in `model/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, ModelConfig  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.evaluation import EnvReport, before_after_table, evaluate, progress, terminal
from toolrl.policy.models import load_tokenizer
from toolrl.training.arguments import ToolrlArguments
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.checkpoints import StampCallback, find_checkpoint, passed_over
from toolrl.training.dry_run import dry_run
from toolrl.training.flags import refuse_unhonoured
from toolrl.training.folder import run_folder, write_config
from toolrl.training.loading import (
    adapter_settings,
    bytes_of,
    load_to_train,
    loading_options,
    longest_prompt,
    read_template,
)
from toolrl.training.memory import check_memory, read_size
from toolrl.training.parsing import parse
from toolrl.training.trl import GRPORun
from toolrl.trajectory import TrajectoryWriter
from toolrl.types import SamplingParams


def parse_arguments(arguments: list[str]) -> tuple[ToolrlArguments, GRPOConfig, ModelConfig]:
    """Read the settings of a run, as `toolrl.training.parsing.parse` does."""
    return parse((ToolrlArguments, GRPOConfig, ModelConfig), "toolrl train", arguments)


def train(
    arguments: ToolrlArguments, args: GRPOConfig, model_config: ModelConfig, console: Console | None = None
) -> dict[str, dict[str, EnvReport]]:
    """Train, and return the held-out reports `before` and `after` (empty if `eval_tasks` is 0).

    Raises:
        UserError: A setting is wrong; nothing has been trained.
    """
    console = console or terminal()
    quieten()
    refuse_unhonoured(arguments, args, model_config)
    checkpoint = None if arguments.dry_run else find_checkpoint(args)
    training = arguments.make_envs("train")
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, **loading_options(args, model_config))
    settings: dict[str, Any] = {
        "weights": arguments.weighted_envs(),
        "chat_template": read_template(arguments.chat_template),
        "dialect": arguments.dialect or None,
        "peft_config": adapter_settings(name, model_config),
        "task_seed": arguments.task_seed,
        "train_tasks": arguments.train_tasks,
        "max_turn_tokens": arguments.max_turn_tokens,
        "concurrency": arguments.concurrency,
        "retries": arguments.retries,
        "policy_timeout_seconds": arguments.policy_timeout_seconds,
        "sampler": arguments.sampler_settings(),
        "mismatch_limit": arguments.mismatch_limit,
    }
    if arguments.dry_run:
        dry_run(name, tokenizer, training, args, model_config, console, **settings)
        return {}
    if arguments.check_memory:
        size = read_size(name, peft_config=settings["peft_config"], **loading_options(args, model_config))
        own = settings["sampler"].sampler == "transformers" and not args.use_vllm
        warning = check_memory(
            size, args, longest_prompt(training, tokenizer), bytes_of(model_config), device=args.device, own=own
        )
        if warning:
            console.print(warning, style="yellow", soft_wrap=True, markup=False)
    with run_folder(args, checkpoint, overwrite=arguments.overwrite_output_dir) as folder:
        reports = _train_into(
            folder, checkpoint, name, tokenizer, training, arguments, args, model_config, console, settings
        )
    return reports


def _train_into(
    folder: Path,
    checkpoint: Path | None,
    name: str,
    tokenizer: transformers.PreTrainedTokenizerBase,
    training: dict[str, ToolEnv],
    arguments: ToolrlArguments,
    args: GRPOConfig,
    model_config: ModelConfig,
    console: Console,
    settings: dict[str, Any],
) -> dict[str, dict[str, EnvReport]]:
    held_out = arguments.make_envs("test") if arguments.eval_tasks else {}
    progress = ProgressCallback(console, arguments.sample_every)
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        run = GRPORun(
            load_to_train(name, args, model_config),
            tokenizer,
            training,
            args,
            model_name=name,
            writer=writer,
            callbacks=[MetricsCallback(folder), StampCallback(), progress],
            **settings,
        )
        progress.run = run
        for replaced in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            run.trainer.remove_callback(replaced)
        main = run.trainer.is_world_process_zero()
        with closing(run):
            if main:
                write_config(folder / "config.yaml", arguments, args, model_config)
                run.trainer.create_model_card()
            for problem in passed_over(checkpoint, args.world_size) if checkpoint and main else []:
                console.print(f"going on from {checkpoint}; passed over {problem}", style="yellow", markup=False)
            reports = _read_reports(folder) if checkpoint else {}
            run.sync_weights()
            if held_out and main and "before" not in reports:
                reports["before"] = _evaluate(run, held_out, arguments, args, writer, "before")
                _write_reports(folder, reports)
            run.trainer.accelerator.wait_for_everyone()
            run.train(checkpoint)
            run.sync_weights()
            run.trainer.save_model(str(folder / "model"))
            run.trainer.create_model_card()
            if held_out and main:
                reports["after"] = _evaluate(run, held_out, arguments, args, writer, "after")
                _write_reports(folder, reports)
                console.print(before_after_table(reports["before"], reports["after"]))
            run.trainer.accelerator.wait_for_everyone()
        for env in held_out.values():
            env.close()
    if main:
        console.print(f"run folder: {folder} (curves.png, trajectories.jsonl, model/)", soft_wrap=True)
    return reports


def _evaluate(
    run: GRPORun, environments: Any, arguments: ToolrlArguments, args: GRPOConfig, writer: TrajectoryWriter, mode: str
) -> dict[str, EnvReport]:
    with progress(f"held-out episodes, {mode} training") as show:
        return evaluate(
            environments,
            run.policy,
            run.renderer,
            tasks=arguments.eval_tasks,
            samples=arguments.eval_samples,
            sampling=SamplingParams(args.temperature, arguments.max_turn_tokens),
            concurrency=arguments.concurrency,
            policy_timeout_seconds=arguments.policy_timeout_seconds,
            max_completion_tokens=args.max_completion_length,
            on_trajectory=writer.write,
            on_progress=show,
            info={"mode": mode, "session": run.session, "step": run.trainer.state.global_step},
        )


def _read_reports(folder: Path) -> dict[str, dict[str, EnvReport]]:
    path = folder / "report.json"
    if not path.is_file():
        return {}
    stored = json.loads(path.read_text())
    reports: dict[str, dict[str, EnvReport]] = {}
    for mode, by_env in stored.items():
        reports[mode] = {}
        for env_id, fields in by_env.items():
            fields["success_interval"] = tuple(fields["success_interval"])
            fields["pass_at"] = {int(k): value for k, value in fields["pass_at"].items()}
            reports[mode][env_id] = EnvReport(**fields)
    return reports


def _write_reports(folder: Path, reports: dict[str, dict[str, EnvReport]]) -> None:
    plain = {mode: {env: dataclasses.asdict(report) for env, report in by.items()} for mode, by in reports.items()}
    partial = folder / "report.partial"
    partial.write_text(json.dumps(plain, indent=1))
    partial.replace(folder / "report.json")


def quieten() -> None:
    """Keep libraries' notices out of a run's progress; warnings and errors stay."""
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # prints unscored samples in full
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*experimental.*", module="trl.*")
