"""Neural operators on point sets; torch only."""
