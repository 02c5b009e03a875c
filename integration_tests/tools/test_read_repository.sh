#!/bin/bash
# Restores the frozen repository with the independent reader, and compares. Needs the packages of requirements.txt.
#
# usage: test_read_repository.sh PYTHON

set -euo pipefail
cd "$(dirname "$0")/../fixtures"

count=0
while read -r id file; do
    "$1" ../tools/read_repository.py format_1/repository "$id" | cmp - "$file"
    count=$((count + 1))
done < format_1/expected.txt
[ "$count" -ge 7 ]
echo "the independent reader restores $count backups of the frozen repository"
