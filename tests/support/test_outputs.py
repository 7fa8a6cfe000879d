"""Output files: existing ones are not overwritten, and a bad place is one clear error."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolrl import ConfigError
from toolrl.support.outputs import new_file, refuse_existing


def test_existing_files_are_kept_unless_overwriting_is_requested(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.jsonl"
    assert new_file(path) == path
    assert path.read_text() == ""
    new_file(path)  # empty: nothing to lose
    path.write_text("an episode\n")
    for refuse in (refuse_existing, new_file):
        with pytest.raises(ConfigError, match=r"must not be mixed with others; name another file, or pass --overwrite"):
            refuse(path)
    refuse_existing(path, overwrite=True)
    assert path.read_text() == "an episode\n", "checking deletes nothing"
    assert new_file(path, overwrite=True).read_text() == ""


@pytest.mark.parametrize("place", ["", "file/below", "/proc/nothing/here"])
def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"name a file|cannot write to"):
        refuse_existing(tmp_path / place)
