"""`python -m tests.benchmarks [NAME ...]`: measure, and print Markdown tables.

Figures depend on the machine and on what else it does; the first line says what that was.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path

HELPERS = ("__main__", "common")


def main(names: list[str]) -> None:
    known = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, load before the start {load}\n", flush=True)
    for name in names or known:
        print(importlib.import_module(f"tests.benchmarks.{name}").main(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
