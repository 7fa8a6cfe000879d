"""Checks that of equal files only the first is left."""

import gzip
import io
import random
import sys
import tarfile
from pathlib import Path

FOLDERS = ("2029", "2029/Malmö trip", "2030", "2030/old", "Backup", "Backup/2029", "Backup/2029/x", "last copy")


def photos() -> dict[str, bytes]:
    """The files by path."""
    rng = random.Random("dedupe-photos")
    contents = [rng.randbytes(rng.randrange(20, 60)) for _ in range(22)]
    contents += [contents[0] + b"\0", contents[1][:-1], b"", contents[2][::-1]]
    found: dict[str, bytes] = {}
    for _ in range(60):
        folder = rng.choice(FOLDERS)
        name = f"{rng.choice(('IMG', 'img', 'Pic of us'))} {rng.randrange(40):02}{rng.choice(('', ' (1)'))}.jpg"
        found[f"photos/{folder}/{name}"] = rng.choice(contents)
    # A folder that holds nothing but copies of earlier files.
    for number, data in enumerate(rng.sample(sorted(found.values()), 4)):
        found[f"photos/zz/deep/copy {number}.jpg"] = data
    return found


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in photos().items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return {"photos.tar.gz": gzip.compress(archive.getvalue(), mtime=0)}


def main() -> None:
    """Exit with a message unless the task is done."""
    first: dict[bytes, str] = {}
    for name, data in sorted(photos().items(), key=lambda item: item[0].encode()):
        first.setdefault(data, name)
    expected = {name: data for data, name in first.items()}
    paths = list(Path("photos").rglob("*"))
    if {str(path): path.read_bytes() for path in paths if path.is_file()} != expected:
        sys.exit("photos/ has other files than it should")
    folders = {str(parent) for name in expected for parent in Path(name).parents} - {".", "photos"}
    if {str(path) for path in paths if path.is_dir()} != folders:
        sys.exit("photos/ has other folders than it should")


if __name__ == "__main__":
    main()
