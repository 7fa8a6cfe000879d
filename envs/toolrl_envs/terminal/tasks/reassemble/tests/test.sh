#!/bin/bash
set -e
tests="$(dirname "$0")"
python3 -Es "$tests/check.py"
echo 1 > "$tests/../logs/verifier/reward.txt"
