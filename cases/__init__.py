"""Cases: one folder each, found by listing this package."""
