#!/usr/bin/env python3
"""Compresses the chunks of a repository anew, in many ways, and writes down what each would store, cost and have to be read.

    pip install zstandard cbor2 blake3 xxhash numpy
    btrfs_to_s3 --repository file:///tmp/nights init
    btrfs_to_s3 --repository file:///tmp/nights backup --stdin --name data < STREAM      # one or more nights
    benches/compare/frames.py /tmp/nights --part levels --results benches/compare/results/frames.json

Nothing is changed in the repository. The chunks of its data packs come in the order in which they were stored, as plain bytes;
each way puts them into frames of its own. All ways take a pack in turn, so that other work on the machine is the same to all.
For each: the bytes of all frames, the CPU seconds that zstd took (one thread), and what is read at the least by who wants one
chunk (the mean over all chunks) and by a restore of the newest backup, whose frames are asked for in its order and kept as far
as CACHE_BYTES go. `now_mb` is what the program has stored. The parts:

    sizes       frame sizes at level 3
    levels      frame sizes by zstd's levels, with and without long-distance matching
    dictionary  small frames with a dictionary that was trained on every fiftieth chunk of the same data: the best case
    order       the chunks of a pack in another order (alike ones together, or by what their bytes look like); a pack as one frame
    delta       chunks that resemble an earlier one (of the same pack, or any) as what differs from it: the best case

Alike are two chunks that share one of three super-features: each is four maxima over samples of their 8-byte strings, as in Odess.
"""

import argparse
import collections
import sys
import time
from pathlib import Path

import numpy
import zstandard
from measuring import MIB, ROOT, Record

sys.path.insert(0, str(ROOT / "integration_tests/tools"))
from read_repository import Repository, cbor2, open_frame

KIB = 1 << 10
HEADER_BYTES = 12
CACHE_BYTES = 64 * MIB
SIZES = [256 * KIB, 512 * KIB, 1 * MIB, 2 * MIB, 4 * MIB, 8 * MIB]
DICTIONARY_BYTES = 112 * KIB
Chunk = collections.namedtuple("Chunk", "id bytes")


def read_packs(repository: Repository, limit: int) -> tuple[list[list[Chunk]], int]:
    """The chunks of data packs, of the oldest first, and the bytes of the frames they are in now: of one pack in so many that
    about `limit` bytes are left."""
    by_path: dict[Path, list] = {}
    for (name, chunk_id), (path, start, end, offset, length) in repository.places.items():
        if name == "data":
            by_path.setdefault(path, []).append((start, end, offset, length, chunk_id))
    total = sum(length for pack in by_path.values() for _, _, _, length, _ in pack)
    packs, stored = [], 0
    for path in sorted(by_path, key=lambda path: path.stat().st_mtime_ns)[:: -(-total // limit)]:
        raw, plain, pack = path.read_bytes(), {}, []
        for start, end, offset, length, chunk_id in sorted(by_path[path]):
            if start not in plain:
                plain = {start: open_frame(raw[start:end])}
                stored += end - start
            pack.append(Chunk(chunk_id, plain[start][offset : offset + length]))
        packs.append(pack)
    return packs, stored


def newest_needs(repository: Repository) -> list[bytes]:
    """The chunks of file data that the newest backup uses, in its order."""
    newest = max(repository.backups().values(), key=lambda manifest: manifest["created_at"])
    ids: list[bytes] = []

    def walk(node_id: bytes) -> None:
        node = cbor2.loads(repository.chunk("meta", node_id))
        children = [node["ids"][at : at + 32] for at in range(0, len(node["ids"]), 32)]
        if node["height"] == 1:
            ids.extend(children)
        else:
            for child in children:
                walk(child)

    for root in newest["roots"]:
        if root["kind"] == "data" and root["tree"]["height"] > 0:
            walk(root["tree"]["root"])
    return ids


class Way:
    """Gathers chunks into frames as the program does, and compresses them in one way."""

    def __init__(self, frame_bytes: int, level: int = 3, long: bool = False, dictionary=None, order: str = "", **zstd):
        window = {"window_log": 27, "enable_ldm": True} if long else {}
        parameters = zstandard.ZstdCompressionParameters(compression_level=level, **window, **zstd)
        self.compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
        self.what = {"frame_kib": frame_bytes // KIB, "level": level, "long": long, "dictionary": dictionary is not None}
        self.what |= {"order": order or "as it came"} | zstd
        self.frame_bytes, self.order = frame_bytes, order
        self.gathered: list[Chunk] = []
        self.gathered_bytes = 0
        self.frames: list[tuple[int, int]] = []  # plain and stored bytes
        self.frame_of: dict[bytes, int] = {}
        self.cpu_s = 0.0

    def add(self, chunk: Chunk) -> None:
        if self.gathered and self.gathered_bytes + len(chunk.bytes) > self.frame_bytes:
            self.close()
        self.gathered.append(chunk)
        self.gathered_bytes += len(chunk.bytes)

    def close(self) -> None:
        plain = b"".join(chunk.bytes for chunk in self.gathered)
        began = time.thread_time()
        stored = len(self.compressor.compress(plain)) if plain else 0
        self.cpu_s += time.thread_time() - began
        if stored + len(plain) // 32 >= len(plain):
            stored = len(plain)
        self.frame_of |= {chunk.id: len(self.frames) for chunk in self.gathered}
        self.frames.append((len(plain), HEADER_BYTES + stored))
        self.gathered, self.gathered_bytes = [], 0

    def result(self, needed: list[bytes]) -> dict:
        stored = sum(frame for _, frame in self.frames)
        one = sum(self.frames[frame][1] for frame in self.frame_of.values()) / max(len(self.frame_of), 1)
        cache: collections.OrderedDict[int, None] = collections.OrderedDict()
        cached = read = 0
        for frame in (self.frame_of[chunk] for chunk in needed if chunk in self.frame_of):
            if frame in cache:
                cache.move_to_end(frame)
                continue
            cache[frame] = None
            cached, read = cached + self.frames[frame][0], read + self.frames[frame][1]
            while cached > CACHE_BYTES and len(cache) > 1:
                cached -= self.frames[cache.popitem(last=False)[0]][0]
        figures = {"stored_mb": stored / 1e6, "cpu_s": self.cpu_s, "one_chunk_kb": one / 1e3, "restore_mb": read / 1e6}
        return self.what | {key: round(value, 3) for key, value in figures.items()}


FACTORS = numpy.random.default_rng(1).integers(1, 2**64, size=(2, 12), dtype=numpy.uint64) | numpy.uint64(1)


def super_features(chunk: bytes) -> list[int]:
    """Three numbers, of which alike chunks share one; none of a chunk that is too short."""
    if len(chunk) < 512:
        return []
    strings = numpy.lib.stride_tricks.as_strided(numpy.frombuffer(chunk, "<u8", 1), (len(chunk) - 7,), (1,))
    hashes = strings * numpy.uint64(0x9E3779B97F4A7C15)
    samples = numpy.unique(hashes[(hashes >> numpy.uint64(58)) == 0])
    if len(samples) < 8:
        return []
    features = (samples[:, None] * FACTORS[0] + FACTORS[1]).max(axis=0)
    return [hash((number, *features[number::3].tolist())) for number in range(3)]


def alike_together(pack: list[Chunk]) -> list[Chunk]:
    """Moves each chunk behind those before it that are alike."""
    groups: list[list[Chunk]] = []
    group_of: dict[int, int] = {}
    for chunk in pack:
        features = super_features(chunk.bytes)
        number = next((group_of[feature] for feature in features if feature in group_of), len(groups))
        if number == len(groups):
            groups.append([])
        groups[number].append(chunk)
        for feature in features:
            group_of.setdefault(feature, number)
    return [chunk for group in groups for chunk in group]


def look(chunk: Chunk) -> tuple:
    """What kind of bytes they are, as their files' names are not known: how often each sixteenth of the values comes."""
    values = numpy.bincount(numpy.frombuffer(chunk.bytes, numpy.uint8), minlength=256).reshape(16, 16).sum(axis=1)
    return tuple((values * 8 // max(len(chunk.bytes), 1)).tolist())


ORDERS = {
    "": lambda pack: pack,
    "alike together": alike_together,
    "by looks": lambda pack: sorted(pack, key=look),
}


def levels(packs: list[list[Chunk]]) -> list[Way]:
    ways = [Way(size, level) for size in SIZES for level in (1, 3, 6)]
    ways += [Way(MIB, level) for level in (2, 4, 5)] + [Way(size, level) for size in (MIB, 4 * MIB) for level in (9, 12)]
    return ways + [Way(size, level, long=True) for size in (MIB, 8 * MIB) for level in (1, 3, 6)]


def sizes(packs: list[list[Chunk]]) -> list[Way]:
    return [Way(size) for size in SIZES]


def dictionary(packs: list[list[Chunk]]) -> list[Way]:
    chunks = [chunk.bytes for pack in packs for chunk in pack]
    trained = zstandard.train_dictionary(DICTIONARY_BYTES, [piece[:16384] for piece in chunks[::50]])
    return [Way(size, dictionary=given) for size in (32 * KIB, 128 * KIB, 256 * KIB, MIB) for given in (None, trained)]


def order(packs: list[list[Chunk]]) -> list[Way]:
    ways = [Way(size, order=name) for size in (256 * KIB, MIB, 4 * MIB) for name in ORDERS]
    return [*ways, Way(64 * MIB), Way(64 * MIB, long=True), Way(64 * MIB, 9, long=True)]


PARTS = {"sizes": sizes, "levels": levels, "dictionary": dictionary, "order": order}


def compress_all(packs: list[list[Chunk]], ways: list[Way]) -> list[Way]:
    for pack in packs:
        ordered: dict[str, list[Chunk]] = {}
        for way in ways:
            if way.order not in ordered:
                ordered[way.order] = ORDERS[way.order](pack)
            for chunk in ordered[way.order]:
                way.add(chunk)
    for way in ways:
        way.close()
    return ways


def deltas(packs: list[list[Chunk]], features_of: dict[bytes, list[int]], level: int, anywhere: bool) -> dict:
    """Stores a chunk as its difference from the one it resembles where that is less than half of it compressed alone; the
    others in frames of 1 MiB."""
    way, alone = Way(MIB, level), zstandard.ZstdCompressor(level=level)
    known: dict[int, bytes] = {}
    count = plain = stored = 0
    cpu_s = 0.0
    for pack in packs:
        if not anywhere:
            known = {}
        for chunk in pack:
            features = features_of[chunk.id]
            base = next((known[feature] for feature in features if feature in known), None)
            for feature in features:
                known.setdefault(feature, chunk.bytes)
            if base is not None:
                began = time.thread_time()
                prefix = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
                delta = len(zstandard.ZstdCompressor(level=level, dict_data=prefix).compress(chunk.bytes))
                cpu_s += time.thread_time() - began
                if 2 * delta < len(alone.compress(chunk.bytes)):
                    count, plain, stored = count + 1, plain + len(chunk.bytes), stored + delta + HEADER_BYTES + 32
                    continue
            way.add(chunk)
    way.close()
    result = way.result([])
    figures = {"stored_mb": result["stored_mb"] + stored / 1e6, "of_that_deltas_mb": stored / 1e6}
    figures |= {"plain_of_deltas_mb": plain / 1e6, "cpu_s": result["cpu_s"] + cpu_s}
    base = {"delta": "in the repository" if anywhere else "in the pack", "level": level, "chunks": count}
    return base | {key: round(value, 3) for key, value in figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", type=Path, nargs="+", help="local; the folder's name is that of the data")
    parser.add_argument("--part", action="append", choices=[*PARTS, "delta"], required=True)
    parser.add_argument("--limit-mib", type=int, default=1 << 20, help="about so much of each repository, in whole packs")
    parser.add_argument("--results", type=Path, required=True)
    arguments = parser.parse_args()
    record = Record(arguments.results, zstd=".".join(map(str, zstandard.ZSTD_VERSION)))
    for folder in arguments.repository:
        repository = Repository(folder)
        packs, stored = read_packs(repository, arguments.limit_mib * MIB)
        needed = newest_needs(repository)
        plain = round(sum(len(chunk.bytes) for pack in packs for chunk in pack) / 1e6, 3)
        about = {"data": folder.name, "plain_mb": plain, "now_mb": round(stored / 1e6, 3)}
        for part in arguments.part:
            if part == "delta":
                features_of = {chunk.id: super_features(chunk.bytes) for pack in packs for chunk in pack}
                for level, anywhere in ((3, False), (3, True)):
                    record.add(about | {"part": part} | deltas(packs, features_of, level, anywhere))
                continue
            for way in compress_all(packs, PARTS[part](packs)):
                record.add(about | {"part": part} | way.result(needed))


if __name__ == "__main__":
    main()
