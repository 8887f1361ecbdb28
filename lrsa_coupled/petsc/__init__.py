"""PETSc preconditioners with an operator inside, one a file, chosen from the options database by their dotted name."""
