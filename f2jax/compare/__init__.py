"""Training runs side by side, and a law of their held-out loss in size and data."""
