"""Gymnasium: the space of chat messages, and the registry in which environments are found by their ids."""
