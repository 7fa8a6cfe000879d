"""`toolrl train`: a run from its settings to its folder.

A run's folder holds `config.yaml`, `trajectories.jsonl`, `metrics.jsonl`, `curves.png`, `report.json`
(held-out results before and after), TRL's checkpoints, and the trained model in `model/`.
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
import yaml
from rich.console import Console
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, ModelConfig, TrlParser, get_peft_config  # type: ignore[attr-defined]

from toolrl.errors import ConfigError, MissingExtra
from toolrl.evaluation import EnvReport, before_after_table, evaluate, progress, terminal
from toolrl.models import load_model, load_tokenizer
from toolrl.training.arguments import ToolrlArguments
from toolrl.training.callbacks import MetricsCallback, ProgressCallback
from toolrl.training.dry_run import dry_run
from toolrl.training.trl import GRPORun
from toolrl.trajectory import TrajectoryWriter
from toolrl.types import Sampling


def parse_arguments(arguments: list[str]) -> tuple[ToolrlArguments, GRPOConfig, ModelConfig]:
    """Read the command line and `--config`, a YAML file or the name of a recipe; the command line overrides its values.

    Raises:
        ConfigError: There is no such file, it is no YAML mapping, or settings contradict each other.
        SystemExit: With status 2, for an unknown flag; with 0 after `--help`.
    """
    return parse((ToolrlArguments, GRPOConfig, ModelConfig), "toolrl train", arguments)


def parse(parts: Any, program: str, arguments: list[str]) -> Any:
    """`parse_arguments` for any data classes."""
    # TrlParser knows `--config FILE` only.
    arguments = [
        part for entry in arguments for part in (entry.split("=", 1) if entry.startswith("--config=") else [entry])
    ]
    arguments = [
        find_config(value) if option == "--config" else value
        for option, value in zip(["", *arguments], arguments, strict=False)
    ]
    try:
        return TrlParser(parts, prog=program).parse_args_and_config(arguments)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigError(str(error)) from None


def find_config(name: str) -> str:
    """The path of a config: a file, or a recipe that comes with toolrl, by its name.

    Raises:
        ConfigError: There is none.
    """
    if Path(name).is_file():
        return name
    recipes = {path.stem: str(path) for path in sorted((Path(__file__).parent / "recipes").glob("*.yaml"))}
    if name not in recipes:
        raise ConfigError(f"no config file at {name!r}, nor a recipe of that name; there are {', '.join(recipes)}")
    return recipes[name]


def train(
    arguments: ToolrlArguments, args: GRPOConfig, model_config: ModelConfig, console: Console | None = None
) -> dict[str, dict[str, EnvReport]]:
    """Train, and return the held-out reports `before` and `after` (empty if `eval_tasks` is 0).

    Raises:
        UserError: A setting is wrong; nothing has been trained.
    """
    console = console or terminal()
    quieten()
    training = arguments.make_envs("train")
    held_out = arguments.make_envs("test") if arguments.eval_tasks else {}
    name = model_config.model_name_or_path or "tiny"
    tokenizer = load_tokenizer(name, revision=model_config.model_revision)
    settings: dict[str, Any] = {
        "weights": arguments.weighted_envs(),
        "chat_template": read_template(arguments.chat_template),
        "dialect": arguments.dialect or None,
        "peft_config": adapter_settings(model_config),
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
    folder = Path(str(args.output_dir))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoint(args)
    progress = ProgressCallback(console, arguments.sample_every)
    with TrajectoryWriter(folder / "trajectories.jsonl") as writer:
        run = GRPORun(
            load_to_train(name, model_config),
            tokenizer,
            training,
            args,
            writer=writer,
            callbacks=[MetricsCallback(folder), progress],
            **settings,
        )
        progress.run = run
        for replaced in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
            run.trainer.remove_callback(replaced)
        main = run.trainer.is_world_process_zero()
        with closing(run):
            if main:
                write_config(folder / "config.yaml", arguments, args, model_config)
            reports = _read_reports(folder) if checkpoint else {}
            run.sync_weights()
            if held_out and main and "before" not in reports:
                reports["before"] = _evaluate(run, held_out, arguments, args, writer, "before")
                _write_reports(folder, reports)
            run.trainer.accelerator.wait_for_everyone()
            run.trainer.train(resume_from_checkpoint=checkpoint)
            run.sync_weights()
            run.trainer.save_model(str(folder / "model"))
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


def find_checkpoint(args: transformers.TrainingArguments) -> str | None:
    """The checkpoint to resume from: a path, or `true` for the last whole one in `output_dir`.

    Raises:
        ConfigError: There is none.
    """
    wanted = args.resume_from_checkpoint
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() == "true":
        found = [path for path in Path(str(args.output_dir)).glob("checkpoint-*") if path.name[11:].isdigit()]
        whole = sorted((path for path in found if _is_whole(path)), key=lambda path: int(path.name[11:]))
        if not whole:
            raise ConfigError(f"--resume_from_checkpoint: no checkpoint in {args.output_dir!r}; check --output_dir")
        return str(whole[-1])
    if not _is_whole(Path(str(wanted))):
        raise ConfigError(f"--resume_from_checkpoint: no whole checkpoint at {str(wanted)!r}")
    return str(wanted)


def _is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint was written to its end: the trainer's state is its last file."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def write_config(path: Path, *parts: Any) -> None:
    """Write the settings (data classes) that differ from their defaults, so that `--config` repeats the run."""
    settings: dict[str, Any] = {}
    for part in parts:
        for entry in dataclasses.fields(part):
            value = getattr(part, entry.name)
            default = entry.default_factory() if callable(entry.default_factory) else entry.default
            if entry.init and value != default and _is_plain(value):
                settings[entry.name] = value.value if hasattr(value, "value") else value
    settings.pop("resume_from_checkpoint", None)
    settings.pop("generation_batch_size", None)  # TRL derives it from the others, and refuses both
    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(settings, sort_keys=True, allow_unicode=True))
    partial.replace(path)


def _is_plain(value: Any) -> bool:
    if hasattr(value, "value"):  # an enum
        value = value.value
    try:
        yaml.safe_dump(value)
    except yaml.YAMLError:
        return False
    return True


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
            sampling=Sampling(args.temperature, arguments.max_turn_tokens),
            concurrency=arguments.concurrency,
            policy_timeout_seconds=arguments.policy_timeout_seconds,
            max_completion_tokens=args.max_completion_length,
            on_trajectory=writer.write,
            on_progress=show,
            info={"mode": mode, "session": run.session, "step": run.trainer.state.global_step},
        )


def read_template(path: str) -> str | None:
    """The text of a chat template's file; None for no path.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8") if path else None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat_template {path!r} cannot be read: {error}") from None


def load_to_train(name: str, model_config: ModelConfig) -> transformers.PreTrainedModel:
    """The model that TRL's `ModelConfig` describes; float32 unless it says otherwise."""
    options = {"revision": model_config.model_revision}
    if model_config.attn_implementation:
        options["attn_implementation"] = model_config.attn_implementation
    return load_model(name, dtype=model_config.dtype or "float32", **options)


def adapter_settings(model_config: ModelConfig) -> Any:
    """What TRL calls `peft_config`; None without `--use_peft`.

    Raises:
        MissingExtra: peft is not installed.
    """
    if not model_config.use_peft:
        return None
    try:
        import peft  # noqa: F401 - TRL's own message does not say which extra to install
    except ImportError:
        raise MissingExtra("peft", "lora") from None
    return get_peft_config(model_config)


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
