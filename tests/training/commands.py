"""The command line, in this process."""

from __future__ import annotations

import pytest

from toolrl.cli import main


def command(*arguments: str) -> int:
    """Run the command; return its exit status."""
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    return int(exit.value.code or 0)
