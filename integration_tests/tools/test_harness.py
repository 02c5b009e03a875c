"""Tests of the end-to-end harness' own logic; they need no root, no Btrfs and no server."""

import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import archive, environment, objects, schema
from harness.config import load_config, missing_for_s3
from harness.errors import HarnessError
from harness.fault_proxy import FaultProxy
from harness.stores import LocalStore
from harness.tool import as_toml

HARNESS_ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((HARNESS_ROOT / "config").glob("*.toml"))


class TheCommandOfTheTool(unittest.TestCase):
    def test_a_json_array_of_strings_is_taken(self) -> None:
        self.assertEqual(environment.parse_command('["python", "-m", "btrfs_to_s3"]'), ["python", "-m", "btrfs_to_s3"])

    def test_everything_else_is_refused(self) -> None:
        for text in ("btrfs_to_s3 --verbose", "[]", '[""]', "7", '[["nested"]]', '"text"', '["a", 1]', "{}", "null"):
            with self.subTest(text), self.assertRaisesRegex(HarnessError, "JSON array"):
                environment.parse_command(text)

    def test_every_script_refuses_a_shell_string_with_one_line_and_exit_code_1(self) -> None:
        config = CONFIGS[0]
        for script in sorted((HARNESS_ROOT / "scripts").glob("*.py")):
            if script.name in ("mutant.py", "local_s3.py"):
                continue
            with self.subTest(script.name), tempfile.TemporaryDirectory() as folder:
                changed = Path(folder) / "test.toml"
                changed.write_text(config.read_text().replace("integration_tests/run", f"{folder}/run"))
                ended = subprocess.run(
                    [sys.executable, str(script), "--config", str(changed)],
                    env=os.environ | {"BTRFS_TO_S3_CMD": "btrfs_to_s3 --flag", "PYTHONDONTWRITEBYTECODE": "1"},
                    capture_output=True, text=True, check=False,
                )  # fmt: skip
                self.assertEqual(ended.returncode, 1, ended.stderr)
                self.assertEqual(len(ended.stderr.splitlines()), 1, ended.stderr)
                self.assertIn("JSON array", ended.stderr)

    def test_an_empty_variable_means_the_configured_command(self) -> None:
        with mock.patch.dict(os.environ, {"BTRFS_TO_S3_CMD": ""}):
            self.assertEqual(environment.tool_command(["true", "x"]), ["true", "x"])


class TheEnvironmentFile(unittest.TestCase):
    def test_export_quotes_comments_and_empty_lines_are_understood(self) -> None:
        text = "# comment\n\nexport A=1\nB='two words'\nC=\"x=y\"\n"
        self.assertEqual(environment.parse_env_file(text, "f"), {"A": "1", "B": "two words", "C": "x=y"})

    def test_a_line_that_is_no_assignment_is_named(self) -> None:
        with self.assertRaisesRegex(HarnessError, "f, line 2"):
            environment.parse_env_file("A=1\nnonsense\n", "f")

    def test_what_is_set_already_stays(self) -> None:
        with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"SET_BEFORE": "old"}):
            file = Path(folder) / "test.env"
            file.write_text("SET_BEFORE=new\nSET_NOW=1\nNOT_CHANGED=CHANGE_ME\n")
            environment.load_env_file(file)
            found = [os.environ.get(name) for name in ("SET_BEFORE", "SET_NOW", "NOT_CHANGED")]
        self.assertEqual(found, ["old", "1", None])

    def test_the_repository_is_added_to_pythonpath_once(self) -> None:
        with mock.patch.dict(os.environ, {"PYTHONPATH": "/other"}):
            environment.prepare_environment()
            environment.prepare_environment()
            self.assertEqual(os.environ["PYTHONPATH"], f"/other{os.pathsep}{environment.REPOSITORY_ROOT}")


class TheConfiguration(unittest.TestCase):
    def test_every_configuration_that_comes_with_it_is_read(self) -> None:
        self.assertGreaterEqual(len(CONFIGS), 4)
        for file in CONFIGS:
            with self.subTest(file.name):
                self.assertEqual(load_config(file).subvolumes, ["data", "root", "home"])

    def test_placeholders_are_named(self) -> None:
        with mock.patch.dict(os.environ, clear=True):
            missing = missing_for_s3(load_config(CONFIGS[0]).aws, {})
        expected = ["[aws] region", "[aws] bucket", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]
        self.assertEqual(missing, expected)

    def test_a_value_of_another_type_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "test.toml"
            file.write_text(CONFIGS[0].read_text().replace("loopback_size_gib = 3", 'loopback_size_gib = "3"'))
            with self.assertRaisesRegex(HarnessError, r"\[btrfs\] loopback_size_gib must be of type int"):
                load_config(file)

    def test_the_tools_configuration_is_toml(self) -> None:
        text = as_toml([("", {"repository": "file:///r"}), ("[subvolumes]", {"path": 'a "b"'}), ("s", {"x": True})])
        self.assertEqual(text, 'repository = "file:///r"\n\n[[subvolumes]]\npath = "a \\"b\\""\n\n[s]\nx = true\n')


class TheSchema(unittest.TestCase):
    SCHEMA = json.loads((HARNESS_ROOT / "expected" / "manifest_schema.json").read_text())

    def test_each_kind_of_fault_is_found(self) -> None:
        rules = {"a": "integer", "b": [None, {"c": "bytes16"}], "d": ["full"], "t": "time"}
        good = {"a": 1, "b": {"c": bytes(16)}, "d": "full", "t": "2026-01-31T04:00:00.5Z"}
        self.assertEqual(schema.schema_faults(rules, good, "m"), [])
        for change in ({"a": -1}, {"a": True}, {"b": {"c": bytes(15)}}, {"d": "half"}, {"t": "today"}, {"new": 1}):
            with self.subTest(change):
                self.assertEqual(len(schema.schema_faults(rules, good | change, "m")), 1)
        self.assertEqual(schema.schema_faults(rules, {key: good[key] for key in "bdt"}, "m"), ["m.a is missing"])


class TheDecoder(unittest.TestCase):
    def test_a_plain_frame_is_decoded_and_one_cut_short_is_refused(self) -> None:
        frame = struct.pack("<BBHII", 0, 0, 0, 3, 3) + b"abc"
        self.assertEqual(objects.decode_frame(frame, 0, "f"), (b"abc", 15))
        with self.assertRaisesRegex(HarnessError, "cut short"):
            objects.decode_frame(frame[:-1], 0, "f")

    def test_a_header_of_another_kind_is_refused(self) -> None:
        header = b"B2S3" + b"PACK" + struct.pack("<II", 1, 0) + bytes(32)
        self.assertEqual(objects.body_of("data/aa/x", header + b"body"), b"body")
        with self.assertRaisesRegex(HarnessError, "the header is"):
            objects.body_of("index/x", header)
        with self.assertRaisesRegex(HarnessError, "no known kind"):
            objects.body_of("other/x", header)

    def test_unfinished_files_of_a_local_repository_are_no_objects(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = LocalStore(Path(folder))
            store.put("data/aa/x", b"12")
            store.put("tmp/y", b"1")
            self.assertEqual({key: listed.size for key, listed in store.listing().items()}, {"data/aa/x": 2})


class TheWaveOfThaws(unittest.TestCase):
    def counted(self, *lines: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "archive.log"
            log.write_text("".join(f"{line}\n" for line in lines))
            with mock.patch.dict(os.environ, {"BTRFS_TO_S3_ARCHIVE_LOG": str(log)}):
                return archive.check_one_wave(archive.Thaws(), ["data/a", "data/b"])

    REFUSED = "GetObject data/a refused"
    WAVE = ("RestoreObject data/b accepted", "RestoreObject data/a accepted")

    def test_each_object_asked_for_once_is_one_wave(self) -> None:
        self.assertIn("1 reads refused", self.counted(self.REFUSED, *self.WAVE))

    def test_everything_else_is_none(self) -> None:
        for lines in (
            self.WAVE,
            (self.REFUSED, self.WAVE[0]),
            (self.REFUSED, *self.WAVE, self.WAVE[0]),
            (self.REFUSED, *self.WAVE, "RestoreObject data/a refused"),
        ):
            with self.subTest(lines), self.assertRaises(HarnessError):
                self.counted(*lines)


class Upstream(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.headers["Host"].encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


class TheFaultProxy(unittest.TestCase):
    def setUp(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        Thread(target=server.serve_forever, daemon=True).start()
        self.proxy = self.enterContext(FaultProxy(f"http://127.0.0.1:{server.server_address[1]}"))

    def status(self) -> int:
        try:
            with urllib.request.urlopen(self.proxy.url) as reply:
                self.body = reply.read().decode()
                return reply.status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code

    def test_requests_are_passed_on_with_the_host_they_were_signed_for(self) -> None:
        self.assertEqual(self.status(), 200)
        self.assertEqual(f"http://{self.body}", self.proxy.url)

    def test_every_third_request_is_refused(self) -> None:
        self.proxy.refuse_every = 3
        self.assertEqual([self.status() for _ in range(6)], [200, 200, 503, 200, 200, 503])

    def test_a_server_that_is_gone_answers_nothing(self) -> None:
        self.proxy.down = True
        with self.assertRaises(ConnectionError):
            self.status()


if __name__ == "__main__":
    unittest.main()
