#!/usr/bin/env python3
"""Draws what storage.py has measured: stored bytes by night, and time and memory of the nights, as SVG.

    benches/compare/plot.py benches/compare/results/storage.json docs/plots
"""

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 820, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 270, 54, 50
# By program; its ways differ by their dashes.
COLOURS = {"btrfs_to_s3": "#0b5fa5", "restic": "#d1495b", "borg": "#2a9d4f", "rustic": "#e0912b", "bupstash": "#7a5195"}
DASHES = {"full": "", "files": ' stroke-dasharray="7 4"', "incremental": ' stroke-dasharray="2 3"'}


def nice_top(value: float) -> float:
    """The next round number from `value` on, for the end of an axis."""
    step = 1.0
    while step * 10 < value:
        step *= 10
    while step * 10 > value * 10:
        step /= 10
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= value)


def rounded(value: float) -> str:
    return f"{value:.1f}" if value < 20 else f"{value:.0f}"


def draw(title: str, unit: str, lines: dict[str, list[float]]) -> str:
    """A chart with a line for each name, a point for each night."""
    nights = max(len(values) for values in lines.values())
    top = nice_top(max(max(values) for values in lines.values()))
    plot_width, plot_height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(night: int) -> float:
        return LEFT + plot_width * night / max(nights - 1, 1)

    def y(value: float) -> float:
        return TOP + plot_height * (1 - value / top)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for mark in range(6):
        value = top * mark / 5
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for night in range(nights):
        parts.append(f'<text x="{x(night):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">{night}</text>')
    parts.append(f'<text x="{LEFT + plot_width / 2}" y="{HEIGHT - 12}" text-anchor="middle">night</text>')
    parts.append(f'<text x="{LEFT - 8}" y="{TOP - 14}" text-anchor="end">{escape(unit)}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT + 14}" y="{TOP - 14}">in night {nights - 1}:</text>')
    by_last = sorted(lines, key=lambda name: -lines[name][-1])
    for row, name in enumerate(by_last):
        program, way = name.split(" ", 1)
        colour, dashes = COLOURS[program], DASHES[way]
        points = " ".join(f"{x(night):.1f},{y(value):.1f}" for night, value in enumerate(lines[name]))
        width = 3 if name.startswith("btrfs_to_s3") else 1.5
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        parts += [f'<circle cx="{x(night):.1f}" cy="{y(value):.1f}" r="2.5" fill="{colour}"/>' for night, value in enumerate(lines[name])]
        place = TOP + 10 + row * 20
        start = WIDTH - RIGHT + 14
        parts.append(f'<line x1="{start}" x2="{start + 24}" y1="{place}" y2="{place}" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        parts.append(f'<text x="{start + 32}" y="{place + 4}">{escape(name)}: {rounded(lines[name][-1])}</text>')
    return "\n".join([*parts, "</svg>", ""])


CHARTS = [
    ("stored", "Stored after each night", "MB", "stored_mb"),
    ("cpu", "CPU time of each night", "s", "cpu_s"),
    ("memory", "Peak memory of each night", "MB", "memory_mb"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    ways = json.loads(arguments.results.read_text())["ways"]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, title, unit, key in CHARTS:
        lines = {way: [night[key] for night in measured["nights"]] for way, measured in ways.items()}
        (arguments.folder / f"{arguments.results.stem}_{name}.svg").write_text(draw(title, unit, lines))


if __name__ == "__main__":
    main()
