"""Data sets, the drawn shapes, and augmentation."""
