"""The architecture drawn from the model itself: its layers, the shapes that hooks saw, and the three forms one above the other."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from torch import Tensor, nn

from resattn.models.resattn import FORMS, ResAttnNet
from resattn.models.stem import ResizedPatchStem
from resattn.plots.style import ATTENTION, CLASSIFICATION

_PITCH = 4.0  # distance between x(i-1) and x(i) in the drawing
_GATE = 0.95  # distance of a mask from the end of the block that it acts on
_SKIP_Y = 1.1
_LINE = "#444444"
_EQUATIONS = {
    "printed": ("Eq. 3–4", r"$x_i = \mathrm{relu}\,[\,(1+a)\,f_i(x_{i-1}) + a\,P_i(x_{i-1}\odot m_{i-1})\,]$"),
    "gated": ("the text", r"$x_i = \mathrm{relu}\,[\,f_i(x_{i-1}) + P_i(x_{i-1}\odot(1-a+a\,m_{i-1}))\,]$"),
    "residual": ("the title", r"$x_i = \mathrm{relu}\,[\,f_i(x_{i-1})\odot(1-a+a\,m_i) + P_i(x_{i-1})\,]$"),
}


def feature_shapes(net: torch.nn.Module, images: Tensor, attention: Tensor) -> dict[str, tuple[int, ...]]:
    """Shape (C, H, W) of what each named part of the network puts out, seen by hooks in one forward pass."""
    shapes, names = {}, {part: name for name, part in net.named_modules()}
    hook = lambda part, _inputs, output: shapes.update({names[part]: tuple(output.shape[1:])})  # noqa: E731
    hooks = [part.register_forward_hook(hook) for part in names]
    try:
        with torch.no_grad():
            net(images, attention)
    finally:
        for registered in hooks:
            registered.remove()
    return shapes


def parameter_table(net: ResAttnNet, images: Tensor, attention: Tensor) -> pd.DataFrame:
    """Output shape (C, H, W) and number of parameters of every part, in the order data passes them, and the total."""
    shapes, parts = feature_shapes(net, images, attention), dict(net.named_modules())
    blocks = [f"{kind}.{i}" for i in range(len(net.blocks)) for kind in ("blocks", "attention_blocks")]
    rows = []
    for name in ["stem", "attention_stem", *(name for name in blocks if name in parts), "fc"]:
        branch = "attention" if name.startswith("attention") else "classification"
        rows.append((name, branch, "×".join(map(str, shapes[name])), _count(parts[name])))
    rows.append(("total", "", "", _count(net)))
    return pd.DataFrame(rows, columns=["part", "branch", "output", "parameters"]).set_index("part")


def stacks_figure(net: ResAttnNet) -> Figure:
    """Layers of the two stems (Fig. 1) and of one block of each branch (Fig. 2)."""
    block = net.blocks[1] if len(net.blocks) > 1 else net.blocks[0]
    attention = net.attention_blocks[min(1, len(net.attention_blocks) - 1)]
    stacks = {
        "classification stem": (list(net.stem), CLASSIFICATION),
        "attention stem": (list(net.attention_stem), ATTENTION),
        "classification block 2": ([block.conv1, block.bn1, nn.ReLU(), block.conv2, block.bn2], CLASSIFICATION),
        "attention block 2": (list(attention), ATTENTION),
    }
    figure, ax = plt.subplots(figsize=(9.4, 3.7))
    tallest = max(len(layers) for layers, _ in stacks.values())
    for column, (title, (layers, colour)) in enumerate(stacks.items()):
        x = 3.3 * column
        ax.text(x, 0.7, title, ha="center", va="bottom", fontsize=10, color=colour, fontweight="bold")
        _arrow(ax, (x, 0.65), (x, 0.3))
        labels = [_describe(layer) for layer in layers]
        if isinstance(layers[0], ResizedPatchStem):
            labels.insert(0, f"resize to {layers[0].image_size}, {layers[0].mode}")
        for i, label in enumerate(labels):
            _box(ax, x, -0.75 * i, 2.7, 0.5, label, colour)
            _arrow(ax, (x, -0.75 * i - 0.27), (x, -0.75 * i - 0.48))
    _canvas(ax, (-1.6, 3.3 * (len(stacks) - 1) + 1.6), (-0.75 * tallest, 1.2))
    return figure


def architecture_figure(net: ResAttnNet, images: Tensor, attention: Tensor) -> Figure:
    """Every form of the whole network (Fig. 3), with the shape each part puts out.

    The last attention block is drawn in the residual form alone, whether or not ``net`` was built with it; what it puts out has the
    shape of the feature that it gates.
    """
    shapes = {name: "×".join(map(str, shape)) for name, shape in feature_shapes(net, images, attention).items()}
    figure, axes = plt.subplots(len(FORMS), 1, figsize=(10.8, 2.65 * len(FORMS)))
    for ax, form in zip(axes, FORMS, strict=True):
        _draw_form(ax, net, form, shapes)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.02)
    return figure


def receptive_field(layers: list[tuple[int, int]]) -> int:
    """Side of the input window one output sees, in pixels, for (kernel, stride) of each layer (Sec. 1)."""
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


def _draw_form(ax: Axes, net: ResAttnNet, form: str, shapes: dict[str, str]) -> None:
    n, on_feature = len(net.blocks), form == "residual"
    # The skip lies between the branches where the masks act on it, else on the other side.
    skip_y, mask_y, top = (_SKIP_Y, -1.5, 2.0) if on_feature else (-_SKIP_Y, -2.2, 1.3)
    end = n * _PITCH
    source, equation = _EQUATIONS[form]
    ax.text(-3.4, top - 0.25, f'form="{form}" ({source}):   {equation}', fontsize=11, va="center")
    _row(ax, [("image", -2.95), ("stem", -1.5), ("$x^{(0)}$", 0)], 0, CLASSIFICATION)
    _shape(ax, 0, -0.42 if on_feature else 0.42, shapes["stem"], CLASSIFICATION)
    for i, block in enumerate(net.blocks):
        left, right = i * _PITCH, (i + 1) * _PITCH
        gate = (right - _GATE, 0) if on_feature else (left + _GATE, skip_y)
        gating = [("$\\odot$", gate[0])] if on_feature else []
        block_at, sum_at = (f"block {i + 1}  $f_{i + 1}$", left + 1.85), (f"$x^{{({i + 1})}}$", right)
        _row(ax, [("", left), block_at, *gating, sum_at], 0, CLASSIFICATION)
        _shape(ax, right, -0.42 if on_feature else 0.42, shapes[f"blocks.{i}"], CLASSIFICATION)
        near = 0.26 if on_feature else -0.26
        ax.plot([left + 0.1, left + 0.1, right - 0.1], [near, skip_y, skip_y], color=_LINE, linewidth=1.2)
        _arrow(ax, (right - 0.1, skip_y), (right - 0.1, near))
        if not on_feature:
            _node(ax, *gate, "$\\odot$", _LINE, radius=0.2)
        if not isinstance(block.projection, nn.Identity):
            text = f"{_describe(block.projection[0], short=True)}  $P_{i + 1}$"
            _box(ax, left + 2.5, skip_y, 2.1, 0.46, text, CLASSIFICATION)
        if form == "printed":
            ax.text(right - 0.78, 0.1, r"$\times(1+a)$", ha="center", va="bottom", fontsize=9)
            ax.text(right - 0.17, -0.72, r"$\times a$", ha="right", va="center", fontsize=9)
        _arrow(ax, (gate[0], mask_y + 0.28), (gate[0], gate[1] - 0.2), ATTENTION)
        if form != "printed":
            text = f"$1-a+a\\,m_{i + on_feature}$"
            ax.text(gate[0] - 0.08, (mask_y + gate[1]) / 2, text, ha="right", va="center", fontsize=9, color=ATTENTION)
    masks = [i * _PITCH + (-_GATE if on_feature else _GATE) for i in range(n + on_feature)]
    if on_feature:
        masks[0] = 0.0  # acts on nothing
    row = [("attention map", masks[0] - 3.05), ("attention\nstem", masks[0] - 1.5), ("$m_0$", masks[0])]
    for i, x in enumerate(masks[1:], 1):
        row += [(f"attention block {i}", (masks[i - 1] + x) / 2), (f"$m_{i}$", x)]
        _shape(ax, x, mask_y - 0.42, shapes[f"blocks.{i - 1}"], ATTENTION)
    _row(ax, row, mask_y, ATTENTION)
    _shape(ax, masks[0], mask_y - 0.42, shapes["attention_stem"], ATTENTION)
    _row(ax, [("", end), ("mean pool, fc", end + 1.55)], 0, CLASSIFICATION)
    _shape(ax, end + 1.55, -0.42, f"{shapes['fc']} scores", CLASSIFICATION)
    _canvas(ax, (-3.5, end + 2.6), (top - 4.4, top))


def _row(ax: Axes, parts: list[tuple[str, float]], y: float, colour: str) -> None:
    """Parts by their text and position, joined by arrows: formulas in circles, names in boxes, inputs as they are."""
    ends = []
    for text, x in parts:
        if text.startswith("$") or not text:
            radius = 0.2 if "odot" in text else 0.28
            if text:
                _node(ax, x, y, text, _LINE if "odot" in text else colour, radius)
            ends.append((x, radius))
        elif text in ("image", "attention map"):
            ax.text(x + 0.45, y, text.replace(" ", "\n"), ha="right", va="center", fontsize=9.5)
            ends.append((x, 0.5))
        else:
            width = {"stem": 0.7, "attention\nstem": 0.7, "mean pool, fc": 0.9}.get(text, 0.8 if "f_" in text else 1.05)
            _box(ax, x, y, 2 * width, 0.62, text, colour)
            ends.append((x, width))
    for (x, half), (after, half_after) in itertools.pairwise(ends):
        _arrow(ax, (x + half, y), (after - half_after, y), colour if colour == ATTENTION else _LINE)


def _shape(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    ax.text(x, y, text, ha="center", va="bottom" if y > 0 else "top", fontsize=8.5, color=colour)


def _describe(layer: nn.Module, short: bool = False) -> str:
    if isinstance(layer, ResizedPatchStem):
        return f"conv {layer.patch}×{layer.patch} / {layer.patch}, {len(layer.weight)}"
    if isinstance(layer, nn.Conv2d):
        text = f"conv {layer.kernel_size[0]}×{layer.kernel_size[1]} / {layer.stride[0]}"
        return text if short else f"{text}, {layer.out_channels}"
    return {"BatchNorm2d": "batch norm", "ReLU": "ReLU", "Sigmoid": "sigmoid"}[type(layer).__name__]


def _box(ax: Axes, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    look = {"boxstyle": "round,pad=0.02,rounding_size=0.09", "facecolor": colour, "edgecolor": "none", "zorder": 3}
    ax.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, **look))
    ax.text(x, y, text, ha="center", va="center", fontsize=8.5, color="white", zorder=4, linespacing=1.1)


def _node(ax: Axes, x: float, y: float, text: str, colour: str, radius: float = 0.28) -> None:
    ax.add_patch(Circle((x, y), radius, facecolor="white", edgecolor=colour, linewidth=1.4, zorder=3))
    ax.text(x, y, text, ha="center", va="center", fontsize=9.5, color=colour, zorder=4)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = _LINE) -> None:
    look = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def _canvas(ax: Axes, x: tuple[float, float], y: tuple[float, float]) -> None:
    ax.set(xlim=x, ylim=y, aspect="equal")
    ax.axis("off")


def _count(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters())
