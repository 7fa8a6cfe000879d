"""Shared infrastructure: waiting for user code, retries, rate limits, HTTP servers, data files, caches, usage."""
