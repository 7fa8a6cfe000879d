"""Documents by position and by id, in memory or in a memory-mapped Arrow file."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from toolrl.errors import ConfigError
from toolrl.search.base import Document, NotReadable
from toolrl.search.corpus.sources import Corpus
from toolrl.support.build_cache import load_or_build

_FORMAT = 1
_DOCUMENTS, _REFERENCES = "documents.arrow", "references.npy"
_SCHEMA = pa.schema([(name, pa.large_string()) for name in ("id", "title", "text", "url")])
_BATCH = 8192  # documents of an Arrow record batch


class DocumentStore(ABC):
    """A corpus with random access, by positions from 0."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, position: int) -> Document: ...

    @abstractmethod
    def positions(self, reference: str) -> list[int]:
        """The position of the document with that id, if any, then of those with that URL."""

    def __iter__(self) -> Iterator[Document]:
        return (self[position] for position in range(len(self)))

    def read(self, reference: str) -> Document:
        """The document with an id or URL.

        Raises:
            NotReadable: No document has it.
        """
        found = self.positions(reference)
        if not found:
            raise NotReadable(f"there is no document {reference!r}; search returns the ids of those that exist")
        return self[found[0]]


class MemoryStore(DocumentStore):
    """Documents in memory.

    Raises:
        ConfigError: There are no documents, two share an id, or one has no text.
    """

    def __init__(self, documents: Iterable[Document], name: str = "the corpus"):
        self._documents = tuple(documents)
        self._by_id: dict[str, int] = {}
        self._by_url: dict[str, list[int]] = {}
        for position, document in enumerate(self._documents):
            check(document, name)
            if document.id in self._by_id:
                raise _doubled(name, document.id, self._by_id[document.id], position)
            self._by_id[document.id] = position
            if document.url:
                self._by_url.setdefault(document.url, []).append(position)
        check_size(len(self), name)

    def __len__(self) -> int:
        return len(self._documents)

    def __getitem__(self, position: int) -> Document:
        return self._documents[position]

    def positions(self, reference: str) -> list[int]:
        """See `DocumentStore.positions`."""
        own = [self._by_id[reference]] if reference in self._by_id else []
        return own + self._by_url.get(reference, [])


class MappedStore(DocumentStore):
    """Documents in files written by `open_store`, memory-mapped.

    Raises:
        OSError: The files are missing or damaged; ValueError and others say so too.
    """

    def __init__(self, folder: Path):
        with pa.memory_map(str(folder / _DOCUMENTS)) as source:
            table = pa.ipc.open_file(source).read_all()
        if table.schema != _SCHEMA:
            raise ValueError(f"{folder / _DOCUMENTS} has the wrong columns")
        self._batches = table.to_batches()
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        self._references = np.load(folder / _REFERENCES, mmap_mode="r")
        if self._references.dtype != _reference_type() or len(self._references) < len(self):
            raise ValueError(f"{folder / _REFERENCES} does not belong to these documents")

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, position: int) -> Document:
        batch = int(np.searchsorted(self._starts, position, "right")) - 1
        row = position - int(self._starts[batch])
        return Document(*(column[row].as_py() for column in self._batches[batch].columns))

    def __iter__(self) -> Iterator[Document]:
        for batch in self._batches:
            for fields in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                yield Document(*fields)

    def positions(self, reference: str) -> list[int]:
        """See `DocumentStore.positions`."""
        key = _hash(reference)
        first, last = (int(np.searchsorted(self._references["hash"], key, side)) for side in ("left", "right"))
        found = [int(position) for position in self._references["position"][first:last]]
        documents = {position: self[position] for position in sorted(set(found))}
        by_id = [position for position, document in documents.items() if document.id == reference]
        return by_id + [p for p, d in documents.items() if d.url == reference and p not in by_id]


def open_store(corpus: Corpus, cache_dir: Path) -> MappedStore:
    """Open the documents of a corpus; they are written to `cache_dir` first if missing.

    Raises:
        ConfigError: The corpus is broken or `cache_dir` cannot be written.
    """
    key = hashlib.sha256(f"{_FORMAT}/{corpus.fingerprint()}".encode()).hexdigest()[:32]
    return load_or_build(cache_dir, f"documents-{key}", lambda folder: _write(corpus, folder), MappedStore)


def check(document: Document, name: str) -> None:
    """Check that a document has text.

    Raises:
        ConfigError: It has none.
    """
    if not document.text.strip():
        raise ConfigError(f"document {document.id!r} of {name} has no text; remove it")


def check_size(size: int, name: str) -> None:
    """Check that a corpus has documents.

    Raises:
        ConfigError: It has none.
    """
    if not size:
        raise ConfigError(f"a retriever needs at least one document, {name} has none")


def _doubled(name: str, document_id: str, first: int, second: int) -> ConfigError:
    return ConfigError(
        f"two documents of {name} have the id {document_id!r} (numbers {first} and {second}, counted from 0); ids "
        "must be unique"
    )


def _write(corpus: Corpus, folder: Path) -> None:
    references: list[tuple[int, int]] = []
    size = 0
    with pa.OSFile(str(folder / _DOCUMENTS), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        for batch in batches(corpus, _BATCH):
            for position, document in enumerate(batch, size):
                check(document, str(corpus))
                references.append((_hash(document.id), position))
                if document.url:
                    references.append((_hash(document.url), position))
            columns = ([getattr(document, name) for document in batch] for name in _SCHEMA.names)
            arrays = [pa.array(column, pa.large_string()) for column in columns]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
            size += len(batch)
    check_size(size, str(corpus))
    table = np.array(references, _reference_type())
    table = table[np.argsort(table["hash"], kind="stable")]
    np.save(folder / _REFERENCES, table)
    _check_ids(MappedStore(folder), table, str(corpus))


def _check_ids(store: MappedStore, table: np.ndarray, name: str) -> None:
    """Check that no two documents share an id."""
    equal = np.flatnonzero(table["hash"][1:] == table["hash"][:-1])
    for reference in {store[int(table["position"][index])].id for index in equal}:
        owners = [position for position in store.positions(reference) if store[position].id == reference]
        if len(owners) > 1:
            raise _doubled(name, reference, owners[0], owners[1])


def batches(documents: Iterable[Document], size: int) -> Iterator[Sequence[Document]]:
    """Group documents into lists of at most `size`."""
    iterator = iter(documents)
    while batch := list(islice(iterator, size)):
        yield batch


def _hash(reference: str) -> int:
    return int.from_bytes(hashlib.blake2b(reference.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _reference_type() -> np.dtype:
    return np.dtype([("hash", np.uint64), ("position", np.int64)])
