"""The pictures behind the widgets: one figure of maps and masks, one of how an answer moves with the strength and the form."""

import io
import itertools
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from resattn.explore.inspect import SWEEP, Answer, Picture, View
from resattn.plots.style import ATTENTION, CLASSIFICATION, STYLE

_WIDTH = 8.6  # inches
_LINES = (("#222222", "-"), ("#0072b2", "--"), ("#d55e00", "-."), ("#009e73", ":"))
_LOOK = STYLE | {"font.size": 8, "axes.titlesize": 8, "axes.titlepad": 4, "xtick.major.size": 0, "ytick.major.size": 0}
_BARS = 10  # classes whose bars fit
_HEADS_IN_A_ROW = 8


@matplotlib.rc_context(_LOOK)
def map_view(view: View) -> Figure:
    """A picture, its maps, and the masks x_a(i) the attention branch makes of them, drawn over the picture.

    A mask has many channels. Shown are their mean, stretched to its own range, which the title gives, and the two channels that
    follow the map most closely and least, on the scale from 0 to 1.
    """
    heads = view.heads if len(view.heads) > 1 else ()
    rows = -(-len(heads) // _HEADS_IN_A_ROW)
    figure = Figure(figsize=(_WIDTH, 4.25 + 1.25 * rows))
    _panel(figure, view.picture.shown, 0.1, 0.5, 1.65, view.picture.name)
    if view.picture.mask is not None:
        _panel(figure, view.picture.mask[0], 1.9, 0.5, 1.65, "true object")
    made = f"mean of {len(heads)} heads" if rows else "its one head"
    _panel(figure, view.average, 0.1, 2.45, 1.65, f"[CLS] attention, {made}")
    _panel(figure, view.saliency, 1.9, 2.45, 1.65, "saliency")
    grey, side, down = view.picture.shown.mean(2), 1.06, (0.5, 1.77, 3.04)
    labels = "mean,\nstretched", "channel\nnearest\nto the map", "channel\nfarthest\nfrom it"
    for y, label in zip(down, labels, strict=True):
        figure.text(4.48 / _WIDTH, 1 - (y + side / 2) / figure.get_figheight(), label, ha="right", va="center")
    for i, (name, mask) in enumerate(view.masks.items()):
        x, mean, follows = 4.58 + 1.2 * i, mask.mean(0), _agreement(mask, view.attention.mean(0))
        span = float(mean.min()), float(mean.max())
        _panel(figure, mean, x, down[0], side, f"{name}\n{span[0]:.2f} to {span[1]:.2f}", span, grey)
        for y, channel in zip(down[1:], (int(follows.argmax()), int(follows.argmin())), strict=True):
            _panel(figure, mask[channel], x, y, side, f"channel {channel}", over=grey)
    _scale(figure, 4.58 + 1.2 * len(view.masks), down[1], down[2] + side - down[1], ("0", "1"), over=128)
    for k, head in enumerate(heads):
        row, column = divmod(k, _HEADS_IN_A_ROW)
        _panel(figure, head, 0.1 + 1.065 * column, 4.5 + 1.25 * row, 0.98, f"head {k}")
    return figure


@matplotlib.rc_context(_LOOK)
def strength_view(view: View, answer: Answer, trained: Answer, sweep: Tensor, classes: Sequence[str]) -> Figure:
    """What passes the masks at one strength and form, what the network answers, and how the answer moves with the strength.

    ``trained`` is the answer at the strength and form that the weights were trained with, drawn as outlines; ``sweep``, float
    (len(SWEEP), classes), holds the probabilities at every strength in the chosen form.
    """
    figure, side, step = Figure(figsize=(_WIDTH, 4.78)), 1.38, 1.56
    _panel(figure, view.picture.shown, 0.1, 0.5, side, view.picture.name)
    _panel(figure, view.attention.mean(0), 0.1 + step, 0.5, side, "map")
    for i, (masked, whole, passed) in enumerate(zip(answer.masked, answer.whole, answer.passed, strict=True)):
        title = f"{answer.part} of block {i + 1}\n{100 * passed:.0f} % passes"
        _panel(figure, masked, 0.1 + step * (i + 2), 0.5, side, title, (0, float(whole.max()) or 1))
    _scale(figure, 0.04 + step * (len(answer.masked) + 2), 0.55, side - 0.1, ("0", "largest\nwithout\na mask"))
    _draw_bars(_axes(figure, 1.25, 2.55, 2.3, 1.75), view.picture, answer, trained, classes)
    _draw_sweep(_axes(figure, 4.85, 2.55, 2.75, 1.75), answer, trained, sweep, classes)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, quickly: no tight box, little compression."""
    buffer = io.BytesIO()
    figure.set_dpi(100)
    FigureCanvasAgg(figure).print_png(buffer, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _draw_bars(ax: Axes, picture: Picture, answer: Answer, trained: Answer, classes: Sequence[str]) -> None:
    """Probabilities as bars with the scores beside them, in class order; of many classes, the likeliest."""
    order = range(len(classes))
    if len(classes) > _BARS:
        order = answer.probabilities.argsort(descending=True)[:_BARS].tolist()
    predicted, rows = int(answer.probabilities.argmax()), range(len(order))
    colours = [CLASSIFICATION if k == predicted else "#bbbbbb" for k in order]
    shown, outlined = (100 * said.probabilities[list(order)].numpy() for said in (answer, trained))
    ax.barh(rows, shown, 0.7, color=colours)
    ax.barh(rows, outlined, 0.7, facecolor="none", edgecolor="#222222", linewidth=0.8)
    ax.set_yticks(rows, [classes[k] + (" (true)" if k == picture.label else "") for k in order])
    for row, k in enumerate(order):
        ax.get_yticklabels()[row].set_fontweight("bold" if k == predicted else "normal")
        score = f"{float(answer.scores[k]):+.1f}"
        ax.text(120, row, score, fontsize=7, ha="right", va="center_baseline", color="#555555")
    ax.text(1.2, 1.05, "score", transform=ax.transAxes, fontsize=7, ha="right", color="#555555")
    verdict = "" if picture.label is None else (", right" if predicted == picture.label else ", wrong")
    ax.set_title(f"{answer.form}, a = {answer.a:g}: {classes[predicted]}{verdict}", loc="left", fontsize=9, pad=9)
    ax.set(xlim=(0, 100), ylim=(len(order) - 0.5, -0.5), xlabel="probability (%); outline: as trained")
    ax.spines[:].set_visible(False)
    ax.grid(axis="y", visible=False)


def _draw_sweep(ax: Axes, answer: Answer, trained: Answer, sweep: Tensor, classes: Sequence[str]) -> None:
    """Probabilities of the classes that are likeliest somewhere, by strength."""
    likeliest = sweep.amax(0).argsort(descending=True)[: len(_LINES)].tolist()
    heights = _spread([100 * float(sweep[-1, k]) for k in likeliest], gap=9, ceiling=100)
    for (colour, line), k, height in zip(_LINES, likeliest, heights, strict=False):
        ax.plot(SWEEP, 100 * sweep[:, k], color=colour, linestyle=line, linewidth=1.6)
        ax.text(1.03, height, classes[k], color=colour, va="center_baseline")
    ax.axvline(answer.a, color=ATTENTION, linewidth=2.5, alpha=0.6, clip_on=False)
    if answer.form == trained.form:
        ax.plot(trained.a, 100, marker="v", markersize=8, color="#222222", clip_on=False)
    ax.set_title(f"probability (%) by a, {answer.form}", loc="left", fontsize=9, pad=9)
    ax.set(xlim=(0, 1), ylim=(0, 100), xlabel=f"a; trained at {trained.a:g}, {trained.form}")
    ax.spines[:].set_visible(False)


def _axes(figure: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Axes at (x, y), in inches from the upper left corner."""
    whole = figure.get_figheight()
    return figure.add_axes((x / _WIDTH, 1 - (y + height) / whole, width / _WIDTH, height / whole))


def _panel(figure: Figure, values, x, y, side, title="", span=(0.0, 1.0), over=None) -> None:
    """A map (h, w) or picture (h, w, 3) in the square at (x, y); ``over`` a grey picture (H, W), 0 to 255, if given."""
    ax = _axes(figure, x, y, side, side)
    _colours(ax, values, span, over)
    ax.set_title(title)
    ax.axis("off")


def _scale(figure: Figure, x: float, y: float, height: float, labels: Sequence[str], over: float | None = None) -> None:
    """A colour bar; ``over`` the grey that lies under the colours, if they are drawn over a picture."""
    ax = _axes(figure, x, y, 0.12, height)
    _colours(ax, np.linspace(1, 0, 64)[:, None], (0, 1), None if over is None else np.full((1, 1), over))
    ax.set(xticks=[], yticks=[0, 1], yticklabels=labels, frame_on=False)
    ax.yaxis.tick_right()


def _colours(ax: Axes, values, span, over) -> None:
    place = {"extent": (0, 1, 0, 1), "aspect": "auto"}
    if over is not None:
        ax.imshow(over, cmap="gray", vmin=-100, vmax=400, **place)
    alpha = 1 if over is None else 0.65
    ax.imshow(np.asarray(values), cmap="magma", vmin=span[0], vmax=span[1], alpha=alpha, **place)


def _agreement(mask: Tensor, attention: Tensor) -> Tensor:
    """Correlation of each channel of (C, H, W) with a map (h, w): (C,); 0 where either is constant."""
    small = F.interpolate(attention[None, None], mask.shape[1:], mode="bilinear", antialias=True)[0, 0]
    a, b = (x - x.mean((-2, -1), keepdim=True) for x in (mask, small))
    return F.cosine_similarity(a.flatten(1), b.flatten()[None])


def _spread(heights: list[float], gap: float, ceiling: float) -> list[float]:
    """Heights for labels, moved apart so that none overlaps another: in the same order, at least ``gap`` between two."""
    order = np.argsort(heights, kind="stable")
    moved = np.array(heights)
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    return (moved - max(0, moved.max() - ceiling)).tolist()
