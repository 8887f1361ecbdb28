"""Comparison of initial guesses and methods: measurement, rows, reports, pictures, experiments."""
