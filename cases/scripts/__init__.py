"""Five scripts as users have them, and what runs them with and without a learned guess."""
