# `make test` and `make demo` install what they need (apt-get, as root) and clean up after themselves.

.PHONY: test test-all demo bench lint

# The tests that need nothing, then those that need root and Btrfs. Without them: BTRFS_TO_S3_SKIP_BTRFS_TESTS=1 make test
test:
	integration_tests/run_tests.sh

# The slow ones as well.
test-all:
	integration_tests/run_tests.sh --all

# Three nights of a real Btrfs into a local repository, and one restored.
demo:
	integration_tests/demo.sh

bench:
	cargo bench

lint:
	integration_tests/lint.sh
