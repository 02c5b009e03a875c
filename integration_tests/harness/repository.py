"""A whole repository as it is stored, read once, and what must hold in it."""

from collections import Counter
from dataclasses import dataclass

from harness.errors import check
from harness.objects import Pack, blake3, body_of, decode_pack, decode_record, decode_segment
from harness.stores import Listed, Store


@dataclass(frozen=True)
class Manifest:
    id: str
    digest: bytes
    record: dict


@dataclass(frozen=True)
class TreeTotals:
    bytes: int
    # Content chunks, each time that one stands in the tree.
    entries: int


class Repository:
    """Everything decoded, and every hash checked, when it is made."""

    def __init__(self, store: Store) -> None:
        self.listed: dict[str, Listed] = store.listing()
        self.packs: dict[bytes, Pack] = {}
        self.records: dict[str, dict] = {}
        self.segments: dict[str, dict] = {}
        self.digests: dict[str, bytes] = {}
        for key in sorted(self.listed):
            data = store.get(key)
            check(len(data) == self.listed[key].size, f"{key}: {len(data)} bytes, listed with {self.listed[key].size}")
            self.take(key, data)
        self.chunks = {
            (pack.footer["class"], name): chunk for pack in self.packs.values() for name, chunk in pack.chunks.items()
        }

    def take(self, key: str, data: bytes) -> None:
        if key.startswith(("data/", "meta/")):
            pack = decode_pack(key, data)
            self.packs[pack.id] = pack
        elif key.startswith(("index/tables/", "index/blocks/")):
            # They say nothing that segments do not say.
            body_of(key, data)
            check(blake3(data).hex() == key.rsplit("/", 1)[1], f"{key}: the hash does not fit the contents")
        elif key.startswith("index/"):
            self.segments[key] = decode_segment(key, data)
        else:
            self.records[key] = decode_record(key, data)
            self.digests[key] = blake3(data)

    def manifests(self) -> list[Manifest]:
        """Those that count: their session has ended with them."""
        found = []
        for key, record in self.records.items():
            end = self.records.get(f"sessions/{key.removeprefix('manifests/')}/end")
            if key.startswith("manifests/") and end is not None and end["outcome"] == "manifest":
                check(end["manifest_digest"] == self.digests[key], f"{key}: its session has ended with another")
                found.append(Manifest(key.removeprefix("manifests/"), self.digests[key], record))
        return sorted(found, key=lambda manifest: manifest.record["created_at"])

    def deleted_packs(self) -> set[bytes]:
        """Those that prunes have deleted, as their final lists say."""
        return self.deleted("data_packs") | self.deleted("meta_packs")

    def deleted(self, column: str) -> set[bytes]:
        finals = [record for key, record in self.records.items() if key.startswith("prune/") and key.endswith("/final")]
        columns = [final.get(column, b"") for final in finals]
        return {ids[start : start + 32] for ids in columns for start in range(0, len(ids), 32)}

    def published_sessions(self) -> set[bytes]:
        return {manifest.record["session"] for manifest in self.manifests()}

    def walk(self, tree: dict, content_class: str, what: str) -> TreeTotals:
        """Reads a tree to its last chunk; everything must be there and add up."""
        import cbor2

        totals = Counter()
        pending = [(tree["root"], tree["height"], tree["bytes"])] if tree["height"] else []
        while pending:
            node_id, height, node_bytes = pending.pop()
            text = self.chunks.get(("meta", node_id))
            check(text is not None, f"{what}: tree node {node_id.hex()} is not in the repository")
            node = cbor2.loads(text)
            check(node["height"] == height, f"{what}: a node has height {node['height']}, not {height}")
            ids = [node["ids"][start : start + 32] for start in range(0, len(node["ids"]), 32)]
            repeats = node.get("repeats", [1] * len(ids)) if height == 1 else [1] * len(ids)
            entries = list(zip(ids, node["lengths"], repeats, strict=True))
            sum_here = sum(length * repeat for _, length, repeat in entries)
            check(sum_here == node_bytes, f"{what}: a node has {sum_here} bytes, not {node_bytes}")
            if height > 1:
                pending.extend((name, height - 1, length) for name, length, _ in entries)
                continue
            skips = node.get("skips", [0] * len(ids))
            for (name, length, repeat), skip in zip(entries, skips, strict=True):
                chunk = self.chunks.get((content_class, name))
                check(chunk is not None, f"{what}: chunk {name.hex()} is not in the repository")
                check(skip + length <= len(chunk), f"{what}: chunk {name.hex()} is shorter than the tree says")
                totals.update(bytes=length * repeat, entries=repeat)
        return TreeTotals(totals["bytes"], totals["entries"])

    def session_bytes(self, session: bytes) -> int:
        """Bytes that a session has stored before its manifest."""
        prefix = f"sessions/{session.hex()}/"
        packs = sum(pack.stored_bytes for pack in self.packs.values() if pack.footer["session"] == session)
        segments = sum(self.listed[key].size for key, segment in self.segments.items() if segment["session"] == session)
        records = [key for key in self.records if key.startswith(prefix) and not key.endswith("/end")]
        return packs + segments + sum(self.listed[key].size for key in records)

    def packs_of(self, session: bytes, of_class: str) -> list[Pack]:
        packs = self.packs.values()
        return [pack for pack in packs if pack.footer["session"] == session and pack.footer["class"] == of_class]
