"""Gymnasium: the space of chat messages, and the registry of environments."""
