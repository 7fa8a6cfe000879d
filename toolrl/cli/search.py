"""`toolrl search query` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolrl.cli.ending import expect_end

app = typer.Typer(no_args_is_help=True, help="Search backends.")

RETRIEVER = typer.Argument(
    metavar="BACKEND",
    help="bm25:CORPUS, dense:CORPUS, hybrid:CORPUS, web, or a server's address. A corpus is python-docs, a JSON or "
    "Parquet file, a folder of texts, or hf:OWNER/NAME.",
)
MODEL = typer.Option(help="Sentence-transformers model for a dense or hybrid backend.")
STORE = typer.Option(help="SQLite file that caches the answers.")
MODE = typer.Option(help="With --store: 'cache', 'record' or 'replay'.")


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
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    api_key: Annotated[str, typer.Option(envvar="TOOLRL_SEARCH_API_KEY", help="Key that clients must send.")] = "",
    model: Annotated[str, MODEL] = "",
    store: Annotated[Path | None, STORE] = None,
    mode: Annotated[str, MODE] = "cache",
) -> None:
    """Serve a backend with Search-R1's protocol (POST /retrieve) until Ctrl-C or SIGTERM."""
    from toolrl.search import RetrievalServer, open_retriever

    wait_for_end = expect_end()
    with (
        open_retriever(backend, model=model or None, store=store, mode=mode) as retriever,  # type: ignore[arg-type]
        RetrievalServer(retriever, host=host, port=port, api_key=api_key or None) as server,
    ):
        typer.echo(f"serving {backend} at {server.url}/retrieve")
        wait_for_end()
