"""How a local model runs."""
