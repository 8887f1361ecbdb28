"""Training of the operators on a data set, and their checkpoints; torch only."""
