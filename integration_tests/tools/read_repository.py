#!/usr/bin/env python3
"""Reads a repository of format 1 in a local folder, independently of the program: written from docs/format.md and
docs/send_stream.md alone, to show that these are enough.

usage: read_repository.py FOLDER                  names the backups
       read_repository.py FOLDER ID               writes the stream of a backup to standard output

It reads all packs' footers at the start, so it is for small repositories, and it needs cbor2, zstandard, blake3, xxhash.
"""

import struct
import sys
from pathlib import Path

import cbor2
import xxhash
import zstandard
from blake3 import blake3

HEADER_BYTES = 48
TRAILER_BYTES = 44
WRITES = (15, 25)
PATH, DATA = 15, 19


class Damaged(Exception):
    """An object is not what the format says."""


def require(condition, what):
    if not condition:
        raise Damaged(what)


def digest(data):
    return blake3(data).digest()


class Repository:
    """A repository whose packs' footers have been read."""

    def __init__(self, folder):
        self.folder = Path(folder)
        numbers = [int(path.name) for path in (self.folder / "config").iterdir()]
        raw = (self.folder / "config" / str(max(numbers))).read_bytes()
        self.id = raw[16:32]
        config = self.record(raw, b"CONF")
        require(config["required_to_read"] == [] and config["hash"] == "blake3", "a newer reader is needed")
        # (class, chunk id) -> (path of the pack, start and end of its frame, offset in it, length)
        self.places = {}
        for name in ("data", "meta"):
            for path in sorted((self.folder / name).glob("*/*")):
                self.read_footer(name, path)

    def header(self, raw, kind):
        require(raw[:4] == b"B2S3" and raw[4:8] == kind, "it is of another kind")
        require(struct.unpack("<II", raw[8:16]) == (1, 0), "it has another version")
        require(raw[16:32] == self.id, "it is of another repository")

    def record(self, raw, kind):
        self.header(raw, kind)
        require(digest(raw[:-32]) == raw[-32:], "its hash is wrong")
        return cbor2.loads(raw[HEADER_BYTES:-32])

    def read_footer(self, name, path):
        raw = path.read_bytes()
        require(digest(raw).hex() == path.name and path.parent.name == path.name[:2], f"{path}: wrong name")
        self.header(raw, b"PACK")
        length, footer_hash, magic = struct.unpack("<I32s8s", raw[-TRAILER_BYTES:])
        require(magic == b"B2S3TAIL", f"{path}: no trailer")
        frame = raw[-TRAILER_BYTES - length : -TRAILER_BYTES]
        require(digest(frame) == footer_hash, f"{path}: wrong hash of the footer")
        footer = cbor2.loads(open_frame(frame))
        require(footer["class"] == name, f"{path}: a pack of the other class")
        ids, chunk, start = footer["chunk_ids"], 0, HEADER_BYTES
        for frame_length, count in zip(footer["frame_lengths"], footer["frame_chunks"], strict=True):
            offset = 0
            for _ in range(count):
                key = (name, ids[32 * chunk : 32 * chunk + 32])
                self.places[key] = (path, start, start + frame_length, offset, footer["chunk_lengths"][chunk])
                offset += footer["chunk_lengths"][chunk]
                chunk += 1
            start += frame_length
        require(32 * chunk == len(ids), f"{path}: chunks that are in no frame")

    def chunk(self, name, chunk_id):
        path, start, end, offset, length = self.places[name, chunk_id]
        with path.open("rb") as pack:
            pack.seek(start)
            plaintext = open_frame(pack.read(end - start))
        chunk = plaintext[offset : offset + length]
        require(digest(chunk) == chunk_id, f"{path}: chunk {chunk_id.hex()} is damaged")
        return chunk

    def backups(self):
        """The manifests that count, by id."""
        found = {}
        for path in sorted((self.folder / "manifests").iterdir()):
            end = self.folder / "sessions" / path.name / "end"
            if not end.exists() or (self.folder / "forgotten" / path.name).exists():
                continue
            end = self.record(end.read_bytes(), b"SESS")
            raw = path.read_bytes()
            if end["outcome"] == "manifest":
                require(end["manifest_digest"] == digest(raw), f"{path}: not what its session published")
                found[path.name] = self.record(raw, b"MANI")
        return found

    def tree(self, manifest, kind):
        """The bytes of a tree, piece by piece."""
        trees = [root["tree"] for root in manifest["roots"] if root["kind"] == kind]
        leaves = "data" if kind == "data" else "meta"
        for tree in trees:
            length = 0
            if tree["height"] > 0:
                for piece in self.walk(tree["root"], tree["height"], leaves):
                    length += len(piece)
                    yield piece
            require(length == tree["bytes"], f"the {kind} tree has another length")

    def walk(self, node_id, height, leaves):
        node = cbor2.loads(self.chunk("meta", node_id))
        require(node["height"] == height, "a node has another height")
        ids = [node["ids"][at : at + 32] for at in range(0, len(node["ids"]), 32)]
        skips = node.get("skips", [0] * len(ids))
        repeats = node.get("repeats", [1] * len(ids))
        for entry, length, skip, times in zip(ids, node["lengths"], skips, repeats, strict=True):
            if height > 1:
                yield from self.walk(entry, height - 1, leaves)
            else:
                piece = self.chunk(leaves, entry)[skip : skip + length]
                require(len(piece) == length, "a chunk is shorter than its piece")
                for _ in range(times):
                    yield piece


def open_frame(frame):
    compression, sealing, extension, plain_length, body_length = struct.unpack("<BBHII", frame[:12])
    require(sealing == 0 and extension == 0 and len(frame) == 12 + body_length, "a frame of another form")
    if compression == 0:
        plaintext = frame[12:]
    else:
        require(compression == 1, "a frame that is compressed in another way")
        plaintext = zstandard.ZstdDecompressor().decompress(frame[12:], max_output_size=plain_length)
    require(len(plaintext) == plain_length, "a frame of another length")
    return plaintext


class Pieces:
    """Pieces of a byte string, to be read in lengths of one's own."""

    def __init__(self, pieces):
        self.pieces = iter(pieces)
        self.left = b""

    def read(self, length):
        gathered = [self.left]
        have = len(self.left)
        while have < length:
            piece = next(self.pieces, None)
            if piece is None:
                break
            gathered.append(piece)
            have += len(piece)
        joined = b"".join(gathered)
        self.left = joined[length:]
        return joined[:length]

    def exactly(self, length):
        taken = self.read(length)
        require(len(taken) == length, "a part of the stream is cut short")
        return taken


def crc32c_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


TABLE = crc32c_table()


def checksum(data):
    """That of a command: begins with 0, and is not inverted at the end."""
    value = 0
    for byte in data:
        value = value >> 8 ^ TABLE[value & 255 ^ byte]
    return value


def read_body(commands, number, length, version):
    """The stored body of a command, and how many bytes of payload are missing at its end."""
    if number not in WRITES:
        return commands.exactly(length), 0
    body, at = b"", 0
    while at < length:
        if version >= 2:
            attribute = commands.exactly(2)
            at += 2
            if struct.unpack("<H", attribute)[0] == DATA:
                return body + attribute, length - at
            attribute += commands.exactly(2)
            at += 2
        else:
            attribute = commands.exactly(4)
            at += 4
        kind, value_length = struct.unpack("<HH", attribute)
        if kind == DATA:
            if at + value_length == length:
                return body + attribute, value_length
            return body + attribute + commands.exactly(length - at), 0
        body += attribute + commands.exactly(value_length)
        at += value_length
    return body, 0


def stream(repository, manifest):
    """The stream of a backup, piece by piece."""
    data = Pieces(repository.tree(manifest, "data"))
    if manifest["stream"]["version"] is None:
        yield from repository.tree(manifest, "data")
        return
    commands = Pieces(repository.tree(manifest, "commands"))
    header = commands.exactly(17)
    yield header
    version = struct.unpack("<I", header[13:])[0]
    while True:
        head = commands.read(6)
        if not head:
            break
        length, number = struct.unpack("<IH", head)
        body, missing = read_body(commands, number, length, version)
        body += data.exactly(missing)
        yield head + struct.pack("<I", checksum(head + bytes(4) + body)) + body
    require(data.read(1) == b"", "there is more file data than the commands use")


def restore(repository, manifest, output):
    hasher, length = xxhash.xxh3_128(), 0
    for piece in stream(repository, manifest):
        hasher.update(piece)
        length += len(piece)
        output.write(piece)
    expected = manifest["stream"]
    require(expected["digest_algorithm"] == "xxh3-128", "a digest of another kind")
    require(length == expected["bytes"] and hasher.digest() == expected["digest"], "the stream has another digest")


def main():
    repository = Repository(sys.argv[1])
    backups = repository.backups()
    if len(sys.argv) == 2:
        for name, manifest in backups.items():
            print(name, manifest["kind"], manifest["subvolume"], manifest["created_at"])
        return
    restore(repository, backups[sys.argv[2]], sys.stdout.buffer)


if __name__ == "__main__":
    main()
