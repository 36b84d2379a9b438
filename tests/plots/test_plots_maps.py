"""Pictures of maps and masks carry the right names."""

import torch
from matplotlib.text import Text

from resattn.plots.maps import image_grid


def test_each_row_of_a_grid_has_its_name_and_a_picture_for_each_image():
    images, maps = torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.rand(2, 1, 4, 4)
    figure = image_grid(images, {"one": maps, "two": maps / 2})
    assert {"image", "one", "two"} <= {text.get_text() for text in figure.findobj(Text)}
    shown = [torch.tensor(ax.images[0].get_array()) for ax in figure.axes]
    assert len(shown) == 6
    torch.testing.assert_close(torch.stack(shown[2:]), torch.cat([maps, maps / 2])[:, 0])
