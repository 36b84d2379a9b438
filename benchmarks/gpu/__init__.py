"""Table 3 at the paper's settings on a lent GPU: see README.md."""
