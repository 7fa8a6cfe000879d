"""Promises about tests as data: plain values keep their types, assertions become calls, suites survive a file."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, strategies as st

from tests.rewards.code.test_reward import CALLS, SQUARES, TOTALS, score
from toolrl import TaskError
from toolrl.rewards import (
    AssertTest,
    CallTest,
    CodeSuite,
    Comparison,
    grade_code,
    read_asserts,
    same_output,
    same_value,
)
from toolrl.rewards.code.runner import decode, encode

PYTHON = Comparison(number_types=False)
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
def test_plain_values_survive_a_round_trip_and_equal_only_themselves(value: Any) -> None:
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


# As Python's own `==`, which the suites of MBPP, HumanEval and LiveCodeBench rest on.
EQUAL = [
    (1, True), (0, False), (True, 1.0), (2, 2.0), (10**20, 1e20), ({1.0}, {1}), ({True: 2}, {1: 2.0}), ([0], [False]),
    (frozenset("ab"), {"a", "b"}), (-0.0, 0), (2 + 0j, 2), (math.inf, float("inf")), ("a", "a"), (int, int),
]  # fmt: skip
UNEQUAL = [
    (1000000001.0, 1000000000), (1000000001.0, 1000000000.0), (10**16 + 1, 1e16), (0.1 + 0.2, 0.3), ("1", 1),
    ([1], (1,)), ([1, 2], [1]), ({1: 2}, {1: 3}), (None, 0), (None, False), ([], ()), ("", None), (b"a", "a"),
    ({"a"}, ["a"]), (int, float), (math.nan, 1.0), ("inf", math.inf),
]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "right", "same"), [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in UNEQUAL]
)
def test_without_types_values_are_equal_as_in_python(left: Any, right: Any, same: bool) -> None:
    assert (left == right) is same
    for given_value, expected in ((left, right), (right, left)):
        assert same_value(decode(encode(given_value)), decode(encode(expected)), PYTHON) is same
        assert same_value([{"a": given_value}], [{"a": expected}], PYTHON) is same


class Text(str):
    pass


class Colour(enum.IntEnum):
    RED = 3


class Liar(list[int]):
    def __eq__(self, other: object) -> bool:
        return True

    def __iter__(self) -> Any:
        return iter([7])

    __hash__ = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("given_value", "plain_value"),
    [
        (Counter("aab"), {"a": 2, "b": 1}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (OrderedDict(a=1), {"a": 1}),
        (namedtuple("P", "x y")(1, 2), (1, 2)),
        ([Text("a")], ["a"]),
        (Colour.RED, 3),
        (Liar([1, 2]), [1, 2]),
        (Fraction(1, 2), 0.5),
        (Decimal("2.50"), 2.5),
        (Decimal(3), 3),
        (bytearray(b"x"), b"x"),
        ({1: 2}.keys(), {1}),
        ({1: 2}.items(), {(1, 2)}),
    ],
)  # fmt: skip
def test_a_value_equal_to_a_plain_value_counts_as_one(given_value: Any, plain_value: Any) -> None:
    assert given_value == plain_value
    assert same_value(decode(encode(given_value)), plain_value, PYTHON)
    assert not same_value(decode(encode(given_value)), [plain_value, plain_value], PYTHON)


def test_numbers_of_numpy_are_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    for value, expected in ((numpy.int64(3), 3), (numpy.float64(0.5), 0.5), (numpy.bool_(True), True)):
        assert same_value(decode(encode([value])), [expected], PYTHON)


@pytest.mark.parametrize("value", [range(2), deque([1]), {1: 2}.values(), iter([1]), object(), len, Liar])
def test_a_value_equal_to_no_plain_value_is_not_one(value: Any) -> None:
    with pytest.raises(TypeError, match="not a plain value"):
        encode(value)


def test_output_is_compared_line_by_line_ignoring_surrounding_white_space() -> None:
    assert same_output("\n1 2  \r\n  3\n\n", "1 2\n3")
    assert not same_output("1\n2", "1 2")
    assert not same_output("1\n\n2", "1\n2")
    assert not same_output("1  2", "1 2")
    assert not same_output("1.0", "1")
    assert not same_output("0.3000001", "0.3")
    assert same_output("x 0.30000001", "x 0.3", Comparison(1e-6))
    assert not same_output("x nan", "x 0.3", Comparison(1e6))
    assert not same_output("1000000001", "1000000000", Comparison(1e-6))


# As LiveCodeBench's harness has it (lcb_runner/evaluation/testing_util.py: stripped lines, then decimals).
PRINTED_ALIKE = [
    ("20.0", "20"), ("\n20", "20"), ("1  2", "1 2"), ("1.50 2", "1.5 2.0"), ("1e9", "1000000000"), ("-0", "0"),
    ("+5", "5"), ("05", "5"), (".5", "0.50"), ("inf", "Infinity"), ("nan", "nan"), ("9" * 9999 + ".0", "9" * 9999),
]  # fmt: skip
PRINTED_OTHERWISE = [
    ("1000000001.0", "1000000000"), ("1e9", "1000000001"), ("0.30000000000000004", "0.3"), ("nan", "NaN"),
    ("0x10", "16"), ("1_0", "10"), ("yes", "YES"), ("a  b", "a b"), ("1 2", "1\n2"), ("1", "1 1"), ("", "0"),
    ("inf", "1e999"), ("1e999999999999999999999", "1"), ("5-", "5"), ("x 1.0", "x 1"), ("٣", "3"), ("sNaN", "1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [(*pair, True) for pair in PRINTED_ALIKE] + [(*pair, False) for pair in PRINTED_OTHERWISE],
)
def test_lines_of_numbers_are_compared_as_decimals_without_rounding(left: str, right: str, same: bool) -> None:
    assert same_output(left, right, PYTHON) is same
    assert same_output(right, left, PYTHON) is same


@pytest.mark.parametrize(
    ("line", "right", "wrong"),
    [
        ("abs(f(0) - 1000000000.0) < 1e-6", [1000000000, 1000000000.0000001], [1000000001.0, "1", None, math.nan]),
        ("abs(5.0 - f(0)) < 1.0", [5, 5.9, True + 4], [6, 4.0, 10**400]),
        ("abs(f(0) - 5.0) <= 1.0", [6, 4.0], [6.1]),
        ("math.isclose(f(0), 1e9)", [1e9 + 0.5, 10**9], [1e9 + 2, math.inf]),
        ("math.isclose(2.0, f(0), rel_tol=1e-3)", [2.001], [2.01]),
        ("math.isclose(f(0), 0.0, abs_tol=0.5)", [0.5], [0.6]),
        ("f(0) is True", [True], [1, 1.0, "True"]),
        ("f(0) is None", [None], [0, False, ""]),
        ("f(0) == 1", [True, 1.0], [1.0000001]),
        ("f(0) == int", [int], [float, "int"]),
    ],
)
def test_assertions_read_as_calls_pass_when_they_do_in_python(line: str, right: list[Any], wrong: list[Any]) -> None:
    for verdict, values in ((True, right), (False, wrong)):
        for value in values:
            test = read_asserts(f"assert {line}", "f", setup="import math")[0]
            suite = CodeSuite([test], comparison=PYTHON)
            code = f"nan = inf = None\nfrom math import *\ndef f(x): return {getattr(value, '__name__', repr(value))}"
            try:
                exec(f"import math\n{code}\nassert {line}", {})
                theirs = True
            except (AssertionError, TypeError, OverflowError):
                theirs = False
            assert grade_code(code, suite).passed == theirs == verdict, (line, value)


def test_assertions_become_calls_where_possible() -> None:
    lines = ["f(1, k=[2]) == (3,)", "None is not f", "5 == f(2)", "abs(f(3) - 0.5) < 1e-3", "f(4) is True"]
    first, second, third, fourth, fifth = read_asserts("\n".join(f"assert {line}" for line in lines), "f")
    assert first == CallTest("f", (1,), (3,), {"k": [2]})
    assert isinstance(second, AssertTest)
    assert third == CallTest("f", (2,), 5)
    assert fourth == CallTest("f", (3,), 0.5, tolerance=math.nextafter(1e-3, 0))
    assert fifth == CallTest("f", (4,), True, identical=True)


def test_tests_that_need_objects_of_the_program_are_rejected() -> None:
    with pytest.raises(TaskError, match="Node"):
        read_asserts("assert depth(Node(1)) == 1", "depth")
    with pytest.raises(TaskError, match="no assertion"):
        read_asserts("print(depth(1))", "depth")
    for given_value in ("lambda x: x", "len", "[sorted]", "Own", "Own()", "helper"):
        with pytest.raises(TaskError, match="cannot be handed to another process"):
            read_asserts(f"assert f({given_value}) == 1", "f", setup="class Own: pass\ndef helper(): pass")
    with pytest.raises(TaskError, match="'missing'"):
        read_asserts("assert f(helper()) == 1", "f", setup="def helper():\n    return missing")
    live = CodeSuite([AssertTest("assert f(lambda x: x) == 1", "f")])
    assert score("def f(g): return g(1)", live).value is None, "a function cannot leave the test's process"


def test_types_can_be_arguments() -> None:
    suite = CodeSuite(
        read_asserts("assert drop([1, 'a', 2.5], str) == [1, 2.5]\nassert drop([1, 2.5], float) == [1]", "drop")
    )
    assert score("def drop(items, kind): return [i for i in items if type(i) is not kind]", suite).value == 1.0
    assert score("def drop(items, kind): return items", suite).value == 0.0


def test_suites_are_written_and_read() -> None:
    for suite in (CALLS, TOTALS, SQUARES):
        assert CodeSuite.from_dict(suite.to_dict()) == suite
    with pytest.raises(TaskError, match="hidden"):
        CodeSuite([])
    with pytest.raises(TaskError, match="broken tests"):
        CodeSuite.from_dict({"hidden": [{"kind": "call", "args": "nonsense"}]})
    with pytest.raises(TaskError, match="plain value"):
        CodeSuite([CallTest("f", (object(),), 1)]).to_dict()
