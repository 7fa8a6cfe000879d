"""Promises of the query language: what it finds, what it refuses, and that nothing is ever small."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from toolrl import load
from toolrl.errors import QueryError
from toolrl.view import FIELDS, Query, Trajectories


@pytest.fixture
def episodes(small: Path) -> Trajectories:
    return load(small)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("success == 0 and calls('python') > 2 and stop == 'limit'", "b"),
        ("success", "ad"),
        ("not success", "be"),
        ("success == True", "ad"),
        ("reward is None", "c"),
        ("reward == None", "c"),
        ("reward is not None", "abde"),
        ("reward < 1", "bde"),
        ("not (reward < 1)", "a"),  # c has no reward: neither less nor not less
        ("0.2 < pass_rate < 0.8", "ab"),
        ("2 > calls > 0", "ad"),
        ("1 <= calls", "abd"),
        ("error == 'timeout'", "b"),
        ("error != 'timeout'", "acde"),
        ("error == 'SandboxFault'", "c"),
        ("'timeout' in error", "b"),
        ("error is None", "ade"),
        ("'gone' in fault", "c"),
        ("stop in ['turns', 'fault']", "bc"),
        ("stop in ('limit', 'fault')", "bc"),
        ("stop not in ['answer']", "bc"),
        ("stop != 'limit'", "acde"),
        ("task == 't1' or mode == 'eval'", "abe"),
        ("failures('timeout') == 3", "b"),
        ("failures('nothing') == 0", "abcde"),
        ("calls('python') + calls('search') * 2 == 2", "d"),
        ("tokens / turns > 3", "b"),
        ("-step <= -2", "d"),
        ("part('correct') == 1", "ad"),
        ("usage('cache_hits') == 2", "abd"),
        ("info('model') == 'big'", "d"),
        ("info('step') == 2", "d"),
        ("info('nobody') == 'x' or info('nobody') > 1", ""),
        ("info('nobody') is None", "abcde"),
        ("step in [2, 7]", "d"),
        ("needs_tool and calls == 0", "c"),
        ("group is None", "e"),
        ("'What is t2' in prompt", "cd"),
        ("advantage > 0", "a"),
        ("True", "abcde"),
        ("id == \"a\" or False", "a"),
    ],
)  # fmt: skip
def test_what_a_query_finds(episodes: Trajectories, query: str, ids: str) -> None:
    assert "".join(episodes.where(query).table["id"].to_pylist()) == ids


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("rewrd > 0", "there is no field 'rewrd'; did you mean reward"),
        ("reward >", "cannot read the query"),
        ("", "cannot read the query"),
        ("reward > 'x'", "cannot be compared: number and text"),
        ("stop > 'limit'", "only == and != make sense"),
        ("calls", "is no condition"),
        ("stop", "is no condition"),
        ("reward + task > 1", "'task' is no number"),
        ("part('nothing') > 0", "no episode has part"),
        ("part(correct) > 0", "a function takes one name in quotes"),
        ("part('a', 'b') > 0", "a function takes one name in quotes"),
        ("len(task) > 0", "there is no function 'len'"),
        ("part == 1", "is a function"),
        ("1 in task", "a text may be in a field"),
        ("task in ['t1', 2]", "cannot be compared"),
        ("reward < None", "None is neither more nor less"),
        ("1 == 1", "compare with a field"),
        ("task is 't1'", "`is` asks whether a field is None"),
        ("reward ** 2 > 1", "Pow cannot stand in a query"),
        ("[task for task in 'x']", "cannot stand in a query"),
        ("task.upper() == 'T1'", "there is no function 'task.upper'"),
        ("(lambda: 1)() == 1", "there is no function"),
        ("task[0] == 't'", "cannot stand in a query"),
        ("f'{task}' == 't'", "cannot stand in a query"),
        ("__import__('os').system('true') == 0", "there is no function"),
        ("(x := 1) == 1", "cannot stand in a query"),
        ("task == b'x'", "neither a number nor a text"),
        ("reward > 1 or " * 400 + "reward > 1", "characters"),
        ("(" * 300 + "reward" + ")" * 300 + " > 1", "cannot read the query"),
        ("a" + "\0", "cannot read the query"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_one_clear_error(episodes: Trajectories, query: str, message: str) -> None:
    with pytest.raises(QueryError) as error:
        episodes.where(query)
    assert message in str(error.value)


@given(st.text(max_size=60))
def test_any_text_is_a_query_or_a_query_error(text: str) -> None:
    with contextlib.suppress(QueryError):
        Query(text)


def test_every_field_is_a_column_and_can_be_asked_for(episodes: Trajectories) -> None:
    assert set(FIELDS) <= set(episodes.table.column_names)
    for field in FIELDS:
        found = len(episodes.where(f"{field} is None")) + len(episodes.where(f"{field} is not None"))
        assert found == len(episodes)


def test_a_run_without_episodes_answers_every_query(tmp_path: Path) -> None:
    (tmp_path / "trajectories.jsonl").touch()
    empty = load(tmp_path)
    assert len(empty.where("part('x') > 1 and calls('y') == 0 and 0.2 < pass_rate and error == 'timeout'")) == 0


ATOMS = [
    *FIELDS, "calls('python')", "part('correct')", "part('x')", "info('model')", "info('step')", "0", "-1", "1.5",
    "1e400", "2**70", "9223372036854775808", "True", "None", "'a'", "'limit'", "'\\ud800'", "[]", "[1]", "['a']",
    "[None]", "[1, 'a']", "[True]", "{1}", "[[1]]", "b'x'", "1j", "...", "calls", "calls(1)",
]  # fmt: skip
OPERATORS = ["==", "!=", "<", ">=", "in", "not in", "is", "is not", "and", "or", "+", "-", "*", "/", "%"]
expressions = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: (
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda parts: f"({parts[0]}) {parts[1]} ({parts[2]})")
        | inner.map(lambda part: f"not ({part})")
        | inner.map(lambda part: f"-({part})")
        | st.tuples(inner, inner).map(lambda parts: f"[{parts[0]}, {parts[1]}]")
    ),
    max_leaves=4,
)


@settings(max_examples=1000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(expressions)
def test_any_expression_is_answered_or_a_query_error(episodes: Trajectories, query: str) -> None:
    for some in (episodes, episodes[:0], episodes.where("reward is None")):
        with contextlib.suppress(QueryError):
            assert 0 <= len(some.where(query)) <= len(some)
