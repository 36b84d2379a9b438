"""Residual connections gated by self-supervised attention: the reference implementation of "Refining Residual Mappings
Using Regions of High Attention"."""

__version__ = "0.1.0"
