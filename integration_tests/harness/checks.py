"""What must hold of each manifest, and of the repository as a whole."""

import json

from harness.environment import HARNESS_ROOT
from harness.errors import HarnessError, check
from harness.objects import KINDS
from harness.repository import Manifest, Repository
from harness.schema import schema_faults
from harness.stores import S3Store
from harness.tool import Tool

SCHEMA = HARNESS_ROOT / "expected" / "manifest_schema.json"


def check_manifest(repository: Repository, manifest: Manifest, by_id: dict[bytes, Manifest]) -> None:
    """Schema, parent, trees and totals of one manifest."""
    record, what = manifest.record, f"manifest {manifest.id}"
    faults = schema_faults(json.loads(SCHEMA.read_text(encoding="ascii")), record, what)
    check(not faults, "; ".join(faults))
    check(record["session"].hex() == manifest.id, f"{what}: it is that of another session")
    has_parent = record["kind"] in ("incremental", "unchanged")
    check(has_parent == (record["parent"] is not None), f"{what}: kind and parent do not agree")
    if record["parent"]:
        parent = by_id.get(record["parent"]["manifest"])
        check(parent is not None, f"{what}: its parent does not count or is not there")
        check(parent.digest == record["parent"]["digest"], f"{what}: its parent is not the one it was made against")
        check(parent.record["snapshot"]["uuid"] == record["parent"]["uuid"], f"{what}: another parent's snapshot")
    check_trees(repository, record, what)
    check_totals(repository, record, what)


def check_trees(repository: Repository, record: dict, what: str) -> None:
    chunks = 0
    for root in record["roots"]:
        content_class = "data" if root["kind"] == "data" else "meta"
        walked = repository.walk(root["tree"], content_class, f"{what}, {root['kind']}")
        check(walked.bytes == root["tree"]["bytes"], f"{what}: the tree of {root['kind']} does not add up")
        chunks += walked.entries
    check((chunks == 0) == (record["kind"] == "unchanged"), f"{what}: it has {chunks} chunks")
    deleted = repository.deleted_packs()
    for pack in record["meta_packs"]:
        check(pack in repository.packs or pack in deleted, f"{what}: pack {pack.hex()} is not in the repository")


def check_totals(repository: Repository, record: dict, what: str) -> None:
    session, totals = record["session"], record["totals"]
    packs = repository.packs_of(session, "data") + repository.packs_of(session, "meta")
    new = [chunk for pack in packs for chunk in pack.chunks.values()]
    found = {
        "packs": len(packs),
        "new_chunks": len(new),
        "new_bytes": sum(map(len, new)),
        "stored_bytes": repository.session_bytes(session),
    }
    gone = totals["packs"] - len(packs)
    # Prunes have rewritten packs or merged segments, or nothing needed them; the trees are whole all the same.
    is_rewritten = 0 < gone <= len(repository.deleted_packs())
    is_merged = bool(repository.deleted("segments"))
    for key, value in found.items():
        may_be_less = is_rewritten or (is_merged and key == "stored_bytes")
        fits = value <= totals[key] if may_be_less else value == totals[key]
        check(fits, f"{what}: totals.{key} is {totals[key]}, found {value}")


def check_number_of_packs(tool: Tool, repository: Repository, manifest: Manifest) -> None:
    """One pack of file data for each full backup where all of it fits into one, several where it does not."""
    packs = repository.packs_of(manifest.record["session"], "data")
    plain = sum(len(chunk) for pack in packs for chunk in pack.chunks.values())
    target = tool.config.pack_mib << 20
    if plain < target:
        check(len(packs) <= 1, f"manifest {manifest.id}: {plain} bytes of file data are in {len(packs)} packs")
    stored = sum(pack.stored_bytes for pack in packs)
    if stored > 2 * target:
        check(len(packs) > 1, f"manifest {manifest.id}: {stored} bytes of file data are in one pack")


def check_keys(repository: Repository) -> None:
    """Every object is of a known kind, and the segments name packs as they are."""
    for key in repository.listed:
        check(key.startswith(tuple(KINDS)), f"{key}: no known kind of object")
    deleted = repository.deleted_packs()
    for key, segment in repository.segments.items():
        for pack in segment["packs"]:
            found = repository.packs.get(pack["id"])
            if found is None and pack["id"] in deleted:
                continue
            check(found is not None, f"{key}: pack {pack['id'].hex()} is not in the repository")
            check(found.stored_bytes == pack["stored_bytes"], f"{key}: another size of pack {pack['id'].hex()}")
            check(found.footer == pack["footer"], f"{key}: another footer of pack {pack['id'].hex()}")


def check_duplicates(repository: Repository) -> int:
    """No two published runs have stored a chunk twice; gives the bytes that interrupted runs made double."""
    published = repository.published_sessions()
    seen: dict[tuple[str, bytes], bool] = {}
    doubled = 0
    for pack in repository.packs.values():
        is_published = pack.footer["session"] in published
        for name, chunk in pack.chunks.items():
            key = (pack.footer["class"], name)
            if key in seen:
                doubled += len(chunk)
                if is_published and seen[key]:
                    raise HarnessError(f"chunk {name.hex()} was stored twice by runs that were not interrupted")
            seen[key] = seen.get(key, False) or is_published
    return doubled


def check_storage(tool: Tool, store: S3Store, repository: Repository) -> None:
    """Storage class and encryption, where the server says them; names what it does not say."""
    aws, log = tool.config.aws, tool.context.log
    if not tool.run.reports_class:
        log.left_out("storage classes: this server does not report them")
    if not tool.run.reports_sse:
        log.left_out(f"encryption {aws.sse}: this server does not report it")
    for key, listed in repository.listed.items():
        is_data = key.startswith("data/") and listed.size >= 1 << 20
        wanted = (aws.storage_class_data if is_data else aws.storage_class_metadata) or "STANDARD"
        if tool.run.reports_class:
            check(listed.storage_class == wanted, f"{key}: storage class {listed.storage_class}, not {wanted}")
        if aws.sse and tool.run.reports_sse:
            found = store.head(key).get("ServerSideEncryption")
            check(found == aws.sse, f"{key}: encryption {found}, not {aws.sse}")
