"""Dense and hybrid retrieval, with a real but small sentence-transformers model, built here."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolrl.errors import ConfigError, MissingExtra, RetrieverFault
from toolrl.search import BM25Retriever, DenseRetriever, Document, HybridRetriever, NotReadable, Retriever
from toolrl.search.corpus.sources import DocumentCorpus

DOCUMENTS = [
    Document("a", "Apple", "a red fruit that keeps the doctor away"),
    Document("b", "Boat", "a wooden vessel on the water"),
    Document("c", "Cherry", "a small red fruit with a stone", "https://fruit.example/c"),
    Document("d", "Dog", "an animal that barks at the doctor"),
]


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    """Encodes a text as the sum of fixed random vectors of its words."""
    sentence_transformers = pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")
    pytest.importorskip("usearch", reason="the extra dense is not installed")
    import torch
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = sorted({word for d in DOCUMENTS for word in f"{d.title} {d.text}".lower().split()})
    vocabulary = {word: index for index, word in enumerate(["[UNK]", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    weights = torch.randn(len(vocabulary), 64, generator=torch.Generator().manual_seed(0))
    weights[0] = 0.001
    folder = tmp_path_factory.mktemp("model")
    static = StaticEmbedding(tokenizer, embedding_weights=weights.numpy())
    sentence_transformers.SentenceTransformer(modules=[static], device="cpu").save(str(folder))
    return str(folder)


@pytest.fixture
def dense(model, tmp_path) -> DenseRetriever:
    return DenseRetriever(DocumentCorpus(DOCUMENTS), model, cache_dir=tmp_path, device="cpu")


def ids(documents) -> list[str]:
    return [document.id for document in documents]


def test_the_nearest_come_first_with_their_cosines(dense):
    found = dense.search("small cherry with a stone", 2)
    assert found[0].id == "c"
    assert 1.001 >= found[0].score > found[1].score
    assert isinstance(dense, Retriever)


def test_a_batch_is_its_queries_in_order_and_k_may_exceed_the_corpus(dense):
    queries = ["barks", "wooden vessel", "red fruit"]
    batch = dense.search_batch(queries, 9)
    assert [found[0].id for found in batch[:2]] == ["d", "b"]
    assert [ids(found) for found in batch] == [ids(dense.search(query, 9)) for query in queries]
    assert {len(found) for found in batch} == {4}
    assert dense.search_batch([], 3) == []


def test_documents_are_read_by_id_or_url(dense):
    assert dense.read("https://fruit.example/c") == DOCUMENTS[2]
    with pytest.raises(NotReadable):
        dense.read("z")


def test_the_index_is_cached_and_rebuilt_if_damaged(dense, model, tmp_path):
    (file,) = tmp_path.glob("dense-*/*")
    file.write_bytes(file.read_bytes()[:100])
    repaired = DenseRetriever(DocumentCorpus(DOCUMENTS), model, cache_dir=tmp_path, device="cpu")
    assert ids(repaired.search("wooden", 1)) == ["b"]
    built = file.stat()
    again = DenseRetriever(DocumentCorpus(DOCUMENTS), model, cache_dir=tmp_path, device="cpu")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (built.st_ino, built.st_mtime_ns)
    assert again.identity == repaired.identity == dense.identity


def test_a_missing_model_is_a_user_error(tmp_path):
    pytest.importorskip("sentence_transformers", reason="the extra dense is not installed")
    with pytest.raises(ConfigError, match="cannot load"):
        DenseRetriever(DocumentCorpus(DOCUMENTS), str(tmp_path / "nowhere"), cache_dir=tmp_path)


def test_without_the_extra_the_message_names_the_install():
    program = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from toolrl.search import DenseRetriever, Document\n"
        "from toolrl.search.corpus.sources import DocumentCorpus\n"
        "DenseRetriever(DocumentCorpus([Document('a', '', 'x')]), cache_dir='/nowhere')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "pip install 'toolrl[dense]'" in done.stderr
    assert MissingExtra.__name__ in done.stderr


class Ranking(Retriever):
    """Always finds the same documents."""

    def __init__(self, *names: str):
        self.documents = [Document(name, "", f"text of {name}") for name in names]
        self.closed = False

    def search(self, query: str, k: int) -> list[Document]:
        if query == "down":
            raise RetrieverFault("down")
        return self.documents[:k]

    def read(self, reference: str) -> Document:
        for document in self.documents:
            if document.id == reference:
                return document
        raise NotReadable(reference)

    def close(self) -> None:
        self.closed = True


def test_fusion_adds_reciprocal_ranks():
    with HybridRetriever([Ranking("a", "b", "c"), Ranking("c", "d")]) as hybrid:
        found = hybrid.search("q", 3)
        assert ids(found) == ["c", "a", "b"]
        assert [document.score for document in found] == pytest.approx([1 / 63 + 1 / 61, 1 / 61, 1 / 62])
    with HybridRetriever([Ranking("a", "b"), Ranking("b", "a")], weights=[1, 2]) as hybrid:
        assert ids(hybrid.search("q", 1)) == ["b"]


def test_a_fault_of_one_is_a_fault_and_all_are_closed():
    rankings = [Ranking("a"), Ranking("b")]
    with HybridRetriever(rankings) as hybrid:
        with pytest.raises(RetrieverFault):
            hybrid.search("down", 1)
        assert hybrid.read("b").text == "text of b"
        with pytest.raises(NotReadable):
            hybrid.read("z")
    assert all(ranking.closed for ranking in rankings)


def test_bm25_and_dense_together_find_what_either_finds(dense, tmp_path):
    with HybridRetriever([BM25Retriever.open(DocumentCorpus(DOCUMENTS), cache_dir=tmp_path), dense]) as hybrid:
        assert ids(hybrid.search("Boat", 1)) == ["b"]
        assert len(hybrid.search("red", 4)) == 4
        assert hybrid.identity.startswith("hybrid(1*bm25-")


@pytest.mark.parametrize(("count", "weights"), [(1, None), (2, [1]), (2, [1, 0])])
def test_invalid_weights_are_refused(count, weights):
    with pytest.raises(ConfigError, match="two or more"):
        HybridRetriever([Ranking("a")] * count, weights=weights)
