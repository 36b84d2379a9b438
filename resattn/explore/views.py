"""The pictures behind the widgets: one figure of maps and masks, one of how an answer moves with the strength and the form."""

import io
from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from resattn.explore.inspect import SWEEP, Explorer, View
from resattn.plots.style import ATTENTION, CLASSIFICATION, STYLE

_WIDTH = 8.6  # inches
_LOOK = STYLE | {"font.size": 8, "axes.titlesize": 8, "axes.titlepad": 4}
_EDGES = {"left": 0.01, "right": 0.99, "wspace": 0.06, "hspace": 0.25}


@matplotlib.rc_context(_LOOK)
def map_view(view: View) -> Figure:
    """A picture, its maps, and the masks x_a(i) that the attention branch makes, drawn over the picture; dark is 0, bright 1.

    Of a mask the mean over channels, stretched to the range in its title, and the channels that follow the map most and least.
    """
    heads, grey = view.heads if len(view.heads) > 1 else (), view.pixels.float().mean(0)
    columns = 2 + len(view.masks)
    rows = 3 - (-len(heads) // columns)
    figure, height = Figure(figsize=(_WIDTH, 1.95 * rows)), 1.95 * rows
    axes = figure.subplots(rows, columns, gridspec_kw=_EDGES | {"bottom": 0.01, "top": 1 - 0.35 / height})
    _show(axes[0, 0], view.pixels.permute(1, 2, 0), view.name)
    if view.object is not None:
        _show(axes[0, 1], view.object[0], "true object")
    _show(axes[1, 0], view.average, "[CLS] attention, mean")
    _show(axes[1, 1], view.saliency, "saliency")
    _show(axes[2, 0], view.attention.mean(0), "map that makes the masks")
    for column, (name, mask) in zip(axes[:3, 2:].T, view.masks.items(), strict=True):
        mean, follows = mask.mean(0), _agreement(mask, view.attention.mean(0))
        low, high = float(mean.min()), float(mean.max())
        _show(column[0], mean, f"{name}, mean\n{low:.2f} to {high:.2f}", (low, high), grey)
        for ax, k, word in ((column[1], follows.argmax(), "nearest"), (column[2], follows.argmin(), "farthest")):
            _show(ax, mask[k], f"channel {k}, {word}", over=grey)
    for k, (ax, head) in enumerate(zip(axes[3:].flat, heads, strict=False)):
        _show(ax, head, f"head {k}")
    for ax in axes.flat:
        ax.axis("off")
    return figure


@matplotlib.rc_context(_LOOK)
def strength_view(explorer: Explorer, view: View, a: float, form: str) -> Figure:
    """What the network answers at one strength and form (outlines: at those it was trained with), and how it moves with the strength."""
    config, classes = explorer.config, explorer.data.classes
    figure = Figure(figsize=(_WIDTH, 2.6))
    _show(figure.add_axes((0, 0.52, 0.13, 0.36)), view.pixels.permute(1, 2, 0), view.name.replace(": ", "\n"))
    _show(figure.add_axes((0, 0.02, 0.13, 0.36)), view.attention.mean(0), "map")
    bars, lines = figure.add_axes((0.27, 0.18, 0.23, 0.7)), figure.add_axes((0.58, 0.18, 0.29, 0.7))
    trained = explorer.answer(view, config.a, config.form).softmax(0)
    verdict = _draw_bars(bars, explorer.answer(view, a, form), trained, view.label, classes)
    bars.set_title(f"{form}, a = {a:g}: {verdict}", loc="left", fontsize=9)
    sweep = explorer.sweep(view, form)
    likeliest = sweep.amax(0).argsort(descending=True).tolist()
    for k, line in zip(likeliest, ("-", "--", "-.", ":"), strict=False):
        lines.plot(SWEEP.numpy(), 100 * sweep[:, k].numpy(), line, label=classes[k])
    lines.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    lines.axvline(a, color=ATTENTION, linewidth=2.5, alpha=0.6)
    lines.set(xlim=(0, 1), ylim=(0, 100), xlabel=f"a; trained at {config.a:g}, {config.form}")
    lines.set_title(f"probability (%) by a, {form}", loc="left", fontsize=9)
    return figure


def png(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG, quickly: no tight box, little compression."""
    figure.savefig(buffer := io.BytesIO(), dpi=100, bbox_inches=None, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def _draw_bars(ax: Axes, scores: Tensor, trained: Tensor, label: int | None, classes: Sequence[str]) -> str:
    """Bars of the ten likeliest classes, scores beside their names; returns the predicted one and whether it is right."""
    probabilities = scores.softmax(0)
    likeliest = probabilities.topk(min(10, len(classes))).indices
    order, predicted = likeliest.sort().values, int(likeliest[0])
    names = [classes[k] + (" (true)" if k == label else "") for k in order]
    labels = [f"{name}  {score:+5.1f}" for name, score in zip(names, scores[order], strict=True)]
    colours = [CLASSIFICATION if k == predicted else "#bbbbbb" for k in order]
    ax.barh(labels, 100 * probabilities[order].numpy(), 0.7, color=colours)
    ax.barh(labels, 100 * trained[order].numpy(), 0.7, facecolor="none", edgecolor="#222222", linewidth=0.8)
    ax.set(
        xlim=(0, 100),
        ylim=(len(labels) - 0.5, -0.5),
        xlabel="probability (%); beside the name: score; outline: as trained",
    )
    ax.grid(axis="y", visible=False)
    return classes[predicted] + ("" if label is None else ", right" if predicted == label else ", wrong")


def _show(ax: Axes, values: Tensor, title: str, span: tuple[float, float] = (0, 1), over: Tensor | None = None) -> None:
    """A map (h, w) or picture (h, w, 3); ``over`` a grey picture (H, W), 0 to 255, if given."""
    square, alpha = {"extent": (0, 1, 0, 1)}, 1 if over is None else 0.65
    if over is not None:
        ax.imshow(over.numpy(), cmap="gray", vmin=-100, vmax=400, **square)
    ax.imshow(np.asarray(values), cmap="magma", vmin=span[0], vmax=span[1], alpha=alpha, **square)
    ax.set_title(title)
    ax.axis("off")


def _agreement(mask: Tensor, attention: Tensor) -> Tensor:
    """Correlation of each channel of (C, H, W) with a map (h, w): (C,); 0 where either is constant."""
    small = F.interpolate(attention[None, None], mask.shape[1:], mode="bilinear", antialias=True)[0, 0]
    a, b = (x - x.mean((-2, -1), keepdim=True) for x in (mask, small))
    return F.cosine_similarity(a.flatten(1), b.flatten()[None])
