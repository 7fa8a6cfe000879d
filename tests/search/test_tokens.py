"""Names are found as a whole, by their parts, and exactly."""

import pytest

from toolrl.search.tokens import query_terms, text_terms, title_terms


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
        ("", []),
    ],
)
def test_text_is_cut_into_words_and_whole_names(text, terms):
    assert text_terms(text) == terms


def test_a_title_is_found_exactly_by_each_of_its_endings():
    exact = [term for term in title_terms("os.path.join") if term.startswith("=")]
    assert exact == ["=os.path.join", "=path.join", "=join", "==os.path.join"]


def test_a_query_asks_exactly_for_what_can_only_be_a_name():
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
