"""Promises about mathematical answers for all values: shuffled or changed ones are wrong, respelled ones right."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings, strategies as st

from toolrl.rewards import MathVerifier, verify_math

pytest.importorskip("math_verify", reason="the extra `math` is not installed")

entries = st.one_of(
    st.integers(-999, 999).map(str),
    st.tuples(st.integers(1, 9), st.integers(2, 9)).map(lambda pair: rf"\frac{{{pair[0]}}}{{{pair[1]}}}"),
    st.sampled_from(["x", r"\pi", r"\sqrt{2}", "0.25"]),
)
several = st.lists(entries, min_size=2, max_size=5)


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(workers=1)
    yield verifier
    verifier.close()


def value(entry: str) -> str:
    """A key shared by equal entries."""
    if entry.startswith(r"\frac"):
        return str(Fraction(int(entry[6]), int(entry[9])))
    return str(Fraction(entry)) if entry[-1].isdigit() else entry


def matrix(rows: list[list[str]], end: str, kind: str = "pmatrix") -> str:
    return rf"\begin{{{kind}}}" + end.join(" & ".join(row) for row in rows) + rf"\end{{{kind}}}"


@settings(max_examples=8)
@given(data=st.data(), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_a_matrix_is_right_in_any_spelling_and_wrong_shuffled(
    verifier: MathVerifier, data: st.DataObject, rows: int, columns: int
) -> None:
    size = rows * columns
    cells = data.draw(st.lists(entries, min_size=size, max_size=size))
    shuffled = data.draw(st.permutations(cells))
    grid = [cells[row * columns : (row + 1) * columns] for row in range(rows)]
    other = [shuffled[row * columns : (row + 1) * columns] for row in range(rows)]
    gold = matrix(grid, r" \\ ")
    for end in (r"\\", r"\\ ", r" \\" + "\n", r" \\[2pt] "):
        assert verify_math(matrix(grid, end, "bmatrix"), gold, verifier).equal
        same = [value(cell) for cell in cells] == [value(cell) for cell in shuffled]
        assert verify_math(matrix(other, end), gold, verifier).equal == same


@settings(max_examples=10)
@given(cells=several, data=st.data())
def test_tuples_are_ordered_and_lists_and_sets_are_not(
    verifier: MathVerifier, cells: list[str], data: st.DataObject
) -> None:
    assume(len({value(cell) for cell in cells}) == len(cells))
    shuffled = data.draw(st.permutations(cells))
    comma = data.draw(st.sampled_from([",", ", ", r",\ ", r",\quad "]))
    point, listed = f"({', '.join(cells)})", ", ".join(cells)
    assert verify_math(f"({comma.join(shuffled)})", point, verifier).equal == (shuffled == cells)
    assert verify_math(comma.join(shuffled), listed, verifier).equal
    assert verify_math(rf"\{{{comma.join(shuffled)}\}}", rf"\{{{listed}\}}", verifier).equal
    assert not verify_math(comma.join(shuffled[1:]), listed, verifier).equal
    assert not verify_math(comma.join([*shuffled, "1000"]), listed, verifier).equal


@settings(max_examples=10)
@given(
    ends=st.tuples(st.integers(-500, 500), st.integers(1, 500)).map(lambda pair: (pair[0], pair[0] + pair[1])),
    brackets=st.tuples(st.sampled_from("(["), st.sampled_from(")]")),
    other=st.tuples(st.sampled_from("(["), st.sampled_from(")]")),
)
def test_an_interval_keeps_its_ends(
    verifier: MathVerifier, ends: tuple[int, int], brackets: tuple[str, str], other: tuple[str, str]
) -> None:
    (low, high), gold = ends, f"{brackets[0]}{ends[0]},{ends[1]}{brackets[1]}"
    signs = ["<" if bracket in "()" else r"\le" for bracket in brackets]
    for same in (rf"\left{brackets[0]}{low}, {high}\right{brackets[1]}", f"{low} {signs[0]} x {signs[1]} {high}"):
        assert verify_math(same, gold, verifier).equal
    assert verify_math(f"{other[0]}{low}, {high}{other[1]}", gold, verifier).equal == (brackets == other)
    assert not verify_math(f"{brackets[0]}{low}, {high + 1}{brackets[1]}", gold, verifier).equal


@settings(max_examples=30)
@given(digits=st.integers(1, 10**9), exponent=st.integers(-21, 12), change=st.integers(1, 9))
def test_a_number_is_right_in_any_notation_and_wrong_with_one_digit_changed(
    verifier: MathVerifier, digits: int, exponent: int, change: int
) -> None:
    number = Decimal(digits).scaleb(exponent)
    gold = format(number, "f")
    mantissa, _, power = f"{number:e}".partition("e")
    fraction = Fraction(number)
    spellings = [
        f"{mantissa}e{power}", rf"{mantissa} \times 10^{{{int(power)}}}", rf"{mantissa} \cdot 10^{int(power)}",
        rf"\frac{{{fraction.numerator}}}{{{fraction.denominator}}}", f"{fraction.numerator}/{fraction.denominator}",
        f"x = {gold}", f"${gold}$", f"**{gold}**", f"{gold}.",
    ]  # fmt: skip
    if exponent >= 0:
        spellings += [
            f"{int(number):,}",
            f"{int(number):,}".replace(",", r"{,}"),
            f"{int(number):,}".replace(",", r"\,"),
        ]
    assert [one for one in spellings if not verify_math(one, gold, verifier).equal] == []
    changed = format(Decimal(digits + change).scaleb(exponent), "f")
    assert not verify_math(changed, gold, verifier).equal
    assert not verify_math(f"-{gold}", gold, verifier).equal
    assert not verify_math(format(number.scaleb(1), "f"), gold, verifier).equal


@settings(max_examples=8)
@given(n=st.integers(10, 3000), step=st.integers(1, 3), shape=st.sampled_from(["{0}!", "2^{{{0}}}", "3^{{-{0}}}"]))
def test_powers_and_factorials_of_any_size_are_distinguished(
    verifier: MathVerifier, n: int, step: int, shape: str
) -> None:
    gold, other = shape.format(n), shape.format(n + step)
    for outer in ("{}", r"\frac{{1}}{{{}}}", r"\frac{{\sqrt{{2}}}}{{{}}}", r"{}+1"):
        assert verify_math(f"({outer.format(gold)})", outer.format(gold), verifier).equal
        assert not verify_math(outer.format(other), outer.format(gold), verifier).equal


@settings(max_examples=100)
@given(st.text(alphabet=r"0123456789.,xe\{}()[]^_$*`'| +-=/&<>:;!%~frackstqovline√½" + "\n", max_size=40))
def test_no_text_raises_an_error(verifier: MathVerifier, text: str) -> None:
    assert not verify_math(text, "987654321987654321", verifier).equal


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV])
def test_a_formula_that_crashes_the_process_is_wrong_not_unscored(number: signal.Signals) -> None:
    verifier = MathVerifier(workers=1)

    def bring_down() -> None:
        while not any(map(verifier.is_busy, verifier.pids)):
            time.sleep(0.01)
        os.kill(verifier.pids[0], number)

    thread = threading.Thread(target=bring_down)
    thread.start()
    try:
        verdict = verify_math("9^{9^{9^{9}}}", "4", verifier)
        assert (verdict.equal, verdict.reason) == (False, f"too large to be compared ({number.name})")
    finally:
        thread.join()
        verifier.close()
