"""What every figure shows and which records are behind it: the captions of the report."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Caption:
    """A figure's words.

    Attributes:
        title: a few words; also the picture's text alternative.
        text: what to look at.
        evidence: the records it is drawn from, as a glob below the folder of records or else below the checkout; "main" for
            those that count for Table 3; "" where it is drawn from the network itself.

    ``{subject}`` stands everywhere for what the star of the file-name pattern matched.
    """

    title: str
    text: str
    evidence: str = ""


# By file name without its ending. Figures appear in this order; one without a caption comes last, under its file name.
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
        "Test accuracy on {subject}",
        "Every tick is one seed, the marker the mean with its 95\N{NO-BREAK SPACE}% interval, a grey cross the paper's number where it has one.",
        "main",
    ),
    "curves-*": Caption(
        "Learning curves on {subject}",
        "Training loss and validation accuracy by epoch. Lines are means over seeds, bands reach from the lowest to the highest.",
        "main",
    ),
    "controls-*": Caption(
        "Controls on {subject}",
        "Differences in test accuracy between networks that differ in one thing, paired by seed, with their 95\N{NO-BREAK SPACE}% "
        "intervals; filled where the interval leaves zero out.",
        "controls/{subject}-*.json",
    ),
    "search-landscape-*": Caption(
        "Search over learning rate and weight decay: {subject}",
        "Colour is the validation accuracy after the last epoch. Round marks are random points, squares the grid around the best "
        "of them, the ring is the best of all. No trial sees the test split.",
        "search/*.json",
    ),
    "search-slices-*": Caption(
        "Validation accuracy by learning rate: {subject}",
        "Every mark is a trial, of whatever weight decay; lines join the grid's trials at the best one's weight decay.",
        "search/*.json",
    ),
    "scaling": Caption(
        "What a training step costs",
        "Seconds and peak memory by batch size and by image size, measured by python -m benchmarks.scaling.",
        "benchmarks/results/scaling-*.json",
    ),
}

# By the folder of records, below the main one.
PARTS = {
    "checks": "Runs made to try a path, too short to say anything about the paper.",
    "controls": "What the paper never ran: does the content of the map matter, or the skip, the factor, the parameters alone?",
    "recipe": "Table 3 again, with the learning rate and weight decay that the search found best for ResNet8.",
    "tuning": "Short runs that chose the learning rate of the reduced protocol.",
    "search": "The search of Sec. 5.1, judged by the validation part alone.",
}


def caption_of(name: str) -> tuple[Caption, str] | None:
    """The caption for a figure's file name without its ending, and its subject ("" without a star); None where there is none."""
    for pattern, caption in CAPTIONS.items():
        if match := re.fullmatch(re.escape(pattern).replace(r"\*", "(.+)"), name):
            subject = "".join(match.groups())
            fields = (caption.title, caption.text, caption.evidence)
            return Caption(*(field.replace("{subject}", subject) for field in fields)), subject
    return None


def figure_order(name: str) -> tuple:
    """Sorts figures as CAPTIONS lists them, those of one pattern by name."""
    patterns = [re.escape(pattern).replace(r"\*", ".+") for pattern in CAPTIONS]
    return next((i for i, pattern in enumerate(patterns) if re.fullmatch(pattern, name)), len(patterns)), name
