"""Lid-driven cavity with an elliptic obstacle."""
