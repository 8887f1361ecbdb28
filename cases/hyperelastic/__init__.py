"""A bent, twisted and stretched hyperelastic block."""
