"""Where documents come from: files, a folder, a data set of the hub, the standard library's documentation."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet

from toolrl.errors import ConfigError
from toolrl.search.base import Document
from toolrl.search.corpus.pydocs import python_documentation

PYTHON_DOCS = "python-docs"
HUB = "hf:"

# Names under which published corpora have these fields; the first that a row has counts.
_ID, _TITLE, _TEXT, _URL = ("id", "_id", "docid"), ("title",), ("text", "contents", "passage"), ("url",)
_TEXT_FILES = (".txt", ".md", ".markdown", ".rst")
_BATCH = 4096  # rows of a Parquet file read at a time
_CHUNK = 1 << 20


class Corpus(ABC):
    """Documents that can be gone through again and again.

    Iterating raises ConfigError, which names the place, where a document is broken.
    """

    @abstractmethod
    def __iter__(self) -> Iterator[Document]:
        """The documents, in an order that stays."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Changes whenever a document does; found without parsing where that is possible."""

    def __str__(self) -> str:
        return "the corpus"


def open_corpus(source: str | Path) -> Corpus:
    """A corpus by its source.

    Args:
        source: "python-docs"; a .jsonl or .parquet file; a folder of text and Markdown files; or
            "hf:OWNER/NAME[:SPLIT]" for a data set of the Hugging Face hub. Rows have `text` (or `contents`, whose
            first line is the title, as in the corpora of Search-R1; or `passage`), and may have `id`, `title`
            and `url`.

    Raises:
        ConfigError: There is nothing of that name.
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
            f"no corpus {str(source)!r}: there is no such file or folder; other sources are {PYTHON_DOCS!r} and "
            f"'{HUB}OWNER/NAME'"
        )
    readers: dict[str, type[_FileCorpus]] = {".jsonl": JsonlCorpus, ".ndjson": JsonlCorpus, ".parquet": ParquetCorpus}
    if path.suffix not in readers:
        raise ConfigError(f"cannot read the corpus {str(source)!r}: its name must end with {', '.join(readers)}")
    return readers[path.suffix](path)


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


class _FileCorpus(Corpus):
    def __init__(self, path: Path):
        self._path = path

    def fingerprint(self) -> str:
        """A digest of the file."""
        return _digest([self._path])

    def __str__(self) -> str:
        return str(self._path)


class JsonlCorpus(_FileCorpus):
    """One JSON object a line."""

    def __iter__(self) -> Iterator[Document]:
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.isspace():
                    continue
                where = f"{self._path}, line {number}"
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise ConfigError(f"{where}: not JSON ({error}); repair or remove the line") from None
                yield document_of(row, str(number - 1), where)


class ParquetCorpus(_FileCorpus):
    """One document a row."""

    def __iter__(self) -> Iterator[Document]:
        try:
            with pyarrow.parquet.ParquetFile(self._path) as file:
                number = 0
                for batch in file.iter_batches(_BATCH):
                    for row in batch.to_pylist():
                        yield document_of(row, str(number), f"{self._path}, row {number}")
                        number += 1
        except pyarrow.ArrowException as error:
            raise ConfigError(f"cannot read {self._path}: {error}") from None


class FolderCorpus(Corpus):
    """A folder of text and Markdown files, those in folders below it included; ids are paths within it."""

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
        self._rows: Any = None

    def _loaded(self) -> Any:
        if self._rows is None:
            import datasets

            try:
                self._rows = datasets.load_dataset(self._name, split=self._split)
            except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
                raise ConfigError(f"cannot load the data set {self._name!r}, split {self._split!r}: {error}") from error
        return self._rows

    def __iter__(self) -> Iterator[Document]:
        for number, row in enumerate(self._loaded()):
            yield document_of(row, str(number), f"{self}, row {number}")

    def fingerprint(self) -> str:
        """What `datasets` says about its state."""
        return str(self._loaded()._fingerprint)

    def __str__(self) -> str:
        return f"{HUB}{self._name}:{self._split}"


def document_of(row: Any, default_id: str, where: str) -> Document:
    """The document of a row.

    Raises:
        ConfigError: A field is missing, empty or of another type.
    """
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where}: not an object with a 'text' but {type(row).__name__}")
    text, title = _field(row, _TEXT, where), _field(row, _TITLE, where)
    if not text.strip():
        raise ConfigError(f"{where}: no text under any of {', '.join(_TEXT)}; give it one or leave the row out")
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
            raise ConfigError(f"{where}: {name!r} must be a text, got {type(value).__name__}")
    return ""


def _heading(text: str) -> str:
    """The first Markdown heading, if the text begins with one."""
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
