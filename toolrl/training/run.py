"""`toolrl train`: from settings to the run's folder.

The folder holds `config.yaml`, `trajectories.jsonl`, `metrics.jsonl`, `curves.png`, `report.json` (held-out results
before and after), `README.md`, TRL's checkpoints, and the trained model in `model/`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import warnings
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import transformers
from rich.console import Console
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, ModelConfig, SFTConfig  # type: ignore[attr-defined]

from toolrl.env import ToolEnv
from toolrl.evaluation import EnvReport, before_after_table, evaluate, progress, terminal
from toolrl.policy.models import load_tokenizer
from toolrl.training.arguments import ToolrlArguments
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.dry_run import dry_run
from toolrl.training.flags import refuse_unsupported
from toolrl.training.folder import StampCallback, find_checkpoint, run_folder, skipped_checkpoints, write_config
from toolrl.training.loading import adapter_settings, load_for_training, loading_options, read_template
from toolrl.training.memory import check_memory, longest_prompt, read_size, weight_bytes
from toolrl.training.parsing import parse
from toolrl.training.trl import GRPORun
from toolrl.trajectory import TrajectoryWriter
from toolrl.types import SamplingParams

Reports = dict[str, dict[str, EnvReport]]  # by "before" or "after", and by environment


def parse_arguments(arguments: list[str]) -> tuple[ToolrlArguments, GRPOConfig, ModelConfig]:
    """Read the settings of a run; see `toolrl.training.parsing.parse`."""
    return parse((ToolrlArguments, GRPOConfig, ModelConfig), "toolrl train", arguments)


def train(
    arguments: ToolrlArguments, args: GRPOConfig, model_config: ModelConfig, console: Console | None = None
) -> Reports:
    """Train, and return the held-out reports `before` and `after` (empty if `eval_tasks` is 0).

    Raises:
        UserError: A setting is wrong; nothing has been trained.
    """
    console = console or terminal()
    silence_libraries()
    refuse_unsupported(arguments, args, model_config)
    credit = arguments.credit_settings()
    credit.refuse_conflicts(args)
    checkpoint = None if arguments.dry_run else find_checkpoint(args)
    environments = arguments.make_envs("train")
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, **loading_options(args, model_config))
    settings: dict[str, Any] = {
        "weights": arguments.weighted_envs(),
        "chat_template": read_template(arguments.chat_template),
        "dialect": arguments.dialect or None,
        "peft_config": adapter_settings(name, model_config),
        "sampler": arguments.sampler_settings(),
        "credit": credit,
    }
    for field in (
        "task_seed", "train_tasks", "max_turn_tokens", "concurrency", "retries", "policy_timeout_seconds",
        "mismatch_limit",
    ):  # fmt: skip
        settings[field] = getattr(arguments, field)
    if arguments.dry_run:
        dry_run(name, tokenizer, environments, args, model_config, console, **settings)
        return {}
    if arguments.check_memory:
        samples = settings["sampler"].sampler == "transformers" and not args.use_vllm
        prompt_tokens = longest_prompt(environments, tokenizer)
        warn_about_memory(console, args, model_config, settings["peft_config"], prompt_tokens, samples=samples)
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder(args, checkpoint, overwrite=arguments.overwrite_output_dir))
        held_out = arguments.make_envs("test") if arguments.eval_tasks else {}
        for env in held_out.values():
            stack.callback(env.close)
        writer = stack.enter_context(TrajectoryWriter(folder / "trajectories.jsonl"))
        shown = ProgressCallback(console, arguments.sample_every)
        run = GRPORun(
            load_for_training(name, args, model_config),
            tokenizer,
            environments,
            args,
            model_name=name,
            writer=writer,
            callbacks=[MetricsCallback(folder), StampCallback(), shown],
            **settings,
        )
        stack.enter_context(closing(run))
        shown.run = run
        is_main = begin_run(run.trainer, folder, checkpoint, console, arguments, args, model_config)
        reports = _read_reports(folder) if checkpoint else {}
        run.sync_weights()
        if held_out and is_main and "before" not in reports:
            reports["before"] = _evaluate(run, held_out, arguments, writer, "before")
            _write_reports(folder, reports)
        run.trainer.accelerator.wait_for_everyone()
        run.train(checkpoint)
        run.sync_weights()
        save_run(run.trainer, folder)
        if held_out and is_main:
            reports["after"] = _evaluate(run, held_out, arguments, writer, "after")
            _write_reports(folder, reports)
            console.print(before_after_table(reports["before"], reports["after"]))
        run.trainer.accelerator.wait_for_everyone()
    if is_main:
        console.print(f"run folder: {folder} (curves.png, trajectories.jsonl, model/)", soft_wrap=True)
    return reports


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


def _evaluate(
    run: GRPORun, environments: dict[str, ToolEnv], arguments: ToolrlArguments, writer: TrajectoryWriter, mode: str
) -> dict[str, EnvReport]:
    args: Any = run.trainer.args
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


def _read_reports(folder: Path) -> Reports:
    path = folder / "report.json"
    stored = json.loads(path.read_text()) if path.is_file() else {}
    for by_env in stored.values():
        for env_id, fields in by_env.items():
            fields["success_interval"] = tuple(fields["success_interval"])
            fields["pass_at"] = {int(k): value for k, value in fields["pass_at"].items()}
            by_env[env_id] = EnvReport(**fields)
    return dict(stored)


def _write_reports(folder: Path, reports: Reports) -> None:
    plain = {mode: {env: dataclasses.asdict(report) for env, report in by.items()} for mode, by in reports.items()}
    partial = folder / "report.partial"
    partial.write_text(json.dumps(plain, indent=1))
    partial.replace(folder / "report.json")


def silence_libraries() -> None:
    """Keep the notices of libraries out of a run's output; warnings and errors stay."""
    logging.getLogger("ContinuousBatchingLogger").setLevel(logging.ERROR)
    logging.getLogger("trl.trainer.grpo_trainer").setLevel(logging.ERROR)  # prints unscored samples in full
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*experimental.*", module="trl.*")
