#!/usr/bin/env python3
"""Draws what storage.py has measured: stored bytes by night, and time and memory of the nights, as SVG.

    benches/compare/plot.py benches/compare/results/storage.json docs/plots
"""

import argparse
import json
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 70, 210, 40, 50
COLOURS = ["#0b5fa5", "#d1495b", "#2a9d4f", "#e0912b", "#7a5195", "#5c6b73", "#b5651d", "#17a2b8", "#9c9c2d", "#000000"]


def nice_top(value: float) -> float:
    """The next round number from `value` on, for the end of an axis."""
    step = 1.0
    while step * 10 < value:
        step *= 10
    while step * 10 > value * 10:
        step /= 10
    return next(step * factor for factor in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if step * factor >= value)


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
    parts.append(f'<text x="16" y="{TOP - 6}">{escape(unit)}</text>')
    by_last = sorted(lines, key=lambda name: -lines[name][-1])
    for row, name in enumerate(by_last):
        colour = COLOURS[list(lines).index(name) % len(COLOURS)]
        dashes = ' stroke-dasharray="6 4"' if name.endswith("files") else ""
        points = " ".join(f"{x(night):.1f},{y(value):.1f}" for night, value in enumerate(lines[name]))
        width = 3 if name.startswith("btrfs_to_s3") else 1.5
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        place = TOP + 10 + row * 20
        start = WIDTH - RIGHT + 14
        parts.append(f'<line x1="{start}" x2="{start + 24}" y1="{place}" y2="{place}" stroke="{colour}" stroke-width="{width}"{dashes}/>')
        parts.append(f'<text x="{start + 30}" y="{place + 4}">{escape(name)}: {lines[name][-1]:g}</text>')
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
