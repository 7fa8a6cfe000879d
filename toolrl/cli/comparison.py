"""`toolrl report`, `compare`, `arena` and `suite`: how good an agent is, which is better, and which tasks say so."""

from __future__ import annotations

import json
import re
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolrl.cli.common import App, AsJson, EnvSettings, Overwrite, Seed
from toolrl.errors import ConfigError

if TYPE_CHECKING:
    from toolrl.evaluation import Comparison
    from toolrl.rewards import RankingJudge
    from toolrl.view import Trajectories

app = App()

Sides = Annotated[
    list[str],
    typer.Argument(
        metavar="SIDE...",
        help="Folders of runs or files of trajectories, each with an optional query: \"runs/tiny[mode == 'before']\". "
        "Without one, a run stands for its held-out episodes: those after training, if there are any.",
    ),
]


@app.command()
def report(
    side: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A run's folder or a file of trajectories, with an optional query, as SIDE is."
        ),
    ],
    by: Annotated[
        list[str] | None, typer.Option(help="Also report on the tasks of each value of this field or fact.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report to this file, with figures and episodes.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what an agent achieves, what an episode costs and how it ends; and whether it knows what it knows."""
    from toolrl.evaluation import terminal
    from toolrl.view.report import report_on

    run, chosen, episodes = _read_side(side)
    found = report_on(episodes, name=", ".join(filter(None, (run, chosen))), by=tuple(by or ()))
    if html is not None:
        try:
            size = found.write(html)
        except OSError as error:
            raise ConfigError(f"cannot write {str(html)!r}: {error.strerror}") from None
        typer.echo(f"{html}: {size / 1e6:.1f} MB", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(found.report), indent=1))
        return
    console = terminal()
    for table in found.report.tables():
        console.print(table)


@app.command()
def compare(
    sides: Sides,
    value: Annotated[str, typer.Option(help="What is compared: success, or any number, such as reward.")] = "success",
    by: Annotated[
        list[str] | None, typer.Option(help="Also compare the tasks of each value of this field or fact.")
    ] = None,
    changed: Annotated[int, typer.Option(min=0, help="Also show this many tasks, the most different ones.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Compare sides with the first one, task by task: the difference, its interval, and whether it may be chance."""
    from toolrl.evaluation import terminal

    if len(sides) == 1 and not _split(sides[0])[1]:  # a run has two sides, before and after training
        sides = [f"{sides[0]}[mode == '{mode}']" for mode in ("before", "after")]
    names, found = _read_sides(sides)
    first, *others = found
    comparison = first.compare(*others, value=value, by=["env", *(by or [])], names=names)
    if as_json:
        typer.echo(json.dumps([asdict(row) for row in comparison.differences], indent=1))
        return
    console = terminal()
    console.print(comparison.table())
    console.print(
        "shows: the smallest difference that this number of tasks shows in four of five cases; dim: it may be chance",
        style="dim",
    )
    if changed:
        _print_changed(first, comparison, changed)


@app.command()
def arena(
    sides: Sides,
    value: Annotated[str, typer.Option(help="What decides; more is better.")] = "reward",
    judge: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="Decides ties: a model of an OpenAI-compatible server, which compares answers in both orders. "
            "TOOLRL_JUDGE_API_KEY is its key.",
        ),
    ] = "",
    rubric: Annotated[str, typer.Option(help="What makes an answer better, for the judge: a text or a file.")] = "",
    base_url: Annotated[
        str, typer.Option(help="The judge's server, including /v1; default: OPENAI_BASE_URL, else OpenAI's.")
    ] = "",
    judge_cache: Annotated[Path | None, typer.Option(help="A SQLite file in which the judge's verdicts stay.")] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Order sides by who gets the higher reward on the same tasks: ratings, with intervals, and ranks."""
    from rich.table import Table

    from toolrl.evaluation import arena as order, judge_ties, terminal
    from toolrl.view.collection import side_frames

    compared = _ranking_judge(judge, rubric, base_url, judge_cache)
    names, found = _read_sides(sides)
    if compared and value != "reward":
        raise ConfigError(f"a judge decides where rewards tie; it cannot be combined with --value {value}")
    preferences = None
    if compared:
        with closing(compared):
            preferences = judge_ties(dict(zip(names, found, strict=True)), compared)
    result = order(side_frames(found, (value,), names), value=value, preferences=preferences, seed=seed)
    if as_json:
        wins = json.loads(result.wins.to_json(orient="index"))
        judged = {} if preferences is None else {"judge": preferences.summary()}
        typer.echo(
            json.dumps({"standings": [asdict(row) for row in result.standings], "wins": wins, **judged}, indent=1)
        )
        return
    console = terminal()
    console.print(result.table())
    if len(names) > 2:
        table = Table(title="share of common tasks on which the row wins; ties are halves")
        table.add_column("")
        for name in result.wins:
            table.add_column(name, overflow="fold")
        for name, row in result.wins.iterrows():
            table.add_row(str(name), *("-" if share != share else f"{share:.2f}" for share in row))
        console.print(table)


@app.command()
def suite(
    sides: Sides,
    out: Annotated[Path, typer.Option(help="The suite to write, a new .yaml file.")],
    tasks: Annotated[int, typer.Option(min=2, help="Tasks of the suite.")] = 50,
    env: Annotated[str, typer.Option(help="The environment, if the sides played several.")] = "",
    env_settings: EnvSettings = "{}",
    split: Annotated[str, typer.Option(help="The split that was played.")] = "test",
    samples: Annotated[int, typer.Option(min=1, help="Episodes per task, when it is played.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of sampling, when it is played.")] = 1.0,
    max_turn_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of a turn.")] = 512,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Choose a few tasks that measure models as all of them do; `toolrl eval FILE` plays them.

    The sides are models that played all tasks.
    """
    from toolrl.evaluation.suite import choose
    from toolrl.support.json_settings import parse_env_settings
    from toolrl.support.outputs import refuse_existing
    from toolrl.view.collection import side_frames

    refuse_existing(out, overwrite=overwrite)
    names, found = _read_sides(sides)
    chosen = [side.where(f"env == {env!r}") for side in found] if env else found
    frames = side_frames(chosen, ("success", "kind"), names)
    envs = sorted({str(one) for frame in frames.values() for one in frame["env"].unique()})
    if len(envs) != 1:
        raise ConfigError(f"a suite is of one environment; name it with --env: {', '.join(envs) or 'none was played'}")
    made = choose(
        frames, tasks, name=out.stem, seed=seed, split=split, samples=samples, temperature=temperature,
        max_turn_tokens=max_turn_tokens, settings=parse_env_settings(env_settings).get(envs[0], {}),
    ).with_prompts()  # fmt: skip
    made.write(out)
    typer.echo(f"{out}: {len(made.tasks):,} of {made.of:,} tasks, in {len(made.strata)} strata")
    for name, frame in frames.items():
        by_task = {str(task): list(group.astype(float)) for task, group in frame.groupby("task")["success"]}
        whole = sum(sum(one) / len(one) for one in by_task.values()) / len(by_task)
        typer.echo(f"{name}: {whole:.3f} on all tasks; the suite would say {made.estimate(by_task)}")


def _ranking_judge(model: str, rubric: str, base_url: str, cache: Path | None) -> RankingJudge | None:
    """The judge of an arena, if there is one."""
    from toolrl.policy.completions import default_base_url
    from toolrl.rewards import JudgeSettings, RankingJudge

    if not model:
        if rubric or base_url or cache is not None:
            raise ConfigError("--rubric, --base_url and --judge_cache are for a judge; name its model with --judge")
        return None
    if not rubric.strip():
        raise ConfigError("a judge needs --rubric: what makes an answer better, as a text or a file")
    try:
        text = Path(rubric).read_text(encoding="utf-8") if Path(rubric).is_file() else rubric
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the rubric {rubric!r}: {error}") from None
    return RankingJudge(JudgeSettings(base_url or default_base_url(), model, cache=cache), text)


def _read_sides(texts: list[str]) -> tuple[list[str], list[Trajectories]]:
    """The names and the episodes of sides."""
    sides = [_read_side(text) for text in texts]
    is_one_run = len({run for run, _, _ in sides}) == 1
    names = [chosen if is_one_run and chosen else ", ".join(filter(None, (run, chosen))) for run, chosen, _ in sides]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ConfigError(f"two sides are {repeated[0]!r}; name another run or another query")
    return names, [episodes for _, _, episodes in sides]


def _read_side(text: str) -> tuple[str, str, Trajectories]:
    """The run's name, that of the choice of episodes, and the episodes."""
    from toolrl.view import load

    path, query = _split(text)
    episodes = load(path)
    name = path.stem if path.is_file() and path.stem != "trajectories" else path.resolve().name
    if not query:
        modes = set(episodes.table["mode"].to_pylist())
        mode = next((mode for mode in ("after", "eval") if mode in modes), "")
        return name, "", episodes.where(f"mode == {mode!r}") if mode else episodes
    chosen = episodes.where(query)
    if not len(chosen):
        raise ConfigError(f"no episode of {str(path)!r} matches {query!r}")
    short = re.fullmatch(r"mode *== *['\"](\w+)['\"]", query)
    return name, short[1] if short else query, chosen


def _split(text: str) -> tuple[Path, str]:
    """A path and its query."""
    match = None if Path(text).exists() else re.fullmatch(r"(.+?)\[(.*)\]", text, re.DOTALL)
    return (Path(match[1]), match[2].strip()) if match else (Path(text), "")


def _print_changed(first: Trajectories, comparison: Comparison, count: int) -> None:
    from rich.table import Table

    from toolrl.evaluation import short_name, terminal

    table = Table(title=f"the tasks that differ most in {comparison.value}, of {len(comparison.tasks):,}")
    names = [comparison.differences[0].a, *dict.fromkeys(row.b for row in comparison.differences)]
    for column in ("environment", "task", *names):
        table.add_column(column, overflow="fold")
    facts = first.table.select(["env", "task", "prompt"]).to_pylist()
    questions = {(row["env"], row["task"]): row["prompt"] for row in facts}
    for row in comparison.tasks.head(count).to_dict("records"):
        question = " ".join(questions[row["env"], row["task"]].split())[:100]
        table.add_row(short_name(row["env"]), question or row["task"], *(f"{row[name]:.2f}" for name in names))
    terminal().print(table)
