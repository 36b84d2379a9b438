"""One style for every figure: colours that survive greyscale and colour blindness, PNG and SVG that come out the same twice."""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from resattn.experiments.protocols import RESNET8, Network
from resattn.files import atomic_write

STYLE = {
    "figure.dpi": 110,
    "savefig.dpi": 160,
    "savefig.bbox": "tight",
    "font.size": 10,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.prop_cycle": plt.cycler(color=["#0072b2", "#d55e00", "#009e73", "#777777"]),
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "resattn",
    "figure.facecolor": "white",
}
CLASSIFICATION, ATTENTION = "#c2457f", "#117a74"  # the paper's pink and teal, a step apart in lightness
_FORMS = {  # colour, marker
    "printed": ("#d55e00", "s"),
    "gated": ("#0072b2", "o"),
    "residual": ("#009e73", "P"),
    "scaled": ("#cc79a7", "v"),
    "unmasked": ("#e69f00", "^"),
}
_A_LINES = {0.0: ":", 0.5: "--", 1.0: "-"}


def use_style() -> None:
    """Set the shared style for all figures of this process."""
    plt.rcParams.update(STYLE)


def save_figure(figure: Figure, path: Path | str) -> list[Path]:
    """Write ``path``.png and ``path``.svg; the same figure gives the same bytes each time."""
    with plt.rc_context(STYLE):
        return [
            atomic_write(Path(f"{path}.{kind}"), partial(figure.savefig, format=kind, metadata=metadata))
            for kind, metadata in {"png": {"Software": None}, "svg": {"Date": None}}.items()
        ]


def style_of(network: Network) -> dict:
    """Colour, line and marker of a network, the same in every figure."""
    if network == RESNET8:
        return {"color": "#222222", "linestyle": "-", "marker": "D"}
    if network.form is None:  # another baseline
        return {"color": "#777777", "linestyle": "--", "marker": "X"}
    colour, marker = _FORMS[network.form]
    return {"color": colour, "marker": marker, "linestyle": _A_LINES.get(network.a, "-.")}


def put_title(ax: Axes, title: str) -> None:
    """The first line as the title, further ones smaller below it; both begin at the left end of the axis."""
    first, _, rest = title.partition("\n")
    ax.set_title(first, loc="left", pad=18 if rest else None, fontweight="bold", parse_math=False)
    if rest:
        small = {"fontsize": 8, "color": "#555555"}
        note = ax.annotate(rest, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", **small)
        note.set_in_layout(False)  # it may run past its axis
