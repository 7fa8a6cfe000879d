"""`toolrl view`: a local page for runs, on Starlette. Pages are rendered here; the browser only displays them."""

from toolrl.view.server.app import PageServer, make_app

__all__ = ["PageServer", "make_app"]
