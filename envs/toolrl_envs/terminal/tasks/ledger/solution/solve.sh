python3 - <<'END'
import collections, decimal, re
balances = collections.defaultdict(decimal.Decimal)
broken = []
text = re.sub("^;.*\n", "", open("ledger.txt").read(), flags=re.M)
for block in text.strip("\n").split("\n\n"):
    head, *lines = block.splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) + [None] for line in lines]
    rows = [(row[0], row[1] and decimal.Decimal(row[1].split()[0])) for row in rows]
    rest = -sum(amount for _, amount in rows if amount is not None)
    if rest and all(amount is not None for _, amount in rows):
        broken.append(head + "\n")
        continue
    for account, amount in rows:
        while account:
            balances[account] += rest if amount is None else amount
            account = account.rpartition(":")[0]
open("broken.txt", "w").writelines(broken)
open("balances.txt", "w").writelines(f"{sum:.2f} {name}\n" for name, sum in sorted(balances.items()) if sum)
END
