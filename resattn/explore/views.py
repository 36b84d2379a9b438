"""The pictures behind the widgets: one figure of maps and masks, one of how an answer moves with the strength and the form.

They must come in a moment. Most of the time of a matplotlib figure goes into axes, so all panels share one.
"""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from resattn.explore.inspect import SWEEP, Answer, Picture, View
from resattn.plots.style import ATTENTION, CLASSIFICATION, STYLE

_WIDTH = 8.6  # inches
_LINES = (("#222222", "-"), ("#0072b2", "--"), ("#d55e00", "-."), ("#009e73", ":"))
_QUIET = "#555555"
_LARGEST_LIST = 10  # classes whose bars fit
_HEADS_IN_A_ROW = 8


def map_view(view: View) -> Figure:
    """A picture, its maps, and the masks x_a(i) the attention branch makes of them, drawn over the picture.

    A mask has many channels. Shown are their mean, stretched to its own range, which the title gives, and the two channels that
    follow the map most closely and least, on the scale from 0 to 1.
    """
    rows = -(-len(view.heads) // _HEADS_IN_A_ROW) if len(view.heads) > 1 else 0
    with matplotlib.rc_context(STYLE):
        sheet = _Sheet(4.25 + 1.25 * rows)
        _draw_maps(sheet, view)
        _draw_masks(sheet, view)
        for k, head in enumerate(view.heads if rows else ()):
            x, y = 0.1 + 1.065 * (k % _HEADS_IN_A_ROW), 4.5 + 1.25 * (k // _HEADS_IN_A_ROW)
            sheet.panel(head, x, y, 0.98, f"head {k}")
    return sheet.figure


def strength_view(view: View, answer: Answer, trained: Answer, sweep: Tensor, classes: Sequence[str]) -> Figure:
    """What passes the skips at one strength and form, what the network answers, and how the answer moves with the strength.

    Args:
        view: the picture.
        answer: at the chosen strength and form.
        trained: at those the weights were trained with, drawn as outlines.
        sweep: float (len(SWEEP), classes), probabilities at every strength in the chosen form.
        classes: names.
    """
    with matplotlib.rc_context(STYLE):
        sheet = _Sheet(4.78)
        _draw_skips(sheet, view, answer)
        _draw_bars(sheet, view.picture, answer, trained, classes)
        _draw_sweep(sheet, answer, trained, sweep, classes)
    return sheet.figure


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG, quickly: no tight box, little compression."""
    from PIL import Image

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "png", compress_level=1)
    return buffer.getvalue()


class _Sheet:
    """A figure with one bare axes over all of it, measured in inches from the upper left corner."""

    def __init__(self, height: float):
        self.figure = Figure(figsize=(_WIDTH, height))
        self.ax = self.figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        self.ax.set(xlim=(0, _WIDTH), ylim=(height, 0), autoscale_on=False)
        self.ax.grid(visible=False)

    def panel(
        self,
        values: Tensor | np.ndarray,
        x: float,
        y: float,
        side: float,
        title: str = "",
        *,
        span: tuple[float, float] = (0, 1),
        over: np.ndarray | None = None,
    ) -> None:
        """A map (h, w) or picture (h, w, 3) in the square at (x, y); ``over`` a grey picture (H, W), 0 to 255, if given."""
        place: dict[str, Any] = {"extent": (x, x + side, y + side, y), "aspect": "auto"}
        if over is not None:
            self.ax.imshow(over, cmap="gray", vmin=-100, vmax=400, **place)
        alpha = 1 if over is None else 0.65
        self.ax.imshow(np.asarray(values), cmap="magma", vmin=span[0], vmax=span[1], alpha=alpha, **place)
        self.text(x + side / 2, y - 0.05, title, ha="center", va="bottom")

    def scale(self, x: float, y: float, height: float, labels: tuple[str, str], over: float | None = None) -> None:
        """A colour bar; ``over`` the grey that lies under the colours, if they are drawn over a picture."""
        ramp = np.linspace(1, 0, 64)[:, None]
        place: dict[str, Any] = {"extent": (x, x + 0.12, y + height, y), "aspect": "auto"}
        if over is not None:
            self.ax.imshow(np.full_like(ramp, over), cmap="gray", vmin=-100, vmax=400, **place)
        self.ax.imshow(ramp, cmap="magma", vmin=0, vmax=1, alpha=1 if over is None else 0.65, **place)
        for label, at in zip(labels, (y + height, y), strict=True):
            self.text(x + 0.17, at, label, va="center", size=7)

    def grid(self, x: float, y: float, width: float, height: float, horizontal: bool) -> None:
        """The frame of a chart with lines at 0, 25, ..., 100 %: across for ``horizontal``, whose base is 0 to 1, else down."""
        ticks = np.linspace(0, 1, 5)
        for tick in ticks:
            across, down = x + width * tick, y + height * (1 - tick)
            if horizontal:
                self.text(x - 0.06, down, f"{100 * tick:.0f}", ha="right", va="center_baseline")
            self.text(across, y + height + 0.05, f"{tick if horizontal else 100 * tick:g}", ha="center", va="top")
        lines = [((x, y + height * t), (x + width, y + height * t)) for t in ticks] if horizontal else []
        lines += [((x + width * t, y), (x + width * t, y + height)) for t in ticks]
        self.ax.add_collection(LineCollection(lines, colors="#e2e2e2", linewidths=0.8, zorder=0.5))

    def bars(self, x: float, y: float, step: float, lengths: list[float], **looks: Any) -> None:
        """Bars to the right of ``x``, one each ``step`` down from ``y``."""
        rows = [(y + step * (i + 0.15), y + step * (i + 0.85)) for i in range(len(lengths))]
        corners = [
            [(x, top), (x + length, top), (x + length, base), (x, base)]
            for (top, base), length in zip(rows, lengths, strict=True)
        ]
        self.ax.add_collection(PolyCollection(corners, **looks))

    def text(self, x: float, y: float, words: str, size: float = 8, **options: Any) -> None:
        self.ax.text(x, y, words, fontsize=size, linespacing=1.3, **options)


def _draw_maps(sheet: _Sheet, view: View) -> None:
    heads = "its one head" if len(view.heads) == 1 else f"mean of {len(view.heads)} heads"
    sheet.panel(view.picture.shown, 0.1, 0.5, 1.65, view.picture.name)
    if view.picture.mask is not None:
        sheet.panel(view.picture.mask[0], 1.9, 0.5, 1.65, "true object")
    sheet.panel(view.average, 0.1, 2.45, 1.65, f"[CLS] attention, {heads}")
    sheet.panel(view.saliency, 1.9, 2.45, 1.65, "saliency")


def _draw_masks(sheet: _Sheet, view: View) -> None:
    grey = view.picture.shown.mean(2)
    side, gap = 1.06, 0.14
    rows = [0.5 + (side + 0.21) * row for row in range(3)]
    for y, words in zip(
        rows, ("mean,\nstretched", "channel\nnearest\nto the map", "channel\nfarthest\nfrom it"), strict=True
    ):
        sheet.text(4.48, y + side / 2, words, ha="right", va="center")
    for i, mask in enumerate(view.masks):
        x, mean = 4.58 + (side + gap) * i, mask.mean(0)
        follows = _agreement(mask, view.attention.mean(0))
        low, high = float(mean.min()), float(mean.max())
        sheet.panel(mean, x, rows[0], side, f"{low:.2f} to {high:.2f}", span=(low, high), over=grey)
        sheet.text(x + side / 2, 0.28, f"$x_a^{{({i})}}$", size=10, ha="center", va="bottom")
        for y, k in zip(rows[1:], (int(follows.argmax()), int(follows.argmin())), strict=True):
            sheet.panel(mask[k], x, y, side, over=grey)
            sheet.text(x + side / 2, y - 0.04, f"channel {k}", size=7, ha="center", va="bottom")
    sheet.scale(4.58 + (side + gap) * len(view.masks), rows[1], rows[2] + side - rows[1], ("0", "1"), over=128)


def _draw_skips(sheet: _Sheet, view: View, answer: Answer) -> None:
    side, step = 1.38, 1.56
    sheet.panel(view.picture.shown, 0.1, 0.5, side, view.picture.name)
    sheet.panel(view.attention.mean(0), 0.1 + step, 0.5, side, "map")
    for i, (skip, feature, passed) in enumerate(zip(answer.skips, answer.features, answer.passed, strict=True)):
        title = f"skip of block {i + 1}\n{100 * passed:.0f} % passes"
        sheet.panel(skip, 0.1 + step * (i + 2), 0.5, side, title, span=(0, float(feature.max()) or 1))
    sheet.scale(0.1 + step * (len(answer.skips) + 2) - 0.06, 0.55, side - 0.1, ("0", "largest\nwithout\na gate"))


def _draw_bars(sheet: _Sheet, picture: Picture, answer: Answer, trained: Answer, classes: Sequence[str]) -> None:
    """Probabilities as bars with the scores beside them, in class order; of many classes, the likeliest."""
    order = list(range(len(classes)))
    if len(classes) > _LARGEST_LIST:
        order = answer.probabilities.argsort(descending=True)[:_LARGEST_LIST].tolist()
    predicted = int(answer.probabilities.argmax())
    verdict = "" if picture.label is None else (", right" if predicted == picture.label else ", wrong")
    left, top, width, step = 1.25, 2.55, 2.3, 1.75 / len(order)
    sheet.text(left, top - 0.14, f"{answer.form}, a = {answer.a:g}: {classes[predicted]}{verdict}", size=9)
    sheet.text(left + width + 0.45, top - 0.14, "score", size=7, ha="right", color=_QUIET)
    sheet.grid(left, top, width, 1.75, horizontal=False)
    for row, k in enumerate(order):
        y = top + step * (row + 0.5)
        name = classes[k] + (" (true)" if k == picture.label else "")
        weight = "bold" if k == predicted else "normal"
        sheet.text(left - 0.08, y, name, ha="right", va="center_baseline", fontweight=weight)
        score = f"{float(answer.scores[k]):+.1f}"
        sheet.text(left + width + 0.45, y, score, size=7, ha="right", va="center_baseline", color=_QUIET)
    for result, looks in (
        (answer, {"facecolors": [CLASSIFICATION if k == predicted else "#bbbbbb" for k in order]}),
        (trained, {"facecolors": "none", "edgecolors": "#222222", "linewidths": 0.8}),
    ):
        sheet.bars(left, top, step, (width * result.probabilities[order]).tolist(), **looks)
    sheet.text(left + width / 2, 4.68, "probability (%); outline: as trained", ha="center")


def _draw_sweep(sheet: _Sheet, answer: Answer, trained: Answer, sweep: Tensor, classes: Sequence[str]) -> None:
    """Probabilities of the classes that are likeliest somewhere, by strength."""
    left, top, width, height = 4.85, 2.55, 2.75, 1.75
    sheet.text(left, top - 0.14, f"probability (%) by a, {answer.form}", size=9)
    sheet.grid(left, top, width, height, horizontal=True)
    likeliest = sweep.amax(0).argsort(descending=True)[: len(_LINES)].tolist()
    ends = _spread([height * float(sweep[-1, k]) for k in likeliest], gap=0.16, ceiling=height)
    x = left + width * SWEEP.numpy()
    for (colour, line), k, end in zip(_LINES, likeliest, ends, strict=False):
        sheet.ax.plot(x, top + height * (1 - sweep[:, k].numpy()), color=colour, linestyle=line, linewidth=1.6)
        sheet.text(left + width + 0.08, top + height - end, classes[k], color=colour, va="center_baseline")
    sheet.ax.plot([left + width * answer.a] * 2, [top, top + height], color=ATTENTION, linewidth=2.5, alpha=0.6)
    if answer.form == trained.form:
        sheet.ax.plot(left + width * trained.a, top, marker="v", markersize=8, color="#222222")
    sheet.text(left + width / 2, 4.68, f"a; trained at {trained.a:g}, {trained.form}", ha="center")


def _agreement(mask: Tensor, attention: Tensor) -> Tensor:
    """Correlation of each channel of (C, H, W) with a map (h, w): (C,); 0 where either is constant."""
    small = F.interpolate(attention[None, None], mask.shape[1:], mode="bilinear", antialias=True)[0, 0].flatten()
    a, b = mask.flatten(1) - mask.flatten(1).mean(1, keepdim=True), small - small.mean()
    return (a @ b) / (a.norm(dim=1) * b.norm()).clamp_min(1e-12)


def _spread(heights: list[float], gap: float, ceiling: float) -> list[float]:
    """Heights for labels, moved apart so that none overlaps another: in the same order, at least ``gap`` between two."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    moved = list(heights)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    excess = max(0.0, max(moved) - ceiling)
    return [height - excess for height in moved]
