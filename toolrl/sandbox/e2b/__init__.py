"""Sandboxes in E2B's cloud, or behind anything that speaks its protocol (`toolrl sandbox serve`).

Needs the extra `e2b`. The SDK is imported when the first sandbox is opened.
"""

from toolrl.sandbox.e2b.fleet import E2BFleet, E2BUsage, shared_fleet
from toolrl.sandbox.e2b.sandbox import E2BSandbox
from toolrl.sandbox.e2b.sdk import E2BSettings

__all__ = ["E2BFleet", "E2BSandbox", "E2BSettings", "E2BUsage", "shared_fleet"]
