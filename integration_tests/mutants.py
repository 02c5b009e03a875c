#!/usr/bin/env python3
"""Tries the mutants that cargo-mutants lists, all of them with one build: which break does no test notice?

    cargo install cargo-mutants --locked
    integration_tests/mutants.py --file 'src/pack/*.rs' --tests lib:pack --tests lib:
    integration_tests/mutants.py --file 'src/prune/**' --tests lib:prune --tests operations:prun,repack,merg,tables

In a copy of the repository each function with mutants gets its body several times over, as it is and as each mutant has it; a variable of
the environment says which counts. A mutant then costs a run of tests, up to the first that fails, and no build. Each --tests is a test
program and what its tests are to have in their names; a mutant that one notices is not tried on the next. What does not compile that way
(const functions, results of a type that has no name, mutants that are no Rust) is counted and left out, as is what is in no function or
in one within another. What takes five times as long as the program itself, and
20 seconds more, counts as noticed.
"""

import argparse
import concurrent.futures
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VARIABLE = "BTRFS_TO_S3_MUTANT"
SWITCH = f"""
#[doc(hidden)]
pub fn active_mutant() -> u32 {{
    static ACTIVE: std::sync::OnceLock<u32> = std::sync::OnceLock::new();
    *ACTIVE.get_or_init(|| std::env::var("{VARIABLE}").map_or(0, |number| number.parse().unwrap()))
}}
"""
# What braces in it do not count: comments, strings, characters that are no lifetimes.
PASSED_OVER = re.compile(r"""//[^\n]*|/\*.*?\*/|b?r(#*)".*?"\1|b?"(?:\\.|[^"\\])*"|b?'(?:\\[^']*|[^'\\])'""", re.DOTALL)


@dataclass
class Mutant:
    number: int
    name: str
    start: int
    end: int
    replacement: str
    is_body: bool


@dataclass
class Function:
    """A function with mutants; the offsets of its body include the braces."""

    start: int
    end: int
    mutants: list[Mutant] = field(default_factory=list)


def list_mutants(patterns: list[str]) -> list[dict]:
    command = ["cargo", "mutants", "--list", "--json"] + [word for pattern in patterns for word in ("-f", pattern)]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)


def find_body(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The braces around the body of the function that is in this range."""
    at, depth = start, 0
    while at < end:
        if passed := PASSED_OVER.match(text, at):
            at = passed.end()
            continue
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[at], 0)
        if text[at] == "{" and depth == 0:
            return at, text.rindex("}", at, end) + 1
        at += 1
    return None


def functions_of(text: str, listed: list[tuple[int, dict]]) -> list[Function]:
    lines = [0]
    for line in text.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))

    def offset(place: dict) -> int:
        return lines[place["line"] - 1] + place["column"] - 1

    functions: dict[tuple[int, int], Function] = {}
    for number, mutant in listed:
        if not mutant["function"]:
            continue
        span, of = mutant["span"], mutant["function"]["span"]
        body = find_body(text, offset(of["start"]), offset(of["end"]))
        start, end = offset(span["start"]), offset(span["end"])
        if body is None:
            continue
        function = functions.setdefault(body, Function(*body))
        is_body = mutant["genre"] == "FnValue"
        if is_body or (body[0] < start and end < body[1]):
            function.mutants.append(Mutant(number, mutant["name"], start, end, mutant["replacement"], is_body))
    outermost: list[Function] = []
    for function in sorted(functions.values(), key=lambda each: each.start):
        if not outermost or function.start >= outermost[-1].end:
            outermost.append(function)
    return outermost


def switched(text: str, function: Function, left_out: set[int]) -> list[tuple[int, str]]:
    """The text of a body that is switched, in pieces, with the mutant each is of; 0 for all of them, -1 for none."""
    body = text[function.start : function.end]
    tried = [mutant for mutant in function.mutants if mutant.number not in left_out]
    if not tried:
        return [(-1, body)]
    pieces = [(0, "{ match crate::active_mutant() {\n")]
    for mutant in tried:
        start, end = mutant.start - function.start, mutant.end - function.start
        changed = mutant.replacement if mutant.is_body else body[:start] + mutant.replacement + body[end:]
        pieces.append((mutant.number, f"{mutant.number} => {{ {changed} }}\n"))
    return [*pieces, (0, f"_ => {body}\n}} }}")]


def write_switched(path: Path, text: str, functions: list[Function], left_out: set[int]) -> list[tuple[range, set[int]]]:
    """Writes a file with its mutants; gives the lines they are in."""
    output, at, spans = "", 0, []
    for function in functions:
        output += text[at : function.start]
        at, numbers = function.end, {mutant.number for mutant in function.mutants}
        for number, piece in switched(text, function, left_out):
            first = output.count("\n") + 1
            output += piece
            if number >= 0:
                spans.append((range(first, output.count("\n") + 1 + (number == 0)), {number} if number else numbers))
    path.write_text(output + text[at:])
    return spans


def build(copy: Path, programs: set[str]) -> tuple[dict[str, str], list[tuple[str, int, str]]]:
    """The test programs, or where errors are."""
    which = [word for program in programs for word in (["--lib"] if program == "lib" else ["--test", program])]
    command = ["cargo", "test", "--no-run", "--message-format=json", *which]
    built = subprocess.run(command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    found, errors = {}, []
    for message in map(json.loads, built.stdout.splitlines()):
        if message["reason"] == "compiler-artifact" and message["profile"]["test"] and message["executable"]:
            name = message["target"]["name"]
            found["lib" if "lib" in message["target"]["kind"] else name] = message["executable"]
        if message["reason"] == "compiler-message" and message["message"]["level"] == "error":
            places = [span for span in message["message"]["spans"] if span["is_primary"]]
            what = message["message"]["message"]
            errors += [(span["file_name"], span["line_start"], what) for span in places]
    if built.returncode != 0 and not errors:
        sys.exit("it does not build, and not because of a mutant")
    return found, errors


def make_program(copy: Path, files: dict[str, list[Function]], programs: set[str]) -> tuple[dict[str, str], set[int]]:
    """Builds the tests with all mutants that compile; gives the programs, and which do not."""
    left_out: set[int] = set()
    texts = {name: (copy / name).read_text() for name in files}
    function_sets = {
        name: [{mutant.number for mutant in function.mutants} for function in functions] for name, functions in files.items()
    }
    while True:
        spans = {name: write_switched(copy / name, texts[name], functions, left_out) for name, functions in files.items()}
        found, errors = build(copy, programs)
        if not errors:
            return found, left_out
        before = len(left_out)
        for name, line, what in errors:
            inside = [numbers for lines, numbers in spans.get(name, []) if line in lines and not numbers <= left_out]
            # The mutant by itself; all of the function where the results of its bodies are of different types, without a name.
            narrowest = min(inside, key=len, default=set())
            of_function = [each for each in function_sets[name] if narrowest and narrowest <= each]
            left_out |= of_function[0] if "arms have incompatible types" in what and of_function else narrowest
        print(f"{len(errors)} errors, {len(left_out)} mutants are left out", flush=True)
        if len(left_out) == before:
            sys.exit(f"it does not build, and not because of a mutant: {errors[:3]}")


def notices(program: str, names: str, number: int, limit_s: float, threads: int) -> str:
    """What has noticed a mutant: the name of a test, or that there was no end; nothing if nothing has."""
    command = [program, "--test-threads", str(threads), *filter(None, names.split(","))]
    environment = os.environ | {VARIABLE: str(number), "RUST_MIN_STACK": str(256 << 20), "RUST_BACKTRACE": "0"}
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment | {"TMPDIR": folder}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        late = threading.Event()
        timer = threading.Timer(limit_s, lambda: (late.set(), child.kill()))
        timer.start()
        failed, ran = "", 0
        for line in child.stdout:
            if test := re.match(r"test (\S+)( - should panic)? \.\.\. (ok|FAILED)", line):
                ran += 1
                if test[3] == "FAILED":
                    failed = test[1]
                    child.kill()
                    break
        child.stdout.close()
        code = child.wait()
        timer.cancel()
    if number == 0 and (ran == 0 or code != 0 or failed):
        sys.exit(f"the program itself does not pass {names}: {ran} tests ran, {failed or code}")
    return failed or ("no end" if late.is_set() else "" if code == 0 else f"it ended with {code}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", action="append", required=True, help="files with mutants, as cargo-mutants takes them")
    parser.add_argument("--tests", action="append", required=True, help="PROGRAM:NAME[,NAME…], such as lib:pack")
    parser.add_argument("--jobs", type=int, default=1, help="mutants that are tried at once")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of a test program")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after that, no further mutant is begun")
    parser.add_argument("--results", type=Path, help="a file for what was found, as JSON")
    arguments = parser.parse_args()
    # The copy is removed also then.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("it was ended"))
    listed = list(enumerate(list_mutants(arguments.file), 1))
    stages = [tuple(tests.split(":", 1)) for tests in arguments.tests]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder) / "copy"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", copy, "HEAD"], cwd=ROOT, check=True)
        try:
            os.environ["CARGO_TARGET_DIR"] = str(ROOT / "target/mutants")
            try_all(copy, listed, stages, arguments)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", copy], cwd=ROOT, check=True)


def try_all(copy: Path, listed: list[tuple[int, dict]], stages: list[tuple[str, str]], arguments: argparse.Namespace) -> None:
    manifest = copy / "Cargo.toml"
    manifest.write_text(re.sub(r"(?ms)^\[lints\..*?(?=^\[(?!lints)|\Z)", "", manifest.read_text()))
    library = copy / "src/lib.rs"
    library.write_text("#![allow(warnings)]\n" + library.read_text() + SWITCH)
    files = {
        name: functions_of((copy / name).read_text(), [each for each in listed if each[1]["file"] == name])
        for name in {mutant["file"] for _, mutant in listed}
    }
    programs, left_out = make_program(copy, files, {program for program, _ in stages})
    mutants = [mutant for functions in files.values() for function in functions for mutant in function.mutants]
    mutants = sorted((mutant for mutant in mutants if mutant.number not in left_out), key=lambda mutant: mutant.number)
    limits = []
    for program, names in stages:
        begun = time.monotonic()
        notices(programs[program], names, 0, 3600, arguments.threads)
        limits.append(5 * (time.monotonic() - begun) + 20)
    ends, missed, noticed, not_tried = time.monotonic() + arguments.minutes * 60, [], 0, queue.SimpleQueue()

    def run(mutant: Mutant) -> str | None:
        if time.monotonic() > ends:
            not_tried.put(mutant)
            return None
        for (program, names), limit_s in zip(stages, limits, strict=True):
            if what := notices(programs[program], names, mutant.number, limit_s, arguments.threads):
                return what
        return ""

    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        for mutant, what in zip(mutants, pool.map(run, mutants), strict=True):
            if what == "":
                missed.append(mutant.name)
            noticed += bool(what)
            print(f"{mutant.number}: {what}" if what else f"MISSED  {mutant.name}", flush=True)
    left = not_tried.qsize()
    print(f"{len(listed)} mutants: {noticed} noticed, {len(missed)} missed, {left} not tried, {len(listed) - len(mutants)} left out")
    if arguments.results:
        found = {"listed": len(listed), "noticed": noticed, "missed": missed, "not_tried": left}
        arguments.results.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
