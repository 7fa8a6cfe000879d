"""`toolrl.load(run)`: the episodes of one or several runs, to filter, group, compare and open."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy
import pyarrow
import pyarrow.compute as pc

from toolrl.errors import ConfigError, MissingExtra, QueryError
from toolrl.trajectory import Trajectory
from toolrl.view.index import TrajectoryIndex
from toolrl.view.query import FIELDS, FUNCTIONS, Query

if TYPE_CHECKING:
    import pandas

    from toolrl.view.html import EpisodeDisplay
    from toolrl.view.plots import Plots

# What TRL's GRPO adds to a group's standard deviation before it divides by it.
_EPSILON = 1e-4
_NAMES = 50


def load(*runs: str | Path, keep_index: bool = True) -> Trajectories:
    """Open the trajectories of runs.

    Args:
        runs: Folders of runs, or files of trajectories.
        keep_index: Whether the index of a file is kept beside it.

    Raises:
        TaskError: There are no trajectories, or they were written by a version that cannot be read.
        MissingExtra: The extra `view` is not installed.
    """
    if not runs:
        raise ConfigError("load() needs a run's folder or a file of trajectories")
    indexes = [TrajectoryIndex(run, keep=keep_index) for run in runs]
    return Trajectories.of(indexes)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Short, distinct names of runs: of their folders, or with as much of the path before them as it takes."""
    shown = [path.parent if path.stem == "trajectories" else path.with_suffix("") for path in map(Path.resolve, paths)]
    for length in range(1, max(len(path.parts) for path in shown) + 1):
        names = ["/".join(path.parts[-length:]) for path in shown]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


@dataclass(frozen=True, slots=True)
class Paired:
    """Two runs on the same tasks.

    Attributes:
        frame: One row a task that both have played: `env`, `task`, `success_a`, `success_b`, `reward_a`, `reward_b`,
            means over its episodes, and `difference` (b - a) of success.
        wins: Tasks on which b succeeds more often.
        losses: Tasks on which a does.
        difference: Mean difference of success, b - a.
        interval: Its 95 % bootstrap interval over tasks.
    """

    frame: pandas.DataFrame
    wins: int
    losses: int
    difference: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{len(self.frame)} tasks in both: success {self.difference:+.3f} [{low:+.3f}, {high:+.3f}], "
            f"better on {self.wins}, worse on {self.losses}"
        )


class Trajectories(Sequence[Trajectory]):
    """Episodes of one or several runs: their facts are columns in memory, they themselves are read when asked for.

    Attributes:
        table: An Arrow table, one row an episode, with the fields of a query (`toolrl.view.FIELDS`).
    """

    def __init__(self, table: pyarrow.Table, indexes: Sequence[TrajectoryIndex]):
        """Wrap a table whose columns `_index` and `_row` say where each episode is; see `load`."""
        self.table = table
        self._indexes = list(indexes)

    @classmethod
    def of(cls, indexes: Sequence[TrajectoryIndex], names: Sequence[str] = ()) -> Trajectories:
        """All episodes of some indexes; their runs are named after their folders, or as told."""
        tables = []
        names = names or run_names([index.path for index in indexes])
        for number, (index, name) in enumerate(zip(indexes, names, strict=True)):
            rows = index.table.num_rows
            table = index.table.append_column("run", pyarrow.array([name] * rows, pyarrow.string()))
            table = table.append_column("_index", pyarrow.array(numpy.full(rows, number, numpy.int32)))
            tables.append(table.append_column("_row", pyarrow.array(numpy.arange(rows))))
        table = pyarrow.concat_tables(tables).combine_chunks()
        table = table.append_column("pass_rate", _pass_rates(table))
        return cls(table.append_column("advantage", _advantages(table)), indexes)

    # ---- one after the other

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Trajectory]:
        return (self._read(row) for row in range(len(self)))

    @overload
    def __getitem__(self, place: int) -> Trajectory: ...
    @overload
    def __getitem__(self, place: slice) -> Trajectories: ...
    def __getitem__(self, place: int | slice) -> Trajectory | Trajectories:
        """An episode by its place, or some of them."""
        if isinstance(place, slice):
            return self.take(numpy.arange(len(self))[place])
        if not -len(self) <= place < len(self):
            raise IndexError(f"there are {len(self)} episodes, got place {place}")
        return self._read(place % len(self))

    def get(self, id: str) -> Trajectory:
        """An episode by its id.

        Raises:
            KeyError: There is none.
        """
        return self._read(self._row_of(id))

    def _row_of(self, id: str) -> int:
        row: int = pc.index(self.table["id"], id).as_py()
        if row < 0:
            raise KeyError(f"no episode has the id {id!r}")
        return row

    def _read(self, row: int) -> Trajectory:
        return self._indexes[self.table["_index"][row].as_py()].read(self.table["_row"][row].as_py())

    def take(self, rows: Any) -> Trajectories:
        """Those at some places (N,), in that order."""
        return Trajectories(self.table.take(pyarrow.array(rows)), self._indexes)

    # ---- some of them

    def where(self, query: str) -> Trajectories:
        """Those that fit a query; see `toolrl.view.query`.

        Raises:
            QueryError: It cannot be understood.
        """
        return Trajectories(self.table.filter(Query(query).mask(self.table)), self._indexes)

    def masked(self, mask: Any) -> Trajectories:
        """Those for which a column of booleans (N,) says so."""
        return Trajectories(self.table.filter(mask), self._indexes)

    def sort(self, by: str, *, descending: bool = False) -> Trajectories:
        """In the order of a field; episodes that lack it come last.

        Raises:
            QueryError: There is no such field.
        """
        if by not in FIELDS or by == "error":
            raise QueryError(
                f"cannot sort by {by!r}; there are {', '.join(field for field in FIELDS if field != 'error')}"
            )
        order = "descending" if descending else "ascending"
        with warnings.catch_warnings():  # nulls come last by default; how to say so changes from version to version
            warnings.simplefilter("ignore", FutureWarning)
            return self.take(pc.sort_indices(self.table, sort_keys=[(by, order)]))

    def sample(self, n: int, seed: int = 0) -> Trajectories:
        """At most n of them, drawn at random, in their order."""
        return self.take(sorted(random.Random(seed).sample(range(len(self)), min(n, len(self)))))

    # ---- tables

    def episodes(self) -> pandas.DataFrame:
        """One row an episode, with all fields and, under names such as `calls:python`, what is counted by name.

        The 50 names that occur in most episodes have a column of their own.
        """
        table = self.table.drop_columns(["_index", "_row", "offset", "length"])
        for name in FUNCTIONS:
            if (counts := f"{name}_by_name") in table.column_names:
                column = table[counts].combine_chunks()
                table = table.drop_columns([counts])
                for key in _most_frequent(column.keys):
                    table = table.append_column(f"{name}:{key}", pc.map_lookup(column, key, "last"))
        return table.to_pandas(types_mapper=_pandas_type())

    def turns(self) -> pandas.DataFrame:
        """One row a turn: of which episode, its place, text, tokens, seconds, policy version and mean logprob."""
        rows = [
            {
                **about,
                "turn": number,
                "content": turn.message.content,
                "thinking": turn.message.thinking,
                "calls": len(turn.message.tool_calls),
                "finish": turn.sample.finish,
                "sampled_tokens": (sampled := sum(turn.sample.mask)),
                "observed_tokens": len(turn.observation_ids),
                "mean_logprob": sum(turn.sample.logprobs) / sampled if sampled else None,
                "policy_version": turn.sample.policy_version,
                "generation_seconds": turn.generation_seconds,
                "tool_seconds": turn.tool_seconds,
            }
            for about, trajectory in self._with_facts()
            for number, turn in enumerate(trajectory.turns, 1)
        ]
        return _frame(rows, ["id", "run", "env", "task", "turn"])

    def calls(self) -> pandas.DataFrame:
        """One row a tool call: its episode and turn, tool, arguments, output, failure, seconds."""
        rows = []
        for about, trajectory in self._with_facts():
            for number, turn in enumerate(trajectory.turns, 1):
                results = {result.call.id: result for result in turn.results}
                for call in turn.message.tool_calls:
                    result = results.get(call.id)
                    rows.append(
                        {
                            **about,
                            "turn": number,
                            "tool": call.name or "(malformed)",
                            "arguments": dict(call.arguments),
                            "output": result.content if result else None,
                            "failure": str(result.failure) if result and result.failure else "",
                            "seconds": result.seconds if result else 0.0,
                        }
                    )
        return _frame(rows, ["id", "run", "env", "task", "turn", "tool"])

    def groups(self) -> pandas.DataFrame:
        """One row a task, by run and mode: episodes, pass rate, mean reward, whether all rewards were alike."""
        frame = self.episodes()
        by = frame.groupby(["run", "mode", "env", "task"], dropna=False, sort=False)
        return by.agg(
            episodes=("id", "size"),
            pass_rate=("success", "mean"),
            reward=("reward", "mean"),
            no_variance=("reward", lambda rewards: rewards.nunique() <= 1),
        ).reset_index()

    def pair(self, other: Trajectories) -> Paired:
        """Compare with another run on the tasks that both have played.

        Raises:
            ConfigError: There is no such task.
        """
        from toolrl.evaluation import bootstrap_interval

        _pandas_type()
        a, b = _means_by_task(self.table).to_pandas(), _means_by_task(other.table).to_pandas()
        frame = a.merge(b, on=["env", "task"], suffixes=("_a", "_b"))
        if frame.empty:
            raise ConfigError(f"no task was played in both: {len(a)} tasks on one side, {len(b)} on the other")
        frame["difference"] = frame["success_b"] - frame["success_a"]
        differences = frame["difference"].tolist()
        return Paired(
            frame,
            int((frame["difference"] > 0).sum()),
            int((frame["difference"] < 0).sum()),
            float(frame["difference"].mean()),
            bootstrap_interval([[value] for value in differences], bounds=(-1.0, 1.0)),
        )

    @cached_property
    def plot(self) -> Plots:
        """Figures of these episodes; see `toolrl.view.plots`."""
        from toolrl.view.plots import Plots

        return Plots(self)

    @property
    def files(self) -> dict[str, Path]:
        """The file of each run that is in it, by the run's name."""
        pairs = self.table.select(["run", "_index"]).group_by(["run", "_index"]).aggregate([]).to_pylist()
        return {pair["run"]: self._indexes[pair["_index"]].path for pair in pairs}

    def show(self, place: int | str = 0) -> EpisodeDisplay:
        """An episode for a notebook, by its place or its id: with its advantage, and the texts of its tokens.

        Raises:
            IndexError, KeyError: There is none.
        """
        from toolrl.view.html import EpisodeDisplay

        row = self._row_of(place) if isinstance(place, str) else range(len(self))[place]
        run, advantage = self.table["run"][row].as_py(), self.table["advantage"][row].as_py()
        return EpisodeDisplay(self[row], advantage, self.files[run])

    def _repr_html_(self) -> str:
        """A table whose rows open, for a notebook."""
        from toolrl.view.html import table_html

        return table_html(self)

    def _with_facts(self) -> Iterator[tuple[dict[str, Any], Trajectory]]:
        for row, trajectory in enumerate(self):
            run = self.table["run"][row].as_py()
            yield {"id": trajectory.id, "run": run, "env": trajectory.env_id, "task": trajectory.task_id}, trajectory

    def __repr__(self) -> str:
        runs = pc.unique(self.table["run"]).to_pylist()
        success = pc.mean(pc.cast(self.table["success"], pyarrow.float64())).as_py()
        unscored = self.table["reward"].null_count
        found = f"{len(self):,} episodes of {', '.join(runs[:3])}{' ...' if len(runs) > 3 else ''}"
        return f"<Trajectories: {found}; success {'-' if success is None else f'{success:.2f}'}, {unscored:,} unscored>"


def _most_frequent(names: pyarrow.Array) -> list[str]:
    counts = sorted(pc.value_counts(names).to_pylist(), key=lambda count: (-count["counts"], count["values"]))
    return sorted(count["values"] for count in counts[:_NAMES])


def _means_by_task(table: pyarrow.Table) -> pyarrow.Table:
    """Success and reward of each task, over its scored episodes."""
    table = table.filter(pc.is_valid(table["reward"])).select(["env", "task", "success", "reward"])
    table = table.set_column(2, "success", pc.cast(table["success"], pyarrow.float64()))
    found = table.group_by(["env", "task"], use_threads=False).aggregate([("success", "mean"), ("reward", "mean")])
    return found.rename_columns({"success_mean": "success", "reward_mean": "reward"})


def _pass_rates(table: pyarrow.Table) -> pyarrow.Array:
    """Of each episode's task in its run and mode (N,); null where nothing was scored."""
    keys = _codes(table, "run", "mode", "env", "task")
    return pyarrow.array(_mean_by(keys, _floats(table["success"])), from_pandas=True)


def _advantages(table: pyarrow.Table) -> pyarrow.Array:
    """(reward - mean) / (standard deviation + 1e-4) within each group (N,): 0 for what is unscored, as TRL has it.

    A group is what was trained on together; in an evaluation, all episodes of a task.
    """
    tasks = _codes(table, "run", "mode", "env", "task")
    groups = _codes(table, "run", "session", "mode", "group")
    keys = numpy.where(pc.is_valid(table["group"]).to_numpy(), groups + len(tasks), tasks)
    keys = numpy.unique(keys, return_inverse=True)[1]
    rewards = _floats(table["reward"])
    centred = rewards - _mean_by(keys, rewards)
    scored = ~numpy.isnan(rewards)
    counts = numpy.bincount(keys, weights=scored)[keys] if len(keys) else rewards
    squares = numpy.bincount(keys, weights=numpy.where(scored, centred**2, 0.0))[keys] if len(keys) else rewards
    deviation = numpy.sqrt(squares / numpy.maximum(counts - 1, 1))
    return pyarrow.array(numpy.where(scored, centred / (deviation + _EPSILON), 0.0))


def _codes(table: pyarrow.Table, *columns: str) -> Any:
    """A number for each combination of values (N,)."""
    codes = numpy.zeros(table.num_rows, numpy.int64)
    for name in columns:
        encoded = pc.dictionary_encode(table[name].combine_chunks(), null_encoding="encode")
        codes = codes * (len(encoded.dictionary) + 1) + encoded.indices.to_numpy()
    return numpy.unique(codes, return_inverse=True)[1]


def _mean_by(keys: Any, values: Any) -> Any:
    if not len(keys):
        return values
    valid = ~numpy.isnan(values)
    sums = numpy.bincount(keys, weights=numpy.where(valid, values, 0.0))
    counts = numpy.bincount(keys, weights=valid)
    with numpy.errstate(invalid="ignore"):
        return (sums / counts)[keys]


def _floats(column: pyarrow.ChunkedArray) -> Any:
    return pc.cast(column, pyarrow.float64()).to_numpy(zero_copy_only=False) if len(column) else numpy.zeros(0)


def _pandas_type() -> Any:
    try:
        import pandas
    except ImportError:
        raise MissingExtra("pandas", "view") from None
    return pandas.ArrowDtype


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pandas.DataFrame:
    _pandas_type()
    import pandas

    return pandas.DataFrame(rows, columns=None if rows else columns)
