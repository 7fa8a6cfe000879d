python3 - <<'END'
import codecs, pathlib, unicodedata
MARKS = [(codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
         (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")]
for path in pathlib.Path("texts").rglob("*"):
    if not path.is_file() or path.suffix == ".bin":
        continue
    data = path.read_bytes()
    for mark, encoding in MARKS:
        if data.startswith(mark):
            text = data[len(mark):].decode(encoding)
            break
    else:
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            text = data.decode("latin-1")
    text = unicodedata.normalize("NFC", text.replace("\r\n", "\n").replace("\r", "\n"))
    path.write_bytes((text.rstrip("\n") + "\n" if text else "").encode())
END
