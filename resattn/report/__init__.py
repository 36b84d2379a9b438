"""The offline report, and the parts of the README made from records."""
