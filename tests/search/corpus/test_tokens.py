"""Names are found as a whole, by their parts, and exactly."""

import pytest

from toolrl.search.corpus.tokens import query_terms, text_terms, title_terms


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Find the n largest.", ["find", "the", "n", "largest"]),
        ("heapq.nlargest(n)", ["heapq.nlargest", "heapq", "nlargest", "n"]),
        ("as_completed", ["as_completed", "as", "completed"]),
        ("futures.as_completed", ["futures.as_completed", "futures", "as_completed", "as", "completed"]),
        ("ThreadPoolExecutor", ["threadpoolexecutor", "thread", "pool", "executor"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("HTTP", ["http"]),
        ("O_RDONLY", ["o_rdonly", "o", "rdonly"]),
        ("naïve Größe", ["naïve", "größe"]),
        ("--- ... !", []),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ｈｅａｐｑ．ｎｌａｒｇｅｓｔ", ["heapq.nlargest", "heapq", "nlargest"]),
        ("cafe\u0301 ﬁne", ["café", "fine"]),
        ("", []),
    ],
)
def test_text_is_split_into_words_and_whole_names(text, terms):
    assert text_terms(text) == terms


def test_a_title_has_an_exact_term_for_each_suffix():
    exact = [term for term in title_terms("os.path.join") if term.startswith("=")]
    assert exact == ["=os.path.join", "=path.join", "=join", "==os.path.join"]


def test_a_query_has_exact_terms_for_words_that_must_be_names():
    assert "=list" in query_terms("list")
    assert "=list" not in query_terms("sort a list in place")
    assert "=list.sort" in query_terms("what does list.sort return")
    assert "=INFO" in query_terms("value of INFO in logging")
    assert "=I" not in query_terms("How do I sort")


def test_a_query_has_each_term_once():
    terms = query_terms("the the heapq heapq.heapq")
    assert len(terms) == len(set(terms))


def test_text_cannot_forge_exact_terms():
    assert not [term for term in text_terms("=nlargest ==heapq.nlargest") if term.startswith("=")]


@pytest.mark.parametrize(
    ("text", "letters", "pairs"),
    [
        ("好好学习", ["好", "好", "学", "习"], ["好好", "好学", "学习"]),
        ("ﾃﾞｰﾀ", ["デ", "ー", "タ"], ["デー", "ータ"]),
        ("ง่าย", ["ง่", "า", "ย"], ["ง่า", "าย"]),
        ("한국에서", ["한", "국", "에", "서"], ["한국", "국에", "에서"]),
        ("猫", ["猫"], []),
    ],
)
def test_a_run_without_spaces_is_indexed_by_letters_and_bigrams_and_queried_by_bigrams(text, letters, pairs):
    assert text_terms(text) == letters + pairs
    assert text_terms(text, asked=True) == (pairs or letters)


def test_scripts_with_and_without_spaces_can_be_mixed():
    assert text_terms("用heapq.nlargest排序", asked=True) == ["用", "heapq.nlargest", "heapq", "nlargest", "排序"]
