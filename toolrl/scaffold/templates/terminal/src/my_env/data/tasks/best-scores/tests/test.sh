#!/bin/bash
# Runs in a fresh sandbox, on a copy of the files that the model left. Its exit code is the verdict.
set -e
test "$(cat best.txt)" = "$(printf 'Dora\nFay\nCarla')"
