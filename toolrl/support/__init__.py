"""Shared by all rooms: waiting for user code, retries, rate limits, HTTP servers, data files, caches, usage counts."""
