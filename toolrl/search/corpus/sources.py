"""Corpora: documents from a file, a folder, a data set on the hub, or the standard library's documentation."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolrl.errors import ConfigError, TaskError
from toolrl.search.base import Document
from toolrl.search.corpus.pydocs import python_documentation
from toolrl.support.rows import FILE_SUFFIXES, is_file_name, load_hub_set, read_rows

PYTHON_DOCS = "python-docs"
HUB = "hf:"

# What published corpora call these fields; the first one a row has is used.
_ID, _TITLE, _TEXT, _URL = ("id", "_id", "docid"), ("title",), ("text", "contents", "passage"), ("url",)
_TEXT_FILES = (".txt", ".md", ".markdown", ".rst")
_CHUNK = 1 << 20


class Corpus(ABC):
    """Documents that can be iterated over repeatedly.

    Iterating raises a ConfigError that names the place of a broken document.
    """

    @abstractmethod
    def __iter__(self) -> Iterator[Document]:
        """The documents, always in the same order."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A key that changes whenever a document does; computed without parsing where possible."""

    def __str__(self) -> str:
        return "the corpus"


def open_corpus(source: str | Path) -> Corpus:
    """Open a corpus by its source.

    Args:
        source: "python-docs"; a JSON or Parquet file, as `read_rows` takes it; a folder of text and Markdown files; or
            "hf:OWNER/NAME[:SPLIT]" for a data set on the Hugging Face hub. Rows have `text` (or `contents`, whose
            first line is the title, as in Search-R1's corpora; or `passage`), and may have `id`, `title` and `url`.

    Raises:
        ConfigError: There is no such source.
    """
    if source == PYTHON_DOCS:
        return DocumentCorpus(python_documentation(), "the standard library's documentation")
    if isinstance(source, str) and source.startswith(HUB):
        name, _, split = source.removeprefix(HUB).partition(":")
        return HubCorpus(name, split or "train")
    path = Path(source)
    if path.is_dir():
        return FolderCorpus(path)
    if not path.exists():
        raise ConfigError(
            f"no corpus {str(source)!r}: no such file or folder; other sources are {PYTHON_DOCS!r} and "
            f"'{HUB}OWNER/NAME'"
        )
    if not is_file_name(path):
        raise ConfigError(f"cannot read the corpus {str(source)!r}: its name must end with {', '.join(FILE_SUFFIXES)}")
    return FileCorpus(path)


class DocumentCorpus(Corpus):
    """Documents in memory."""

    def __init__(self, documents: Iterable[Document], name: str = "the corpus"):
        self._documents = tuple(documents)
        self._name = name

    def __iter__(self) -> Iterator[Document]:
        return iter(self._documents)

    def fingerprint(self) -> str:
        """A digest of every field."""
        digest = hashlib.sha256()
        for document in self._documents:
            digest.update(repr((document.id, document.title, document.text, document.url)).encode())
        return digest.hexdigest()

    def __str__(self) -> str:
        return self._name


class FileCorpus(Corpus):
    """A JSON or Parquet file, with a document per row."""

    def __init__(self, path: Path):
        self._path = path

    def __iter__(self) -> Iterator[Document]:
        try:
            for number, (where, row) in enumerate(read_rows(self._path)):
                yield document_of(row, str(number), where)
        except TaskError as error:
            raise ConfigError(str(error)) from None

    def fingerprint(self) -> str:
        """A digest of the file."""
        return _digest([self._path])

    def __str__(self) -> str:
        return str(self._path)


class FolderCorpus(Corpus):
    """A folder of text and Markdown files, including its subfolders; ids are relative paths."""

    def __init__(self, path: Path):
        self._path = path
        self._files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _TEXT_FILES and file.is_file())
        if not self._files:
            raise ConfigError(f"no {', '.join(_TEXT_FILES)} file in the folder {str(path)!r}")

    def __iter__(self) -> Iterator[Document]:
        for file in self._files:
            try:
                text = file.read_text("utf-8-sig")
            except ValueError as error:
                raise ConfigError(f"{file} is not UTF-8 ({error}); convert or remove it") from None
            if not text.strip():
                raise ConfigError(f"{file} is empty; remove it")
            yield Document(file.relative_to(self._path).as_posix(), _heading(text) or file.stem, text)

    def fingerprint(self) -> str:
        """A digest of the files and their names."""
        return _digest(self._files, self._path)

    def __str__(self) -> str:
        return str(self._path)


class HubCorpus(Corpus):
    """A split of a data set on the Hugging Face hub, downloaded once by `datasets`."""

    def __init__(self, name: str, split: str):
        self._name, self._split = name, split

    @functools.cached_property
    def _rows(self) -> Any:
        return load_hub_set(self._name, self._split)

    def __iter__(self) -> Iterator[Document]:
        for number, row in enumerate(self._rows):
            yield document_of(row, str(number), f"{self}, row {number}")

    def fingerprint(self) -> str:
        """The fingerprint that `datasets` keeps of it."""
        return str(self._rows._fingerprint)

    def __str__(self) -> str:
        return f"{HUB}{self._name}:{self._split}"


def document_of(row: Mapping[str, Any], default_id: str, where: str) -> Document:
    """Read a row as a document.

    Raises:
        ConfigError: A field is missing or empty, or has the wrong type.
    """
    text, title = _field(row, _TEXT, where), _field(row, _TITLE, where)
    if not text.strip():
        raise ConfigError(f"{where}: no text under any of {', '.join(_TEXT)}; add it or remove the row")
    if not title and "contents" in row and "\n" in text:
        first, _, rest = text.partition("\n")
        if rest.strip():
            title, text = first.strip().strip('"'), rest
    return Document(_field(row, _ID, where) or default_id, title, text, _field(row, _URL, where))


def _field(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, str):
            return value.encode("utf-8", "backslashreplace").decode()  # JSON can have lone surrogates, Arrow cannot
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if value is not None:
            raise ConfigError(f"{where}: {name!r} must be a string, got {type(value).__name__}")
    return ""


def _heading(text: str) -> str:
    """The Markdown heading that the text begins with, if any."""
    first = text.lstrip().partition("\n")[0]
    return first.lstrip("#").strip() if first.startswith("#") else ""


def _digest(files: Sequence[Path], root: Path | None = None) -> str:
    digest = hashlib.sha256()
    for file in files:
        if root is not None:
            digest.update(f"\0{file.relative_to(root)}\0{file.stat().st_size}\0".encode())
        with file.open("rb") as content:
            while chunk := content.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
