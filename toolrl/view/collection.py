"""`toolrl.load(run)`: the trajectories of one or several runs, to filter, group, compare and open."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import msgspec
import numpy
import pyarrow
import pyarrow.compute as pc

from toolrl.errors import ConfigError, QueryError
from toolrl.trajectory import CallRow, Trajectory, Turn, TurnRow
from toolrl.view.columns import FIELDS, LOOKED_UP
from toolrl.view.index import TrajectoryIndex
from toolrl.view.query import Query, read_column

if TYPE_CHECKING:
    import pandas

    from toolrl.evaluation import Comparison
    from toolrl.view.html import TrajectoryDisplay
    from toolrl.view.plots import Plots

# TRL's GRPO adds it to a group's standard deviation before dividing.
_EPSILON = 1e-4
_NAME_COLUMNS = 50
_ABOUT = ["id", "run", "env", "task"]


def load(*runs: str | Path, keep_index: bool = True) -> Trajectories:
    """Open the trajectories of runs.

    Args:
        runs: Folders of runs, or files of trajectories.
        keep_index: Whether to store the index of a file next to it.

    Raises:
        TaskError: There are no trajectories, or they were written by a version that cannot be read.
    """
    if not runs:
        raise ConfigError("load() needs a run's folder or a file of trajectories")
    indexes = [TrajectoryIndex(run, keep=keep_index) for run in runs]
    return Trajectories.of(indexes)


def run_names(paths: Sequence[Path]) -> list[str]:
    """Short, distinct names of runs: the folder's name, preceded by as much of its path as needed."""
    shown = [path.parent if path.stem == "trajectories" else path.with_suffix("") for path in map(Path.resolve, paths)]
    for length in range(1, max(len(path.parts) for path in shown) + 1):
        names = ["/".join(path.parts[-length:]) for path in shown]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


class Trajectories(Sequence[Trajectory]):
    """Trajectories of one or several runs. Their facts are columns in memory; a trajectory is read when it is opened.

    Attributes:
        table: An Arrow table, one row per trajectory, with the fields of a query (`toolrl.view.FIELDS`).
    """

    def __init__(self, table: pyarrow.Table, indexes: Sequence[TrajectoryIndex]):
        """Wrap a table whose columns `_index` and `_row` locate each trajectory; use `load`."""
        self.table = table
        self._indexes = list(indexes)

    @classmethod
    def of(cls, indexes: Sequence[TrajectoryIndex], names: Sequence[str] = ()) -> Trajectories:
        """All trajectories of some indexes; `names` are the runs' names, by default those of their folders."""
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

    # ---- a sequence

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Trajectory]:
        return (self._read(row) for row in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Trajectory: ...
    @overload
    def __getitem__(self, index: slice) -> Trajectories: ...
    def __getitem__(self, index: int | slice) -> Trajectory | Trajectories:
        """A trajectory, or a slice of them."""
        if isinstance(index, slice):
            return self.take(numpy.arange(len(self))[index])
        return self._read(range(len(self))[index])

    def get(self, id: str) -> Trajectory:
        """A trajectory by its id.

        Raises:
            KeyError: No trajectory has this id.
        """
        return self._read(self._row_of(id))

    def _row_of(self, id: str) -> int:
        row: int = pc.index(self.table["id"], id).as_py()
        if row < 0:
            raise KeyError(f"no trajectory has the id {id!r}")
        return row

    def _read(self, row: int) -> Trajectory:
        return self._indexes[self.table["_index"][row].as_py()].read(self.table["_row"][row].as_py())

    def take(self, rows: Any) -> Trajectories:
        """The trajectories at some rows (N,), in that order."""
        return Trajectories(self.table.take(pyarrow.array(rows)), self._indexes)

    # ---- subsets

    def where(self, query: str) -> Trajectories:
        """The trajectories that match a query; see `toolrl.view.query`.

        Raises:
            QueryError: The query cannot be understood.
        """
        return Trajectories(self.table.filter(Query(query).mask(self.table)), self._indexes)

    def masked(self, mask: Any) -> Trajectories:
        """The trajectories at which a column of booleans (N,) is true."""
        return Trajectories(self.table.filter(mask), self._indexes)

    def sort(self, by: str, *, descending: bool = False) -> Trajectories:
        """The trajectories ordered by a field; those without a value come last.

        Raises:
            QueryError: There is no such field, or it has no order.
        """
        if by not in FIELDS or by == "error":
            raise QueryError(
                f"cannot sort by {by!r}; there are {', '.join(field for field in FIELDS if field != 'error')}"
            )
        order = "descending" if descending else "ascending"
        with warnings.catch_warnings():  # nulls come last by default; the spelling of that option changed
            warnings.simplefilter("ignore", FutureWarning)
            return self.take(pc.sort_indices(self.table, sort_keys=[(by, order)]))

    def sample(self, n: int, seed: int = 0) -> Trajectories:
        """At most `n` trajectories, drawn at random, in their order."""
        return self.take(sorted(random.Random(seed).sample(range(len(self)), min(n, len(self)))))

    # ---- tables

    def to_pandas(self) -> pandas.DataFrame:
        """One row per episode, with all fields; counts by name have columns such as `calls:python`.

        Only the 50 names that occur in most episodes get a column.
        """
        import pandas

        table = self.table.drop_columns(["_index", "_row", "offset", "length"])
        for function, name in LOOKED_UP.items():
            if pyarrow.types.is_map(table[name].type):
                column = table[name].combine_chunks()
                table = table.drop_columns([name])
                for key in _most_frequent(column.keys):
                    table = table.append_column(f"{function}:{key}", pc.map_lookup(column, key, "last"))
        return table.to_pandas(types_mapper=pandas.ArrowDtype)

    def turns(self) -> pandas.DataFrame:
        """One row per turn: the episode, the turn's number, the fields of its row, and the mean logprob."""
        rows = []
        for number, turn, about in self._turns():
            sampled = sum(turn.sample.mask)
            fields = msgspec.structs.asdict(TurnRow.of(turn))
            del fields["tool_calls"]
            mean = sum(turn.sample.logprobs) / sampled if sampled else None
            more = {"calls": len(turn.calls), "sampled_tokens": sampled, "mean_logprob": mean}
            rows.append({**about, "turn": number, **fields, **more})
        return _frame(rows, [*_ABOUT, "turn"])

    def calls(self) -> pandas.DataFrame:
        """One row per tool call: the episode, the turn, and the fields of the call's row."""
        rows = []
        for number, turn, about in self._turns():
            for call, result in turn.calls:
                fields = msgspec.structs.asdict(CallRow.of(call, result))
                del fields["id"]  # the column is the episode's id
                tool = fields.pop("name") or "(malformed)"
                rows.append({**about, "turn": number, "tool": tool, **fields})
        return _frame(rows, [*_ABOUT, "turn", "tool"])

    def groups(self) -> pandas.DataFrame:
        """One row per task, run and mode: episodes, pass rate, mean reward, whether all rewards are equal."""
        frame = self.to_pandas()
        by = frame.groupby(["run", "mode", "env", "task"], dropna=False, sort=False)
        return by.agg(
            episodes=("id", "size"),
            pass_rate=("success", "mean"),
            reward=("reward", "mean"),
            no_variance=("reward", lambda rewards: rewards.nunique() <= 1),
        ).reset_index()

    def column(self, text: str) -> pyarrow.ChunkedArray:
        """The values (N,) of a field, of any recorded fact, or of an expression such as `part('format')`.

        Raises:
            QueryError: There is no such field or fact, or the expression cannot be understood.
        """
        return read_column(self.table, text)

    def compare(
        self, *others: Trajectories, value: str = "success", by: Sequence[str] = ("env",), names: Sequence[str] = ()
    ) -> Comparison:
        """Compare other trajectories with these, on the tasks that both played; see `toolrl.evaluation.compare`.

        Args:
            others: The other sides.
            value: What is compared: a field, a fact or an expression that is a number, by default success.
            by: Fields, facts or expressions whose values are compared by themselves too.
            names: Of all sides; by default the runs', or numbers where these are the same.

        Raises:
            ConfigError: No task was played in both.
            QueryError: `value` or `by` cannot be understood.
        """
        from toolrl.evaluation import compare

        return compare(side_frames((self, *others), (value, *by), names), value=value, by=by)

    @cached_property
    def plot(self) -> Plots:
        """Figures of these trajectories; see `toolrl.view.plots`."""
        from toolrl.view.plots import Plots

        return Plots(self)

    @property
    def files(self) -> dict[str, Path]:
        """The file of each run, by the run's name."""
        pairs = self.table.select(["run", "_index"]).group_by(["run", "_index"]).aggregate([]).to_pylist()
        return {pair["run"]: self._indexes[pair["_index"]].path for pair in pairs}

    def show(self, which: int | str = 0) -> TrajectoryDisplay:
        """A trajectory for a notebook, by index or id, with its advantage and the texts of its tokens.

        Raises:
            IndexError: The index is out of range.
            KeyError: No trajectory has this id.
        """
        from toolrl.view.html import TrajectoryDisplay

        row = self._row_of(which) if isinstance(which, str) else range(len(self))[which]
        run, advantage = self.table["run"][row].as_py(), self.table["advantage"][row].as_py()
        return TrajectoryDisplay(self[row], advantage, self.files[run])

    def _repr_html_(self) -> str:
        """A table for a notebook; its rows open."""
        from toolrl.view.html import table_html

        return table_html(self)

    def _turns(self) -> Iterator[tuple[int, Turn, dict[str, Any]]]:
        """Each turn, its number from 1, and the facts about its trajectory."""
        for about, trajectory in zip(self.table.select(_ABOUT).to_pylist(), self, strict=True):
            for number, turn in enumerate(trajectory.turns, 1):
                yield number, turn, about

    def __repr__(self) -> str:
        runs = pc.unique(self.table["run"]).to_pylist()
        success = pc.mean(pc.cast(self.table["success"], pyarrow.float64())).as_py()
        unscored = self.table["reward"].null_count
        found = f"{len(self):,} episodes of {', '.join(runs[:3])}{' ...' if len(runs) > 3 else ''}"
        return f"<Trajectories: {found}; success {'-' if success is None else f'{success:.2f}'}, {unscored:,} unscored>"


def side_frames(
    sides: Sequence[Trajectories], columns: Sequence[str], names: Sequence[str] = ()
) -> dict[str, pandas.DataFrame]:
    """The scored episodes of some sides, for `toolrl.evaluation.compare` and `arena`: their columns, by name.

    Args:
        sides: The sides.
        columns: Fields, facts or expressions, besides `env` and `task`; the first one is the value, a number.
        names: Of the sides; by default the runs', or with numbers where these are the same.

    Raises:
        QueryError: A column cannot be understood, or the value is not a number.
    """
    if not names:
        names = ["+".join(pc.unique(side.table["run"]).to_pylist()) for side in sides]
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names, 1)]
    frames = {}
    for name, side in zip(names, sides, strict=True):
        scored = side.masked(pc.is_valid(side.table["reward"]))
        values = {column: scored.column(column) for column in dict.fromkeys(("env", "task", *columns))}
        kind = values[columns[0]].type
        if not any(
            test(kind) for test in (pyarrow.types.is_boolean, pyarrow.types.is_integer, pyarrow.types.is_floating)
        ):
            raise QueryError(f"{columns[0]!r} is not a number, so it cannot be compared")
        frames[name] = pyarrow.table(values).to_pandas()
    return frames


def _most_frequent(names: pyarrow.Array) -> list[str]:
    counts = sorted(pc.value_counts(names).to_pylist(), key=lambda count: (-count["counts"], count["values"]))
    return sorted(count["values"] for count in counts[:_NAME_COLUMNS])


def _pass_rates(table: pyarrow.Table) -> pyarrow.Array:
    """The pass rate of each row's task in its run and mode (N,); null where nothing was scored."""
    keys = _codes(table, "run", "mode", "env", "task")
    return pyarrow.array(_mean_by(keys, _floats(table["success"])), from_pandas=True)


def _advantages(table: pyarrow.Table) -> pyarrow.Array:
    """(reward - mean) / (standard deviation + 1e-4) within each group (N,); 0 for unscored episodes, as in TRL.

    A group was trained on together; in an evaluation, it is all episodes of a task.
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
    """A code for each combination of values (N,)."""
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


def _frame(rows: list[dict[str, Any]], columns: list[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows, columns=None if rows else columns)
