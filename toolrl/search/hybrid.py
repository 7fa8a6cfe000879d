"""Fuses the rankings of several retrievers."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from toolrl.errors import ConfigError
from toolrl.search.base import Document, NotReadable, Retriever, check_k

# Of reciprocal rank fusion: Cormack, Clarke and Buettcher, SIGIR 2009, section 2.
_RANK_CONSTANT = 60


class HybridRetriever(Retriever):
    """Fuses the rankings of retrievers over the same documents by their reciprocal ranks.

    A document's score is the sum of weight / (60 + rank) over the rankings that have it (Cormack, Clarke and
    Buettcher, SIGIR 2009); documents are the same if their ids are.

    Args:
        retrievers: Two or more, such as a BM25Retriever and a DenseRetriever; closed with this one.
        weights: One per retriever; default: all 1.
        depth: How many results of each are fused, if more than requested.

    Raises:
        ConfigError: There are fewer than two retrievers, or a weight is missing or not positive.
    """

    def __init__(self, retrievers: Sequence[Retriever], *, weights: Sequence[float] | None = None, depth: int = 100):
        weights = [1.0] * len(retrievers) if weights is None else list(weights)
        if len(retrievers) < 2 or len(weights) != len(retrievers) or min(weights) <= 0:
            raise ConfigError(
                "a hybrid needs two or more retrievers and a positive weight for each, "
                f"got {len(retrievers)} and {weights}"
            )
        check_k(depth)
        self._retrievers, self._weights, self._depth = list(retrievers), weights, depth
        # Retrievers release the GIL while they wait or compute.
        self._threads = ThreadPoolExecutor(4 * len(retrievers), thread_name_prefix="hybrid-search")

    @property
    def identity(self) -> str:
        """The identities of the retrievers, and the weights."""
        parts = (f"{w:g}*{r.identity}" for w, r in zip(self._weights, self._retrievers, strict=True))
        return f"hybrid({', '.join(parts)}, depth={self._depth})"

    def search(self, query: str, k: int) -> list[Document]:
        """See `Retriever.search`; a fault of one retriever is a fault of the hybrid."""
        return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Ask each retriever all queries, concurrently."""
        check_k(k)
        depth = max(k, self._depth)
        asked = [self._threads.submit(retriever.search_batch, queries, depth) for retriever in self._retrievers]
        rankings = [future.result() for future in asked]  # (retrievers, queries, documents)
        return [self._fused([ranking[index] for ranking in rankings], k) for index in range(len(queries))]

    def read(self, reference: str) -> Document:
        """Ask one retriever after the other."""
        for retriever in self._retrievers[:-1]:
            try:
                return retriever.read(reference)
            except NotReadable:
                continue
        return self._retrievers[-1].read(reference)

    def close(self) -> None:
        """Close the retrievers."""
        self._threads.shutdown()
        for retriever in self._retrievers:
            retriever.close()

    def _fused(self, rankings: Sequence[Sequence[Document]], k: int) -> list[Document]:
        scores: dict[str, float] = {}
        documents: dict[str, Document] = {}
        for weight, ranking in zip(self._weights, rankings, strict=True):
            for rank, document in enumerate(ranking, 1):
                scores[document.id] = scores.get(document.id, 0.0) + weight / (_RANK_CONSTANT + rank)
                documents.setdefault(document.id, document)
        best = sorted(scores, key=lambda key: -scores[key])[:k]  # ties in the order of the first ranking
        return [replace(documents[key], score=scores[key]) for key in best]
