"""What one training run is: its settings, its presets, and the name that follows from them. Imports nothing heavy."""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resattn import paths
from resattn.files import digest, file_digest, file_name
from resattn.settings import add_options, check, check_choice, given, setting

GATED_FORMS = ("gated", "residual")  # a standard ResNet at a = 0
FORMS = ("printed", *GATED_FORMS)  # three readings of Eq. 3-4, see resattn.models.resattn
CONTROL_FORMS = ("scaled", "unmasked")  # parts of the printed equation on their own
ATTENTION_MODULES = ("se", "eca", "cbam")  # known ones to compare with, by timm's names
TIMM_MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
MODELS = ("resattn", "resnet8", *(f"resnet8-{name}" for name in ATTENTION_MODULES), *TIMM_MODELS)
WIDTHS = (16, 32, 64)
LARGEST_SIDE = 4096  # pixels that a folder's images are resized to: beyond it a typing error takes all memory
DEPTHS = {8: (1, 1, 1), 20: (3, 3, 3), 32: (5, 5, 5), 56: (9, 9, 9)}  # of ResNet 6n + 2
CLS_SOURCES = ("dino", "dino-tiny", "vit-s14")  # [CLS] attention, so they have heads
FROM_MASKS = ("oracle", "box", "square")  # need the true object masks
_FROM_IMAGES = (*CLS_SOURCES, "vit-s14-saliency", "saliency")
ATTENTION_SOURCES = (*_FROM_IMAGES, "uniform", "center", "shuffled", *FROM_MASKS)
SHUFFLED_SOURCES = (*_FROM_IMAGES, *FROM_MASKS)  # not all images' the same
LEARNED = "learned"  # no source of finished maps: a ViT inside the network makes them

# Table 1 and 2 of the paper, with the map source of Sec. 5.2. The batch size of CIFAR-10 is missing there: CIFAR-100's is used.
PAPER = {"epochs": 100, "image_size": 224, "batch_size": 128, "lr": 0.2, "weight_decay": 5e-4}
PAPER |= {"schedule": "cosine", "source": "dino"}
# Seconds instead of hours on two cores: small images, and steps small enough to settle in three epochs.
DEMO = {"dataset": "shapes", "epochs": 3, "image_size": 64, "batch_size": 32, "lr": 0.01, "weight_decay": 5e-4}
DEMO |= {"schedule": "cosine", "source": "dino-tiny", "precision": "float32"}
# What two CPU cores can run: the paper's settings, but small images, a learning rate that trains (notebook 05) and another ViT.
REDUCED = PAPER | {"image_size": 64, "lr": 0.01, "source": "vit-s14", "precision": "float32"}
SHORT = REDUCED | {"epochs": 5}
PRESETS = {"paper": PAPER, "reduced": REDUCED, "short": SHORT, "demo": DEMO}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; the defaults are the paper's (Tables 1 and 2) on the embedded data set.

    Attributes:
        dataset: "cifar10", "cifar100", "shapes", or a folder with train/ and test/, as for :func:`resattn.load_dataset`.
        root: where data sets live; None means ``data/``.
        size: pixels on a side that a folder's images are resized and cut to; None keeps them as they are.
        skip_unreadable: leave out a folder's images that cannot be read; the record counts them.
        model: "resattn"; the baseline "resnet8", which ignores ``form``, ``a`` and ``source``; that with a known attention module in
            each block ("resnet8-se", ...); or one of timm's, gated by :func:`resattn.gate_residuals`.
        form: "printed" (Eq. 3-4), "gated" (the text) or "residual" (the title); for controls "scaled" and "unmasked", without maps.
        a: strength of the mask.
        source: where attention maps come from; "learned" is a small ViT inside the network, trained by its loss alone.
        base: the source whose maps "shuffled" hands to other images.
        heads: how a ViT's heads become a map: "mean", "max", an index, or "all" as channels.
        weights: of the ViT: "pretrained", "random", or a checkpoint file; for "dino-tiny" one that resattn.dino.pretrain wrote;
            "vit-s14" and "vit-s14-saliency" have their own. For "learned" where its ViT starts: "dino-tiny" (the default) or "random".
        seed: decides the split, the order, the augmentation and the initial weights, the same ones for every model.
        image_size: side the network resizes its input to, in pixels.
        epochs: passes over the training images.
        batch_size: images a step; what is left over at the end of an epoch is dropped (other images each time).
        lr: learning rate of AdamW, at the start of the schedule.
        weight_decay: of AdamW, on all weights (the paper makes no exception).
        beta1, beta2: of AdamW's running means.
        schedule: of the learning rate: "cosine" (to zero, a step at a time) or "constant".
        n_val: validation images taken from the training split; None means 5,000 for CIFAR (Sec. 4), else a tenth.
        precision: "auto" becomes "bfloat16" (automatic mixed precision) on CUDA and "float32" elsewhere at once, so that a
            configuration, its record and its name always say what is used.
        device: "cpu", "cuda", "cuda:1", ...; None means CUDA if present, else the CPU.
        compile: compile the network with torch.compile; None means on CUDA only, where the steps then replay CUDA graphs.
        widths: channels of the three stages; not for timm's networks.
        depths: blocks of each stage (3 3 3 make ResNet20, 5 5 5 ResNet32, 9 9 9 ResNet56); not for timm's networks.

    ValueError where an argument is not as described.
    """

    dataset: str = "shapes"
    root: str | None = None
    size: int | None = setting(None, low=1, high=LARGEST_SIDE)
    model: str = setting("resattn", choices=MODELS)
    form: str = setting("printed", choices=FORMS + CONTROL_FORMS)
    a: float = setting(0.5, low=0, high=1)
    source: str = setting("saliency", choices=(*ATTENTION_SOURCES, LEARNED))
    base: str = setting("saliency", choices=SHUFFLED_SOURCES)
    heads: str | int = setting("mean", choices=("mean", "max", "all"), low=0)
    weights: str = "pretrained"
    seed: int = setting(0, low=0, high=2**63 - 1)
    epochs: int = setting(100, low=1)
    image_size: int = setting(224, low=4, multiple=4)
    batch_size: int = setting(128, low=2)
    lr: float = setting(0.2, above=0)
    weight_decay: float = setting(5e-4, low=0)
    beta1: float = setting(0.9, low=0, below=1)
    beta2: float = setting(0.999, low=0, below=1)
    schedule: str = setting("cosine", choices=("cosine", "constant"))
    n_val: int | None = setting(None, low=1)
    precision: str = setting("auto", choices=("auto", "float32", "bfloat16"))
    device: str | None = None
    compile: bool | None = None
    skip_unreadable: bool = False
    widths: tuple[int, int, int] = setting(WIDTHS, low=1)
    depths: tuple[int, int, int] = setting(DEPTHS[8], low=1)

    def __post_init__(self) -> None:
        check(self)
        if self.source == LEARNED and self.uses_maps:
            object.__setattr__(self, "weights", "dino-tiny" if self.weights == "pretrained" else self.weights)
            check_choice("weights", self.weights, ("dino-tiny", "random"))
        if self.model in TIMM_MODELS:
            check_choice("form", self.form, GATED_FORMS)
            if (shape := (self.widths, self.depths)) != (WIDTHS, DEPTHS[8]):
                raise ValueError(f"widths and depths must be left alone for {self.model}, got {shape}")
        if self.precision == "auto":
            import torch  # here, because it takes a second or two

            cuda = self.device.startswith("cuda") if self.device else torch.cuda.is_available()
            object.__setattr__(self, "precision", "bfloat16" if cuda else "float32")
        if self.precision == "bfloat16" and (self.device or "").startswith("mps"):
            raise ValueError("precision must be 'float32' for device='mps', got 'bfloat16'")
        if self.source == "shuffled" and self.uses_maps and (self.heads, self.weights) != ("mean", "pretrained"):
            allowed = "heads and weights must be 'mean' and 'pretrained' for source='shuffled'"
            raise ValueError(f"{allowed}, got {self.heads!r} and {self.weights!r}")
        fixed = {"dino-tiny": self.weights == "random"}
        fixed |= dict.fromkeys(("vit-s14", "vit-s14-saliency"), self.weights != "pretrained")
        if self.uses_maps and fixed.get(self.source):
            allowed = "'pretrained' or a file" if self.source == "dino-tiny" else "'pretrained'"
            raise ValueError(f"weights must be {allowed} for source={self.source!r}, got {self.weights!r}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "TrainConfig":
        """The settings called "paper", "reduced", "short" or "demo", with those ``changes`` that are not None."""
        check_choice("preset", name, PRESETS)
        return cls(**PRESETS[name] | {setting: value for setting, value in changes.items() if value is not None})

    @property
    def uses_maps(self) -> bool:
        """Whether the network looks at attention maps: the baselines do not, nor the forms without masks."""
        return self.has_form and self.form in FORMS

    @property
    def has_form(self) -> bool:
        """Whether the network is one of the paper's kind, with a form and a strength."""
        return self.model == "resattn" or self.model in TIMM_MODELS

    @property
    def folder(self) -> str | None:
        """Digits that stand for where a folder's images lie; None for a data set that is the same everywhere."""
        if self.dataset in ("shapes", "cifar10", "cifar100"):
            return None
        places = [Path(self.root or paths.DATA, self.dataset), Path(self.dataset)]  # as load_dataset looks for it
        found = (each for each in places if (each / "train").is_dir() or (each / "test").is_dir())
        return digest(str(next(found, places[0]).resolve()))[:16]

    def identity(self) -> dict[str, Any]:
        """What decides the result, as a record stores it: no path and no device; None where the network ignores a setting.

        What came later is there only where it is not the default, so that names of earlier records stay what they were.
        """
        source = self.source if self.uses_maps else None
        later = {"size": None, "base": "saliency", "widths": WIDTHS, "depths": DEPTHS[8]}
        absent = {"root", "device", "compile", "skip_unreadable"}
        absent |= {name for name, value in later.items() if getattr(self, name) == value}
        if source != "shuffled":
            absent.add("base")
        if source not in CLS_SOURCES:
            absent.add("heads")
        if source not in ("dino", "dino-tiny", LEARNED) or (source, self.weights) == ("dino-tiny", "pretrained"):
            absent.add("weights")  # it has none, or those of a package
        known = {name: value for name, value in vars(self).items() if name not in absent}
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in known.items()}
        values["dataset"] = Path(self.dataset).name
        if source in CLS_SOURCES and "weights" in values and Path(self.weights).is_file():
            values["weights"] = file_digest(self.weights)[:16]
        if not self.uses_maps:
            values |= dict.fromkeys(("source",) if self.has_form else ("form", "a", "source"))
        return values

    @property
    def slug(self) -> str:
        """A file name that tells runs apart: readable, with eight digits that stand for all settings."""
        settings = digest(json.dumps(self.identity(), sort_keys=True))[:8]
        network = [self.model] if self.model != "resattn" else []
        if self.has_form:
            network += [self.form, f"a{self.a:g}"]
        if self.uses_maps:
            more = self.weights if self.source == LEARNED else self.identity().get("base")
            network += [self.source, *([more] if more else [])]
        for letter, numbers, usual in (("w", self.widths, WIDTHS), ("d", self.depths, DEPTHS[8])):
            if numbers != usual:
                network.append(letter + "-".join(map(str, numbers)))
        return "-".join([file_name(Path(self.dataset).name), *network, f"seed{self.seed}", settings])


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Give a command an option for each setting, and one for the preset they change."""
    parser.add_argument("--preset", choices=tuple(PRESETS), help="start from these settings; options below change them")
    add_options(parser, TrainConfig, without)


def chosen_settings(options: dict[str, Any]) -> TrainConfig:
    """The settings that the options of :func:`add_settings` ask for; ValueError where one is not allowed."""
    changes = given(options, TrainConfig)
    return TrainConfig.preset(options["preset"], **changes) if options["preset"] else TrainConfig(**changes)
