"""Promises about finding the one answer in a final message, and about numbers with units."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from toolrl import ConfigError, Episode, Task
from toolrl.rewards import (
    AnswerForm,
    answer_reward,
    any_of,
    choice_letter,
    find_answer,
    numbers_equal,
    parse_quantity,
    quantities_equal,
    within,
)

ALL: tuple[AnswerForm, ...] = ("tag", "boxed", "hashes", "json")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So <answer> 4 </answer>.", "4"),
        (r"So \boxed{4}.", "4"),
        (r"\boxed {\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1\}}", r"\{1\}"),
        ("work\n#### 1,234", "1,234"),
        ('{"answer": "4", "why": "sum"}', "4"),
        ('{"answer": 4.50}', "4.5"),
        ('Here:\n```json\n{"answer": "4"}\n```', "4"),
        (r"<answer>\boxed{4}</answer>", "4"),
        (r"<answer>$\boxed{4}$</answer>", "4"),
        (r"<answer>\(x\)</answer>", "x"),
        (r"<answer>x = \boxed{4}</answer>", "4"),
        (r"\boxed{\boxed{4}}", "4"),
        (r"\boxed{4} that is \boxed{ 4 }", "4"),
        (r"\boxed{4} <answer>4</answer>" + "\n#### 4", "4"),
        (r"<answer>32349</answer> \boxed{32,\!349}", "32349"),
        (r"<answer>1,234,567</answer> $\boxed{1{,}234{,}567}$", "1,234,567"),
        (r"<answer>1 234.5</answer> \boxed{1,234.5}", "1 234.5"),
        (r"<answer>\frac{1}{2}</answer> \boxed{\dfrac{1}{2}}", r"\frac{1}{2}"),
        ("<answer>18</answer>\n#### 18.", "18"),
        (r"\fbox{4} and \framebox{4}", "4"),
        ("##### Step\n#### 4", "4"),
    ],
)
def test_an_answer_is_found_in_each_of_its_forms(text: str, answer: str) -> None:
    assert find_answer(text, ALL) == answer


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "4",
        "<answer>3</answer><answer>4</answer>",
        r"\boxed{3} or \boxed{4}",
        r"<answer>\boxed{3} \boxed{4}</answer>",
        r"<answer>3, \boxed{4}</answer>",
        r"<answer>3</answer> \boxed{4}",
        r"<answer>1,234</answer> \boxed{1.234}",
        r"<answer>1, 2</answer> \boxed{12}",
        r"<answer>12</answer> \boxed{1.2}",
        "#### 3\n#### 4",
        r"\boxed{3}" + "\n#### 4",
        '{"answer": ["3", "4"]}',
        '{"answer": "3", "answer": "4"}',
        '{"answer": true}',
        '```\n{"answer": 3}\n```\n```\n{"answer": 4}\n```',
        r"\boxed{3} and \boxed{4",
        "not a line #### 4",
    ],
)
def test_several_answers_or_another_form_are_no_answer(text: str | None) -> None:
    assert find_answer(text, ALL) is None


@given(st.lists(st.integers(0, 3), min_size=1, max_size=5), st.sampled_from(["<answer>{}</answer>", r"\boxed{{{}}}"]))
def test_several_answers_count_only_if_they_are_the_same(values: list[int], form: str) -> None:
    found = find_answer(" ".join(form.format(value) for value in values))
    assert found == (str(values[0]) if len(set(values)) == 1 else None)


def test_only_the_given_forms_are_read() -> None:
    assert find_answer(r"\boxed{4}", ["tag"]) is None
    assert find_answer("<answer>4</answer>", ["boxed"]) is None
    assert find_answer('{"result": 4}', ["json"], field="result") == "4"
    for forms in ([], ["box"], "tag"):
        with pytest.raises(ConfigError, match="forms must be a list of some of tag, boxed"):
            find_answer("", forms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(b).", "B"),
        ("**B**", "B"),
        ("B) Paris", "B"),
        ("B. Paris", "B"),
        ("I think the answer is (C).", "C"),
        ("Answer: C", "C"),
        ("A or B", None),
        ("A) Rome\nB) Paris", None),
        ("the answer is A, no: answer: B", None),
        ("A capital is a city.", None),
        ("the answer is Because", None),
        ("F", None),
        ("", None),
    ],
)
def test_a_choice_is_one_letter(text: str, letter: str | None) -> None:
    assert choice_letter(text) == letter
    assert find_answer(text, ["letter"]) == letter


def test_a_choice_may_be_inside_another_form() -> None:
    assert find_answer(r"A is wrong, so \boxed{(B)}", ["boxed", "letter"]) == "B"
    assert find_answer("<answer>A</answer><answer>B</answer>", ["tag", "letter"]) is None


# ---- numbers with units


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("5 cm", "0.05 m"),
        ("5cm", "50 mm"),
        (r"5\text{ cm}", "5 cm"),
        (r"5\,\mathrm{km}", "5000 meters"),
        ("1,000 g", "1 kg"),
        ("2 lbs", "2 pounds"),
        ("90 minutes", "1.5 h"),
        ("1 day", "24 hours"),
        ("50 %", r"50\%"),
        ("37 °C", "37 degrees Celsius"),
        (r"90^\circ", "90 degrees"),
        ("5", "5 cm"),
        ("1e3 m", "1 km"),
        ("-.5 m", "-50 cm"),
        ("3", 3),
    ],
)
def test_a_quantity_is_the_same_in_any_unit_of_its_dimension(answer: str, expected: Any) -> None:
    assert quantities_equal(answer, expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("5 m", "5 cm"),
        ("5 kg", "5 m"),
        ("5 cm", "5"),
        ("5 cm 6 cm", "5 cm"),
        ("5 or 6 cm", "6 cm"),
        ("5 parsec", "5 parsec"),
        ("cm", "5 cm"),
        ("", "5 cm"),
        ("5 MM", "5 km"),
        ("310.15 K", "37 °C"),
        ("50 %", "0.5"),
        ("1e999 m", "1e999 m"),
        ("nan", "nan"),
        ("5.1 cm", "5 cm"),
    ],
)
def test_another_quantity_or_unit_is_not_the_same(answer: str, expected: Any) -> None:
    assert not quantities_equal(answer, expected)


@given(st.floats(0.001, 1e6), st.sampled_from([("km", "m", 1e3), ("h", "s", 3600), ("kg", "mg", 1e6)]))
def test_conversion_works_both_ways_and_a_wrong_factor_is_noticed(value: float, units: tuple[str, str, float]) -> None:
    large, small, factor = units
    assert quantities_equal(f"{value!r} {large}", f"{value * factor!r} {small}")
    assert quantities_equal(f"{value * factor!r} {small}", f"{value!r} {large}")
    assert not quantities_equal(f"{value!r} {large}", f"{value * factor * 1.01!r} {small}")


def test_tolerance_and_unit_follow_the_settings() -> None:
    assert within(0.02)("9.9 m", "10 m")
    assert not within(0.005)("9.9 m", "10 m")
    assert not within(0.02, unit_needed=True)("10", "10 m")
    with pytest.raises(ConfigError, match=r"tolerance must be within \[0, 1\), got 1.5"):
        within(1.5)
    quantity = parse_quantity("2 feet")
    assert quantity is not None
    assert (quantity.unit, quantity.dimension) == ("ft", "length")


def test_one_of_several_right_answers_is_enough() -> None:
    reward = answer_reward(any_of(numbers_equal))
    task = Task("t", "?", ["4", 5])
    values = [reward(task, Episode(f"<answer>{n}</answer>")).value for n in ("4", "5", "6", "4, 5")]
    assert values == [1.0, 1.0, 0.0, 0.0]
    assert any_of(numbers_equal)("4", "4")
