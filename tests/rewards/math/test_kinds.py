"""Promises about mathematical answers, kind by kind: rewriting keeps the meaning, and right answers are paid.

The pairs are from the tests of Math-Verify, hendrycks/math and PRM800K's grader, or our own.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from toolrl.rewards import MathVerifier, verify_math

pytest.importorskip("math_verify", reason="the extra `math` is not installed")

# kind: [(expected, answers that equal it, answers that do not)]
KINDS: dict[str, list[tuple[str, list[str], list[str]]]] = {
    "matrices": [
        (
            r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
            [r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\left[\begin{array}{cc}1 & 2\\[2pt]3 & 4\\\end{array}\right]"],
            [r"\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}", r"\begin{pmatrix} 1 & 2 & 3 & 4 \end{pmatrix}", "-2"],
        ),
        (r"\begin{pmatrix} 1 \\ 200 \end{pmatrix}", [r"\begin{bmatrix}1\\ 200\end{bmatrix}"], ["1200", "(200, 1)"]),
        (r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", ["-2"], [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"]),
    ],
    "precision": [
        (r"\frac{1}{2004!}", [r"\frac{2005}{2005!}"], [r"\frac{1}{2006!}", "0"]),
        (r"\frac{\sqrt{2}}{2^{99}}", [r"\frac{1}{\sqrt{2} \cdot 2^{98}}"], [r"\frac{\sqrt{2}}{2^{98}}"]),
        ("0.0000001", ["1e-7", "10^{-7}", r"1 \times 10^{-7}"], ["0.0000002", "0"]),
        ("2^{100}", ["1267650600228229401496703205376"], ["1267650600228229401496703205377"]),
        (r"\sqrt{2}", ["1.414214", "1.41421356237"], ["1.4142", "1.414215", r"\sqrt{2}+10^{-20}"]),
        (r"\frac{2}{3}", ["0.666667", "0.666666", "0.6666666666666666"], ["0.67", "0.66666", "0.666668"]),
        (r"\frac{1}{8}", ["0.125", ".1250"], ["0.12500001", "0.124999999"]),
        ("16386.20", ["16386.2", "16,386.20", "16386.199999999997"], ["16386.21", "16386"]),
        ("33000000", ["3.3e7"], ["33000001", "33000000.5", "33000000.0000001"]),
    ],
    "products that are no mixed numbers": [
        ("7", ["6 + 1"], ["3 4", "6(1)", r"\frac{12}{2}\frac{1}{1}"]),
        ("6", ["3(2)", "(2)(3)", r"2\cdot 3"], ["3 3"]),
        (r"1\frac{1}{2}", ["3/2", "1 1/2", "1½"], [r"1\cdot\frac12", r"1\frac{3}{2}"]),
        ("-1.5", [r"-1\frac{1}{2}"], [r"-\frac{1}{2}"]),
        ("512", ["2**3**2", "2^{3^2}"], ["(2^3)^2"]),
    ],
    "letters": [
        ("y-x", ["-x+y", "y - x"], ["x-y", "y-x-x"]),
        ("a-b-c", ["a-c-b", "-b-c+a"], ["a-b+c"]),
        (r"\log_2 3", [r"\log_{2}{3}", r"\frac{\ln 3}{\ln 2}", r"\log_23", r"\log_2(3)"], [r"\log_3 2", r"\log 23"]),
        (r"\vec v", [r"\vec{v}"], [r"\vec{w}"]),
        (r"1 \pmod 3", [r"1 \pmod{3}"], [r"1 \pmod 5", r"2 \pmod 3"]),
        ("B", [r"\textbf{(B)}\ 42", "B) 42", r"\text{(B) } \frac12", r"(\text{B})"], ["A", "AB", "A) B", "B or C"]),
    ],
    "both signs": [
        (r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}", [r"\frac{1 \pm \sqrt{5}}{2}"], [r"\frac{1\pm\sqrt{3}}{2}"]),
        (r"x=\frac{-b\pm\sqrt{3}}{2}", [r"\frac{-b-\sqrt3}{2}, \frac{-b+\sqrt3}{2}"], [r"\frac{-b+\sqrt3}{2}"]),
        ("(2,1), (2,-1)", [r"(2, \pm 1)"], [r"(\pm 2, 1)", "(2,1)"]),
    ],
    "names": [
        ("2, 3", ["x_1 = 2, x_2 = 3", r"x_{1}=3 \text{ and } x_{2}=2"], ["a=2, b=3", "x_1=2, x_2=4"]),
        ("5", ["5 = x", r"\therefore x = 5", "'5'", r"\color{red}{5}"], ["5 = 6", "x = 6"]),
        (r"\$1.50", ["150 cents", "1.50 dollars"], ["1.50 cents", "150 dollars"]),
    ],
    "words": [
        (r"\text{odd}", ["odd", "Odd.", r"\textbf{odd}"], ["ddo", "even", r"\text{ddo}"]),
        ("no", ["No", r"\text{no}"], ["on", "yes"]),
        ("odd", [r"\text{odd}"], ["ddo"]),
        ("xy", ["yx", r"x \cdot y"], ["xx"]),
        (r"\text{e}", ["e"], ["2"]),
        (r"\text{June 6}", ["June 6"], ["June 7", "6"]),
        ("A, B", ["B, A", "A and B"], ["A", "A, C"]),
    ],
    "separators": [
        (
            "32349",
            [r"32,\!349", r"32,\! 349", r"32{,}349", r"32\,349", "32\u2009349", "32\u202f349", "32\u00a0349", "32 349"],
            ["32, 349", "32 3 49", "32; 349"],
        ),
        ("11111111100", [r"11,\!111,\!111,\!100", "11 111 111 100"], ["11,111,111"]),
        ("3.14", ["3{,}14"], ["314"]),
        (r"\{1,000, 2,000\}", [r"\{1000, 2000\}"], [r"\{1, 0, 2\}"]),
        ("100,200,300", ["100200300", "100, 200, 300"], ["100, 200"]),
        ("(0,100)", ["(0, 100)", r"\left(0,100\right)"], ["100", "(100, 0)", "[0,100]"]),
        ("1,234", ["1234"], ["1.234"]),
    ],
    "units": [
        ("$5$ cm", ["5 cm", r"5\text{cm}", r"$5\,\mathrm{cm}$", r"5 \mathrm{~cm}", "0.05 m", "5"], ["5 m", "500"]),
        (r"\frac{1}{2}\text{ m}", ["50 cm", "0.5 meters"], ["50 m", r"\frac{1}{2}\text{ km}"]),
        (r"25\pi\text{ cm}^2", [r"25\pi", r"25\pi \text{ square centimeters}"], [r"25\pi\text{ cm}^3"]),
        ("9.8 m/s^2", [r"9.8\ \mathrm{m/s^2}", "9.8 m/s²", "9.8"], ["9.8 m/s"]),
        ("60 mph", ["60 miles per hour"], ["60 km/h"]),
        ("5", [r"5\text{ florins}", "5 m", "5 marbles", "5 square units"], ["5m", "5t", "5x", "5 dozen"]),
        ("2t", ["t+t"], ["2"]),
        ("5 apples", ["5", "5 red apples"], ["5 oranges", "5 cm"]),
        (r"28\%", ["$28$ percent", "28 percent", "28 pct", "28", "0.28", r"\frac{7}{25}"], ["2.8", "0.28%", "2800%"]),
        ("28", [r"28\%"], ["0.28", "0.28%"]),
        ("1", ["100%"], ["1%", r"1\%"]),
        ("90", [r"90^\circ", "90°", "90 degrees"], [r"90^{2}"]),
        (r"20^\circ\text{C}", ["20 degrees Celsius", "20 °C"], [r"20^\circ\text{F}"]),
        ("18", ["€18", "$18", r"\$18.00", "18 dollars", "18 years old", "18€", "USD 18", "18th"], ["18k"]),
        (r"\$18", ["18 dollars", "$18.00"], ["€18", "18 cents"]),
        ("5000000", ["5 million", r"5\text{ million}"], ["5 thousand", "5"]),
    ],
    "one number and words that leave it alone": [
        (
            "18",
            ["18 years old", "18 apples", "18 left", "**18**", "`18`", "#### 18", r"\fbox{18}", r"\framebox{18}"],
            ["18 or 19", "not 18", "less than 18", "18 minus 2", "18, 19", "18 and 19", "18/19", "18 ± 1", "17–18"],
        ),
        ("18", [], ["18 out of 20", "18 cows and 3 pigs", "18 more", "about 18", "~18", "≈18", "1 8", "18'"]),
        ("16", [], ["18 minus 2", "18 less 2", "32 halves"]),
        ("73", ["**73**", "*73*", "__73__", "73.", "73,", r"**\boxed{73}**", "$**73**$"], ["**73** **74**", "7*3"]),
    ],
    "lists, tuples, sets": [
        ("1,-2", [r"x=1,\quad x=-2", r"x=1 \quad\text{or}\quad x=-2", r"\{-2, 1\}"], [r"x=1 \quad x=-2", "1,2", "1"]),
        ("(1,2,3)", ["1, 2, 3", r"\langle 1,2,3 \rangle"], ["(3,2,1)", "3,2,1", r"\{1,2,3\}", "(1,2)"]),
        ("(1,2)", ["x=1, y=2", "(x,y)=(1,2)", "1,2"], ["2,1", "x=2, y=1", r"\{1,2\}"]),
        (r"\{1,2\}", ["2,1"], ["(1,2)", "[1,2]", r"\{1\}"]),
        ("AB=4, CD=5", ["4, 5", "CD=5, AB=4"], ["5, 4", "AB=5, CD=4"]),
        ("2, 2, 3", ["2,3,2"], ["2, 3", "2,2,2"]),
        ("[3,3]", ["[3, 3]"], ["3"]),
        (r"1 \pm \sqrt{2}", [r"1-\sqrt{2}, 1+\sqrt{2}"], [r"1+\sqrt{2}"]),
        (r"\{x|-2\leq x < 1\}", ["[-2,1)", r"-2 \le x < 1"], ["[-2,1]", "(-2,1)"]),
    ],
    "relations": [
        (r"x \neq 3", [r"x\neq3", r"x \ne 3", "x ≠ 3", "x != 3"], ["x = 3", "3", r"x \neq 4"]),
        (r"x \in [-2,7]", [r"-2 \le x \le 7", "[-2,7]"], [r"-2 < x \le 7"]),
        ("x=4", ["x = 8/2 = 4", "4"], ["x = 3 = 4", "y = 4"]),
        ("z = 1 + 1 = 2", ["2", "z=2"], ["z = 3 + 3", "1"]),
        (r"F_n = \sum_{k=0}^{n-1} F_k", [r"F_n = \sum_{k=0}^{n-1} F_k"], [r"F_n = \sum_{k=0}^{n-2} F_k"]),
        (r"(-\infty,2]\cup[5,\infty)", [r"x \le 2 \text{ or } x \ge 5"], [r"x < 2 \text{ or } x > 5"]),
        (r"\mathbb{R}", [r"(-\infty,\infty)"], ["x > 1 and x < 5"]),
        ("2x > 4", ["x > 2", "2 < x"], ["x < 2", r"x \ge 2"]),
        ("x^2+y^2=4", ["y^2 = 4 - x^2"], ["x^2+y^2=2", "x^2-y^2=4"]),
    ],
    "letters that mean something": [
        (r"\mathrm{e}^2", ["e^2", "e^{2}", r"\exp(2)"], [r"2\mathrm{e}"]),
        (r"\pi(R^2-r^2)", [r"\pi (R-r)(R+r)"], ["0"]),
        ("4x", ["4X"], ["4y"]),
        (r"\gamma^2-1", [r"(\gamma-1)(\gamma+1)"], [r"\gamma^2-2"]),
        ("f'(x)", ["f'(x)"], ["f(x)", "f''(x)"]),
        ("(1+i)^2", ["2i"], ["2", "-2i"]),
    ],
    "times, ratios, bases": [
        ("12:30", ["12:30 pm", r"12{:}30"], ["6:15", "12:03", "0.4 h"]),
        ("3:45 p.m.", ["3:45 PM", "3:45"], ["3:45 a.m."]),
        ("1:2", ["2:4", r"\frac{1}{2}"], ["2:1", "1:3"]),
        ("3:4:5", ["6:8:10"], ["3:20", "3:4"]),
        ("2516_8", [r"2516_{8}", r"2516_{\text{eight}}", "2516"], ["2516_9", "1358", "2516_{16}"]),
    ],
    "decimals that repeat": [
        (r"\frac{1}{6}", [r"0.1\overline{6}"], [r"0.\overline{16}", "0.1666...", "0.16"]),
        (r"0.\overline{9}", ["1"], ["0.9"]),
    ],
}  # fmt: skip
PAIRS = [
    (kind, gold, answer, True) for kind, rows in KINDS.items() for gold, right, _ in rows for answer in [gold, *right]
]
PAIRS += [(kind, gold, answer, False) for kind, rows in KINDS.items() for gold, _, wrong in rows for answer in wrong]


@pytest.fixture(scope="module")
def verifier() -> Iterator[MathVerifier]:
    verifier = MathVerifier(workers=1)
    yield verifier
    verifier.close()


@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_compared_as_they_were_meant(verifier: MathVerifier, kind: str) -> None:
    pairs = [(gold, answer, expected) for one, gold, answer, expected in PAIRS if one == kind]
    assert [pair for pair in pairs if verify_math(pair[1], pair[0], verifier).equal != pair[2]] == []


# (first, second, equal): of modeling/math_equivalence_test.py in hendrycks/math, and where we stand by another verdict.
HENDRYCKS = [
    (r"\tfrac{1}{2} + \frac1{72}", r"\\frac{1}{2} + 2/3", False),
    ("10, 4, 2", "4, 12, 2", False),
    (r"\tfrac{1}{2} +\! \frac1{72}", r"\\dfrac{1}{2} +\frac{1}{72}", True),
    (r"10\text{ units}", "10 ", True),
    (r"10\text{ units}", "100 ", False),
    ("10", r"\$10", True),
    (r"\left(x-2\right)\left(x+2\right)", "(x-2)(x+2)", True),
    ("0.1", ".1", True),
    (r"10\%", "10", True),
    (r"10\sqrt{3} + \sqrt4", r"10\sqrt3 + \sqrt{4}", True),
    (r"\frac34i", r"\frac{3}{4}i", True),
    (r"\tfrac83", r"\frac{8}{3}", True),
    ("5x - 7y + 11z + 4 = 0", "x + y - z + 2 = 0", False),
    ("1/2", r"\frac{1}{2}", True),
    ("10, 4, -2", "4, 10, -2", True),  # False there; here a list of answers is unordered
    ("0.1, 4, 2", "4, .1, 2", True),
]


@pytest.mark.parametrize(("gold", "answer", "expected"), HENDRYCKS)
def test_verdicts_agree_with_the_tests_of_the_math_data_set(
    verifier: MathVerifier, gold: str, answer: str, expected: bool
) -> None:
    assert verify_math(answer, gold, verifier).equal == expected
