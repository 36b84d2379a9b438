"""For torch.hub: ``torch.hub.load(".", "resattn8", source="local", num_classes=10, a=0.5, form="gated")``."""

from resattn.models.hub import resattn8 as resattn8
from resattn.models.hub import resnet8 as resnet8

dependencies = ["torch", "numpy"]
