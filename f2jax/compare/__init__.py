"""Compares training runs, and fits a scaling law of their held-out loss."""
