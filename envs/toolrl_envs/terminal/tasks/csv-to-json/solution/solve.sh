python3 - <<'END'
import csv, json
orders = []
with open("orders.csv", encoding="utf-8-sig", newline="") as file:
    rows = csv.reader(file, delimiter=";")
    next(rows)
    for id, customer, date, total, paid, note in rows:
        orders.append({
            "id": int(id), "customer": customer.strip(), "date": "-".join(reversed(date.split("."))),
            "total": float(total.replace(".", "").replace(",", ".")), "paid": paid == "ja", "note": note or None,
        })
json.dump(orders, open("orders.json", "w"))
END
