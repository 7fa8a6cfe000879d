python3 -m tarfile -e inbox.tar.gz
python3 - <<'END'
import os, re, shutil
used = {}
for path in sorted(os.fsencode(os.path.join(top, name)) for top, _, names in os.walk("inbox") for name in names):
    stem, _, extension = os.fsdecode(os.path.basename(path)).rpartition(".")
    extension = extension.lower()
    stem = re.sub("[^a-z0-9]+", "-", stem.lower()).strip("-") or "file"
    used[stem, extension] = used.get((stem, extension), 0) + 1
    if used[stem, extension] > 1:
        stem += f"-{used[stem, extension]}"
    os.makedirs(f"sorted/{extension}", exist_ok=True)
    shutil.copyfile(path, f"sorted/{extension}/{stem}.{extension}")
END
