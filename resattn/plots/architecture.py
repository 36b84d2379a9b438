"""The architecture drawn from the model itself: its layers, the shapes that hooks saw, and the three forms one above the other."""

import copy
import re

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import Tensor, nn

from resattn.models.resattn import FORMS, ResAttnNet
from resattn.models.stem import ResizedPatchStem
from resattn.plots.style import ATTENTION, CLASSIFICATION

_LINE = "#444444"
_GATE = "$\\odot$"
_EQUATIONS = {
    "printed": ("Eq. 3–4", r"$x_i = \mathrm{relu}\,[\,(1+a)\,f_i(x_{i-1}) + a\,P_i(x_{i-1}\odot m_{i-1})\,]$"),
    "gated": ("the text", r"$x_i = \mathrm{relu}\,[\,f_i(x_{i-1}) + P_i(x_{i-1}\odot(1-a+a\,m_{i-1}))\,]$"),
    "residual": ("the title", r"$x_i = \mathrm{relu}\,[\,f_i(x_{i-1})\odot(1-a+a\,m_i) + P_i(x_{i-1})\,]$"),
}


def parameter_table(net: ResAttnNet, images: Tensor, attention: Tensor) -> pd.DataFrame:
    """Output shape (C, H, W) and number of parameters of every part, branch by branch, and the total."""
    shapes, count = _shapes(net, images, attention), lambda part: sum(p.numel() for p in part.parameters())
    parts = {name: part for name, part in net.named_modules() if re.fullmatch(r"fc|.*stem|.*blocks\.\d+", name)}
    rows = {name: {"output": shapes[name], "parameters": count(part)} for name, part in parts.items()}
    rows["total"] = {"output": "", "parameters": count(net)}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def stacks_figure(net: ResAttnNet) -> Figure:
    """Layers of the two stems (Fig. 1) and of the second block of each branch (Fig. 2)."""
    block = net.blocks[1]
    stacks = {
        "classification stem": (net.stem, CLASSIFICATION),
        "attention stem": (net.attention_stem, ATTENTION),
        "classification block 2": ([block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2], CLASSIFICATION),
        "attention block 2": (net.attention_blocks[1], ATTENTION),
    }
    figure, ax = plt.subplots(figsize=(9.4, 4))
    for column, (title, (layers, colour)) in enumerate(stacks.items()):
        x, y = 3.3 * column, 0.7
        ax.text(x, y, title, ha="center", va="bottom", fontsize=10, color=colour, fontweight="bold")
        for i, label in enumerate("\n".join(map(_describe, layers)).split("\n")):
            part = _part(ax, label, x, -0.8 * i, colour, width=2.8)
            _arrow(ax, (x, y), (x, -0.8 * i), part)
            y = -0.8 * i
        _arrow(ax, (x, y), (x, y - 0.53))
    _canvas(ax, (-1.6, 11.5), (-4.8, 1.2))
    return figure


def architecture_figure(net: ResAttnNet, images: Tensor, attention: Tensor) -> Figure:
    """Every form of the whole network (Fig. 3), in whichever ``net`` was built, with the shape each part puts out."""
    shapes = _shapes(net, images, attention)
    figure, axes = plt.subplots(len(FORMS), 1, figsize=(10.8, 2.65 * len(FORMS)))
    for ax, form in zip(axes, FORMS, strict=True):
        _draw_form(ax, net, form, shapes)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.02)
    return figure


def _draw_form(ax: Axes, net: ResAttnNet, form: str, shapes: dict[str, str]) -> None:
    on_feature = form == "residual"
    # The skips lie between the branches where the masks act on them, else on the other side.
    skip_y, mask_y, shape_y, top = (1.1, -1.5, -0.42, 2.0) if on_feature else (-1.1, -2.2, 0.42, 1.3)
    gate_y = 0 if on_feature else skip_y
    mask_x = 0 if on_feature else 0.95
    features = [("stem", -1.5, ""), ("$x^{(0)}$", 0, shapes["stem"])]  # text, x, shape
    masks = [("attention\nstem", mask_x - 1.5, ""), ("$m_0$", mask_x, shapes["attention_stem"])]
    for i, block in enumerate(net.blocks):
        left, right, shape = 4 * i, 4 * i + 4, shapes[f"blocks.{i}"]
        gate_x = right - 0.95 if on_feature else left + 0.95
        gate = [(_GATE, gate_x, "")] if on_feature else []
        features += [(f"block {i + 1}  $f_{i + 1}$", left + 1.6, ""), *gate, (f"$x^{{({i + 1})}}$", right, shape)]
        if on_feature or i + 1 < len(net.blocks):  # nothing looks at the mask after the last skip
            before, mask_x = mask_x, gate_x if on_feature else right + 0.95
            masks += [(f"attention block {i + 1}", (before + mask_x) / 2, ""), (f"$m_{i + 1}$", mask_x, shape)]
        ax.plot([left + 0.1, left + 0.1, right - 0.1], [0, skip_y, skip_y], color=_LINE, linewidth=1.2)
        _arrow(ax, (right - 0.1, skip_y), (right - 0.1, skip_y / 4))
        if not on_feature:
            _part(ax, _GATE, gate_x, skip_y)
        if not isinstance(block.projection, nn.Identity):
            convolution, _, _channels = _describe(block.projection[0]).partition(",")
            _part(ax, f"{convolution}  $P_{i + 1}$", left + 2.5, skip_y, CLASSIFICATION)
        _arrow(ax, (gate_x, mask_y), (gate_x, gate_y - 0.2), colour=ATTENTION)
        if form == "printed":
            ax.text(right - 0.78, 0.1, r"$\times(1+a)$", ha="center", va="bottom", fontsize=9)
            ax.text(right - 0.17, -0.72, r"$\times a$", ha="right", va="center", fontsize=9)
        else:
            factor, y = f"$1-a+a\\,m_{i + on_feature}$", (mask_y + gate_y) / 2
            ax.text(gate_x - 0.08, y, factor, ha="right", va="center", fontsize=9, color=ATTENTION)
    features.append(("mean pool, fc", right + 1.55, f"{shapes['fc']} scores"))
    _row(ax, "image", features, 0, CLASSIFICATION, shape_y)
    _row(ax, "attention\nmap", masks, mask_y, ATTENTION, -0.42)
    source, equation = _EQUATIONS[form]
    ax.text(-3.4, top - 0.25, f'form="{form}" ({source}):   {equation}', fontsize=11, va="center")
    _canvas(ax, (-3.5, right + 2.6), (top - 4.4, top))


def _row(ax: Axes, given: str, parts: list[tuple[str, float, str]], y: float, colour: str, shape_y: float) -> None:
    """Parts by text, x and output shape, joined by arrows from what is given."""
    before = parts[0][1] - 1
    ax.text(before - 0.05, y, given, ha="right", va="center", fontsize=9.5)
    for text, x, shape in parts:
        part = _part(ax, text, x, y, colour)
        _arrow(ax, (before, y), (x, y), part, ATTENTION if colour == ATTENTION else _LINE)
        ax.text(x, y + shape_y, shape, ha="center", va="bottom" if shape_y > 0 else "top", fontsize=8.5, color=colour)
        before = x


def _part(ax: Axes, text: str, x: float, y: float, colour: str = _LINE, width: float | None = None) -> FancyBboxPatch:
    """A formula in a white circle, or a name in a filled box as wide as its longest line unless ``width`` says."""
    if text.startswith("$"):
        pen = _LINE if text == _GATE else colour
        width = height = 0.4 if text == _GATE else 0.56
        look = {"boxstyle": "circle,pad=0", "facecolor": "white", "edgecolor": pen, "linewidth": 1.4}
    else:
        pen, height = "white", 0.54
        width = width or 0.6 + 0.085 * max(map(len, text.split("\n")))
        look = {"boxstyle": "round,pad=0,rounding_size=0.09", "facecolor": colour, "edgecolor": "none"}
    part = ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, zorder=3, **look))
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color=pen, zorder=4, linespacing=1.1)
    return part


def _arrow(ax: Axes, start: tuple, end: tuple, part: FancyBboxPatch | None = None, colour: str = _LINE) -> None:
    """From a point, which may lie under a part, to a point or to the edge of ``part``."""
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0, "patchB": part}
    ax.annotate("", end, start, arrowprops=look, zorder=2)


def _describe(layer: nn.Module) -> str:
    if isinstance(layer, ResizedPatchStem):
        convolution = f"conv {layer.patch}×{layer.patch} / {layer.patch}, {len(layer.weight)}"
        return f"resize to {layer.image_size}, {layer.mode}\n{convolution}"
    if isinstance(layer, nn.Conv2d):
        return f"conv {layer.kernel_size[0]}×{layer.kernel_size[1]} / {layer.stride[0]}, {layer.out_channels}"
    return {"BatchNorm2d": "batch norm", "ReLU": "ReLU", "Sigmoid": "sigmoid"}[type(layer).__name__]


def _shapes(net: nn.Module, images: Tensor, attention: Tensor) -> dict[str, str]:
    """Shape of what each named part of the network puts out, without the batch, seen by hooks in one forward pass."""
    net, shapes = copy.deepcopy(net), {}  # the hooks go with the copy
    for name, part in net.named_modules():
        part.register_forward_hook(lambda _part, _given, output, name=name: shapes.update({name: output.shape[1:]}))
    with torch.no_grad():
        net(images, attention)
    return {name: "×".join(map(str, shape)) for name, shape in shapes.items()}


def _canvas(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")
