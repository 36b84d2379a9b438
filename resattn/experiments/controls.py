"""The controls the paper never ran: which networks, and in which order. ``python -m resattn run --profile controls`` trains them.

All networks share a seed's split, order, augmentation and classification weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

from resattn.config import ATTENTION_MODULES, DEMO, TrainConfig

# Small images and few epochs, so that dozens of networks fit; for CIFAR the learning rate comes from the search (notebook 05).
REDUCED = {"image_size": 64, "epochs": 5, "batch_size": 128, "source": "saliency"}
PROTOCOLS = {"shapes": DEMO | {"epochs": 6, "source": "saliency"}}
# A ResNet8 with as many parameters as ResAttnNet at a > 0, and one with as many multiply-adds: cost.matched_widths finds them.
SAME_PARAMETERS, SAME_COMPUTE = (18, 36, 71), (21, 42, 83)
# Made by python -m resattn dino --heads 4: dino-tiny itself has one head.
FOUR_HEADS = str(Path(__file__).parent.parent / "weights" / "dino-tiny-4heads.safetensors")
_ONLY_SHAPES = {"dino-tiny", "oracle", "box"}  # a ViT that saw nothing else, and the true masks


class Control(NamedTuple):
    """One network to train: the question it helps to answer, and how its settings differ from the protocol."""

    question: str
    changes: dict[str, Any]


def _with_masks(form: str, source: str, **more: Any) -> dict[str, Any]:
    return {"form": form, "a": 1.0, "source": source, **more}


# In order of priority.
CONTROLS = [
    Control("content", {"model": "resnet8"}),
    Control("content", {"form": "printed", "a": 0.0}),
    *(
        Control("content", _with_masks(form, source))
        for form in ("gated", "printed")
        for source in ("uniform", "center", "shuffled", "saliency", "dino-tiny", "dino", "oracle")
    ),
    Control("parts", {"form": "scaled", "a": 1.0}),
    Control("parts", {"form": "unmasked", "a": 1.0}),
    *(Control("content", _with_masks(form, "box")) for form in ("gated", "printed")),
    *(Control("modules", {"model": f"resnet8-{name}"}) for name in ATTENTION_MODULES),
    Control("size", {"model": "resnet8", "widths": SAME_PARAMETERS}),
    Control("size", {"model": "resnet8", "widths": SAME_COMPUTE}),
    *(
        Control("heads", _with_masks(form, "dino-tiny", weights=FOUR_HEADS, heads=heads))
        for form in ("gated", "printed")
        for heads in ("mean", "all")
    ),
    *(Control("heads", _with_masks(form, "dino", heads="all")) for form in ("gated", "printed")),
]


def list_runs(dataset: str, seeds: int, *, dino: bool = False, **settings: Any) -> dict[str, TrainConfig]:
    """All runs on a data set by name ("content/shapes-resnet8-seed0-..."): question by question, and in each seed by seed.

    Args:
        dataset: as for :func:`resattn.load_dataset`.
        seeds: how many, from 0.
        dino: also the networks that look at maps of the published ViT-B/8.
        settings: changes to the protocol, for all networks.
    """
    protocol = PROTOCOLS.get(dataset, REDUCED) | {"dataset": dataset} | settings
    left_out = (set() if dataset == "shapes" else _ONLY_SHAPES) | (set() if dino else {"dino"})
    controls = [control for control in CONTROLS if control.changes.get("source") not in left_out]
    runs = {}
    for question in dict.fromkeys(control.question for control in controls):
        for seed in range(seeds):
            for control in controls:
                if control.question == question:
                    config = TrainConfig(**protocol | control.changes, seed=seed)
                    runs[f"{question}/{config.slug}"] = config
    return runs
