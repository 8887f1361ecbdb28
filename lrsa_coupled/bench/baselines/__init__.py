"""Operators that exist for comparison with LRSA: ``<operator.kind>.py`` holds the class ``Block``, loaded by that name.

One more is one file here, with a ``Block`` derived from ``operators/layers.py``, and its settings in ``config.py``.
"""
