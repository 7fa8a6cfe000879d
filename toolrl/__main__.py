"""`python -m toolrl`, and `accelerate launch -m toolrl`."""

from toolrl.cli import main

main()
