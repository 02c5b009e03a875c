"""Tests of the comparison itself: each kind of difference a restore could have must be found.

    python3 -m unittest discover -s integration_tests/tools

Needs no Btrfs. As root it also covers owners, device nodes and trusted xattrs; otherwise those are reported as skipped.
"""

import contextlib
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from tree_record import differences, record
from tree_syscalls import acl

TREE = Path(__file__).with_name("tree.py")


class EveryDifferenceIsFound(unittest.TestCase):
    def setUp(self) -> None:
        self.addCleanup(os.umask, os.umask(0o022))
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.root = self.folder / "tree"
        self.root.mkdir()
        (self.root / "file").write_bytes(random.Random(1).randbytes(300_000))
        (self.root / "other").write_bytes(b"other")
        (self.root / "directory").mkdir()
        (self.root / "directory" / "inside").write_bytes(b"inside")
        os.link(self.root / "other", self.root / "directory" / "other too")
        (self.root / "symlink").symlink_to("target")
        os.mkfifo(self.root / "fifo")
        (self.root / "odd\n\udcff").write_bytes(b"odd name")
        os.setxattr(self.root / "file", "user.one", b"\x00\x01")
        os.setxattr(self.root / "file", "user.empty", b"")
        os.utime(self.root / "file", ns=(0, -1_000_000_001))
        # Through JSON, as the command does.
        self.before = json.loads(json.dumps(record(self.root)))
        self.file = self.root / "file"

    def found(self) -> list[str]:
        return differences(self.before, record(self.root))

    def assert_only(self, *expected: str) -> None:
        found = self.found()
        self.assertEqual(len(found), len(expected), found)
        for line, start in zip(found, expected):
            self.assertTrue(line.startswith(start), f"{line!r} does not begin with {start!r}")

    @contextlib.contextmanager
    def unchanged_times(self, *paths: Path):
        """Puts the times of `paths` back, so that a test changes one thing only."""
        times = {path: path.lstat().st_mtime_ns for path in paths}
        yield
        for path, mtime_ns in times.items():
            os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def test_an_unchanged_tree_is_equal(self):
        self.assert_only()

    def test_a_flipped_bit(self):
        with self.unchanged_times(self.file), open(self.file, "r+b") as file:
            file.seek(299_999)
            last = file.read(1)[0]
            file.seek(299_999)
            file.write(bytes([last ^ 1]))
        self.assert_only("'file': sha256")

    def test_a_file_cut_short(self):
        with self.unchanged_times(self.file):
            os.truncate(self.file, 299_999)
        self.assert_only("'file': sha256", "'file': size")

    def test_a_lost_xattr(self):
        os.removexattr(self.file, "user.empty")
        self.assert_only("'file': xattr user.empty is missing")

    def test_an_xattr_with_another_value(self):
        os.setxattr(self.file, "user.one", b"\x00\x02")
        self.assert_only("'file': xattr user.one")

    def test_an_xattr_more(self):
        os.setxattr(self.root / "directory", "user.new", b"")
        self.assert_only("'directory': xattr user.new")

    def test_a_lost_acl(self):
        try:
            os.setxattr(self.file, "system.posix_acl_access", acl(6, {1000: 4}, 4, {}, 4))
        except OSError as error:
            self.skipTest(f"no ACLs in {self.root}: {error}")
        self.before = record(self.root)
        os.removexattr(self.file, "system.posix_acl_access")
        self.assertIn("'file': xattr system.posix_acl_access is missing", "\n".join(self.found()))

    def test_another_mode(self):
        self.file.chmod(0o641)
        self.assert_only("'file': mode is 0641 instead of 0644")

    def test_a_lost_setuid_bit(self):
        self.file.chmod(0o4755)
        self.before = record(self.root)
        self.file.chmod(0o755)
        self.assert_only("'file': mode is 0755 instead of 4755")

    def test_an_mtime_off_by_a_nanosecond(self):
        os.utime(self.file, ns=(0, -1_000_000_000))
        self.assert_only("'file': mtime_ns is -1000000000 instead of -1000000001")

    def test_the_mtime_of_a_symlink(self):
        mtime_ns = (self.root / "symlink").lstat().st_mtime_ns
        os.utime(self.root / "symlink", ns=(0, mtime_ns + 1), follow_symlinks=False)
        self.assert_only("'symlink': mtime_ns")

    def test_a_hard_link_that_became_a_copy(self):
        link = self.root / "directory" / "other too"
        with self.unchanged_times(link, link.parent):
            contents, mode = link.read_bytes(), stat.S_IMODE(link.stat().st_mode)
            link.unlink()
            link.write_bytes(contents)
            link.chmod(mode)
        self.assert_only("'directory/other too': links", "'other': hard_link_of", "'other': links")

    def test_a_hard_link_to_another_file(self):
        (self.root / "twin").write_bytes(b"other")
        os.link(self.root / "twin", self.root / "twin too")
        os.utime(self.root / "twin", ns=(0, (self.root / "other").stat().st_mtime_ns))
        self.before = record(self.root)
        link = self.root / "twin too"
        with self.unchanged_times(self.root):
            link.unlink()
            os.link(self.root / "other", link)
        found = "\n".join(self.found())
        self.assertIn("'twin too': hard_link_of", found)
        self.assertIn("'twin': links is 1 instead of 2", found)

    def test_a_missing_file(self):
        with self.unchanged_times(self.root):
            (self.root / "odd\n\udcff").unlink()
        self.assert_only("'odd\\n\\udcff': missing (file)")

    def test_a_missing_directory(self):
        with self.unchanged_times(self.root):
            shutil.rmtree(self.root / "directory")
        self.assertIn("'directory': missing (directory)", self.found())

    def test_an_extra_file(self):
        with self.unchanged_times(self.root):
            (self.root / "extra").write_bytes(b"")
        self.assert_only("'extra': not expected (file)")

    def test_the_mode_of_the_root_directory(self):
        self.root.chmod(0o700)
        self.assert_only("'.': mode")

    def test_the_mtime_and_xattrs_of_the_root_directory(self):
        os.setxattr(self.root, "user.root", b"")
        os.utime(self.root, ns=(0, 0))
        self.assert_only("'.': mtime_ns", "'.': xattr user.root")

    def test_the_text_of_a_symlink(self):
        symlink = self.root / "symlink"
        with self.unchanged_times(self.root):
            mtime_ns = symlink.lstat().st_mtime_ns
            symlink.unlink()
            symlink.symlink_to("targe")
            os.utime(symlink, ns=(0, mtime_ns), follow_symlinks=False)
        self.assert_only("'symlink': target is targe instead of target")

    def test_a_file_in_place_of_a_fifo_or_socket(self):
        fifo = self.root / "fifo"
        with self.unchanged_times(fifo, self.root):
            fifo.unlink()
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(fifo))
            fifo.chmod(0o644)
        self.assert_only("'fifo': type is socket instead of fifo")

    @unittest.skipIf(os.getuid() != 0, "needs root to make device nodes")
    def test_another_device_number(self):
        device = self.root / "device"
        os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        self.before = record(self.root)
        with self.unchanged_times(device, self.root):
            device.unlink()
            os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        self.assert_only("'device': device is 1:5 instead of 1:3")

    @unittest.skipIf(os.getuid() != 0, "needs root to give files away")
    def test_another_owner_and_group(self):
        os.lchown(self.root / "symlink", 4_294_967_294, 5)
        self.assert_only("'symlink': gid is 5", "'symlink': uid is 4294967294")

    def test_a_lost_trusted_xattr(self):
        try:
            os.setxattr(self.file, "trusted.one", b"1")
        except OSError as error:
            self.skipTest(f"no trusted xattrs without CAP_SYS_ADMIN: {error}")
        self.before = record(self.root)
        os.removexattr(self.file, "trusted.one")
        self.assert_only("'file': xattr trusted.one is missing")

    def test_holes_are_no_difference(self):
        sparse = self.root / "sparse"
        os.close(os.open(sparse, os.O_CREAT | os.O_WRONLY, 0o644))
        os.truncate(sparse, 1 << 20)
        self.before = record(self.root)
        with self.unchanged_times(sparse):
            sparse.write_bytes(bytes(1 << 20))
        self.assert_only()


class TheCommand(unittest.TestCase):
    def setUp(self) -> None:
        self.addCleanup(os.umask, os.umask(0o022))
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.root = self.folder / "tree"
        self.root.mkdir()
        (self.root / "file\udcff").write_bytes(b"contents")
        self.list = self.folder / "list.json"
        self.list.write_text(self.run_tree("record", self.root).stdout)

    def run_tree(self, *arguments) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, TREE, *arguments], capture_output=True, text=True, check=False)

    def test_exit_code_0_for_an_equal_tree(self):
        result = self.run_tree("compare", self.root, self.list)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertIn("equal, 2 entries", result.stdout)

    def test_exit_code_1_and_readable_lines_for_a_difference(self):
        os.chmod(self.root / "file\udcff", 0o600)
        result = self.run_tree("compare", self.root, self.list)
        self.assertEqual(result.returncode, 1)
        self.assertIn(r"'file\udcff': mode is 0600 instead of 0644", result.stdout)

    def test_a_list_that_is_empty_or_missing_is_an_error(self):
        for contents in ("", "{}", '{"format": 1, "entries": {}}'):
            self.list.write_text(contents)
            self.assertNotEqual(self.run_tree("compare", self.root, self.list).returncode, 0)
        self.list.unlink()
        self.assertNotEqual(self.run_tree("compare", self.root, self.list).returncode, 0)

    def test_a_directory_that_is_missing_is_an_error(self):
        self.assertEqual(self.run_tree("compare", self.folder / "nowhere", self.list).returncode, 2)


if __name__ == "__main__":
    unittest.main()
