python3 - <<'END'
import datetime
WEEKDAYS = "sun mon tue wed thu fri sat".split()
MONTHS = "- jan feb mar apr may jun jul aug sep oct nov dec".split()
def matches(field, value, names=()):
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        ends = [names.index(text) if text in names else text for text in span.split("-")]
        low, high = (1 if names == MONTHS else 0, 99) if span == "*" else (int(ends[0]), int(ends[-1]))
        if low <= value <= high and (value - low) % int(step or 1) == 0:
            return True
    return False
runs = []
for line in open("crontab"):
    if not line.strip() or line.strip()[0] == "#":
        continue
    minute, hour, day, month, weekday, name = line.split()
    for step in range(5 * 24 * 60):
        now = datetime.datetime(2032, 2, 27) + datetime.timedelta(minutes=step)
        by_day = matches(day.replace("*", "1-31"), now.day)
        by_weekday = any(matches(weekday, number, WEEKDAYS) for number in {now.isoweekday(), now.isoweekday() % 7})
        right = by_day or by_weekday if "*" not in (day, weekday) else by_day and by_weekday
        if right and matches(minute, now.minute) and matches(hour, now.hour) and matches(month, now.month, MONTHS):
            runs.append(f"{now:%Y-%m-%d %H:%M} {name}\n")
open("runs.txt", "w").writelines(sorted(runs))
END
