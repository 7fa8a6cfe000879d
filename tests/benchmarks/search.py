"""Search over 5 thousand to a million passages: ours, rank_bm25 and SQLite's FTS5, each in a process of its own.

Passages are generated: 60 to 120 words by the frequencies of the standard library's documentation, a fifth of them
made-up names from a long tail. Queries are a name and some words of a passage.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.common import table
from toolrl.search import BM25Retriever, python_documentation
from toolrl.search.corpus.sources import open_corpus
from toolrl.search.corpus.tokens import query_terms, text_terms

SIZES = (5_000, 100_000, 1_000_000)
QUERIES = 200
K = 10
NAMES = 300_000
CLIENTS = 64
# rank_bm25 keeps a dictionary for each passage, and takes seconds for a query over a million.
LARGEST = {"rank_bm25": 100_000}

Search = Callable[[str], list[str]]


def write_passages(path: Path, count: int) -> list[str]:
    """Write a corpus; return queries."""
    rng, numbers = random.Random(0), np.random.default_rng(0)
    frequencies = Counter(word for d in python_documentation() for word in re.findall("[a-z]{2,}", d.text.lower()))
    words = list(frequencies)
    cumulated = np.cumsum([frequencies[word] for word in words])
    syllables = [a + b for a in "bcdfghjklmnprstvz" for b in "aeiou"]
    names = ["".join(rng.choices(syllables, k=rng.randint(3, 5))) for _ in range(NAMES)]
    queries: list[str] = []
    every = max(1, count // QUERIES)
    with path.open("w") as file:
        for number in range(count):
            length = rng.randint(60, 120)
            drawn = [
                words[i] for i in np.searchsorted(cumulated, numbers.integers(cumulated[-1], size=length), "right")
            ]
            for place in rng.sample(range(length), length // 5):
                drawn[place] = names[int(NAMES * rng.random() ** 3)]
            title = f"{rng.choice(names).capitalize()} {rng.choice(names).capitalize()}"
            file.write(json.dumps({"id": str(number), "title": title, "text": " ".join(drawn)}) + "\n")
            if number % every == 0 and len(queries) < QUERIES:
                queries.append(" ".join([rng.choice(title.split()), *rng.sample(drawn, 4)]))
    return queries


def ours(corpus: Path, folder: Path) -> tuple[Search, Any]:
    retriever = BM25Retriever.open(corpus, cache_dir=folder)
    return lambda query: [document.id for document in retriever.search(query, K)], retriever


def rank_bm25(corpus: Path, folder: Path) -> tuple[Search, Any]:
    from rank_bm25 import BM25Okapi

    documents = list(open_corpus(corpus))
    index = BM25Okapi([text_terms(f"{d.title} {d.text}") for d in documents])

    def search(query: str) -> list[str]:
        scores = index.get_scores(text_terms(query))
        best = np.argpartition(-scores, K)[:K]
        return [documents[i].id for i in best[np.argsort(-scores[best])]]

    return search, None


def fts5(corpus: Path, folder: Path) -> tuple[Search, Any]:
    connection = sqlite3.connect(folder / "fts5.sqlite")
    connection.execute("CREATE VIRTUAL TABLE passages USING fts5(id UNINDEXED, title, text)")
    rows = ((d.id, d.title, d.text) for d in open_corpus(corpus))
    connection.executemany("INSERT INTO passages VALUES (?, ?, ?)", rows)
    connection.commit()
    statement = f"SELECT id FROM passages WHERE passages MATCH ? ORDER BY bm25(passages, 0, 3, 1) LIMIT {K}"

    def search(query: str) -> list[str]:
        match = " OR ".join(f'"{term}"' for term in dict.fromkeys(re.findall(r"\w+", query)))
        return [row[0] for row in connection.execute(statement, (match,))]

    return search, None


SYSTEMS = {"toolrl": ours, "rank_bm25": rank_bm25, "SQLite FTS5": fts5}


def measure(system: str, corpus: str, folder: str) -> None:
    """Index and search in this process; print the figures as JSON."""
    queries = json.loads((Path(corpus).parent / "queries.json").read_text())
    start = time.perf_counter()
    search, retriever = SYSTEMS[system](Path(corpus), Path(folder))
    figures: dict[str, float] = {"index_s": time.perf_counter() - start, "index_gib": peak_gib()}
    for query in queries[:5]:
        search(query)
    seconds = []
    for query in queries:
        start = time.perf_counter()
        search(query)
        seconds.append(time.perf_counter() - start)
    figures["per_second"] = len(seconds) / sum(seconds)
    figures["p50_ms"], figures["p95_ms"] = 1e3 * statistics.median(seconds), 1e3 * quantile(seconds, 0.95)
    if retriever is not None:
        with ThreadPoolExecutor(4) as threads:
            start = time.perf_counter()
            list(threads.map(search, queries))
            figures["threads_per_second"] = len(queries) / (time.perf_counter() - start)
        figures["recall"] = recall_against_bm25s(retriever, queries)
    print(json.dumps(figures))


def recall_against_bm25s(retriever: BM25Retriever, queries: Sequence[str]) -> float:
    """Recall of bm25s's own results for the same index; ties count as found."""
    index = retriever._index
    tokens = [[term for term in query_terms(query) if term in index.vocab_dict] for query in queries]
    scores_QK = index.retrieve(tokens, k=K, show_progress=False).scores
    found = (retriever.search(query, K) for query in queries)
    return statistics.mean(
        sum(own.score >= theirs - 1e-4 for own, theirs in zip(documents, scores_K, strict=True)) / K
        for documents, scores_K in zip(found, scores_QK, strict=True)
    )


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def http_row(address: str, clients: int) -> list[object]:
    """Requests by several threads, each waiting for its answer before it asks again."""
    names = [document.title for document in python_documentation()[::4]]
    seconds: list[float] = []
    ready = threading.Barrier(clients)

    def ask(own: Sequence[str]) -> None:
        connection = http.client.HTTPConnection(address)
        connection.connect()
        ready.wait()
        for name in own:
            start = time.perf_counter()
            connection.request("POST", "/retrieve", json.dumps({"queries": [name], "topk": 3, "return_scores": True}))
            answer = json.loads(connection.getresponse().read())
            seconds.append(time.perf_counter() - start)
            assert answer["result"][0][0]["document"]["title"] == name
        connection.close()

    with ThreadPoolExecutor(clients) as threads:
        start = time.perf_counter()
        list(threads.map(ask, [names[number::clients] for number in range(clients)]))
        rate = len(names) / (time.perf_counter() - start)
    return [clients, f"{rate:.0f}", f"{1e3 * statistics.median(seconds):.1f}", f"{1e3 * quantile(seconds, 0.95):.1f}"]


def http_rows() -> list[list[object]]:
    """`toolrl search serve` in a process of its own, asked from this one."""
    command = [sys.executable, "-m", "toolrl", "search", "serve", "bm25:python-docs", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split("http://")[1].split("/")[0]
            return [http_row(address, clients) for clients in (1, CLIENTS)]
        finally:
            server.terminate()


def main() -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            home = Path(folder) / str(size)
            home.mkdir()
            queries = write_passages(home / "corpus.jsonl", size)
            (home / "queries.json").write_text(json.dumps(queries))
            for system in SYSTEMS:
                if size > LARGEST.get(system, size):
                    continue
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    command = [sys.executable, "-m", "tests.benchmarks.search", system, str(home / "corpus.jsonl"), own]
                    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    figures = json.loads(done.stdout)
                    reopened = ""
                    if system == "toolrl":  # from what the first has kept
                        again = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                        second = json.loads(again.stdout)
                        reopened = f" ({second['index_s']:.1f} s, {second['index_gib']:.1f} GiB)"
                rows.append(
                    [
                        f"{size:,}",
                        system,
                        f"{figures['index_s']:.1f} s, {figures['index_gib']:.1f} GiB{reopened}",
                        f"{figures['per_second']:.0f}",
                        f"{figures['threads_per_second']:.0f}" if "threads_per_second" in figures else "-",
                        f"{figures['p50_ms']:.1f}",
                        f"{figures['p95_ms']:.1f}",
                        f"{figures['recall']:.3f}" if "recall" in figures else "-",
                    ]
                )
                print(rows[-1], file=sys.stderr, flush=True)
            (home / "corpus.jsonl").unlink()
    columns = ["passages", "system", "index: time, peak memory (opened again)", "queries/s", "with 4 threads"]
    columns += ["p50 ms", "p95 ms", f"recall@{K} of bm25s"]
    served = table(
        "`toolrl search serve bm25:python-docs`",
        ["concurrent clients", "queries/s", "p50 ms", "p95 ms"],
        http_rows(),
    )
    return table("Search", columns, rows) + "\n" + served


if __name__ == "__main__":
    measure(*sys.argv[1:])
