"""The drawing says what the network does: which masks there are in each form, on what they act, and their shapes."""

import pytest
import torch

from resattn import ResAttnNet
from resattn.config import FORMS
from resattn.plots.architecture import architecture_figure, parameter_table, stacks_figure


def words(ax):
    return [text.get_text() for text in ax.texts]


@pytest.mark.parametrize("built", ["printed", "residual"])
def test_each_form_is_drawn_with_its_masks_and_their_shapes(built):
    images, attention = torch.rand(2, 3, 32, 32), torch.rand(2, 1, 28, 28)
    net = ResAttnNet(10, form=built, image_size=64)
    drawn = dict(zip(FORMS, map(words, architecture_figure(net, images, attention).axes), strict=True))
    for form in FORMS:
        last = 3 if form == "residual" else 2
        assert [f"$m_{i}$" in drawn[form] for i in range(5)] == [i <= last for i in range(5)]
        assert f"attention block {last}" in drawn[form]
        assert f"attention block {last + 1}" not in drawn[form]
        masks = ResAttnNet(10, form=form, image_size=64).masks(attention)
        for mask in masks:
            assert "×".join(map(str, mask.shape[1:])) in drawn[form]
        assert drawn[form].count("$\\odot$") == 3
    assert sum("1-a" in text for text in drawn["printed"]) == 0
    for form, first in (("gated", 0), ("residual", 1)):
        factors = [text for text in drawn[form] if text.startswith("$1-a")]
        assert factors == [f"$1-a+a\\,m_{first + i}$" for i in range(3)]


def test_the_blocks_drawn_are_the_second_ones_in_every_form():
    (ax,) = stacks_figure(ResAttnNet(10, form="residual")).axes
    assert words(ax).count("conv 3×3 / 2, 32") == 2


def test_the_table_counts_every_parameter_once():
    net = ResAttnNet(10, form="residual", image_size=64)
    table = parameter_table(net, torch.rand(2, 3, 32, 32), torch.rand(2, 1, 28, 28))
    assert table.loc["total", "parameters"] == sum(p.numel() for p in net.parameters())
    assert table["parameters"].iloc[:-1].sum() == table.loc["total", "parameters"]
    assert table.loc["attention_blocks.2", "output"] == "64×4×4"
