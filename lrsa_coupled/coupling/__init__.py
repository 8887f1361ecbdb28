"""Between the mesh and the tensors: transfer, data generation, learned guesses."""
