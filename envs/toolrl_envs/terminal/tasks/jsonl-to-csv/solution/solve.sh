python3 - <<'END'
import csv, json
def flat(value, prefix):
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list):
            yield prefix + key, "|".join(map(str, inner))
        else:
            yield prefix + key, {True: "true", False: "false", None: ""}[inner] if inner is None or isinstance(inner, bool) else str(inner)
rows = []
for line in open("events.jsonl", encoding="utf-8"):
    try:
        event = json.loads(line)
    except ValueError:
        continue
    if isinstance(event, dict):
        rows.append(dict(flat(event, "")))
columns = sorted({column for row in rows for column in row}, key=str.encode)
with open("events.csv", "w", encoding="utf-8", newline="") as file:
    writer = csv.DictWriter(file, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
END
