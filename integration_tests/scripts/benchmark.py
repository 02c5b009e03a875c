#!/usr/bin/env python3
"""Measures each step: seconds, bytes, throughput, CPU and peak memory; as JSON and as a table."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import argparse
import json
import os
import time

from harness import steps
from harness.errors import check
from harness.fault_proxy import FaultProxy
from harness.script import Context, run_script
from harness.stores import open_store
from harness.tool import Tool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset-size-mib", type=int, help="all subvolumes together; default: [dataset] size_mib")
    parser.add_argument("--latency-ms", type=int, default=0, help="of each request; needs a server with http://")
    parser.add_argument("--output", type=Path, help="file for the JSON; default: benchmark.json in logs_dir")


def work(context: Context) -> None:
    check(not (context.config.paths.run / "run.json").exists(), "run teardown_btrfs.py first")
    results: list[dict] = []
    latency = context.options.latency_ms
    endpoint = context.config.aws.endpoint_url
    # Requests are counted by a proxy, which speaks no TLS.
    countable = endpoint.startswith("http://") and not context.local
    check(countable or not latency, "--latency-ms needs a server at an endpoint_url with http://")
    try:
        if countable:
            with FaultProxy(endpoint) as proxy:
                proxy.latency = latency / 1000
                measure_all(context, results, proxy)
        else:
            measure_all(context, results, None)
    finally:
        steps.tear_down(context)
    report(context, results)


def measure_all(context: Context, results: list[dict], proxy: FaultProxy | None) -> None:
    run = steps.set_up(context)
    steps.seed(context, run, context.options.dataset_size_mib or context.config.dataset_mib)
    ready = steps.ready_tool(context)
    tool = Tool(context, ready.run, endpoint_url=proxy.url if proxy else "")
    try:
        measure(tool, results, "first full", proxy, "backup", "--full")
        measure(tool, results, "unchanged full", proxy, "backup", "--full")
        steps.mutate(context, run)
        measure(tool, results, "incremental", proxy, "backup")
        newest = tool.latest(context.config.subvolumes[0])["id"]
        steps.restore_file_system(context)
        target = context.config.paths.restore_mount / "measured"
        measure(tool, results, "restore", proxy, "restore", newest, "--target", str(target))
    finally:
        store = open_store(context.config, tool.run)
        for key in store.listing():
            store.delete(key)


def measure(tool: Tool, results: list[dict], name: str, proxy: FaultProxy | None, *arguments: str) -> None:
    """Runs the tool and takes what the kernel says of it and its children when it is reaped."""
    before = {backup["id"]: backup for backup in tool.backups()}
    requests, started = proxy.requests if proxy else 0, time.monotonic()
    process = tool.start(*arguments, stdout=None)
    process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    check(process.returncode == 0, f"{name} ended with {process.returncode}")
    seconds = time.monotonic() - started
    requests = proxy.requests - requests if proxy else None
    made = [backup for backup in tool.backups() if backup["id"] not in before]
    stream = sum(backup["stream_bytes"] for backup in made or chain(before, arguments[1]))
    results.append({
        "step": name, "seconds": round(seconds, 3), "stream_bytes": stream,
        "stored_bytes": sum(backup["stored_bytes"] for backup in made), "requests": requests,
        "mb_per_second": round(stream / seconds / 1e6, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3), "peak_mib": usage.ru_maxrss // 1024,
    })  # fmt: skip


def chain(backups: dict[str, dict], newest: str | None) -> list[dict]:
    """A backup and all that it was made against: what a restore of it reads."""
    found = []
    while newest is not None:
        found.append(backups[newest])
        newest = backups[newest]["parent"]
    return found


def report(context: Context, results: list[dict]) -> None:
    columns = list(results[0])
    context.log.info("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for result in results:
        context.log.info("| " + " | ".join("" if value is None else str(value) for value in result.values()) + " |")
    output = context.options.output or context.config.paths.logs / "benchmark.json"
    about = {"repository": "local" if context.local else "s3", "latency_ms": context.options.latency_ms}
    output.write_text(json.dumps(about | {"steps": results}, indent=1) + "\n", encoding="ascii")
    context.log.info(f"written to {output}")


if __name__ == "__main__":
    run_script(work, __doc__, add_arguments)
