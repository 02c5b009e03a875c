# `make test` and `make demo` install what they need (apt-get, as root) and clean up after themselves.

.PHONY: test test-all demo bench guard lint harness

# The tests that need nothing, then those that need root and Btrfs. Without them: BTRFS_TO_S3_SKIP_BTRFS_TESTS=1 make test
test:
	integration_tests/run_tests.sh

# The slow ones as well.
test-all:
	integration_tests/run_tests.sh --all
	integration_tests/harness.sh --all

# Three nights of a real Btrfs into a local repository, and one restored.
demo:
	integration_tests/demo.sh

bench:
	cargo bench

# Counts what fixed small cases cost, and compares that with figures that were committed.
guard:
	integration_tests/install_prerequisites.sh cc python3 valgrind
	benches/guard/guard.py

lint:
	integration_tests/lint.sh

# The end-to-end harness with the smallest data set, on an S3 server of this machine. Needs root.
harness:
	integration_tests/harness.sh
