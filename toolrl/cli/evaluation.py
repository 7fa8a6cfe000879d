"""`toolrl eval`: plays tasks, and asks what tools and thinking are worth in them."""

from __future__ import annotations

import dataclasses
import json
import secrets
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolrl.cli.common import (
    App,
    AsJson,
    EngineResources,
    Engines,
    EnvSettings,
    Overwrite,
    RayAddress,
    Services,
    Tasks,
    WorkerResources,
    Workers,
    WorkerSilence,
    opened_environments,
)
from toolrl.errors import ConfigError
from toolrl.support.waiting import POLICY_TIMEOUT_SECONDS

if TYPE_CHECKING:
    from toolrl.evaluation.suite import Suite
    from toolrl.trajectory import Trajectory

app = App()


@app.command(name="eval")
def evaluate_command(
    environments: Annotated[
        list[str], typer.Argument(metavar="ENV...|SUITE", help="Environment ids, or a suite's file (toolrl suite).")
    ],
    model: Annotated[
        str, typer.Option(help="'tiny', 'smollm2', a folder (a run's model/), a GGUF file, a hub id, or 'openai:NAME'.")
    ] = "tiny",
    policy: Annotated[str, typer.Option(help="'model', or 'oracle' to replay each task's solution.")] = "model",
    tasks: Tasks = 100,
    samples: Annotated[int, typer.Option(min=1, help="Episodes per task; reports pass@k up to this number.")] = 1,
    split: Annotated[str, typer.Option(help="'train' or 'test'.")] = "test",
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="Sampled tokens per turn.")] = 512,
    dialect: Annotated[
        str, typer.Option(help="How the model calls tools: 'hermes', 'tags' ...; default: as its chat template does.")
    ] = "",
    tool_prompt: Annotated[
        str,
        typer.Option(
            help="What shows the model its tools: its chat 'template', the 'system' message, or 'auto', the latter if "
            "the template leaves them out."
        ),
    ] = "auto",
    chat_template: Annotated[
        str, typer.Option(help="A chat template instead of the model's: a Jinja file, or 'chatml', 'qwen2.5' ...")
    ] = "",
    env_settings: EnvSettings = "{}",
    out: Annotated[Path | None, typer.Option(help="Write the trajectories to this JSONL file, a new one.")] = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where an evaluation that was ended has left the file of --out.")
    ] = False,
    as_json: AsJson = False,
    device: Annotated[str, typer.Option(help="'cpu', 'cuda' ...; default: a GPU if there is one.")] = "",
    sampler: Annotated[
        str,
        typer.Option(help="What generates: 'transformers', 'vllm', or addresses of vLLM servers, separated by commas."),
    ] = "transformers",
    concurrency: Annotated[
        int, typer.Option(min=0, help="Episodes in flight; 0 for 128, or 16 behind a chat API.")
    ] = 0,
    policy_timeout_seconds: Annotated[
        float, typer.Option(help="A model that does nothing for this long, for any episode, has failed.")
    ] = POLICY_TIMEOUT_SECONDS,
    base_url: Annotated[
        str, typer.Option(help="Of 'openai:NAME', including /v1; default: OPENAI_BASE_URL, else OpenAI's.")
    ] = "",
    request: Annotated[
        str, typer.Option(help="""Further fields of its requests, as JSON: '{"reasoning_effort": "low"}'.""")
    ] = "{}",
    counterfactual: Annotated[
        str,
        typer.Option(
            "--counterfactuals",
            metavar="all|NAMES",
            help="Also play the tasks without tools ('none'), and with tools that find nothing ('empty'), mix up "
            "('random'), lie ('hostile') or fail ('broken'); 'none,hostile' plays two of them.",
        ),
    ] = "",
    thinking: Annotated[
        str,
        typer.Option(metavar="MODES", help="Play the tasks with thinking 'off', 'on' and under budgets: 'off,256,on'."),
    ] = "",
    agent: Annotated[
        str,
        typer.Option(
            metavar="PROGRAM",
            help="A program that plays, with the model behind a gateway: FILE.py:FUNCTION, a command.",
        ),
    ] = "",
    agent_seconds: Annotated[float, typer.Option(min=0.1, help="Longest run of the program for an episode.")] = 600.0,
    agent_sandbox: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="The program runs in this folder, in a sandbox, and reaches nothing but the model."
        ),
    ] = "",
    rollout_workers: Workers = 0,
    ray_address: RayAddress = "local",
    worker_resources: WorkerResources = '{"CPU": 1}',
    rollout_engines: Engines = 0,
    engine_resources: EngineResources = '{"CPU": 1}',
    services: Services = "{}",
    worker_silence_seconds: WorkerSilence = 60.0,
    price_in: Annotated[float, typer.Option(min=0.0, help="Dollars per million prompt tokens.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0.0, help="Dollars per million sampled tokens.")] = 0.0,
) -> None:
    """Play tasks, and report success with intervals, pass@k, tool use and resources used."""
    from toolrl.chat import Renderer
    from toolrl.evaluation import (
        CONDITIONS,
        compare_thinking,
        counterfactual_tables,
        counterfactuals,
        evaluate,
        progress,
        report_table,
        terminal,
        thinking_tables,
    )
    from toolrl.policy import PolicySettings, Prices, open_policy
    from toolrl.support.json_settings import parse_json
    from toolrl.support.outputs import new_file, refuse_existing
    from toolrl.trajectory import TrajectoryWriter
    from toolrl.types import SamplingParams

    _check_questions(policy, counterfactual, thinking)
    if agent and (policy == "oracle" or counterfactual or thinking):
        raise ConfigError("--agent plays with a model; leave out --policy oracle, --counterfactuals and --thinking")
    if rollout_workers and (counterfactual or thinking):
        raise ConfigError(
            "--counterfactuals and --thinking change environments, which workers make by their ids; leave "
            "out --rollout_workers"
        )
    suite = _suite_of(environments)
    if suite is not None:
        environments, tasks, samples, split = [suite.env], len(suite.tasks), suite.samples, suite.split
        temperature, max_turn_tokens = suite.temperature, suite.max_turn_tokens
    info = {"mode": "eval", "split": split, "model": model if policy == "model" else "oracle"}
    played: dict[str, Trajectory] = {}
    if resume:
        played = _played_before(out, info, counterfactual or thinking)
    if out is not None:
        refuse_existing(out, overwrite=overwrite or resume)
    info["session"] = next((str(one.info["session"]) for one in played.values()), secrets.token_hex(8))
    settings = PolicySettings(
        model=model,
        sampler=sampler,
        device=device,
        base_url=base_url,
        request=_request_fields(request),
        prices=Prices(price_in, price_out) if price_in or price_out else None,
        max_concurrent=concurrency or 16,
        seed=None if suite is None else suite.seed,
    )
    with ExitStack() as stack:
        if suite is not None:
            made = {suite.env: suite.open()}
            stack.callback(made[suite.env].close)
        else:
            environment = stack.enter_context(opened_environments(env_settings, environments))
            made = {env_id: environment(env_id, split) for env_id in environments}
        renderer: Renderer | None = None
        # Without transformers, an oracle's episodes have no tokens.
        has_tokens = not settings.is_chat if policy == "model" else find_spec("transformers") is not None
        if has_tokens:
            from toolrl.chat.variants import read_template
            from toolrl.policy.models import load_tokenizer

            renderer = Renderer(
                load_tokenizer(model),
                dialect=dialect or None,
                chat_template=read_template(chat_template),
                tool_prompt=tool_prompt,  # type: ignore[arg-type] # it says what is wrong
            )
            if renderer.remark:
                typer.echo(renderer.remark, err=True)
        sampling = SamplingParams(temperature, max_turn_tokens)
        player, pool, elsewhere = None, None, None
        program = None
        if agent:
            from toolrl.gateway import ProgramEngine, parse_agent

            program = parse_agent(agent, seconds=agent_seconds, sandbox=agent_sandbox or None)
        if rollout_workers:
            from toolrl.distributed import Playing, PoolSettings, RolloutPool

            pool = RolloutPool(
                Playing(
                    settings if policy == "model" else None,
                    renderer.parts() if renderer is not None else None,
                    sampling if policy == "model" else dataclasses.replace(sampling, max_tokens=sys.maxsize),
                    policy_timeout_seconds=policy_timeout_seconds,
                    agent=None if program is None else program.made_from,
                ),
                PoolSettings.of(
                    workers=rollout_workers,
                    address=ray_address,
                    resources=parse_json("--worker_resources", worker_resources),
                    engines=rollout_engines,
                    engine_resources=parse_json("--engine_resources", engine_resources),
                    services=parse_json("--services", services),
                    silence_seconds=worker_silence_seconds,
                    **({"concurrency": concurrency} if concurrency else {}),
                ),
            )
            stack.callback(pool.close)
        elif policy == "model":
            player = open_policy(settings, renderer)
            stack.callback(player.close)
            if program is not None:
                elsewhere = ProgramEngine(
                    program, player, renderer, sampling=sampling, concurrency=concurrency or 128,
                    policy_timeout_seconds=policy_timeout_seconds,
                )  # fmt: skip
                stack.callback(elsewhere.close)
        file = out if out is None or resume else new_file(out, overwrite=overwrite)
        writer = stack.enter_context(TrajectoryWriter(file)) if file else None
        show = stack.enter_context(progress("episodes", about=None if pool is None else pool.status))
        successes: dict[str, list[float]] = defaultdict(list)

        def count(trajectory: Trajectory) -> None:
            if trajectory.score.value is not None:
                successes[trajectory.task_id].append(float(bool(trajectory.score.success)))

        def note(trajectory: Trajectory) -> None:
            if writer is not None:
                writer.write(trajectory)
            count(trajectory)

        for trajectory in played.values():
            count(trajectory)

        playing: dict[str, Any] = {
            "tasks": tasks,
            "samples": samples,
            "sampling": sampling,
            "concurrency": concurrency or (settings.max_concurrent if settings.is_chat else 128),
            "policy_timeout_seconds": policy_timeout_seconds,
            "on_trajectory": note,
            "on_progress": show,
            "info": info,
        }
        tables: Sequence[Any]
        if counterfactual and player is not None:
            chosen = list(CONDITIONS) if counterfactual == "all" else _names(counterfactual)
            needs = counterfactuals(made, player, renderer, conditions=chosen, **playing)
            found, tables = _plain(needs), counterfactual_tables(needs)
        elif thinking and player is not None:
            thought = compare_thinking(made, player, renderer, modes=_names(thinking), **playing)
            found, tables = _plain(thought), thinking_tables(thought)
        else:
            reports = evaluate(made, player, renderer, workers=pool or elsewhere, played=played, **playing)
            found, tables = _plain(reports), [report_table(reports)]
            if suite is not None:
                typer.echo(f"{suite.name}: success {suite.estimate(successes)}", err=as_json)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    console = terminal()
    for table in tables:
        console.print(table)


def _played_before(out: Path | None, info: Mapping[str, Any], questions: str) -> dict[str, Trajectory]:
    """The episodes in the file of an evaluation that was ended, by id; none if there is no such file.

    Raises:
        ConfigError: There is no --out, it has other episodes, or the evaluation asks further questions.
    """
    from toolrl.trajectory import read_trajectories

    if out is None or questions:
        raise ConfigError("--resume goes on with the file of --out, and not with --counterfactuals or --thinking")
    if not out.exists():
        return {}
    found = {trajectory.id: trajectory for trajectory in read_trajectories(out)}
    for trajectory in found.values():
        for name, value in info.items():
            if trajectory.info.get(name) != value:
                raise ConfigError(
                    f"{str(out)!r} has episodes of another evaluation, with {name} {trajectory.info.get(name)!r} and "
                    f"not {value!r}; pass what it was started with, or name another file"
                )
    return found


def _check_questions(policy: str, counterfactual: str, thinking: str) -> None:
    """Reject a policy that is unknown, and questions that it cannot answer.

    Raises:
        ConfigError: One of these.
    """
    if policy not in ("model", "oracle"):
        raise ConfigError(f"--policy must be 'model' or 'oracle', got {policy!r}")
    if (counterfactual or thinking) and policy == "oracle":
        raise ConfigError("--counterfactuals and --thinking need --policy model: an oracle does the same in any case")
    if counterfactual and thinking:
        raise ConfigError("--counterfactuals and --thinking are two questions; ask one at a time")


def _suite_of(environments: list[str]) -> Suite | None:
    """The suite, if a file of one was named in place of environments."""
    files = [name for name in environments if name.endswith((".yaml", ".yml"))]
    if files and len(environments) > 1:
        raise ConfigError(f"a suite is played by itself; {files[0]!r} was named with {len(environments) - 1} others")
    if not files:
        return None
    from toolrl.evaluation.suite import Suite

    return Suite.read(Path(files[0]))


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _plain(measured: Any) -> Any:
    """Reports and the like as JSON values; data frames as lists of rows."""
    if hasattr(measured, "to_json"):
        return json.loads(measured.to_json(orient="records"))
    if dataclasses.is_dataclass(measured):
        return {field.name: _plain(getattr(measured, field.name)) for field in dataclasses.fields(measured)}
    if isinstance(measured, (list, tuple)):
        return [_plain(one) for one in measured]
    return {name: _plain(one) for name, one in measured.items()} if isinstance(measured, Mapping) else measured


def _request_fields(request: str) -> dict[str, Any]:
    """The fields that `--request` adds to each request."""
    from toolrl.support.json_settings import parse_json

    fields = parse_json("--request", request)
    if not isinstance(fields, dict):
        raise ConfigError(f"--request must be a JSON object, got a {type(fields).__name__}")
    return fields
