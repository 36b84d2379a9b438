"""Pictures of maps and masks carry the right names."""

import torch
from matplotlib.text import Text

from resattn.plots.maps import image_grid, masks_figure


def words(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_masks_are_numbered_from_the_first_that_acts():
    image, attention = torch.zeros(3, 8, 8, dtype=torch.uint8), torch.rand(1, 8, 8)
    masks = [torch.rand(8, 4, 4)] * 3
    for first in (0, 1):
        named = [word for word in words(masks_figure(image, attention, masks, first=first)) if word.startswith("$x_a")]
        assert named == [f"$x_a^{{({first + i})}}$" for i in range(3)]


def test_each_row_of_a_grid_has_its_name_and_a_picture_for_each_image():
    images, maps = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.rand(2, 1, 4, 4)
    figure = image_grid(images, {"one": maps, "two": maps}, overlay=True)
    assert {"image", "one", "two"} <= set(words(figure))
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 2, 2, 2, 2]
