"""The networks of the paper, their stems, weights and cost."""
