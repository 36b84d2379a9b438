"""What one training run is: its settings, its presets, and the name that follows from them. Imports nothing heavy."""

import argparse
import dataclasses
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resattn.files import file_digest

GATED_FORMS = ("gated", "residual")  # a standard ResNet at a = 0
FORMS = ("printed", *GATED_FORMS)  # three readings of Eq. 3-4, see resattn.models.resattn
CONTROL_FORMS = ("scaled", "unmasked")  # parts of the printed equation on their own
ATTENTION_MODULES = ("se", "eca", "cbam")  # known ones to compare with, by timm's names
TIMM_MODELS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2")
MODELS = ("resattn", "resnet8", *(f"resnet8-{name}" for name in ATTENTION_MODULES), *TIMM_MODELS)
WIDTHS = (16, 32, 64)
DEPTHS = {8: (1, 1, 1), 20: (3, 3, 3), 32: (5, 5, 5), 56: (9, 9, 9)}  # of ResNet 6n + 2
CLS_SOURCES = ("dino", "dino-tiny", "vit-s14")  # [CLS] attention, so they have heads
ATTENTION_SOURCES = (
    *CLS_SOURCES,
    "vit-s14-saliency",
    "saliency",
    "uniform",
    "center",
    "shuffled",
    "oracle",
    "box",
    "square",
)
LEARNED = "learned"  # no source of finished maps: a ViT inside the network makes them

# Table 1 and 2 of the paper, with the map source of Sec. 5.2. The batch size of CIFAR-10 is missing there: CIFAR-100's is used.
PAPER = {
    "epochs": 100,
    "image_size": 224,
    "batch_size": 128,
    "lr": 0.2,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "source": "dino",
}
# Seconds instead of hours on two cores: small images, and steps small enough to settle in three epochs.
DEMO = {
    "dataset": "shapes",
    "epochs": 3,
    "image_size": 64,
    "batch_size": 32,
    "lr": 0.01,
    "weight_decay": 5e-4,
    "schedule": "cosine",
    "source": "dino-tiny",
}
# What two CPU cores can run: the paper's settings, but small images, a learning rate that trains (notebook 05) and another ViT.
REDUCED = PAPER | {"image_size": 64, "lr": 0.01, "source": "vit-s14", "precision": "float32"}
SHORT = REDUCED | {"epochs": 5}
PRESETS = {"paper": PAPER, "reduced": REDUCED, "short": SHORT, "demo": DEMO}


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one run; the defaults are the paper's (Tables 1 and 2) on the embedded data set.

    Attributes:
        dataset: as for :func:`resattn.load_dataset`.
        root: where data sets live; None means ``data/``.
        size: pixels on a side that a folder's images are resized and cut to; None keeps them as they are.
        model: "resattn", or "resnet8" for the baseline, which ignores ``form``, ``a``, ``source`` and ``heads``; "resnet8-se",
            "resnet8-eca" and "resnet8-cbam" are that baseline with a known attention module in each block; "resnet18" and others
            of ``TIMM_MODELS`` are timm's, gated by :func:`resattn.gate_residuals` (the untouched network at a = 0).
        form: "printed" (Eq. 3-4), "gated" (the text) or "residual" (the title); for controls "scaled" and "unmasked", which ignore ``source`` and ``heads``.
        a: strength of the mask, in [0, 1].
        source: where attention maps come from, one of ``ATTENTION_SOURCES``, or "learned": a small ViT inside the network, trained
            with it by its loss alone.
        base: the source whose maps "shuffled" hands to other images.
        heads: how a ViT's heads become a map: "mean", "max", an index, or "all".
        weights: weights of the ViT: "pretrained", "random", or a checkpoint file; for "dino-tiny" one that resattn.dino.pretrain wrote;
            "vit-s14" has its own. For "learned" where its ViT starts: "dino-tiny" (the default) or "random".
        seed: decides the split, the order, the augmentation and the initial weights, the same ones for every model.
        epochs: passes over the training split.
        image_size: side the network resizes its input to, in pixels; a multiple of 4.
        batch_size: images a step; what is left over at the end of an epoch is dropped (other images each time).
        lr: learning rate at the start.
        weight_decay: of AdamW, on all weights (the paper makes no exception).
        beta1, beta2: of AdamW.
        schedule: "cosine" (to zero, a step at a time) or "constant".
        n_val: validation images taken from the training split; None means 5,000 for CIFAR (Sec. 4), else a tenth.
        precision: "float32" or "bfloat16" (automatic mixed precision). "auto" becomes bfloat16 on CUDA and float32 elsewhere at once,
            so that a configuration, its record and its name always say what is used. On a CPU that multiplies in bfloat16 (AMX or
            AVX512-BF16) it is faster, and other numbers come out: there it is asked for by name.
        device: "cpu", "cuda", "cuda:1", ...; None means CUDA if present, else the CPU.
        compile: compile the network with torch.compile; None means on CUDA only, where the steps then replay CUDA graphs.
        widths, depths: channels and blocks of the three stages; see ``DEPTHS``. timm's networks have their own.

    Raises:
        ValueError: an argument is not as described.
    """

    dataset: str = "shapes"
    root: str | None = None
    size: int | None = None
    model: str = "resattn"
    form: str = "printed"
    a: float = 0.5
    source: str = "saliency"
    base: str = "saliency"
    heads: str | int = "mean"
    weights: str = "pretrained"
    seed: int = 0
    epochs: int = 100
    image_size: int = 224
    batch_size: int = 128
    lr: float = 0.2
    weight_decay: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: str = "cosine"
    n_val: int | None = None
    precision: str = "auto"
    device: str | None = None
    compile: bool | None = None
    widths: tuple[int, ...] = WIDTHS
    depths: tuple[int, ...] = DEPTHS[8]

    def __post_init__(self):
        if self.root is not None:
            object.__setattr__(self, "root", str(self.root))
        object.__setattr__(self, "weights", str(self.weights))
        _check_choice("model", self.model, MODELS)
        _check_choice("form", self.form, FORMS + CONTROL_FORMS)
        _check_choice("source", self.source, (*ATTENTION_SOURCES, LEARNED))
        if self.source == LEARNED and self.uses_maps:
            object.__setattr__(self, "weights", "dino-tiny" if self.weights == "pretrained" else self.weights)
            _check_choice("weights", self.weights, ("dino-tiny", "random"))
        _check_choice(
            "base", self.base, tuple(s for s in ATTENTION_SOURCES if s not in ("shuffled", "uniform", "center"))
        )
        _check_choice("schedule", self.schedule, ("cosine", "constant"))
        _check_choice("precision", self.precision, ("auto", "float32", "bfloat16"))
        _check_number("a", self.a, 0, 1)
        _check_number("lr", self.lr, 0, math.inf, open_below=True)
        _check_number("weight_decay", self.weight_decay, 0, math.inf)
        _check_number("beta1", self.beta1, 0, 1, open_above=True)
        _check_number("beta2", self.beta2, 0, 1, open_above=True)
        for name, low in {"seed": 0, "epochs": 1, "batch_size": 2, "image_size": 4}.items():
            _check_number(name, getattr(self, name), low, math.inf, whole=True)
        for name in ("a", "lr", "weight_decay", "beta1", "beta2"):
            object.__setattr__(self, name, float(getattr(self, name)))  # so that 1 and 1.0 are one run
        if self.heads not in ("mean", "max", "all"):
            _check_number("heads", self.heads, 0, math.inf, whole=True, or_else="'mean', 'max', 'all' or ")
        for name in ("widths", "depths"):
            values = getattr(self, name)
            if not isinstance(values, (tuple, list)) or len(values) != len(WIDTHS):
                raise ValueError(f"{name} must be {len(WIDTHS)} whole numbers, one a stage, got {values!r}")
            for value in values:
                _check_number(name, value, 1, math.inf, whole=True)
            object.__setattr__(self, name, tuple(values))
        if self.model in TIMM_MODELS:
            _check_choice("form", self.form, GATED_FORMS)
            if (self.widths, self.depths) != (WIDTHS, DEPTHS[8]):
                raise ValueError(
                    f"widths and depths must be left alone for {self.model}, got {self.widths}, {self.depths}"
                )
        if self.precision == "auto":
            cuda = self.device.startswith("cuda") if self.device else has_cuda()
            object.__setattr__(self, "precision", "bfloat16" if cuda else "float32")
        if self.compile not in (None, True, False):
            raise ValueError(f"compile must be True, False or None, got {self.compile!r}")
        for name in ("n_val", "size"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name), 1, math.inf, whole=True)
        if self.image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, got {self.image_size}")

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "TrainConfig":
        """The settings called "paper", "reduced", "short" or "demo", with ``changes``."""
        _check_choice("preset", name, tuple(PRESETS))
        return cls(**PRESETS[name] | changes)

    @classmethod
    def from_parameters(cls, preset: str, **changes: Any) -> "TrainConfig":
        """The preset with those ``changes`` that are not None: how notebook 03 and run_all.sh agree on a run."""
        return cls.preset(preset, **{name: value for name, value in changes.items() if value is not None})

    @property
    def uses_maps(self) -> bool:
        """Whether the network looks at attention maps: the baselines do not, nor the forms without masks."""
        return self.has_form and self.form in FORMS

    @property
    def has_form(self) -> bool:
        """Whether the network is one of the paper's kind, with a form and a strength."""
        return self.model == "resattn" or self.model in TIMM_MODELS

    def identity(self) -> dict[str, Any]:
        """What decides the result, as a record stores it: no path and no device; None where the network ignores a setting.

        ``widths``, ``depths`` and ``base`` are there only where they are not the default, so that names of earlier records stay what they were.
        """
        values = dataclasses.asdict(self)
        values["dataset"] = Path(self.dataset).name
        for name, default in (("widths", WIDTHS), ("depths", DEPTHS[8])):
            values[name] = list(values[name])  # as JSON gives it back
            if getattr(self, name) == default:
                del values[name]
        for name in ("root", "device", "compile"):
            del values[name]
        if self.size is None:
            del values["size"]
        if not self.uses_maps:
            values |= dict.fromkeys(("source",) if self.has_form else ("form", "a", "source"))
        if not self.uses_maps or self.source != "shuffled" or self.base == "saliency":
            del values["base"]
        if not self.uses_maps or self.source not in CLS_SOURCES:
            del values["heads"], values["weights"]
        elif self.source == "vit-s14" or (self.source == "dino-tiny" and self.weights in ("pretrained", "random")):
            del values["weights"]  # there is one in a package, and it is pretrained
        elif Path(self.weights).is_file():
            values["weights"] = file_digest(self.weights)[:16]
        if self.uses_maps and self.source == LEARNED:
            values["weights"] = self.weights
        return values

    @property
    def slug(self) -> str:
        """A file name that tells runs apart: readable, with eight digits that stand for all settings."""
        settings = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]
        network = [self.model] if self.model != "resattn" else []
        if self.has_form:
            network += [self.form, f"a{self.a:g}"]
        if self.uses_maps:
            more = self.weights if self.source == LEARNED else self.identity().get("base")
            network += [self.source, *([more] if more else [])]
        if self.widths != WIDTHS:
            network.append("w" + "-".join(map(str, self.widths)))
        if self.depths != DEPTHS[8]:
            network.append("d" + "-".join(map(str, self.depths)))
        return "-".join([Path(self.dataset).name, *network, f"seed{self.seed}", settings])


def add_settings(parser: argparse.ArgumentParser, without: tuple[str, ...] = ()) -> None:
    """Give a command an option for each setting, and one for the preset they change."""
    parser.add_argument("--preset", choices=tuple(PRESETS), help="start from these settings; options below change them")
    kinds = {"int": int, "float": float, "int | None": int, "bool | None": _yes_or_no, "tuple": _whole_numbers}
    for field in dataclasses.fields(TrainConfig):
        if field.name not in without:
            kind = kinds.get(str(getattr(field.type, "__name__", field.type)), str)
            parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, help=f"default {field.default}")


def chosen_settings(options: dict[str, Any]) -> TrainConfig:
    """The settings that the options of :func:`add_settings` ask for; ValueError where one is not allowed."""
    names = {field.name for field in dataclasses.fields(TrainConfig)}
    changes = {name: value for name, value in options.items() if name in names and value is not None}
    if str(changes.get("heads", "")).lstrip("-").isdigit():
        changes["heads"] = int(changes["heads"])
    return TrainConfig.preset(options["preset"], **changes) if options["preset"] else TrainConfig(**changes)


def has_cuda() -> bool:
    """Whether PyTorch can use a CUDA GPU here."""
    import torch  # here, because it takes a second or two

    return torch.cuda.is_available()


def _whole_numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be whole numbers with commas between, got {text!r}") from error


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}")
    return text == "yes"


def _check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def _check_number(
    name: str,
    value: Any,
    low: float,
    high: float,
    *,
    whole: bool = False,
    open_below: bool = False,
    open_above: bool = False,
    or_else: str = "",
) -> None:
    kind = int if whole else (int, float)
    fits = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high
    if not fits or (open_below and value == low) or (open_above and value == high):
        bounds = f"{'above' if open_below else 'at least'} {low}"
        if math.isfinite(high):
            bounds = f"in {'(' if open_below else '['}{low}, {high}{')' if open_above else ']'}"
        raise ValueError(f"{name} must be {or_else}a {'whole ' if whole else ''}number {bounds}, got {value!r}")
