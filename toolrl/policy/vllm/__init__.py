"""Policies on vLLM: an engine in processes of its own, one that somebody else has made, or servers."""
