"""Looking at trajectories: collections, a query language, figures, the terminal, HTML and a local page."""

from toolrl.view.collection import Trajectories, load
from toolrl.view.columns import FIELDS, FUNCTIONS
from toolrl.view.index import TrajectoryIndex
from toolrl.view.query import Query

__all__ = ["FIELDS", "FUNCTIONS", "Query", "Trajectories", "TrajectoryIndex", "load"]
