"""What every backend stands on that asks a server: clients, limits, retries, deadlines, and what things cost."""
