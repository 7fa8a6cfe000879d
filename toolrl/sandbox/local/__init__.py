"""Sandboxes on this machine: forked from a warm process, isolated by what the kernel offers."""
