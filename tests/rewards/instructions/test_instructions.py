"""Promises about the kinds of instructions: each tells right from wrong for any text, as in IFEval."""

from __future__ import annotations

import importlib.util
import json
import sys
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from toolrl import MissingExtra, TaskError
from toolrl.rewards.instructions import (
    follows_loosely,
    follows_strictly,
    instruction_kinds,
    make_instruction,
    split_sentences,
)
from toolrl.rewards.instructions.text import count_capital_words

needs_langdetect = pytest.mark.skipif(importlib.util.find_spec("langdetect") is None, reason="needs langdetect")
LANGUAGE_KINDS = ("change_case:english_capital", "change_case:english_lowercase", "language:response_language")

ENGLISH = "The children walk to school in the morning and come back home in the afternoon."
GERMAN = "Die Kinder gehen am Morgen zur Schule und kommen am Nachmittag wieder nach Hause."

# (id, kwargs, right answers, wrong answers)
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["bee", "hive"]}, ["A BEE and a hive.", "Beehives"], ["A bee.", "hive"]),
    ("keywords:existence", {"keywords": ["C++"]}, ["I like C++."], ["I like C.", "Cccc"]),
    (
        "keywords:frequency",
        {"keyword": "Tea", "frequency": 2, "relation": "at least"},
        ["tea, TEA", "teatea", "tea tea tea"],
        ["tea", "coffee"],
    ),
    (
        "keywords:frequency",
        {"keyword": "tea", "frequency": 2, "relation": "less than"},
        ["tea", "none"],
        ["tea tea", "steam and teapot"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["war", "a.b"]},
        ["warm", "forewarn", "axb"],
        ["War!", "a war", "(war)", "x a.b y"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": "at least"},
        ["qQ", "quick quiz"],
        ["q", "o"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 3, "let_relation": "less than"},
        ["#a #b", "none"],
        ["#a #b #c"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "at least"},
        ["One. Two! Three?", "A b. C d.\nE f."],
        ["One. Two.", "Dr. Who met Mr. Hyde. They left.", "Pi is 3.14 or so. Yes."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        ["One. Two.", "a line\nanother line\na third line"],
        ["One. Two. Three."],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["a\n***\nb", "a *** b", "***\na\n***\nb\n***", "a***b"],
        ["a", "a\n\nb", "a\n***\nb\n***\nc", "a\n***\n\n***\nb", "***"],
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}, ["a", "a ***"], ["a *** b", "***"]),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        ["a b c", "it's me", "well-known fact"],
        ["a b", "--- ... !!!"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, ["a b", "?"], ["a b c"]),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 3, "nth_paragraph": 2, "first_word": "Tea"},
        ["a\n\ntea b\n\nc", "a\n\n'TEA!' b\n\nc", 'a\n\n"Tea", b\n\nc\n\n\n\n'],
        ["tea\n\na\n\nb", "a\n\nteas b\n\nc", "a\n\ntea b", "a\n\ntea\n\nb\n\nc", "a\n\n\n\ntea\n\nb"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["[a] [b]", "[a][b][c]", "[]\n[x y]", "[[a] [b]]"],
        ["[a]", "a] [b", "[a\n] [b", "[[a]]"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["a\nP.S. b", "a\np. s. b", "a P.S."],
        ["PS b", "a", "P.P.S b"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["a\nP.P.S b", "p. p. s"], ["P.S. b", "P.P."]),
    ("detectable_content:postscript", {"postscript_marker": "Note:"}, ["a\nnote: b"], ["notes", "note."]),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "text\n- a\n  * b\nend", "*a\n*b"],
        ["* a", "* a\n* b\n* c", "** a\n** b", "1. a\n2. b", "a * b * c"],
    ),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", " I think. My answer is maybe. "],
        ["yes", "My answer is perhaps.", "My answer is yes. My answer is no. My answer is maybe.", "my answer is yes."],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*a* and *b*", "**a** and **b**", "*a* **b**"],
        ["*a*", "* a\n* b", "** ** * *", "****", "*a\nb* *c\nd*"],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Section", "num_sections": 2},
        ["Section 1\na\nSection 2\nb", "Section1 Section2 Section3", "Section 1. a Section 2. b"],
        ["Section 1", "Section one Section two", "SECTION 1 SECTION 2"],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', " [1, 2] ", '```json\n{"a": 1}\n```', "```JSON\n[]\n```", "```\n{}\n```"],
        ["{'a': 1}", "a", 'Here: {"a": 1}', '{"a": 1', "```json\n```", "[" * 100_000],
    ),
    (
        "detectable_format:title",
        {},
        ["<<a>>", "x <<poem of joy>> y", "<<<a>>>", "<<a>> and >>"],
        ["<a>", "<<>>", "<< >>", "<<a\nb>>", ">>a<<", "<<a>", "<<<>>>", "<" * 100_000],
    ),
    (
        "combination:two_responses",
        {},
        ["a\n******\nb", "******a******b******", "a******b"],
        ["a", "a ****** a", "a******b******c", "a************b", "******", "a ***** b"],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem."},
        ["Write a poem. Roses", " write a POEM.\nRoses"],
        ["Roses", "Sure! Write a poem.", "Write a  poem. x", "Write a poem"],
    ),
    (
        "startend:end_checker",
        {"end_phrase": " The end. "},
        ["a. The end.", 'a THE END."\n', "The end."],
        ["The end. a", "The end", "The end.!"],
    ),
    ("startend:quotation", {}, ['"a"', ' "a\nb" ', '""'], ["a", '"a', 'a"', '"', "“a”"]),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        ["OH NO!", "I AM", "A WELL-KNOWN fact", "*STOP* and **GO**", "DON'T"],
        ["OH no", "Well Done", "WELL-KNOWN", "123 456"],
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "less than"},
        ["OH no", "none"],
        ["OH NO", "I'm what I am"],
    ),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, GERMAN.upper(), "123"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, GERMAN.lower(), "123"]),
    ("language:response_language", {"language": "de"}, [GERMAN, GERMAN.upper()], [ENGLISH, "123", "!?"]),
    ("language:response_language", {"language": "zh"}, ["孩子们早上去学校，下午回家。他们喜欢学习。"], [ENGLISH]),
    ("punctuation:no_comma", {}, ["a. b; c", "a،b"], ["a, b", ",", "1,000"]),
]


def case_id(case: tuple[Any, ...]) -> str:
    return f"{case[0]} {json.dumps(case[1])[:40]}"


def marked(cases: list[tuple[Any, ...]]) -> list[Any]:
    return [
        pytest.param(*case, id=case_id(case), marks=needs_langdetect if case[0] in LANGUAGE_KINDS else ())
        for case in cases
    ]


WITHOUT_LANGUAGES = [case for case in CASES if case[0] not in LANGUAGE_KINDS]


# ---- the kinds


def test_all_kinds_of_ifeval_exist_and_are_tested() -> None:
    assert {case[0] for case in CASES} <= set(instruction_kinds())
    assert len({case[0] for case in CASES}) == 25


@pytest.mark.parametrize(("id", "kwargs", "right", "wrong"), marked(CASES))
def test_each_kind_tells_right_from_wrong(id: str, kwargs: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    instruction = make_instruction(id, kwargs)
    assert [text for text in right if not follows_strictly(instruction, text)] == []
    assert [text for text in wrong if follows_strictly(instruction, text)] == []


@pytest.mark.parametrize(("id", "kwargs", "right", "wrong"), marked(CASES))
def test_a_blank_response_follows_nothing(id: str, kwargs: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    instruction = make_instruction(id, kwargs)
    for blank in ("", " ", "\n\n\t"):
        assert not follows_strictly(instruction, blank)
        assert not follows_loosely(instruction, blank)


@given(
    case=st.sampled_from(WITHOUT_LANGUAGES),
    pick=st.randoms(use_true_random=False),
    before=st.text(" \n", max_size=3),
    after=st.text(" \n", max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_space_around_a_response_does_not_change_the_verdict(case: Any, pick: Any, before: str, after: str) -> None:
    id, kwargs, right, wrong = case
    instruction = make_instruction(id, kwargs)
    if id == "length_constraints:nth_paragraph_first_word":
        before = ""  # it would shift the paragraphs, as in IFEval
    assert follows_strictly(instruction, before + pick.choice(right) + after)
    assert not follows_strictly(instruction, before + pick.choice(wrong) + after)


@given(case=st.sampled_from(WITHOUT_LANGUAGES), text=st.text(alphabet="aB.,*[]<>{}\"'# \n-1§é", max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_gets_a_verdict_and_strict_implies_loose(case: Any, text: str) -> None:
    instruction = make_instruction(case[0], case[1])
    strict = follows_strictly(instruction, text)
    assert strict is bool(strict)
    assert follows_loosely(instruction, text) or not strict


@pytest.mark.parametrize(("id", "kwargs", "right", "wrong"), marked(WITHOUT_LANGUAGES))
@pytest.mark.timeout(30)
def test_adversarial_texts_are_not_slow(id: str, kwargs: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    instruction = make_instruction(id, kwargs)
    for unit in ("[", "<<", ">", "*", "**a", "* ", "-", "\n", " ", "A.", "Section ", "p.", "```", '"', "A'", "a, "):
        follows_loosely(instruction, unit * 20_000)


# ---- sentences and capitals


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("no end", 1),
        ("One. two. three.", 3),
        ('He said "Stop!" Then he left.', 2),
        ('"It rained. " We left. "', 2),
        ("(It rained.) We left.", 2),
        ("Dr. Ada Lind and Mrs. Orr met at St. Pauls.", 1),
        ("J. R. Smith came.", 1),
        ("It is 9 a.m. now. It is 9 p.m. The sun is down.", 3),
        ("We sell pens, ink, etc. The shop is open.", 2),
        ("See e.g. Berlin, i.e. the city.", 1),
        ("It costs 3.50 at www.shop.com today.", 1),
        ("Well... maybe. Well... Yes.", 3),
        ("What?! No!! Yes.", 3),
        ("Bye.\n\nP.S. Write soon.", 3),
        ("line one\nline two", 1),
    ],
)
def test_sentences_end_where_a_reader_ends_them(text: str, count: int) -> None:
    assert len(split_sentences(text)) == count


@given(text=st.text(alphabet="ab A.!?\"'\n", max_size=80))
def test_sentences_make_up_the_text_and_none_is_blank(text: str) -> None:
    sentences = split_sentences(text)
    assert all(sentence == sentence.strip() != "" for sentence in sentences)
    assert "".join("".join(sentences).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "count"), [("NASA's", 1), ("I'm", 1), ("CAN'T", 2), ("A,B", 2), ("U.S.", 1), ("(OK)", 1), ("É è", 1)]
)
def test_capital_words_are_tokens(text: str, count: int) -> None:
    assert count_capital_words(text) == count


# ---- making instructions


def test_errors_say_what_is_wrong_with_an_instruction() -> None:
    with pytest.raises(TaskError, match=r"no kind .* 'punctuation:no_coma'; did you mean punctuation:no_comma"):
        make_instruction("punctuation:no_coma")
    with pytest.raises(TaskError, match=r"length_constraints:number_words: num_words: .*'many'"):
        make_instruction("length_constraints:number_words", {"num_words": "many", "relation": "at least"})
    with pytest.raises(TaskError, match=r"relation: .*less than.*exactly"):
        make_instruction("length_constraints:number_words", {"num_words": 3, "relation": "exactly"})
    with pytest.raises(TaskError, match="keyword: Field required"):
        make_instruction("keywords:frequency", {"frequency": 1, "relation": "at least"})
    with pytest.raises(TaskError, match="extra: Extra inputs"):
        make_instruction("punctuation:no_comma", {"extra": 1})
    kwargs = {"num_paragraphs": 1, "nth_paragraph": 2, "first_word": "a"}
    with pytest.raises(TaskError, match="not be greater than num_paragraphs"):
        make_instruction("length_constraints:nth_paragraph_first_word", kwargs)
    with pytest.raises(TaskError, match="must be an object"):
        make_instruction("punctuation:no_comma", ["x"])  # type: ignore[arg-type]


def test_arguments_that_are_none_count_as_absent() -> None:
    assert make_instruction("punctuation:no_comma", {"num_words": None}) == make_instruction("punctuation:no_comma")


def test_without_the_detector_an_instruction_about_languages_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolrl.rewards.instructions import language

    monkeypatch.setitem(sys.modules, "langdetect", None)
    language.detector_factory.cache_clear()
    try:
        for id, kwargs in (("language:response_language", {"language": "de"}), ("change_case:english_capital", {})):
            with pytest.raises(MissingExtra, match=r"toolrl\[instructions\]"):
                make_instruction(id, kwargs)
    finally:
        language.detector_factory.cache_clear()


@needs_langdetect
def test_an_unknown_language_is_rejected() -> None:
    with pytest.raises(TaskError, match="language must be one of af, ar"):
        make_instruction("language:response_language", {"language": "klingon"})


@needs_langdetect
def test_the_language_of_a_text_is_deterministic() -> None:
    from toolrl.rewards.instructions.language import language_of

    assert len({language_of("la casa es de no mar do") for _ in range(20)}) == 1
