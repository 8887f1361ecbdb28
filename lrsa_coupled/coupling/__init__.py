"""Between the mesh and the tensors: transfer, evaluation of an operator, residuals and norms."""
