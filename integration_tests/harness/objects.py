"""Decodes what is stored, written from docs/format.md alone and without the tool's code."""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.errors import HarnessError, check

HEADER_LENGTH = 48
TRAILER_LENGTH = 44
KINDS = {
    "config/": b"CONF", "sessions/": b"SESS", "data/": b"PACK", "meta/": b"PACK",
    "index/tables/": b"TABL", "index/blocks/": b"BLKS", "index/": b"INDX", "manifests/": b"MANI",
    "notes/": b"NOTE", "forgotten/": b"FORG", "prune/": b"PLAN",
}  # fmt: skip


def blake3(data: bytes) -> bytes:
    from blake3 import blake3 as hasher

    return hasher(data).digest()


def decode_cbor(data: bytes, what: str) -> Any:
    """The one value that `data` is."""
    import cbor2

    stream = io.BytesIO(data)
    try:
        value = cbor2.load(stream)
    except (cbor2.CBORDecodeError, EOFError) as error:
        raise HarnessError(f"{what}: not CBOR: {error}") from error
    check(stream.tell() == len(data) or not stream.read(), f"{what}: bytes after the value")
    return value


def body_of(key: str, data: bytes) -> bytes:
    """What follows the header, which must be that of the key's kind."""
    kind = next((kind for prefix, kind in KINDS.items() if key.startswith(prefix)), None)
    check(kind is not None, f"{key}: no known kind of object")
    check(data[:4] == b"B2S3" and data[4:8] == kind, f"{key}: the header is {data[:8]!r}")
    version, zero = struct.unpack("<II", data[8:16])
    check((version, zero) == (1, 0), f"{key}: format version {version}, reserved {zero}")
    return data[HEADER_LENGTH:]


def decode_record(key: str, data: bytes) -> dict:
    check(blake3(data[:-32]) == data[-32:], f"{key}: the hash does not fit the contents")
    return decode_cbor(body_of(key, data)[:-32], key)


def decode_frame(data: bytes, offset: int, what: str) -> tuple[bytes, int]:
    """A frame's plaintext, and where the next one begins."""
    compression, sealing, extension, plain, stored = struct.unpack_from("<BBHII", data, offset)
    check(sealing == 0 and extension == 0 and compression < 2, f"{what}: unknown kind of frame")
    start = offset + 12
    body = data[start : start + stored]
    check(len(body) == stored, f"{what}: a frame is cut short")
    text = decompressed(body, plain) if compression else body
    check(len(text) == plain, f"{what}: a frame has {len(text)} bytes, not {plain}")
    return text, start + stored


def decompressed(body: bytes, length: int) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(body, max_output_size=length)


@dataclass(frozen=True)
class Pack:
    id: bytes
    footer: dict
    stored_bytes: int
    # Of backups; copies of footers are not among them.
    chunks: dict[bytes, bytes] = field(repr=False)


def decode_pack(key: str, data: bytes) -> Pack:
    """A pack with all its chunks, each checked against its id."""
    name = bytes.fromhex(key.rsplit("/", 1)[1])
    check(blake3(data) == name, f"{key}: the contents are not those of the key")
    body_of(key, data)
    length, digest, magic = struct.unpack("<I32s8s", data[-TRAILER_LENGTH:])
    check(magic == b"B2S3TAIL", f"{key}: no trailer")
    footer_start = len(data) - TRAILER_LENGTH - length
    check(blake3(data[footer_start:-TRAILER_LENGTH]) == digest, f"{key}: the footer's hash does not fit")
    footer = decode_cbor(decode_frame(data, footer_start, key)[0], key)
    check(footer["class"] == key.split("/", 1)[0], f"{key}: a pack of class {footer['class']}")
    return Pack(name, footer, len(data), dict(chunks_of(key, data, footer, footer_start)))


def chunks_of(key: str, data: bytes, footer: dict, end: int) -> Iterator[tuple[bytes, bytes]]:
    ids, lengths = footer["chunk_ids"], footer["chunk_lengths"]
    offset, number = HEADER_LENGTH, 0
    for kind, stored, count in zip(footer["frame_kinds"], footer["frame_lengths"], footer["frame_chunks"], strict=True):
        text, after = decode_frame(data, offset, key)
        check(after - offset == stored, f"{key}: a frame of {after - offset} bytes is said to have {stored}")
        position = 0
        for _ in range(count):
            chunk = text[position : position + lengths[number]]
            name = ids[32 * number : 32 * number + 32]
            check(blake3(chunk) == name, f"{key}: chunk {name.hex()} is not what its id says")
            if kind == 0:
                yield name, chunk
            position, number = position + lengths[number], number + 1
        check(position == len(text), f"{key}: a frame has bytes that belong to no chunk")
        offset = after
    check(offset == end and number == len(lengths), f"{key}: the footer does not say what is in the pack")


def decode_segment(key: str, data: bytes) -> dict:
    check(blake3(data).hex() == key.rsplit("/", 1)[1], f"{key}: the contents are not those of the key")
    body_of(key, data)
    text, end = decode_frame(data, HEADER_LENGTH, key)
    check(end == len(data), f"{key}: bytes after the frame")
    return decode_cbor(text, key)
