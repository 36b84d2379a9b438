"""What the notebooks' widgets show."""
