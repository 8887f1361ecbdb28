"""Data sets by groups of ranks, collection from a script."""
