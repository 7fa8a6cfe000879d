"""Environments written for other libraries, played as they are."""

from toolrl.interop.trl import from_trl

__all__ = ["from_trl"]
