#!/usr/bin/env python3
"""Draws where a command spends its processor time, as a flame graph, and prints the functions that take most of it.

    cargo build --release
    perf record --event cpu-clock --freq 499 --call-graph dwarf,16384 --output new.perf target/release/btrfs_to_s3 … < STREAM
    perf script --input new.perf --no-inline --fields comm,ip,sym | benches/compare/flame.py "First backup" docs/plots/flame_new.svg

A box is a function, as wide as the share of the samples in which it was running or had called what is above it; boxes have no order
in time, and all threads are together. "[k]" is the kernel. What takes less than one part in 200 is left out.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, ROW, LEFT, TOP = 1200, 18, 10, 40
LEAST_SHARE = 1 / 200
CHARACTER_WIDTH = 6.6
COLOURS = {"kernel": "#c9b458", "zstd": "#d98b5f", "hash": "#7fa9d0", "ours": "#8fbf8f", "other": "#cccccc"}


class Box:
    def __init__(self) -> None:
        self.samples, self.above = 0, {}


def read_stacks(lines) -> list[list[str]]:
    """Stacks from the outermost function to the one that was running, out of what `perf script` prints."""
    stacks, stack = [], []
    for line in lines:
        words = line.strip().split(" ", 1)
        if line.startswith((" ", "\t")) and len(words) == 2 and re.fullmatch(r"[0-9a-f]+", words[0]):
            stack.append(short(words[1]) + (" [k]" if words[0].startswith("ffffffff8") else ""))
        elif not line.strip() and stack:
            stacks.append(stack[::-1])
            stack = []
    return stacks + ([stack[::-1]] if stack else [])


def short(name: str) -> str:
    """A function's name without its hash, types and offsets."""
    name = re.sub(r"(::h[0-9a-f]{16})?(\+0x[0-9a-f]+)?$", "", name.strip())
    name = re.sub(r"^<(&mut |&)?(.*?)( as .*?)?>::", r"\2::", name)
    while "<" in name and (shorter := re.sub(r"<[^<>]*>", "", name)) != name:
        name = shorter
    return name.replace("btrfs_to_s3::", "").replace("{{closure}}", "{}").strip(":") or "?"


def is_machinery(name: str) -> bool:
    """Threads, runtimes and pools: between what is of interest, and many."""
    parts = ("rayon", "tokio::", "core::", "std::", "alloc::", "__rust", "_rust", "clone3", "start_thread", "futures_util")
    return name in ("?", "[unknown]", "_start", "main", "__libc_start_main") or name.startswith(parts)


def colour(name: str) -> str:
    if name.startswith(("ZSTD", "HUF", "FSE", "HIST", "zstd")):
        return COLOURS["zstd"]
    if any(part in name for part in ("blake3", "crc", "xxh", "hash_many")):
        return COLOURS["hash"]
    if name.endswith("[k]"):
        return COLOURS["kernel"]
    return COLOURS["ours"] if "::" in name else COLOURS["other"]


def build(stacks: list[list[str]]) -> Box:
    root = Box()
    for stack in stacks:
        root.samples += 1
        box = root
        for name in (name for name in stack if not is_machinery(name)):
            box = box.above.setdefault(name, Box())
            box.samples += 1
    return root


def boxes(box: Box, total: int, left: float, level: int):
    """Name, level, left edge and share of each box that is wide enough."""
    for name, above in sorted(box.above.items()):
        share = above.samples / total
        if share >= LEAST_SHARE:
            yield name, level, left, share
            yield from boxes(above, total, left, level + 1)
            left += share


def draw(title: str, root: Box) -> str:
    drawn = list(boxes(root, root.samples, 0, 0))
    levels = 1 + max((level for _, level, _, _ in drawn), default=0)
    height, width = TOP + levels * ROW + 10, WIDTH - 2 * LEFT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="monospace" font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15" font-family="sans-serif">{escape(title)}: {root.samples} samples</text>',
    ]
    for name, level, left, share in drawn:
        x, y = LEFT + left * width, TOP + (levels - 1 - level) * ROW
        room = int((share * width - 4) / CHARACTER_WIDTH)
        text = name if len(name) <= room else name[: room - 1] + "…" if room > 3 else ""
        parts.append(
            f'<g><title>{escape(name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{share * width:.1f}" '
            f'height="{ROW - 1}" fill="{colour(name)}" stroke="white" stroke-width="0.5"/>'
            f'<text x="{x + 2:.1f}" y="{y + 13}">{escape(text)}</text></g>'
        )
    return "\n".join([*parts, "</svg>", ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("title")
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    stacks = read_stacks(sys.stdin)
    if not stacks:
        parser.error("there is no sample on standard input")
    arguments.picture.write_text(draw(arguments.title, build(stacks)))
    for name, count in Counter(stack[-1] for stack in stacks).most_common(12):
        print(f"| {name} | {count / len(stacks):.1%} |")


if __name__ == "__main__":
    main()
