"""Promises about question sets: each format is read, broken rows are reported, and the pages are searched."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from transformers import PreTrainedTokenizerFast

from toolrl import ConfigError, Renderer, TaskError
from toolrl.chat import HermesDialect
from toolrl.evaluation import evaluate
from toolrl.search import BM25Retriever, Document
from toolrl_envs.open_qa import OpenQAEnv
from toolrl_envs.open_qa.formats import Passage, read_question
from toolrl_envs.open_qa.sources import corpus_of, load_questions

QUESTION = "Where was the founder of Tavel Bank born?"
BANK = ("Tavel Bank", ["Tavel Bank is a company.", " It was founded by Ida Pihem."])
IDA = ("Ida Pihem", ["Ida Pihem was born in Port Maron."])
OTHER = ("Sara Lev", ["Sara Lev is a poet."])
TEXTS = {title: " ".join(line.strip() for line in lines) for title, lines in (BANK, IDA, OTHER)}

HOTPOT = {
    "_id": "5a7",
    "question": QUESTION,
    "answer": "Port Maron",
    "type": "bridge",
    "supporting_facts": [["Ida Pihem", 0], ["Tavel Bank", 1]],
    "context": [[*OTHER], [*IDA], [*BANK]],
}
COLUMNS = {"title": ["Sara Lev", "Ida Pihem", "Tavel Bank"], "sentences": [OTHER[1], IDA[1], BANK[1]]}
FORMATS: dict[str, dict[str, Any]] = {
    "hotpotqa": HOTPOT,
    "hotpotqa on the hub": {
        "id": "5a7",
        "question": QUESTION,
        "answer": "Port Maron",
        "type": "bridge",
        "level": "hard",
        "supporting_facts": {"title": ["Ida Pihem", "Tavel Bank"], "sent_id": [0, 1]},
        "context": COLUMNS,
    },
    "2wikimultihopqa": {**HOTPOT, "evidences": [["Tavel Bank", "founded by", "Ida Pihem"]], "answer_id": "Q1"},
    "2wikimultihopqa as texts": {
        **HOTPOT,
        "context": json.dumps(HOTPOT["context"]),
        "supporting_facts": json.dumps(HOTPOT["supporting_facts"]),
    },
    "musique": {
        "id": "2hop__13548_13529",
        "question": QUESTION,
        "answer": "Port Maron",
        "answer_aliases": ["Maron"],
        "answerable": True,
        "paragraphs": [
            {"idx": 0, "title": "Sara Lev", "paragraph_text": TEXTS["Sara Lev"], "is_supporting": False},
            {"idx": 1, "title": "Ida Pihem", "paragraph_text": TEXTS["Ida Pihem"], "is_supporting": True},
            {"idx": 2, "title": "Tavel Bank", "paragraph_text": TEXTS["Tavel Bank"], "is_supporting": True},
        ],
        "question_decomposition": [{"paragraph_support_idx": 2}, {"paragraph_support_idx": 1}],
    },
    "dpr": {
        "question": QUESTION,
        "answers": ["Port Maron", "Maron"],
        "positive_ctxs": [{"title": "Ida Pihem", "text": TEXTS["Ida Pihem"], "score": 1000}],
        "hard_negative_ctxs": [{"title": "Sara Lev", "text": TEXTS["Sara Lev"]}],
    },
    "flashrag": {
        "id": "train_0",
        "question": QUESTION,
        "golden_answers": ["Port Maron"],
        "metadata": {"type": "bridge", "context": COLUMNS, "supporting_facts": {"title": ["Tavel Bank", "Ida Pihem"]}},
    },
}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def env_of(data: Any, **settings: Any) -> OpenQAEnv:
    return OpenQAEnv("train", data=data, **settings)


def numbered(count: int) -> list[dict[str, Any]]:
    return [{**HOTPOT, "_id": str(number), "question": f"{QUESTION} ({number})"} for number in range(count)]


# ---- formats


@pytest.mark.parametrize("name", FORMATS)
def test_each_format_is_read_and_its_oracle_finds_the_answer_in_the_pages(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "{split}.jsonl".replace("{split}", "train"), FORMATS[name])
    env = env_of(tmp_path / "{split}.jsonl")
    assert path.exists()
    (task,) = env.tasks
    assert task.prompt == QUESTION
    assert task.answer == (["Port Maron", "Maron"] if name in ("musique", "dpr") else "Port Maron")
    assert task.metadata["queries"] == (["Ida Pihem"] if name == "dpr" else ["Tavel Bank", "Ida Pihem"])
    assert task.kind == {"musique": "2hop", "dpr": "open"}.get(name, "bridge")
    env.reset(options={"task": task})
    *searches, answer = [HermesDialect().format(message) for message in env.oracle(task)]
    for search in searches:
        observation = env.step(search)[0]
    assert "Port Maron" in observation
    _, reward, *_, info = env.step(answer)
    assert info["score"]["parts"]["correct"] == 1.0
    assert reward == pytest.approx(1 - 0.1 * len(searches))


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree_on_the_text_of_a_passage(name: str) -> None:
    question = read_question(FORMATS[name])
    assert question is not None
    assert Passage("Sara Lev", TEXTS["Sara Lev"]) in question.passages
    assert set(question.passages) <= {Passage(title, text) for title, text in TEXTS.items()}


def test_any_right_answer_is_rewarded_and_f1_gives_partial_credit(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", *({**FORMATS["musique"], "id": str(n), "question": str(n)} for n in range(9)))
    for metric, expected in (("em", [1.0, 1.0, 0.0]), ("f1", [1.0, 1.0, 0.8])):
        env = env_of(path, metric=metric, call_cost=0)
        rewards = []
        for answer in ("Maron", "the Port  Maron.", "old Port Maron"):
            env.reset(options={"task": 0})
            rewards.append(env.step(f"<answer>{answer}</answer>")[1])
        assert rewards == pytest.approx(expected)


def test_unanswerable_questions_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {**FORMATS["musique"], "answerable": False}, HOTPOT)
    assert [task.id for task in env_of(str(path).replace("train", "{split}")).tasks] == ["5a7"]


# ---- files


def test_lists_lines_and_parquet_hold_the_same_questions(tmp_path: Path) -> None:
    rows = numbered(20)
    (tmp_path / "list.json").write_text(json.dumps(rows))
    write(tmp_path / "lines.json", *rows)
    write(tmp_path / "lines.jsonl", *rows)
    columns = [
        {**row, "context": COLUMNS, "supporting_facts": {"title": ["Ida Pihem", "Tavel Bank"], "sent_id": [0, 1]}}
        for row in rows
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(columns), tmp_path / "table.parquet")
    names = ("list.json", "lines.json", "lines.jsonl", "table.parquet")
    first, *others = [list(env_of(tmp_path / name).tasks) for name in names]
    assert len(first) > 10
    assert all(tasks == first for tasks in others)


def test_a_single_file_is_divided_but_not_a_name_with_split(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", *numbered(200))
    parts = [{task.id for task in OpenQAEnv(split, data=path).tasks} for split in ("train", "test")]
    assert not parts[0] & parts[1]
    assert len(parts[0] | parts[1]) == 200
    assert 20 <= len(parts[1]) <= 60
    assert len(env_of(tmp_path / "{split}.jsonl").tasks) == 200


def test_size_and_seed_draw_questions_and_only_their_pages_are_searched(tmp_path: Path) -> None:
    rows = [{**row, "context": [[f"Page {row['_id']}", ["Text."]]]} for row in numbered(100)]
    write(tmp_path / "train.jsonl", *rows)
    data = tmp_path / "{split}.jsonl"
    drawn = load_questions(data, "train", 10, 0)
    assert drawn == load_questions(data, "train", 10, 0) == load_questions(data, "train", 100, 0)[:10]
    assert {q.id for q in drawn} != {q.id for q in load_questions(data, "train", 10, 1)}
    assert {document.title for document in corpus_of(drawn)} == {f"Page {question.id}" for question in drawn}


def test_a_page_of_several_questions_occurs_once_and_pages_with_one_title_get_distinct_ids(tmp_path: Path) -> None:
    odd = {**HOTPOT, "_id": "odd", "context": [["Sara Lev", ["Another."]], ["Sara Lev#2", ["A third."]], ["x", [" "]]]}
    write(tmp_path / "train.jsonl", *numbered(5), odd)
    documents = corpus_of(load_questions(tmp_path / "{split}.jsonl", "train", 100, 0))
    assert sorted(d.title for d in documents) == ["Ida Pihem", "Sara Lev", "Sara Lev", "Sara Lev#2", "Tavel Bank"]
    assert len({document.id for document in documents}) == 5
    assert len(BM25Retriever(documents)) == 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "a"}, "field 'question' is missing; it has: answer"),
        ({"question": " ", "answer": "a"}, "field 'question' must be a text, got ' '"),
        ({"question": 3, "answer": "a"}, "field 'question' must be a text, got 3"),
        ({"question": "q"}, "it needs one of the fields 'golden_answers', 'answers', 'answer'; it has: question"),
        ({"question": "q", "answer": 4}, "field 'answer' must be a text or a list of texts, got 4"),
        ({"question": "q", "answers": []}, r"field 'answers' has no answer, got \[\]"),
        ({**HOTPOT, "context": [["t"]]}, r"field 'context': expected a passage with title and text, got \['t'\]"),
        ({**HOTPOT, "context": [["t", 5]]}, "field 'context': expected a passage"),
        ({**HOTPOT, "context": 5}, "field 'context' must be a list of passages, got 5"),
        ({**HOTPOT, "context": "{"}, "field 'context' must be a list, or a list as JSON, got '{'"),
        ({**HOTPOT, "context": {"title": ["t"], "sentences": []}}, "must have 'title' and 'sentences' of one length"),
        ({**HOTPOT, "supporting_facts": [[5, 1]]}, "field 'supporting_facts' must be a list of"),
        ({**HOTPOT, "paragraphs": [{"title": "t"}]}, "field 'paragraphs': expected a passage"),
        ([1], "expected a JSON object, got list"),
        ({**HOTPOT, "question": "Another?"}, "another row has the id '5a7' too"),
    ],
)
@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_a_broken_row_is_reported_with_its_line_and_field(name: str, row: Any, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, HOTPOT, row)
    place = "line 2"
    if name == "train.json":
        path.write_text(json.dumps([HOTPOT, row]))
        place = "entry 2"
    with pytest.raises(TaskError, match=f"^{re.escape(str(path))}, {place}: .*{message}"):
        env_of(tmp_path / name.replace("train", "{split}"))


def test_a_line_that_is_not_json_is_reported(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(HOTPOT) + "\n\n{oops\n")
    with pytest.raises(TaskError, match=r"q\.jsonl, line 3: not valid JSON"):
        env_of(tmp_path / "q.jsonl")
    (tmp_path / "q.parquet").write_text("no")
    with pytest.raises(TaskError, match=r"q\.parquet: not a Parquet file"):
        env_of(tmp_path / "q.parquet")
    with pytest.raises(TaskError, match=r"no data file at '.*missing\.jsonl'"):
        env_of(tmp_path / "missing.jsonl")


def test_a_file_without_questions_for_a_split_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", {**FORMATS["musique"], "answerable": False})
    with pytest.raises(ConfigError, match="has nothing for split='train'"):
        env_of(path)


# ---- the hub, represented by a folder


@pytest.fixture
def hub_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    folder.mkdir()
    row = FORMATS["hotpotqa on the hub"]
    write(folder / "train.jsonl", *({**row, "id": str(n), "question": f"{QUESTION} ({n})"} for n in range(8)))
    write(folder / "validation.jsonl", {**row, "id": "v"})
    return folder


def test_a_hub_data_set_has_its_own_splits(hub_set: Path) -> None:
    assert len(env_of(str(hub_set)).tasks) == 8
    (task,) = OpenQAEnv("test", data=str(hub_set)).tasks
    assert (task.id, task.metadata["queries"]) == ("v", ["Tavel Bank", "Ida Pihem"])


def test_a_data_set_that_cannot_be_loaded_from_the_hub_is_reported(hub_set: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load the data set .*, split 'dev'"):
        OpenQAEnv("test", data=str(hub_set), test_split="dev")
    with pytest.raises(ConfigError, match="cannot load the data set"):
        env_of(str(tmp_path / "nothing"))
    write(hub_set / "train.jsonl", {"question": "q", "answer": 7})
    with pytest.raises(ConfigError, match="cannot load the data set"):  # the columns of its files differ
        env_of(str(hub_set))
    write(hub_set / "validation.jsonl", {"question": "q", "answer": 7})
    with pytest.raises(TaskError, match=r"set\[train\], row 1: field 'answer' must be a text"):
        env_of(str(hub_set))


# ---- searching


def test_questions_without_pages_need_a_retriever_and_the_oracle_searches_for_the_question(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", {"question": QUESTION, "answer": ["Port Maron"]})
    data = str(path).replace("train", "{split}")
    with pytest.raises(ConfigError, match="come without passages to search; set retriever="):
        env_of(data)
    pages = [Document(title, title, text) for title, text in TEXTS.items()]
    env = env_of(data, retriever=lambda: BM25Retriever(pages))
    (task,) = env.tasks
    assert (task.answer, task.metadata["queries"], "subject" in task.metadata) == ("Port Maron", [QUESTION], False)
    env.reset(options={"task": task})
    assert "Ida Pihem" in env.step(HermesDialect().format(env.oracle(task)[0]))[0]


def test_a_given_retriever_replaces_the_pages() -> None:
    env = OpenQAEnv(retriever=lambda: BM25Retriever([Document("d", "Everything", "the only page")]))
    env.reset(seed=0)
    assert "the only page" in env.step('<tool_call>{"name": "search", "arguments": {"query": "page"}}</tool_call>')[0]


# ---- the bundled set


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_bundled_set_is_in_hotpotqas_format_and_its_supporting_sentences_lead_to_the_answer(split: str) -> None:
    path = Path(load_questions.__code__.co_filename).parent / "data" / f"{split}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == {"train": 24, "test": 12}[split]
    for row in rows:
        pages = dict(row["context"])
        assert len(pages) == len(row["context"]) == len(row["supporting_facts"]) + 4
        told = [pages[title][number] for title, number in row["supporting_facts"]]
        needed = [title for title, _ in row["supporting_facts"][1:]] + [row["answer"]]
        assert all(text in sentence for text, sentence in zip(needed, told, strict=True)), row
        assert row["supporting_facts"][0][0] in row["question"]


def test_the_oracle_solves_all_of_the_bundled_set_through_the_engine(
    byte_tokenizer: PreTrainedTokenizerFast, trl_template: Callable[[str], str]
) -> None:
    renderer = Renderer(byte_tokenizer, chat_template=trl_template("qwen2_5"))
    envs = {split: OpenQAEnv(split) for split in ("train", "test")}  # type: ignore[arg-type]
    for split, report in evaluate(envs, None, renderer).items():
        assert (report.success, report.samples) == (1.0, len(envs[split].tasks))
        assert report.stops == {"answer": len(envs[split].tasks)}


def test_a_wrong_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="metric must be"):
        OpenQAEnv(metric="rouge")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="split must be"):
        OpenQAEnv("dev")  # type: ignore[arg-type]
