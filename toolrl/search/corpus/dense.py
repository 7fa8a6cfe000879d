"""Dense retrieval with sentence-transformers and usearch; needs the extra `dense`."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from toolrl.errors import ConfigError, MissingExtra
from toolrl.search.base import Document, Retriever, check_k
from toolrl.search.corpus.sources import Corpus, open_corpus
from toolrl.search.corpus.store import DocumentStore, batches, open_store
from toolrl.support.build_cache import default_cache_dir, load_or_build

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
_INDEX = "vectors.usearch"
_FORMAT = 1
_BATCH = 2048  # documents encoded at once
_PROBE = "The quick brown fox jumps over the lazy dog."


class DenseRetriever(Retriever):
    """Ranks documents by the cosine of their vectors with the query's, found by an HNSW index.

    The index is cached on disk like that of `BM25Retriever.open`, and memory-mapped. Every search returns k documents,
    however irrelevant.

    Args:
        corpus: A corpus or what `open_corpus` takes.
        model: Name or folder of a sentence-transformers model, whose length limit and prompts for queries and documents
            apply.
        cache_dir: See `BM25Retriever.open`.
        device: "cpu", "cuda" ...; default: chosen by sentence-transformers.
        batch_size: Texts per forward pass of the model.

    Raises:
        MissingExtra: sentence-transformers or usearch is not installed.
        ConfigError: The corpus or model does not exist, the corpus is broken, or `cache_dir` cannot be written.
    """

    def __init__(
        self,
        corpus: Corpus | str | Path,
        model: str = DEFAULT_MODEL,
        *,
        cache_dir: str | Path | None = None,
        device: str | None = None,
        batch_size: int = 64,
    ):
        corpus = corpus if isinstance(corpus, Corpus) else open_corpus(corpus)
        home = Path(cache_dir) if cache_dir is not None else default_cache_dir()
        self._encoder = _Encoder(model, device, batch_size)
        self._store = open_store(corpus, home)
        digest = hashlib.sha256(f"{_FORMAT}/{self._encoder.fingerprint}/{corpus.fingerprint()}".encode())
        self._identity = f"dense-{digest.hexdigest()[:32]}"
        self._index = load_or_build(
            home,
            self._identity,
            lambda folder: _build(self._store, self._encoder, folder / _INDEX),
            lambda folder: _load(folder / _INDEX, len(self._store)),
        )

    @property
    def identity(self) -> str:
        """The corpus and the model."""
        return self._identity

    def __len__(self) -> int:
        return len(self._store)

    def search(self, query: str, k: int) -> list[Document]:
        """See `Retriever.search`; scores are cosines."""
        return self.search_batch([query], k)[0]

    def search_batch(self, queries: Sequence[str], k: int) -> list[list[Document]]:
        """Encode and search all queries together."""
        check_k(k)
        if not queries:
            return []
        vectors_QH = self._encoder.queries(queries)
        count = min(k, len(self._store))
        found = self._index.search(vectors_QH, count)
        keys_QK, distances_QK = np.atleast_2d(found.keys), np.atleast_2d(found.distances)
        return [
            [replace(self._store[int(p)], score=1.0 - float(d)) for p, d in zip(keys, distances, strict=True)]
            for keys, distances in zip(keys_QK, distances_QK, strict=True)
        ]

    def read(self, reference: str) -> Document:
        """Return the whole document of an id or URL."""
        return self._store.read(reference)


class _Encoder:
    """Encodes texts as unit vectors. Thread-safe."""

    def __init__(self, name: str, device: str | None, batch_size: int):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtra("sentence-transformers", "dense") from error
        try:
            self._model = SentenceTransformer(name, device=device)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load the sentence-transformers model {name!r}: {error}") from error
        self._options: dict[str, Any] = {
            "batch_size": batch_size,
            "normalize_embeddings": True,
            "show_progress_bar": False,
        }
        self._lock = threading.Lock()

    def queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries as vectors (Q, H)."""
        with self._lock:
            return np.asarray(self._model.encode_query(list(texts), **self._options), np.float32)

    def documents(self, texts: Sequence[str]) -> np.ndarray:
        """Encode documents as vectors (D, H)."""
        with self._lock:
            return np.asarray(self._model.encode_document(list(texts), **self._options), np.float32)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A digest of the model's output for a sentence; more reliable than its name and version."""
        vectors = np.concatenate([self.queries([_PROBE]), self.documents([_PROBE])])
        return hashlib.sha256(np.round(vectors * 100).astype(np.int8).tobytes()).hexdigest()


def _build(store: DocumentStore, encoder: _Encoder, file: Path) -> None:
    index, start = None, 0
    for batch in batches(store, _BATCH):
        vectors_DH = encoder.documents([f"{document.title}\n{document.text}".strip() for document in batch])
        index = index or _usearch().Index(ndim=vectors_DH.shape[1], metric="cos", dtype="f16")
        index.add(np.arange(start, start + len(batch)), vectors_DH)
        start += len(batch)
    assert index is not None, "a store has at least one document"
    index.save(str(file))


def _load(file: Path, documents: int) -> Any:
    if not file.is_file():
        raise FileNotFoundError(file)
    try:
        index = _usearch().Index.restore(str(file), view=True)
    except RuntimeError as error:
        raise ValueError(f"{file} is damaged: {error}") from error
    if index is None or len(index) != documents:
        raise ValueError(f"{file} is not the index of this corpus")
    return index


def _usearch() -> Any:
    try:
        import usearch.index
    except ImportError as error:
        raise MissingExtra("usearch", "dense") from error
    return usearch.index
