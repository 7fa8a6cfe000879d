"""Packages to start from: an environment of each kind, with tests, that its author makes their own."""

from toolrl.scaffold.names import Names
from toolrl.scaffold.package import KINDS, Kind, make_package

__all__ = ["KINDS", "Kind", "Names", "make_package"]
