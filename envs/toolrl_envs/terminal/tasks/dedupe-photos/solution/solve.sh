python3 -m tarfile -e photos.tar.gz
python3 - <<'END'
import os, pathlib
seen = set()
for path in sorted((os.path.join(top, name) for top, _, names in os.walk(b"photos") for name in names)):
    data = open(path, "rb").read()
    if data in seen:
        os.remove(path)
    seen.add(data)
for folder in sorted(pathlib.Path("photos").rglob("*"), reverse=True):
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
END
