"""What every figure shows; by file name without its ending, in the order of the report."""

import re

CAPTIONS = {  # the first sentence is also the picture's text alternative; {} stands for what the star matched
    "architecture": "The network in its three forms. A classification branch (pink) and the attention branch (teal) that masks it: "
    "Eq. 3–4 as printed, the skip connections as the text describes them, and the residual mappings, as the title says.",
    "blocks": "Stems and blocks. The layers of both stems, and of the second block of each branch: kernel / stride, output channels.",
    "accuracy-*": "Test accuracy: {}. Ticks are seeds, the marker their mean with its 95 % interval; at the paper's settings a grey cross is the "
    "paper's number.",
    "curves-*": "Learning curves: {}. Lines are means over seeds, bands reach from the lowest to the highest.",
    "controls-*": "Controls on {}. Differences in test accuracy between pairs of networks, paired by seed, with their "
    "95 % intervals; filled where significant after Holm's correction within the question.",
    "search-landscape-*": "Search over learning rate and weight decay: {}. Every mark is a trial: above by its validation accuracy after the "
    "last epoch, which is its colour, below by its weight decay. Round marks are random points, squares the grid around the best of them, "
    "the ring is the best of all. No trial sees the test split.",
    "scaling": "What a training step costs. Seconds and peak memory by batch size and by image size, from python -m benchmarks.scaling.",
}


def caption_of(name: str) -> tuple[int, str]:
    """Place and caption of the figure with this file name without its ending; one without a caption comes last, under its name."""
    for place, (pattern, caption) in enumerate(CAPTIONS.items()):
        if match := re.fullmatch(pattern.replace("*", "(.+)"), name):
            return place, caption.replace("{}", "".join(match.groups()))
    return len(CAPTIONS), f"{name}. "
