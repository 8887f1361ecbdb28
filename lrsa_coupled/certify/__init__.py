"""A surrogate with a certificate."""
