"""Sandboxes on this machine: forked from a warm process, walled in with what the kernel offers."""
