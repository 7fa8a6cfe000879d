"""Checks where files with odd names were copied to."""

import gzip
import io
import random
import re
import sys
import tarfile
from pathlib import Path

STEMS = (
    "Report", " report ", "-report", "re\nport", "--", "~", "a  b", "A_B", "a'b", 'a"b', "x*?", "$HOME", "`id`",
    "tab\tbed", "naïve", "..", "100%", "back\\slash", "c.tar", "über uns", ";ls", "-rf", "\n", "#tag#", "plain",
    "Mixed CASE 7",
)  # fmt: skip
EXTENSIONS = ("txt", "TXT", "md", "Csv")
FOLDERS = ("", "a b/", "-x/", "new\nline/", "ü/z/")


def inbox() -> dict[str, bytes]:
    """The files by path below inbox/."""
    rng = random.Random("odd-names")
    names = [f"{rng.choice(FOLDERS)}{stem}.{rng.choice(EXTENSIONS)}" for stem in STEMS for _ in range(3)]
    return {name: f"contents {index}\n".encode() for index, name in enumerate(dict.fromkeys(names))}


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in inbox().items():
            entry = tarfile.TarInfo(f"inbox/{name}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return {"inbox.tar.gz": gzip.compress(archive.getvalue(), mtime=0)}


def _tree(folder: str) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in Path(folder).rglob("*") if not path.is_dir()}
    return {name: path.read_bytes() for name, path in found.items() if not path.is_symlink()}


def main() -> None:
    """Exit with a message unless the task is done."""
    expected: dict[str, bytes] = {}
    for name, data in sorted(inbox().items(), key=lambda item: item[0].encode()):
        stem, _, extension = name.rsplit("/", 1)[-1].rpartition(".")
        stem = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-") or "file"
        places = (f"{extension.lower()}/{stem}{suffix}.{extension.lower()}" for suffix in ("", *range(-2, -99, -1)))
        expected[next(place for place in places if place not in expected)] = data
    if _tree("inbox") != inbox():
        sys.exit("inbox/ was changed")
    if _tree("sorted") != expected:
        sys.exit("sorted/ has other files than it should")


if __name__ == "__main__":
    main()
