"""Policies on vLLM: an engine in processes of its own, an engine made by someone else, or servers."""
