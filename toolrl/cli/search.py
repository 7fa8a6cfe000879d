"""`toolrl search query` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.common import App, Host, Port, catch_signals

app = App(no_args_is_help=True, help="Search backends.")

RETRIEVER = typer.Argument(
    metavar="BACKEND",
    help="bm25:CORPUS, dense:CORPUS, hybrid:CORPUS, web, or a server's address; a corpus is python-docs, a .jsonl or "
    ".parquet file, a folder of texts, or hf:OWNER/NAME.",
)
MODEL = typer.Option(help="Sentence-transformers model of a dense or hybrid backend.")
STORE = typer.Option(help="SQLite file that caches the results.")
MODE = typer.Option(help="'cache', 'record' or 'replay'; with --store.")


@app.command(name="query")
def search_query(
    backend: Annotated[str, RETRIEVER],
    query: Annotated[str, typer.Argument(help="What to search for.")],
    k: Annotated[int, typer.Option("--k", min=1, help="Number of results.")] = 5,
    model: Annotated[str, MODEL] = "",
    store: Annotated[Path | None, STORE] = None,
    mode: Annotated[str, MODE] = "cache",
) -> None:
    """Search once, and print the results."""
    from toolrl.search import open_retriever

    with open_retriever(backend, model=model or None, store=store, mode=mode) as retriever:  # type: ignore[arg-type]
        for document in retriever.search(query, k):
            text = " ".join(document.text.split())
            typer.echo(f"{document.score:8.3f}  {document.id}  {document.title}\n          {text[:200]}")


@app.command(name="serve")
def search_serve(
    backend: Annotated[str, RETRIEVER],
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Annotated[str, typer.Option(envvar="TOOLRL_SEARCH_API_KEY", help="Key that clients must send.")] = "",
    model: Annotated[str, MODEL] = "",
    store: Annotated[Path | None, STORE] = None,
    mode: Annotated[str, MODE] = "cache",
) -> None:
    """Serve a backend through Search-R1's protocol (POST /retrieve) until Ctrl-C or SIGTERM."""
    from toolrl.search import RetrievalServer, open_retriever

    wait = catch_signals()
    with (
        open_retriever(backend, model=model or None, store=store, mode=mode) as retriever,  # type: ignore[arg-type]
        RetrievalServer(retriever, host=host, port=port, api_key=api_key or None) as server,
    ):
        typer.echo(f"serving {backend} at {server.url}/retrieve")
        wait()
