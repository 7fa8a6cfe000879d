"""Conway's game of life on a torus."""

from __future__ import annotations

import random

from toolrl_envs.terminal.programs.cases import Session, Step

PROGRAM = "life"

GLIDER = ".#......\n..#.....\n###.....\n........\n........\n........\n"


def environment() -> dict[str, bytes]:
    """The files that the agent gets."""
    return {"glider.txt": GLIDER.encode()}


def after(rows: list[str], generations: int) -> list[str]:
    """The grid after some generations."""
    for _ in range(generations):
        height, width = len(rows), len(rows[0])
        new = []
        for y in range(height):
            line = ""
            for x in range(width):
                around = [rows[(y + dy) % height][(x + dx) % width] for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
                alive = around.count("#") - (rows[y][x] == "#")
                line += "#" if alive == 3 or (alive == 2 and rows[y][x] == "#") else "."
            new.append(line)
        rows = new
    return rows


def sessions() -> list[Session]:
    """The cases of the tests."""
    rng = random.Random("life")
    grids = [GLIDER.split(), ["#"], ["."], ["#.##"], ["#", "#", "."]]
    grids += [["".join(rng.choices(".#", k=width)) for _ in range(rng.randrange(2, 9))] for width in range(2, 11)]
    steps = []
    for number, grid in enumerate(grids):
        generations = number % 5 if number else 31
        stdin, output = ("".join(f"{row}\n" for row in rows) for rows in (grid, after(grid, generations)))
        steps.append(Step([str(generations)], stdin, output=output))
    return [Session(steps)]
