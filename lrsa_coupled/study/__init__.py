"""A run of many solves: learning beside it, statistics of its answers."""
