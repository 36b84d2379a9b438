"""Attention maps and the ViTs that make them."""
