"""BM25 ranks the document about the thing itself first, deterministically, from any thread."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings, strategies as st

from toolrl.errors import ConfigError
from toolrl.search import (
    BM25Retriever,
    Document,
    Retriever,
    python_docs_retriever,
    python_documentation,
    python_symbols,
)
from toolrl.search.corpus import bm25
from toolrl.search.corpus.sources import DocumentCorpus

FRUIT = [
    Document("a", "Apple", "A red fruit. It keeps the doctor away."),
    Document("b", "Banana", "A yellow fruit, like no apple."),
    Document("c", "Cherry", "A red fruit with a stone."),
]


@pytest.fixture(scope="module")
def fruit() -> BM25Retriever:
    return BM25Retriever(FRUIT)


@pytest.fixture(scope="module")
def python_docs() -> BM25Retriever:
    return python_docs_retriever()


def last_component(title: str) -> str:
    return title.rpartition(".")[2]


def test_it_is_a_retriever(fruit):
    assert isinstance(fruit, Retriever)
    assert len(fruit) == 3


def test_the_best_match_comes_first_with_its_score(fruit):
    first, second = fruit.search("apple", k=3)
    assert (first.id, second.id) == ("a", "b")
    assert first.score > second.score > 0
    assert FRUIT[0].score == 0


def test_at_most_k_documents_come_back(fruit):
    assert len(fruit.search("fruit", k=2)) == 2
    assert len(fruit.search("fruit", k=100)) == 3


@pytest.mark.parametrize("query", ["", "  \n", "?!", "zeppelin", "="])
def test_nothing_to_find_is_an_empty_list(query, fruit):
    assert fruit.search(query, k=3) == []


def test_ties_rank_in_the_order_of_the_corpus():
    documents = [Document(str(number), "Same", "the text" + " text" * (number % 2)) for number in range(500)]
    found = BM25Retriever(documents).search("text", k=400)
    evens, odds = list(range(0, 500, 2)), list(range(1, 500, 2))
    assert [int(document.id) for document in found] == (odds + evens)[:400]


def test_a_batch_is_its_queries_in_order(fruit):
    queries = ["cherry", "", "banana"]
    assert fruit.search_batch(queries, k=2) == [fruit.search(query, k=2) for query in queries]


def test_documents_without_words_are_never_found():
    retriever = BM25Retriever([Document("dots", "", "..."), *FRUIT])
    assert {document.id for document in retriever.search("fruit", k=9)} == {"a", "b", "c"}


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([], "at least one"),
        ([FRUIT[0], FRUIT[1], FRUIT[0]], "'a'"),
        ([FRUIT[0], Document("blank", "Title", " \n")], "'blank'"),
    ],
)
def test_a_broken_corpus_is_refused_by_name(documents, message):
    with pytest.raises(ConfigError, match=message):
        BM25Retriever(documents)


def test_k_must_be_positive(fruit):
    with pytest.raises(ConfigError, match="got 0"):
        fruit.search("apple", k=0)


@given(query=st.text(max_size=60), k=st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_any_query_is_answered(query, k):
    found = python_docs_retriever().search(query, k)
    assert len(found) <= k
    assert [document.score for document in found] == sorted((d.score for d in found), reverse=True)


def test_building_prints_nothing(capfd):
    BM25Retriever(FRUIT)
    assert capfd.readouterr() == ("", "")


# On the Python documentation


@pytest.mark.parametrize("kind", ["module", "function", "class", "method", "exception", "constant"])
def test_a_dotted_name_finds_its_own_document_first(kind, python_docs):
    titles = {document.id: document.title for document in python_documentation()}
    symbols = [symbol for symbol in python_symbols() if symbol.kind == kind]
    missed = [s for s in symbols if python_docs.search(titles[s.document_id], k=1)[0].id != s.document_id]
    assert len(missed) <= 0.01 * len(symbols), missed[:10]


@pytest.mark.parametrize("kind", ["module", "function", "class", "method", "exception", "constant"])
def test_a_bare_name_finds_a_document_of_that_name_first(kind, python_docs):
    names = {symbol.name for symbol in python_symbols() if symbol.kind == kind}
    missed = [name for name in names if last_component(python_docs.search(name, k=1)[0].title) != name]
    assert len(missed) <= 0.03 * len(names), missed[:10]


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("logging.INFO", "logging.INFO"),
        ("logging.info", "logging.info"),
        ("HEAPQ.NLARGEST", "heapq.nlargest"),
        ("nlargest heapq", "heapq.nlargest"),
        ("what is the default of indent in json.dumps?", "json.dumps"),
        ("thread pool executor max workers", "concurrent.futures.ThreadPoolExecutor"),
        ("find the n largest elements in a list", "heapq.nlargest"),
        ("remove common leading whitespace from text", "textwrap.dedent"),
        ("current working directory", "os.getcwd"),
        ("lambda", "lambda"),
    ],
)
def test_questions_find_their_answer(query, title, python_docs):
    assert title in [document.title for document in python_docs.search(query, k=3)]


def test_concurrent_searches_agree_with_serial_ones(python_docs):
    queries = [symbol.summary or symbol.document_id for symbol in python_symbols()[::20]]
    serial = python_docs.search_batch(queries, k=5)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: python_docs.search(query, 5), queries)) == serial


def test_the_shared_retriever_is_built_once(python_docs):
    assert python_docs_retriever() is python_docs


@pytest.mark.slow
def test_results_are_the_same_in_each_process(python_docs):
    query = "wait for a future to be done"
    program = (
        f"from toolrl.search import *; print([(d.id, d.score) for d in python_docs_retriever().search({query!r}, 9)])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == str([(d.id, d.score) for d in python_docs.search(query, 9)])


def test_the_package_imports_without_numpy():
    program = "import sys, toolrl.search; sys.exit('numpy' in sys.modules or 'bm25s' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


# On disk


def index_folders(cache_dir):
    return [path for path in cache_dir.iterdir() if path.name.startswith("bm25-")]


@pytest.fixture
def never_built(monkeypatch):
    """A function after whose call building an index fails."""

    def forbid():
        monkeypatch.setattr(bm25, "build_index", lambda documents: pytest.fail("built again"))

    return forbid


def test_a_cached_index_is_loaded_and_finds_the_same(tmp_path, fruit, never_built):
    BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path / "new" / "folder")
    never_built()
    loaded = BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path / "new" / "folder")
    assert loaded.search("red apple", 3) == fruit.search("red apple", 3)
    assert loaded.read("b") == FRUIT[1]
    assert loaded.identity == fruit.identity


def test_another_corpus_has_another_index(tmp_path):
    first = BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path)
    second = BM25Retriever.open(DocumentCorpus(FRUIT[:2]), cache_dir=tmp_path)
    assert len(index_folders(tmp_path)) == 2
    assert first.identity != second.identity


@pytest.mark.parametrize("damage", ["truncated", "deleted", "garbage"])
@pytest.mark.parametrize("name", ["data.csc.index.npy", "vocab.index.json", "params.index.json"])
def test_a_damaged_index_is_rebuilt(damage, name, tmp_path, fruit, never_built):
    BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path)
    (folder,) = index_folders(tmp_path)
    if damage == "deleted":
        (folder / name).unlink()
    else:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2] if damage == "truncated" else b"\x00nonsense")
    repaired = BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path)
    assert repaired.search("red apple", 3) == fruit.search("red apple", 3)
    never_built()
    BM25Retriever.open(DocumentCorpus(FRUIT), cache_dir=tmp_path)


def test_a_changed_file_is_indexed_again(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"id": "x", "title": "Kiwi", "text": "green"}\n')
    assert BM25Retriever.open(file, cache_dir=tmp_path).search("kiwi", 1)[0].id == "x"
    file.write_text('{"id": "y", "title": "Kiwi", "text": "green"}\n')
    assert BM25Retriever.open(str(file), cache_dir=tmp_path).search("kiwi", 1)[0].id == "y"


def test_the_cache_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TOOLRL_CACHE", str(tmp_path / "kept"))
    BM25Retriever.open(DocumentCorpus(FRUIT))
    assert len(index_folders(tmp_path / "kept")) == 1


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("学习", "zh"),
        ("天天", "zh"),
        ("猫", "cat"),
        ("データベース", "ja"),
        ("ﾃﾞｰﾀﾍﾞｰｽ", "ja"),
        ("ไทย", "th"),
        ("한국", "ko"),
        ("भाषा", "hi"),
        ("café", "fr"),
        ("cafe\u0301", "fr"),
        ("width", "wide"),
        ("ｗｉｄｔｈ", "wide"),
    ],
)
def test_text_in_any_script_and_form_is_found(query, found):
    texts = {
        "zh": "好好学习，天天向上。",
        "cat": "我有一只猫",
        "ja": "データベースの設計",
        "th": "ภาษาไทยเป็นภาษาที่ง่าย",
        "ko": "한국에서 살아요",
        "hi": "हिन्दी भाषा",
        "fr": "un cafe\u0301 noir",
        "wide": "ｗｉｄｔｈ letters",
    }
    retriever = BM25Retriever([Document(name, "", text) for name, text in texts.items()])
    assert [document.id for document in retriever.search(query, 1)] == [found]
