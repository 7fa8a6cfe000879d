"""Promises about multiple-choice letters: found in the forms that models write, never in an article or a hedge."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from toolrl.rewards import choice_letter, find_answer

RIGHT = {
    "C": [
        "C", "c", "C.", "C)", "(C)", "(c).", "[C]", "C:", "**C**", "*C*", "_C_", "__C__", "`C`", '"C"', "'C'",
        "C!", "Ｃ",
        "（Ｃ）", "$C$", "$$C$$", r"\(C\)", r"\boxed{C}", r"\boxed{\text{C}}", r"$\boxed{\textbf{(C)}}$",
        r"\fbox{C}",
        r"So \boxed{(C)}.", "C. Paris", "C) Paris", "(c) Paris", "c. paris", "**C. Paris**", "Option C",
        "option c",
        "Answer: C", "**Answer:** C", "Answer: **C**", "**Answer: C**", "ANSWER: $C$", "ANSWER: C", "answer: c",
        "ANSWER C",
        "Answer：C", "Answer：Ｃ", "Answer:\n\nC", "Answer = C", "Answer - C", "Answer: (C)", "Answer: [C]",
        "Answer: 'C'",
        "The answer is C.", "The answer is **C**", "**The answer is C**", "the answer is c",
        "The answer is (C) Paris",
        "The correct answer is: **(C)** Paris", "The correct option is C", "So the correct choice would be (C).",
        "The answer is option (c)", "Final answer: C", "## Final Answer\n\nC",
        "The answer is C because 2 + 2 = 4.",
        r"The answer is $\textbf{(C)}\ 45$", "I choose C", "I would go with C.", "Answer: C Paris",
        "Answer: C\nAnswer: C",
        "A) Rome\nB) Oslo\nC) Paris\nThe answer is C", "The answer is C, not option B", "Answer: C (not B)",
        "Réponse : C", "Antwort: C", "Respuesta: C", "答案：C", "答案是C。", "答え：C", "정답: C",
        "答案为C", "故选：C。", "The answer is ‘C’.", "<b>C</b>", '{"answer": "C"}', r"\textbf{(C)}\ 45", "(C)45",
        "Answer: C. Actually, it is the only one left.",
    ],
    "A": [
        "A", "a", "A.", "(a)", "Answer: A", "Answer: **A**", "The answer is A.", "the answer is a",
        "The answer is a.",
        "The answer is A because it is.", "Answer: A\nThat is it.", "The answer is A, clearly.", r"\boxed{A}",
        "Option A",
        "The answer is A and not B.", "The correct answer is A) Paris", "Option A is right. Option B is wrong.",
        "So, A is the correct answer.", "Option B is wrong, option A is correct", "A is correct.",
    ],
}  # fmt: skip
NONE = [
    "", "F", "four", "Paris", "My answer is a guess", "Answer: a guess", "answer is an apple",
    "The answer is a matter of",
    "A guess", "a guess", "A capital is a city.", "I pick a card", "The answer is Apple", "Answer: Because",
    "Answer: none",
    "Answer: e.g. this", "Answer: C++", "C++", "The answer is A or B", "A or B", "A and B", "A, B", "AB", "A/B",
    "A|B",
    "Answer: A, C", "Answer: A/C", "Answer: C & D", "Answer: C D", "Answer: CD", "Answer: C;D",
    "The answer is (A) or (B)",
    "The answer is either A or B", "The answer is C or maybe D", "The answer is A or another", "Answer: E or none",
    "The answer is not A", "The answer isn't A", "Not A", "The answer is not option B.",
    "the answer is A, no: answer: B",
    "Answer: C\nAnswer: D", "A) Rome\nB) Paris", r"\boxed{A} or \boxed{B}",
    "Option C is wrong.", "Option C isn't right", "Option D is not it", "C is not the answer",
    "If C is right, so is it",
    "Answer: C, no wait, D", "Answer: C. Actually, D.", "The answer is A-bomb", "Answer: e^x", "Answer: d/dx",
    "Answer: b^2", "Answer: e = mc^2", "A is right, but B is correct",
    "The options are bad", "Answers: A and B", "The answer could be anything",
]  # fmt: skip


@pytest.mark.parametrize(("letter", "text"), [(letter, text) for letter, texts in RIGHT.items() for text in texts])
def test_a_letter_is_found_however_the_answer_is_written(letter: str, text: str) -> None:
    assert choice_letter(text) == letter
    assert find_answer(text, ["letter"]) == letter
    if "So " not in text:  # a box next to other text is not an answer in a tag
        assert find_answer(f"A thought. <answer>{text}</answer>", ["tag", "letter"]) == letter


@pytest.mark.parametrize("text", NONE)
def test_a_hedge_an_article_or_a_word_is_not_a_letter(text: str) -> None:
    assert choice_letter(text) is None
    assert find_answer(text, ["letter"]) is None


def test_the_pronoun_i_is_not_a_letter_but_the_choice_i_is() -> None:
    letters = "ABCDEFGHIJ"
    assert choice_letter("The answer is I think B", letters) is None
    assert choice_letter("I think so", letters) is None
    assert [choice_letter(text, letters) for text in ("I", "The answer is I.", "(I)", "Answer: J")] == [
        "I",
        "I",
        "I",
        "J",
    ]


@given(
    letter=st.sampled_from("ABCDE"),
    other=st.sampled_from("ABCDE"),
    said=st.sampled_from(
        ["Answer: {}", "The answer is {}.", "**Answer:** {}", "Option {}", r"\boxed{{{}}}", "ANSWER: ${}$"]
    ),
    wrapped=st.sampled_from(["{}", "({})", "**{}**", "[{}]", "`{}`"]),
    hedge=st.sampled_from([" or ", ", ", " and ", "/", " & "]),
)
def test_two_letters_are_never_one_answer(letter: str, other: str, said: str, wrapped: str, hedge: str) -> None:
    assert choice_letter(said.format(wrapped.format(letter))) == letter
    both = choice_letter(said.format(wrapped.format(letter) + hedge + wrapped.format(other)))
    assert both == (letter if letter == other and hedge != " or " else both)
    assert letter == other or both is None
