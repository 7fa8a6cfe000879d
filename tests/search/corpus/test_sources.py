"""Corpora are read from common formats; a broken one is refused in one sentence that names the place."""

from __future__ import annotations

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from toolrl.errors import ConfigError
from toolrl.search import Document, open_corpus
from toolrl.search.corpus.sources import DocumentCorpus

ROWS = [
    {"id": "a", "title": "Apple", "text": "A red fruit.", "url": "https://fruit.example/apple"},
    {"id": "b", "title": "Banana", "text": "A yellow fruit."},
]
DOCUMENTS = [
    Document("a", "Apple", "A red fruit.", "https://fruit.example/apple"),
    Document("b", "Banana", "A yellow fruit."),
]


def write_jsonl(path, lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_jsonl_and_parquet_have_the_same_documents(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "c.parquet")
    assert list(open_corpus(write_jsonl(tmp_path / "c.jsonl", ROWS))) == DOCUMENTS
    assert list(open_corpus(tmp_path / "c.parquet")) == DOCUMENTS


def test_rows_without_id_are_numbered_and_contents_begin_with_the_title(tmp_path):
    rows = [{"contents": '"Pear"\nGreen or yellow.'}, {"contents": "only one line"}, {"passage": "p", "docid": 7}]
    assert list(open_corpus(write_jsonl(tmp_path / "c.jsonl", rows))) == [
        Document("0", "Pear", "Green or yellow."),
        Document("1", "", "only one line"),
        Document("7", "", "p"),
    ]


def test_a_folder_has_its_text_files_by_path(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "note.md").write_text("# On figs\n\nThey are sweet.")
    (tmp_path / "plain.txt").write_text("plain text")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    assert list(open_corpus(tmp_path)) == [
        Document("deep/note.md", "On figs", "# On figs\n\nThey are sweet."),
        Document("plain.txt", "plain", "plain text"),
    ]


def test_a_data_set_in_the_hubs_format_is_read(tmp_path):
    rows = datasets.Dataset.from_list([{"id": 1, "text": "one"}, {"id": 2, "text": "two"}])
    rows.to_parquet(tmp_path / "d" / "train.parquet")
    corpus = open_corpus(f"hf:{tmp_path / 'd'}")
    assert [(document.id, document.text) for document in corpus] == [("1", "one"), ("2", "two")]
    assert corpus.fingerprint() == open_corpus(f"hf:{tmp_path / 'd'}").fingerprint()


def test_the_standard_librarys_documentation_is_a_named_corpus():
    assert any(document.id == "heapq.nlargest" for document in open_corpus("python-docs"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["{broken"], "line 1: not valid JSON"),
        ([ROWS[0], "", "[1]"], "line 3: expected a JSON object, got list"),
        ([ROWS[0], {"id": "x"}], "line 2: no text"),
        ([{"id": "x", "text": "  "}], "line 1: no text"),
        ([{"id": "x", "text": ["a"]}], "line 1: 'text' must be a string, got list"),
    ],
)
def test_a_broken_line_is_named(lines, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        list(open_corpus(write_jsonl(tmp_path / "c.jsonl", lines)))


def test_lone_surrogates_are_escaped(tmp_path):
    corpus = open_corpus(write_jsonl(tmp_path / "c.jsonl", ['{"text": "half \\ud83d a pair"}']))
    assert next(iter(corpus)).text == "half \\ud83d a pair"


def test_sources_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no corpus"):
        open_corpus("missing.jsonl")
    (tmp_path / "c.csv").write_text("a,b")
    with pytest.raises(ConfigError, match=r"must end with \.json"):
        open_corpus(tmp_path / "c.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \.txt"):
        open_corpus(tmp_path / "empty")
    (tmp_path / "c.parquet").write_text("no parquet")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        list(open_corpus(tmp_path / "c.parquet"))
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        list(open_corpus(tmp_path / "latin"))
    with pytest.raises(ConfigError, match="cannot load the data set"):
        list(open_corpus(f"hf:{tmp_path / 'nowhere'}"))


def test_the_fingerprint_follows_the_content(tmp_path):
    first = write_jsonl(tmp_path / "c.jsonl", ROWS)
    before = open_corpus(first).fingerprint()
    assert open_corpus(write_jsonl(tmp_path / "d.jsonl", ROWS)).fingerprint() == before
    assert open_corpus(write_jsonl(first, ROWS[:1])).fingerprint() != before
    assert DocumentCorpus(DOCUMENTS).fingerprint() != DocumentCorpus(DOCUMENTS[::-1]).fingerprint()
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "a.txt").write_text("x")
    before = open_corpus(tmp_path / "f").fingerprint()
    (tmp_path / "f" / "a.txt").rename(tmp_path / "f" / "b.txt")
    assert open_corpus(tmp_path / "f").fingerprint() != before


def test_a_byte_order_mark_is_not_part_of_the_text(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "note.md").write_text("# On figs\n\nSweet.", "utf-8-sig")
    assert list(open_corpus(tmp_path / "docs")) == [Document("note.md", "On figs", "# On figs\n\nSweet.")]
    (tmp_path / "c.jsonl").write_text('{"text": "one"}\n', "utf-8-sig")
    assert list(open_corpus(tmp_path / "c.jsonl")) == [Document("0", "", "one")]
