"""Every run this repository makes and every comparison it draws, as data: one table decides what is trained, judged, drawn and printed.

A row of ``COMPARISONS`` names two networks, the question that their difference answers, and what the paper says about it.
"""

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from resattn.config import ATTENTION_MODULES, CLS_SOURCES, DEPTHS, FORMS, LEARNED, PRESETS, WIDTHS, TrainConfig
from resattn.files import file_digest
from resattn.settings import check_choice

# Table 3 of the paper: top-1 test accuracy in percent for mask strength a. It gives one number a cell, and no variance.
PAPER_TABLE3 = {
    "cifar10": {0.0: 83.3, 0.5: 86.6, 1.0: 87.0},
    "cifar100": {0.0: 41.1, 0.5: 42.9, 1.0: 43.4},
}
# The controls' protocol without a preset: for ``shapes`` the demo's, a little longer; for all others "short".
_SHAPES_CONTROLS = PRESETS["demo"] | {"epochs": 6, "source": "saliency"}
# A ResNet8 with as many parameters as the printed and gated form at a > 0, and one with as many multiply-adds; and one with as many of
# both as the residual form, which has another block: cost.matched_widths finds them.
SAME_PARAMETERS, SAME_COMPUTE, SAME_AS_RESIDUAL = (18, 36, 71), (21, 42, 83), (22, 45, 90)
_WEIGHTS = Path(__file__).parent.parent / "weights"
# Made by python -m resattn dino --heads 4: dino-tiny itself has one head.
FOUR_HEADS = str(_WEIGHTS / "dino-tiny-4heads.safetensors")
TABLE3_SOURCES = ("dino", "vit-s14", "saliency", "dino-tiny")


@dataclass(frozen=True)
class Network:
    """What tells networks of one protocol apart; what a network ignores is None, so equal networks are equal.

    Attributes:
        weights: "pretrained", "random", the name of a file in ``resattn/weights``, or another's digest; where a learned map's ViT started.
    """

    model: str = "resattn"
    form: str | None = None
    a: float | None = None
    source: str | None = None
    base: str | None = None
    heads: str | int | None = None
    weights: str | None = None
    widths: tuple[int, ...] = WIDTHS
    depths: tuple[int, ...] = DEPTHS[8]

    @property
    def variant(self) -> str:
        """The network without its maps, for people: "ResNet8", "SE-ResNet8", "ResNet8 18-36-71", "gated a=1", "ResNet20 gated a=1"."""
        kind, _, module = self.model.partition("-")
        resnet = f"ResNet{2 * sum(self.depths) + 2}" if kind in ("resattn", "resnet8") else kind
        parts = [f"{module.upper()}-{resnet}".lstrip("-"), f"{self.form} a={self.a:g}" if self.form else ""]
        if kind == "resattn" and self.depths == DEPTHS[8]:
            parts = parts[1:]
        return " ".join(filter(None, [*parts, "-".join(map(str, self.widths)) if self.widths != WIDTHS else ""]))

    @property
    def maps(self) -> str:
        """The maps, for people: "saliency", "shuffled vit-s14", "dino-tiny-4heads all heads"; "" where none is looked at."""
        parts = [self.source]
        if self.weights and self.weights.startswith(self.source):
            parts = [self.weights]  # "dino-tiny-4heads"
        elif self.weights not in (None, "pretrained"):
            parts.append(self.weights[:8] if len(self.weights) == 16 else self.weights)  # of a digest
        parts.append(None if self.base == "saliency" else self.base)
        if self.heads not in (None, "mean"):
            parts.append(f"head {self.heads}" if isinstance(self.heads, int) else f"{self.heads} heads")
        return " ".join(filter(None, parts))

    @property
    def name(self) -> str:
        """Network and maps, for people: "gated a=1, saliency"."""
        return ", ".join(filter(None, (self.variant, self.maps)))

    def __str__(self) -> str:
        return self.name

    def __lt__(self, other: "Network") -> bool:
        """Sorts as Table 3 has them: the baseline, each form by rising a, then the controls."""
        return self._order < other._order

    @property
    def _order(self) -> tuple:
        control = self.model not in ("resnet8", "resattn")
        form = (None, *FORMS, "scaled", "unmasked").index(self.form)
        return control, self.depths, self.widths != WIDTHS, form, self.a or 0.0, self.name

    @property
    def bare(self) -> "Network":
        """The network without its maps."""
        return replace(self, source=None, base=None, heads=None, weights=None)

    def settings(self) -> dict[str, Any]:
        """What :class:`TrainConfig` needs to be this network."""
        values = {name: value for name, value in vars(self).items() if value is not None}
        packaged = _WEIGHTS / f"{self.weights}.safetensors"
        return values | ({"weights": str(packaged)} if packaged.is_file() and self.source != LEARNED else {})


def network(model: str = "resattn", **settings: Any) -> Network:
    """The network with these settings, given as a record's "config" has them."""
    shape = {"widths": tuple(settings.get("widths") or WIDTHS), "depths": tuple(settings.get("depths") or DEPTHS[8])}
    if settings.get("form") is None:
        return Network(model, **shape)
    a, source = settings["a"], settings.get("source") if settings["a"] else None
    about: dict[str, Any] = {"base": settings.get("base") or "saliency"} if source == "shuffled" else {}
    if source in CLS_SOURCES:
        weights = str(settings.get("weights") or "pretrained")
        about |= {"heads": settings.get("heads", "mean"), "weights": _packaged().get(weights, Path(weights).stem)}
    elif source == LEARNED:
        about["weights"] = settings["weights"]
    return Network(model, settings["form"], float(a), source, **shape, **about)


@functools.cache
def _packaged() -> dict[str, str]:
    """Names of the weight files in the package by what a record calls them."""
    return {file_digest(path)[:16]: path.stem for path in _WEIGHTS.glob("*.safetensors")}


RESNET8, PRINTED0 = network("resnet8"), network(form="printed", a=0.0)
# Without their maps. Gated and residual a = 0 are ResNet8 bit for bit, and are not run.
TABLE3 = (RESNET8, PRINTED0, *(network(form=form, a=a) for form in FORMS for a in (0.5, 1.0)))

QUESTIONS = {
    "accuracy": "Does accuracy rise with a?",
    "standard": "Is a = 0 a standard ResNet?",
    "convergence": "Does training converge faster with a?",
    "content": "Does the content of the map matter?",
    "oracle": "What is the true mask worth?",
    "parts": "Which part of the printed equation does it?",
    "size": "Is it the size of the network?",
    "modules": "How far do known attention modules get?",
    "heads": "All heads as channels instead of their mean?",
    "learned": "Is a map learned with the network better?",
}
_OF_TABLE3 = ("accuracy", "standard", "convergence")  # the others need the controls


class Comparison(NamedTuple):
    """``one`` minus ``other``.

    Attributes:
        claimed: gain in points that the paper reports, by data set.
        place: where the paper says that ``one`` is better (or, with ``better`` 0, equal); "" where it says nothing.
        metric: "accuracy" (test, percent) or "epochs" (until 95 % of the last validation accuracy).
        better: the sign of the difference if ``one`` is better; 0 if the two are said to be equal.
    """

    question: str
    one: Network
    other: Network
    claimed: dict[str, float] = {}  # noqa: RUF012 - never changed
    place: str = ""
    metric: str = "accuracy"
    better: int = 1


def _rows(question: str, pairs: list[tuple], place: str = "", forms: tuple[str, ...] = FORMS) -> list[Comparison]:
    """A row for each pair and form. A side is a network, or the maps (source or more settings) of one that has the form and a = 1."""

    def side(given: Network | str | dict, form: str) -> Network:
        if isinstance(given, Network):
            return given
        return network(form=form, a=1.0, **({"source": given} if isinstance(given, str) else given))

    return [Comparison(question, side(one, f), side(other, f), {}, place) for one, other in pairs for f in forms]


_LAST_GAIN = {dataset: round(paper[1.0] - paper[0.5], 1) for dataset, paper in PAPER_TABLE3.items()}
_GAINS = {a: {dataset: round(paper[a] - paper[0.0], 1) for dataset, paper in PAPER_TABLE3.items()} for a in (0.5, 1.0)}
# What a = 0 is for the text, and for the printed equation.
_AGAINST = {"printed": (PRINTED0, RESNET8), "gated": (RESNET8,), "residual": (RESNET8,)}
_PAIRS = [(source, form, other) for source in TABLE3_SOURCES for form in FORMS for other in _AGAINST[form]]
_SCALED, _UNMASKED = (network(form=form, a=1.0) for form in ("scaled", "unmasked"))
_WIDER = [network("resnet8", widths=widths) for widths in (SAME_PARAMETERS, SAME_COMPUTE, SAME_AS_RESIDUAL)]
_MODULES = [network(f"resnet8-{name}") for name in ATTENTION_MODULES]
_OWN = ("saliency", "vit-s14")
# The decoder's maps have the ViT's as their control.
_CONTENT = [
    (own, {"source": other, "base": own.removesuffix("-saliency")})
    for own in (*_OWN, "vit-s14-saliency")
    for other in ("shuffled", "uniform", "center")
]
_ORACLE = [("oracle", "uniform"), ("oracle", "saliency"), ("box", "uniform"), ("square", "uniform")]
_ORACLE += [("oracle", "box"), ("box", "square"), ("oracle", RESNET8), ("box", RESNET8), ("square", RESNET8)]
_HEADS = [{"source": "dino-tiny", "weights": FOUR_HEADS}, {"source": "dino"}]
_LEARNED, _FROM_RANDOM = ({"source": LEARNED, "weights": start} for start in ("dino-tiny", "random"))

COMPARISONS = [
    *(
        Comparison("accuracy", network(form=form, a=a, source=source), other, _GAINS[a], "Table 3")
        for source, form, other in _PAIRS
        for a in _GAINS
    ),
    *(
        Comparison("accuracy", *(network(form=form, a=a, source=source) for a in (1.0, 0.5)), _LAST_GAIN, "Table 3")
        for source in TABLE3_SOURCES
        for form in FORMS
    ),
    Comparison("standard", PRINTED0, RESNET8, dict.fromkeys(PAPER_TABLE3, 0.0), "Sec. 3.5", better=0),
    *(
        Comparison("convergence", network(form=form, a=1.0, source=source), other, {}, "Sec. 5.3", "epochs", -1)
        for source, form, other in _PAIRS
    ),
    *_rows("content", [*_CONTENT, ("dino-tiny", "uniform"), ("dino", "uniform")], "Sec. 3, 6"),
    *_rows("oracle", _ORACLE),
    *_rows("parts", [(_SCALED, PRINTED0), (_UNMASKED, PRINTED0), ("uniform", _UNMASKED)], "", ("printed",)),
    *_rows("parts", [(own, _UNMASKED) for own in _OWN], "Sec. 5.3", ("printed",)),
    *(Comparison("size", wider, RESNET8) for wider in _WIDER),
    *_rows("size", [(own, wider) for wider in _WIDER[:2] for own in _OWN], "", ("printed", "gated")),
    *_rows("size", [(own, _WIDER[2]) for own in _OWN], "", ("residual",)),
    *(Comparison("modules", module, RESNET8) for module in _MODULES),
    *_rows("modules", [(own, _MODULES[-1]) for own in _OWN]),
    *_rows("heads", [(maps | {"heads": "all"}, maps) for maps in _HEADS], "Sec. 5.2"),
    *_rows("learned", [(_LEARNED, "dino-tiny")], "Sec. 6", ("gated",)),
    *_rows("learned", [(_LEARNED, other) for other in ("saliency", "uniform")], "", ("gated",)),
    *_rows("learned", [(_FROM_RANDOM, "dino-tiny")], "Sec. 6", ("gated",)),
    *_rows("learned", [(_FROM_RANDOM, other) for other in ("saliency", "uniform")], "", ("gated",)),
]


def list_runs(
    dataset: str, seeds: int, *, part: str = "controls", preset: str | None = None, **settings: Any
) -> dict[str, TrainConfig]:
    """All runs on a data set by name ("content/shapes-resnet8-seed0-..."): question by question, and in each seed by seed.

    Args:
        seeds: how many, from 0.
        part: "table3" (its networks, all with the protocol's maps) or "controls".
        preset: the protocol, one of ``PRESETS``; None means "short", and for ``shapes`` the demo's with 6 epochs and ``saliency``.
        settings: changes to the protocol, for all networks.
    """
    check_choice("part", part, ("table3", "controls"))
    check_choice("preset", preset or "short", PRESETS)
    protocol = _SHAPES_CONTROLS if dataset == "shapes" and not preset else PRESETS[preset or "short"]
    protocol = protocol | {"dataset": dataset} | settings
    if part == "table3":
        networks = dict.fromkeys(TABLE3, "accuracy")
    else:
        networks = {RESNET8: "content", PRINTED0: "content"}
        for row in COMPARISONS:
            for each in (row.one, row.other):
                if row.question not in _OF_TABLE3 and _can_run(each, Path(dataset).name, protocol["source"]):
                    networks.setdefault(each, row.question)
    return {
        f"{question}/{config.slug}": config
        for question in QUESTIONS
        for seed in range(seeds)
        for config in (
            TrainConfig(**protocol | each.settings(), seed=seed) for each, of in networks.items() if of == question
        )
    }


def _can_run(each: Network, dataset: str, own: str) -> bool:
    """Whether maps can be made for the data set, and belong to the protocol's own ones."""
    if each.source in ("oracle", "box", "square", "dino-tiny"):  # true masks, and a ViT that saw nothing else
        return dataset == "shapes"
    return each.source in (None, "uniform", "center", LEARNED) or (each.base or each.source).startswith(own)
