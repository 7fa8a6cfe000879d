"""The corpus agrees with the interpreter, and reading it has no side effects."""

import errno
import heapq
import importlib
import inspect
import json
import sys
from dataclasses import fields

import pytest

from toolrl.errors import RetrieverFault
from toolrl.search import Document, Symbol, python_documentation, python_symbols
from toolrl.search.corpus import pydocs


@pytest.fixture(scope="module")
def documents() -> dict[str, Document]:
    return {document.id: document for document in python_documentation()}


@pytest.fixture(scope="module")
def symbols() -> dict[str, Symbol]:
    return {symbol.document_id: symbol for symbol in python_symbols()}


def test_there_are_thousands_of_documents_with_unique_ids_in_a_fixed_order(documents):
    assert len(documents) == len(python_documentation()) > 5000
    assert list(documents) == sorted(documents)
    assert all(document.title and document.text.strip() for document in documents.values())


def test_every_symbol_has_the_document_it_names(documents, symbols):
    for symbol in symbols.values():
        dotted = f"{symbol.module}.{symbol.qualname}" if symbol.qualname else symbol.module
        assert documents[symbol.document_id].title == dotted
        assert symbol.name == dotted.rpartition(".")[2]


def test_only_language_topics_have_no_symbol(documents, symbols):
    topics = documents.keys() - symbols.keys()
    assert {"with", "lambda", "string-methods"} <= topics
    assert documents["types (topic)"].title == documents["types"].title == "types"


def test_the_text_of_a_callable_starts_with_its_signature(documents):
    assert documents["heapq.nlargest"].text.startswith("heapq.nlargest(n, iterable, key=None)\n\nFind the n largest")
    assert documents["collections.Counter.most_common"].text.startswith("collections.Counter.most_common(self, n=None)")


def test_the_docstrings_own_signature_comes_first_where_python_knows_none(documents, symbols):
    assert documents["builtins.range"].text.startswith("builtins.range(stop) -> range object\n")
    assert symbols["builtins.range"].parameters == ()
    assert not symbols["builtins.range"].signature_known
    assert symbols["os.getcwd"].parameters == ()
    assert symbols["os.getcwd"].signature_known


@pytest.mark.parametrize(
    "title",
    [
        "asyncio.FIRST_COMPLETED",
        "asyncio.gather",
        "builtins.OSError",
        "builtins.len",
        "builtins.open",
        "builtins.str.split",
        "concurrent.futures.ThreadPoolExecutor",
        "concurrent.futures.as_completed",
        "heapq.heappush",
        "json.JSONDecodeError",
        "os.curdir",
        "os.listdir",
        "os.path.join",
        "random.randint",
        "socket.SOL_SOCKET",
        "sqlite3.connect",
        "threading.Lock",
        "token.NAME",
        "unittest.TestCase.assertEqual",
        "urllib.parse.urlparse",
        "xml.etree.ElementTree",
    ],
)
def test_objects_are_documented_under_their_usual_names(title, documents):
    assert title in documents


@pytest.mark.parametrize(
    "title",
    [
        "_heapq.heappush",
        "asyncio.tasks.gather",
        "genericpath.exists",
        "io.open",
        "json.decoder.JSONDecodeError",
        "posix.listdir",
        "posixpath.join",
        "queue.heappush",
        "socket.error",
        "ssl.SOL_SOCKET",
        "tokenize.NAME",
    ],
)
def test_a_reexport_has_no_document_of_its_own(title, documents):
    assert title not in documents


def test_parameters_are_those_of_inspect_signature(symbols):
    real = inspect.signature(heapq.nlargest).parameters.values()
    told = symbols["heapq.nlargest"].parameters
    assert [(p.name, p.kind) for p in told] == [(p.name, p.kind.name.lower()) for p in real]
    assert [p.default for p in told] == [None, None, "None"]


@pytest.mark.parametrize("module", ["errno", "math", "re", "signal", "socket", "ssl", "stat", "string", "token"])
def test_constants_have_their_values(module, symbols, documents):
    constants = [symbol for symbol in symbols.values() if symbol.kind == "constant" and symbol.module == module]
    assert constants
    for constant in constants:
        value = getattr(importlib.import_module(module), constant.name)
        assert value == constant.value or value != value  # NaN
        assert documents[constant.document_id].text.startswith(f"{module}.{constant.name} = {constant.value!r}")
        assert constant.summary == ""


def test_booleans_are_not_constants(symbols):
    assert not [symbol for symbol in symbols.values() if isinstance(symbol.value, bool)]
    assert symbols["errno.ENOENT"].value == errno.ENOENT


def test_a_summary_is_the_first_sentence(symbols):
    assert symbols["heapq.nlargest"].summary == "Find the n largest elements in a dataset."
    assert symbols["builtins.range"].summary.startswith("Return an object that produces a sequence of integers")
    assert all("\n" not in symbol.summary and len(symbol.summary) <= 300 for symbol in symbols.values())


def test_the_corpus_is_built_once_and_callers_get_copies():
    assert python_symbols() is python_symbols()
    python_documentation().clear()
    assert python_documentation()


def test_the_corpus_does_not_depend_on_the_callers_environment(tmp_path, monkeypatch, documents):
    (tmp_path / "heapq.py").write_text("raise SystemExit('the wrong heapq')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("TOOLRL_TEST_SECRET", "correct-horse")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    scanned = pydocs.scan_standard_library()
    assert [Document(*row) for row in scanned["documents"]] == list(documents.values())
    text = json.dumps(scanned)
    for leak in ("correct-horse", str(tmp_path), sys.executable, sys.base_prefix + "/lib", " at 0x"):
        assert leak not in text


def test_the_scan_imports_and_prints_nothing_in_this_process(capfd):
    before = set(sys.modules)
    pydocs.scan_standard_library()
    assert set(sys.modules) == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("problem", ["missing", "fails", "talks nonsense"])
def test_an_interpreter_that_cannot_be_started_is_an_infrastructure_fault(problem, tmp_path, monkeypatch):
    python = tmp_path / "python"
    if problem != "missing":
        python.write_text(
            "#!/bin/sh\n" + ("echo out of memory >&2; exit 3\n" if problem == "fails" else "echo hello\n")
        )
        python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(RetrieverFault, match="out of memory" if problem == "fails" else "standard library"):
        pydocs.scan_standard_library()


def test_records_are_hashable_and_typed(symbols):
    assert len(set(symbols.values())) == len(symbols)
    assert {field.name for field in fields(Symbol)} >= {"name", "module", "kind", "parameters", "value", "document_id"}
