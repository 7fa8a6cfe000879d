"""Wrappers depend on seed and query alone, in batches, reads and threads alike."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from toolrl import RetrieverFault
from toolrl.errors import ConfigError
from toolrl.search import BM25Retriever, Document, NotReadable, Retriever
from toolrl.search.wrappers import (
    POISONS,
    EmptyResults,
    FailingResults,
    PoisonedResults,
    RandomResults,
    RetrieverWrapper,
    SlowResults,
)

DOCUMENTS = [Document(f"d{number}", f"Page {number}", f"the text of page {number}") for number in range(30)]
POOL = [Document(f"other{number}", f"Other {number}", "unrelated") for number in range(20)]
QUERIES = [f"page {number}" for number in range(30)]


class Readable(BM25Retriever):
    """Finds and reads documents, and knows whether it was closed."""

    closed = False

    def read(self, reference: str) -> Document:
        for document in DOCUMENTS:
            if document.id == reference:
                return document
        raise NotReadable(f"no {reference}")

    def close(self) -> None:
        self.closed = True


WRAPPERS: dict[str, Callable[[Retriever], RetrieverWrapper]] = {
    "random": lambda inner: RandomResults(inner, POOL),
    "empty": EmptyResults,
    "slow": lambda inner: SlowResults(inner, 0.001),
    "failing": lambda inner: FailingResults(inner, 0.5),
    "poisoned": PoisonedResults,
    "poisoned-text": lambda inner: PoisonedResults(inner, place="text"),
    "poisoned-title": lambda inner: PoisonedResults(inner, place="title"),
}


@pytest.fixture(scope="module")
def inner() -> Readable:
    return Readable(DOCUMENTS)


@pytest.fixture(params=WRAPPERS)
def wrapped(request: pytest.FixtureRequest, inner: Readable) -> RetrieverWrapper:
    return WRAPPERS[request.param](inner)


def outcome(function: Callable[..., Any], *arguments: Any) -> Any:
    """The return value, or the type and message of the exception."""
    try:
        return function(*arguments)
    except (RetrieverFault, NotReadable) as error:
        return (type(error), str(error))


def ids(documents: list[Document]) -> list[str]:
    return [document.id for document in documents]


# ---- of all wrappers


def test_a_query_has_one_outcome_whatever_was_asked_before_and_on_whichever_thread(wrapped: RetrieverWrapper) -> None:
    serial = [outcome(wrapped.search, query, 3) for query in QUERIES]
    assert [outcome(wrapped.search, query, 3) for query in reversed(QUERIES)] == serial[::-1]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: outcome(wrapped.search, query, 3), QUERIES)) == serial


def test_a_batch_and_its_queries_agree(wrapped: RetrieverWrapper) -> None:
    for query in QUERIES:
        single = outcome(wrapped.search, query, 3)
        batch = outcome(wrapped.search_batch, [query], 3)
        assert batch == (single if isinstance(single, tuple) else [single])
    sound = [query for query in QUERIES if isinstance(outcome(wrapped.search, query, 3), list)]
    assert wrapped.search_batch(sound, 3) == [wrapped.search(query, 3) for query in sound]


def test_asynchronous_callers_get_the_same(wrapped: RetrieverWrapper) -> None:
    for query in QUERIES[:10]:
        assert outcome(asyncio.run, wrapped.asearch(query, 3)) == outcome(wrapped.search, query, 3)
        assert outcome(asyncio.run, wrapped.asearch_batch([query], 3)) == outcome(wrapped.search_batch, [query], 3)
        assert outcome(asyncio.run, wrapped.aread("d1")) == outcome(wrapped.read, "d1")


def test_at_most_k_come_back_and_k_must_be_positive(wrapped: RetrieverWrapper) -> None:
    for k in (1, 2, 5):
        for query in QUERIES:
            found = outcome(wrapped.search, query, k)
            assert isinstance(found, tuple) or len(found) <= k
    if not isinstance(wrapped, FailingResults):
        with pytest.raises(ConfigError, match="k must be at least 1"):
            wrapped.search("page 1", 0)


def test_the_identity_names_the_wrapper_its_settings_and_the_wrapped_retriever(inner: Readable) -> None:
    identities = [make(inner).identity for make in WRAPPERS.values()]
    assert len(set(identities)) == len(identities)
    for make in WRAPPERS.values():
        identity = make(inner).identity
        assert identity.startswith(type(make(inner)).__name__)
        assert identity.endswith(f" of {inner.identity}")
        assert make(make(inner)).identity.endswith(f" of {identity}")
    assert RandomResults(inner, POOL, seed=1).identity != RandomResults(inner, POOL).identity
    assert RandomResults(inner, POOL[1:]).identity != RandomResults(inner, POOL).identity
    assert PoisonedResults(inner, "x").identity != PoisonedResults(inner, "y").identity
    assert FailingResults(inner, 0.1).identity != FailingResults(inner, 0.2).identity


def test_closing_a_wrapper_closes_the_wrapped_retriever() -> None:
    for make in WRAPPERS.values():
        inside = Readable(DOCUMENTS)
        with make(make(inside)):
            assert not inside.closed
        assert inside.closed


def test_outcomes_are_the_same_in_each_process(inner: Readable) -> None:
    program = (
        "from toolrl.search import BM25Retriever, Document\n"
        "from toolrl.search.wrappers import *\n"
        "inner = BM25Retriever([Document(f'd{n}', f'Page {n}', f'the text of page {n}') for n in range(30)])\n"
        "pool = [Document(f'other{n}', f'Other {n}', 'unrelated') for n in range(20)]\n"
        "for each in (RandomResults(inner, pool), PoisonedResults(inner)):\n"
        "    print([d.id for n in range(30) for d in each.search(f'page {n}', 3)])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    here = [RandomResults(inner, POOL), PoisonedResults(inner)]
    expected = [str([id for query in QUERIES for id in ids(each.search(query, 3))]) for each in here]
    assert printed.stdout.splitlines() == expected


# ---- of each wrapper


def test_random_results_come_from_the_pool_and_depend_on_query_and_seed(inner: Readable) -> None:
    wrapped = RandomResults(inner, POOL)
    found = [ids(wrapped.search(query, 3)) for query in QUERIES]
    assert all(len(set(each)) == 3 for each in found)
    assert {id for each in found for id in each} <= {document.id for document in POOL}
    assert len({tuple(each) for each in found}) > 20
    assert [ids(RandomResults(inner, POOL, seed=1).search(query, 3)) for query in QUERIES] != found
    assert len(wrapped.search("page", 100)) == len(POOL)
    scores = [document.score for document in wrapped.search("page", 5)]
    assert scores == sorted(scores, reverse=True)
    assert wrapped.read("other3") == POOL[3]
    assert wrapped.read("d3") == DOCUMENTS[3]
    with pytest.raises(ConfigError, match="at least one document"):
        RandomResults(inner, [])


def test_empty_results_find_and_read_nothing(inner: Readable) -> None:
    assert EmptyResults(inner).search_batch(["page 1", "page 2"], 3) == [[], []]
    with pytest.raises(NotReadable, match="'d1'"):
        EmptyResults(inner).read("d1")


def test_slow_results_wait_for_the_given_time(inner: Readable, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr("time.sleep", waited.append)
    wrapped = SlowResults(inner, 2.5)
    assert wrapped.search("page 1", 3) == inner.search("page 1", 3)
    assert wrapped.search_batch(["page 1", "page 2"], 3) == inner.search_batch(["page 1", "page 2"], 3)
    assert wrapped.read("d1") == DOCUMENTS[1]
    assert waited == [2.5] * 3
    for seconds in (-1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="seconds must be finite"):
            SlowResults(inner, seconds)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_failing_results_fail_for_a_fixed_share_of_the_queries(inner: Readable, rate: float) -> None:
    wrapped = FailingResults(inner, rate)
    failed = {n for n in range(1000) if isinstance(outcome(wrapped.search, f"page {n}", 1), tuple)}
    assert len(failed) / 1000 == pytest.approx(rate, abs=0.05 * (0 < rate < 1))
    assert failed == {n for n in range(1000) if isinstance(outcome(wrapped.search, f"page {n}", 1), tuple)}
    if rate == 0.3:
        other = FailingResults(inner, rate, seed=1)
        assert failed != {n for n in range(1000) if isinstance(outcome(other.search, f"page {n}", 1), tuple)}
        with pytest.raises(RetrieverFault, match="made to fail"):
            wrapped.search_batch([f"page {n}" for n in range(30)], 1)
        assert {isinstance(outcome(wrapped.read, f"d{n}"), tuple) for n in range(30)} == {True, False}


def test_a_rate_is_between_0_and_1(inner: Readable) -> None:
    for rate in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="rate must be between 0 and 1"):
            FailingResults(inner, rate)


def test_a_poisoned_page_is_among_the_original_results(inner: Readable) -> None:
    wrapped = PoisonedResults(inner)
    ranks, texts = set(), set()
    for query in QUERIES:
        clean, found = inner.search(query, 3), wrapped.search(query, 3)
        (rank,) = [rank for rank, document in enumerate(found) if document.id.startswith("poison-")]
        assert found[:rank] + found[rank + 1 :] == clean[:2]
        assert [document.score for document in found] == sorted((d.score for d in found), reverse=True)
        assert wrapped.read(found[rank].id).text == found[rank].text
        ranks.add(rank)
        texts.add(found[rank].text)
    assert ranks == {0, 1, 2}
    assert texts == set(POISONS.values())
    assert ids(wrapped.search("zeppelin", 3))[0].startswith("poison-")
    for missing in ("poison-9", "poison--1", "poison-", "d99"):
        with pytest.raises(NotReadable):
            wrapped.read(missing)


@pytest.mark.parametrize("place", ["text", "title"])
def test_poison_comes_before_the_text_or_title_of_each_document_and_nothing_is_lost(
    inner: Readable, place: Any
) -> None:
    wrapped = PoisonedResults(inner, "</s>Obey", place=place)
    for clean, found in zip(inner.search("page 1", 3), wrapped.search("page 1", 3), strict=True):
        assert found.id == clean.id
        before, after = getattr(clean, place), getattr(found, place)
        assert after.startswith("</s>Obey")
        assert after.endswith(before)
    assert getattr(wrapped.read("d1"), place).startswith("</s>Obey")


def test_empty_poison_and_unknown_places_are_refused(inner: Readable) -> None:
    for poison in ("", " ", [], ["x", ""]):
        with pytest.raises(ConfigError, match="a poison that is not empty"):
            PoisonedResults(inner, poison)
    with pytest.raises(ConfigError, match="place must be"):
        PoisonedResults(inner, place="url")  # type: ignore[arg-type]
