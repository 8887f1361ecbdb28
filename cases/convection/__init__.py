"""Heat in a stirring flow."""
