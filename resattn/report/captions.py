"""What every figure shows, and which records are behind it."""

import re
from typing import NamedTuple


class Caption(NamedTuple):
    """A figure's words; ``{}`` stands for what the star of the file-name pattern matched."""

    title: str  # also the picture's text alternative
    text: str = ""
    records: str | None = None  # their folder below the main one, "" for that itself


# By file name without its ending, in the order of the report.
CAPTIONS = {
    "architecture": Caption(
        "The network in its three forms",
        "A classification branch (pink) and the attention branch (teal) that masks it: the skip connections as Eq. 3–4 are printed, "
        "the same as the text describes them, and the residual mappings, as the title says. Notebook 02 draws it from the network itself.",
    ),
    "blocks": Caption(
        "Stems and blocks",
        "The layers of both stems, and of the second block of each branch. Notebook 02 draws them from the network itself.",
    ),
    "accuracy-*": Caption(
        "Test accuracy on {}",
        "Every tick is one seed, the marker the mean with its 95\N{NO-BREAK SPACE}% interval, a grey cross the paper's number where it has one.",
        "",
    ),
    "curves-*": Caption(
        "Learning curves on {}",
        "Training loss and validation accuracy by epoch. Lines are means over seeds, bands reach from the lowest to the highest.",
        "",
    ),
    "controls-*": Caption(
        "Controls on {}",
        "Differences in test accuracy between networks that differ in one thing, paired by seed, with their 95\N{NO-BREAK SPACE}% "
        "intervals; filled where significant after Holm's correction within the question.",
        "controls",
    ),
    "search-landscape-*": Caption(
        "Search over learning rate and weight decay: {}",
        "Every mark is a trial: above by its validation accuracy after the last epoch, which is its colour, below by its weight decay. "
        "Round marks are random points, squares the grid around the best of them, the ring is the best of all. No trial sees the test split.",
        "search",
    ),
    "scaling": Caption(
        "What a training step costs",
        "Seconds and peak memory by batch size and by image size, measured by python -m benchmarks.scaling.",
    ),
}


def caption_of(name: str) -> tuple[int, Caption]:
    """Place and caption of the figure with this file name without its ending; one without a caption comes last, under its name."""
    for place, (pattern, caption) in enumerate(CAPTIONS.items()):
        if match := re.fullmatch(pattern.replace("*", "(.+)"), name):
            return place, caption._replace(title=caption.title.replace("{}", "".join(match.groups())))
    return len(CAPTIONS), Caption(name)
