"""Initial guesses, and the solver that uses them."""
