"""For torch.hub: ``torch.hub.load(".", "resattn8", source="local", num_classes=10, a=0.5, form="gated")``."""

from resattn import ResAttnNet
from resattn import resnet8 as resnet8

dependencies = ["torch", "numpy"]
resattn8 = ResAttnNet
