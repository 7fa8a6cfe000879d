"""Rewards for code: hidden tests, run in a sandbox whose replies are only claims."""
