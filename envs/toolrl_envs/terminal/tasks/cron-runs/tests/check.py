"""Checks when the jobs of a crontab run."""

import sys
from datetime import datetime, timedelta
from pathlib import Path

CRONTAB = """\
# m h d mon wd name
0 6 * * * wake
*/20 9-10 * * mon-fri poll
5,35 23 29 2 * leap
  # disabled: 0 0 * * * never
0 12 1 * 5 first-or-friday
10-40/15 0 */2 * * odd-days
59 23 * Jan-MAR 7 sunday
30 8 */14 * Sun mixed
0 0 31 * * month-31

15 4 1-7/3 3,11 * early-march
0 18 * * 1-5/2 alternate
45 7 * feb Sat,SUN weekend
7 3 30,31 4 0 april
0 22-23,1 28 * * night
20 5 * * 5-7 long-weekend
"""


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"crontab": CRONTAB.encode()}


def _values(field: str, low: int, high: int, names: str) -> set[int]:
    found: set[int] = set()
    for part in field.lower().split(","):
        span, _, step = part.partition("/")
        first, dash, last = span.partition("-")
        numbers = [
            names.split().index(text) + low if text in names.split() else int(text)
            for text in (first, last)
            if text.isalnum()
        ]
        start, stop = (low, high) if span == "*" else (numbers[0], numbers[-1] if dash else numbers[0])
        found.update(range(start, stop + 1, int(step or 1)))
    return found


def runs() -> list[str]:
    """The lines of runs.txt."""
    lines = [line.split() for line in CRONTAB.splitlines() if line.strip() and not line.strip().startswith("#")]
    found = []
    months = "jan feb mar apr may jun jul aug sep oct nov dec"
    for minute, hour, day, month, weekday, name in lines:
        minutes, hours = _values(minute, 0, 59, ""), _values(hour, 0, 23, "")
        days, weekdays = (
            _values(day, 1, 31, ""),
            {number % 7 for number in _values(weekday, 0, 7, "sun mon tue wed thu fri sat")},
        )
        moment = datetime(2032, 2, 27)
        while moment < datetime(2032, 3, 3):
            by_day, by_weekday = moment.day in days, moment.isoweekday() % 7 in weekdays
            right_day = by_day or by_weekday if "*" not in (day, weekday) else by_day and by_weekday
            right_month = moment.month in _values(month, 1, 12, months)
            if moment.minute in minutes and moment.hour in hours and right_day and right_month:
                found.append(f"{moment:%Y-%m-%d %H:%M} {name}")
            moment += timedelta(minutes=1)
    return sorted(found)


def main() -> None:
    """Exit with a message unless the task is done."""
    if Path("runs.txt").read_text().splitlines() != runs():
        sys.exit("runs.txt is wrong")


if __name__ == "__main__":
    main()
