#!/bin/bash
# Runs in a fresh sandbox, on a copy of the files that the model left. Its exit code is the verdict.
set -e
test "$(find . -type f | sort | tr '\n' ' ')" = "./notes.txt ./photos/beach.jpg ./photos/forest.jpg ./photos/harbour.jpg "
test "$(cat photos/harbour.jpg)" = "a photo of the harbour"
