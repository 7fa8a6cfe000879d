"""Promises about tests as data: plain values keep their types, assertions become calls, suites are written and read."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.rewards.test_code import CALLS, SQUARES, TOTALS, score
from toolrl import TaskError
from toolrl.rewards import AssertTest, CallTest, CodeSuite, Comparison, read_asserts, same_output, same_value
from toolrl.rewards.code_runner import decode, encode

plain: Callable[[], st.SearchStrategy[Any]] = lambda: st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.sets(st.integers() | st.text(), max_size=3)
        | st.frozensets(st.integers(), max_size=3)
    ),
    max_leaves=12,
)


@given(plain())
def test_plain_values_survive_the_way_and_equal_themselves_only(value: Any) -> None:
    there = decode(encode(value))
    assert same_value(there, value)
    assert type(there) is type(value)
    assert not same_value([there], value)
    assert not same_value(str(there) + "?", value)


@pytest.mark.parametrize(
    ("given_value", "expected", "tolerance", "same"),
    [
        (1, True, 0.0, False),
        (True, 1, 0.1, False),
        (1.0, 1, 0.0, False),
        ({1.0}, {1}, 0.0, False),
        ({True: 2}, {1: 2}, 0.0, False),
        ({"a": [1, (2,)]}, {"a": [1, (2,)]}, 0.0, True),
        (0.1 + 0.2, 0.3, 0.0, False),
        (0.1 + 0.2, 0.3, 1e-9, True),
        (math.inf, 3.0, 1e9, False),
        (math.nan, 3.0, 1e9, False),
        (math.nan, math.nan, 0.0, True),
        ([1, 2], (1, 2), 0.0, False),
        (10**400, 1.5, 1.0, False),
        ([], set(), 0.0, False),
    ],
)
def test_values_are_compared_by_type_and_floats_within_the_tolerance(
    given_value: Any, expected: Any, tolerance: float, same: bool
) -> None:
    assert same_value(given_value, expected, Comparison(tolerance)) is same


def test_output_is_compared_line_by_line_but_for_white_space_at_the_ends() -> None:
    assert same_output("1 2  \n3\n\n", "1 2\n3")
    assert not same_output("1\n2", "1 2")
    assert not same_output("1  2", "1 2")
    assert not same_output("0.3000001", "0.3")
    assert same_output("x 0.30000001", "x 0.3", 1e-6)
    assert not same_output("x nan", "x 0.3", 1e6)


def test_assertions_become_calls_where_they_can() -> None:
    lines = ["f(1, k=[2]) == (3,)", "None is not f", "5 == f(2)", "abs(f(3) - 0.5) < 1e-3", "f(4) is True"]
    first, second, third, fourth, fifth = read_asserts("\n".join(f"assert {line}" for line in lines), "f")
    assert first == CallTest("f", (1,), (3,), {"k": [2]})
    assert isinstance(second, AssertTest)
    assert third == CallTest("f", (2,), 5)
    assert fourth == CallTest("f", (3,), 0.5, tolerance=1e-3)
    assert fifth == CallTest("f", (4,), True)


def test_tests_that_need_the_programs_own_objects_are_refused() -> None:
    with pytest.raises(TaskError, match="Node"):
        read_asserts("assert depth(Node(1)) == 1", "depth")
    with pytest.raises(TaskError, match="no assertion"):
        read_asserts("print(depth(1))", "depth")
    live = CodeSuite(read_asserts("assert f(lambda x: x) == 1", "f"))
    assert score("def f(g): return g(1)", live).value is None, "a function cannot leave the test's process"


def test_suites_are_written_and_read() -> None:
    for suite in (CALLS, TOTALS, SQUARES):
        assert CodeSuite.from_dict(suite.to_dict()) == suite
    with pytest.raises(TaskError, match="hidden"):
        CodeSuite([])
    with pytest.raises(TaskError, match="broken tests"):
        CodeSuite.from_dict({"hidden": [{"kind": "call", "args": "nonsense"}]})
    with pytest.raises(TaskError, match="plain value"):
        CodeSuite([CallTest("f", (object(),), 1)]).to_dict()
