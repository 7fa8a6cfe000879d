python3 - <<'END'
import base64, binascii, hashlib, pathlib
good = {}
for path in pathlib.Path("parts").iterdir():
    head, _, body = path.read_text().partition("\n")
    _, number, _, total, _, digest = head.split()
    try:
        part = base64.b64decode(body)
    except binascii.Error:
        continue
    if total == "16" and hashlib.sha256(part).hexdigest() == digest:
        good[int(number)] = part
pathlib.Path("message.bin").write_bytes(b"".join(good[number] for number in range(1, 17)))
END
