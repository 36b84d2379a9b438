"""Self-distillation without labels (Sec. 3.2)."""
