"""Exploring in a notebook: controls for the pictures of :mod:`resattn.explore.views`; where nobody watches, one picture instead."""

import secrets
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import Image, display

from resattn.explore.inspect import Explorer, View, read_picture
from resattn.explore.views import map_view, png, strength_view
from resattn.progress import interactive


def explore_maps(explorer: Explorer, *, strength: bool = False) -> View:
    """Pick a test image or upload a picture, see its maps and masks (:func:`resattn.explore.views.map_view`).

    Shows controls where a person watches, else only the picture they start with. Returns what is shown at first.
    """
    if interactive():
        panel = Panel(explorer, strength)
        display(panel.box)
        return panel.view
    # A saved notebook would carry a widget's state, and show nothing of it.
    view = explorer.pick(0)
    print("The controls need a live notebook (jupyter lab notebooks/); this picture shows their initial state.")
    trained = {"a": explorer.config.a, "form": explorer.config.form}
    display(Image(draw(explorer, view, **trained if strength else {})))
    return view


def explore_strength(explorer: Explorer) -> View:
    """The same for :func:`resattn.explore.views.strength_view`, with a slider for ``a`` and a switch for the form besides."""
    return explore_maps(explorer, strength=True)


def draw(explorer: Explorer, view: View, **strength: Any) -> bytes:
    """The PNG of a view: its maps, or the network's answer at ``a`` and ``form``."""
    return png(strength_view(explorer, view, **strength) if strength else map_view(view))


class Panel:
    """``box``: controls to choose a picture, with ``strength`` also ``a`` and the ``form``; a line on what is shown, or what is wrong
    with an upload; and ``image``, the PNG of ``view``."""

    def __init__(self, explorer: Explorer, strength: bool = False):
        narrow = {"layout": {"width": "260px"}, "style": {"description_width": "60px"}}
        self.explorer, self._key, labels = explorer, None, explorer.data.test.labels
        members = {"all classes": range(len(labels))}
        members |= {name: (labels == k).nonzero().flatten().tolist() for k, name in enumerate(explorer.data.classes)}
        classes = [(name, tuple(indices)) for name, indices in members.items() if len(indices)]
        self.class_filter = ipywidgets.Dropdown(options=classes, description="Class", **narrow)
        self.index = ipywidgets.SelectionSlider(options=self.class_filter.value, description="Image", **narrow)
        self.random = ipywidgets.Button(description="Random", layout={"width": "90px"})
        self.upload = ipywidgets.FileUpload(accept="image/*", description="Your picture")
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"})
        controls = {"index": self.index, "upload": self.upload}
        if strength:
            self.a = ipywidgets.FloatSlider(explorer.config.a, min=0, max=1, step=0.05, description="a", **narrow)
            self.form = ipywidgets.ToggleButtons(options=explorer.forms, value=explorer.config.form)
            controls |= {"a": self.a, "form": self.form}
        self.class_filter.observe(self._pick_class, "value")
        self.index.observe(self._forget_upload, "value")
        self.random.on_click(self._pick_any)
        said = ipywidgets.interactive_output(self._show, controls)
        shown = [self.class_filter, self.random, *controls.values()]
        self.box = ipywidgets.VBox([ipywidgets.HBox(shown, layout={"flex_flow": "row wrap"}), said, self.image])

    def _show(self, index: int, upload: tuple[dict, ...], **strength: Any) -> None:
        if self._key != (index, upload):
            self._key = index, upload
            try:
                self.view = self._look(**upload[0]) if upload else self.explorer.pick(index)
            except ValueError as error:
                print(error)
                return
        print(self.view.name)
        self.image.value = draw(self.explorer, self.view, **strength)

    def _look(self, name: str, content: memoryview, **_about: Any) -> View:
        name, size = Path(name).name, min(self.explorer.data.test.images.shape[-2:])
        return self.explorer.look(read_picture(bytes(content), name, size), name)

    def _pick_class(self, change: dict) -> None:
        self._forget_upload()
        self.index.options = change["new"]

    def _forget_upload(self, _change: dict | None = None) -> None:
        self.upload.value = ()

    def _pick_any(self, _button: ipywidgets.Button) -> None:
        self._forget_upload()
        self.index.value = secrets.choice(self.index.options)
