"""Looking at trajectories: collections, a query language, figures, the terminal, HTML and a local page."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from toolrl.errors import naming_extras

if TYPE_CHECKING:
    from toolrl.view.collection import Trajectories, load
    from toolrl.view.columns import FIELDS, FUNCTIONS
    from toolrl.view.index import TrajectoryIndex
    from toolrl.view.query import Query

__all__ = ["FIELDS", "FUNCTIONS", "Query", "Trajectories", "TrajectoryIndex", "load"]

# The terminal's parts need neither pyarrow nor pandas.
_MODULE_OF = {
    "FIELDS": "columns",
    "FUNCTIONS": "columns",
    "Query": "query",
    "Trajectories": "collection",
    "TrajectoryIndex": "index",
    "load": "collection",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with naming_extras():
        return getattr(import_module(f"toolrl.view.{_MODULE_OF[name]}"), name)
