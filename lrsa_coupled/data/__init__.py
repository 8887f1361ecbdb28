"""Data sets on disk and in memory."""
