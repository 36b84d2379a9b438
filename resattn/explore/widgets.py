"""Exploring in a notebook: controls for the pictures of :mod:`resattn.explore.views`. Where nobody watches, one picture stands for them.

``explore_maps(Explorer(data))`` and ``explore_strength(Explorer(data))`` are the doors. Every control ends in ``draw``,
which needs no browser.
"""

import html
import random
from pathlib import Path

import ipywidgets
import torch
from IPython.display import Image, display

from resattn.explore.inspect import FORMS, Explorer, Picture, View
from resattn.explore.views import map_view, png, strength_view
from resattn.progress import interactive

_EVERY_CLASS = "all classes"


def explore_maps(explorer: Explorer, live: bool | None = None) -> View:
    """Show the controls for :func:`resattn.explore.views.map_view`: pick a test image or upload a picture, see its maps and masks.

    Args:
        explorer: what to look with.
        live: controls (True) or only the picture they start with (False); None means controls where a person watches.

    Returns:
        What is shown at first.
    """
    if interactive() if live is None else live:
        return _display_panel(MapPanel(explorer))
    view = explorer.look(explorer.pick(0))
    return _display_picture(view, map_png(view))


def explore_strength(explorer: Explorer, live: bool | None = None) -> View:
    """The same for :func:`resattn.explore.views.strength_view`, with a slider for ``a`` and a switch for the form besides."""
    if interactive() if live is None else live:
        return _display_panel(StrengthPanel(explorer))
    view = explorer.look(explorer.pick(0))
    return _display_picture(view, strength_png(explorer, view, explorer.config.a, explorer.config.form))


def map_png(view: View) -> bytes:
    """The picture that :class:`MapPanel` shows."""
    return png(map_view(view))


def strength_png(explorer: Explorer, view: View, a: float, form: str) -> bytes:
    """The picture that :class:`StrengthPanel` shows: the answer at ``a`` and ``form`` beside the one as trained."""
    config = explorer.config
    answer, trained = explorer.answer(view, a, form), explorer.answer(view, config.a, config.form)
    return png(strength_view(view, answer, trained, explorer.sweep(view, form), explorer.data.classes))


class MapPanel:
    """Controls to choose a picture, and below them what is drawn of it.

    Attributes:
        box: all of it, to display. ``class_filter``, ``index``, ``random``, ``upload``: the controls. ``message``: which picture was
            uploaded, or what is wrong with it. ``image``: the PNG.
    """

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self._generator = random.Random()
        classes = [_EVERY_CLASS, *explorer.data.classes]
        narrow = {"layout": ipywidgets.Layout(width="260px"), "style": {"description_width": "60px"}}
        self.class_filter = ipywidgets.Dropdown(options=classes, description="Class", **narrow)
        self.index = ipywidgets.IntSlider(max=len(explorer.data.test) - 1, description="Image", **narrow)
        self.random = ipywidgets.Button(description="Random", layout=ipywidgets.Layout(width="90px"))
        self.upload = ipywidgets.FileUpload(accept="image/*", description="Your picture")
        self.message = ipywidgets.HTML()
        self.image = ipywidgets.Image(format="png", layout=ipywidgets.Layout(max_width="100%"))
        self.image.add_class("resattn-picture")
        self.message.add_class("resattn-message")
        self.class_filter.observe(self._class_changed, "value")
        self.index.observe(self._index_changed, "value")
        self.random.on_click(self._random_clicked)
        self.upload.observe(self._uploaded, "value")
        chooser = ipywidgets.HBox(
            [self.class_filter, self.index, self.random, self.upload], layout=ipywidgets.Layout(flex_flow="row wrap")
        )
        self.box = ipywidgets.VBox([chooser, *self._more_controls(), self.message, self.image])
        self.view = self._look(self._chosen())
        self.draw()

    def draw(self) -> None:
        """Draw the picture anew from the state of the controls."""
        self.image.value = map_png(self.view)

    def _more_controls(self) -> list[ipywidgets.Widget]:
        return []

    def _members(self) -> torch.Tensor:
        """Indices of the test images that the class filter lets through."""
        labels = self.explorer.data.test.labels
        if self.class_filter.value == _EVERY_CLASS:
            return torch.arange(len(labels))
        return (labels == self.explorer.data.classes.index(self.class_filter.value)).nonzero().squeeze(1)

    def _chosen(self) -> Picture:
        return self.explorer.pick(int(self._members()[self.index.value]))

    def _look(self, picture: Picture) -> View:
        self.message.value = "" if picture.label is not None else f"{html.escape(picture.name)}: its centre square"
        return self.explorer.look(picture)

    def _class_changed(self, change: dict) -> None:
        self.index.unobserve(self._index_changed, "value")  # one picture for the two changes
        self.index.value, self.index.max = 0, max(len(self._members()) - 1, 0)
        self.index.observe(self._index_changed, "value")
        self._index_changed(change)

    def _index_changed(self, change: dict) -> None:
        if len(self._members()):
            self.view = self._look(self._chosen())
            self.draw()
        else:
            self.message.value = f"no test image of class {html.escape(self.class_filter.value)}"

    def _random_clicked(self, button: ipywidgets.Button) -> None:
        index = self._generator.randint(0, self.index.max)
        if index == self.index.value:  # no change to observe, but an uploaded picture may be in its place
            self._index_changed({})
        self.index.value = index

    def _uploaded(self, change: dict) -> None:
        if not change["new"]:
            return
        file = change["new"][0]
        try:
            self.view = self._look(self.explorer.read(bytes(file["content"]), Path(file["name"]).name))
        except ValueError as error:
            self.message.value = f'<span role="alert" style="color: #b00020">{html.escape(str(error))}</span>'
        else:
            self.draw()
        self.upload.value = ()  # so that the same file can be chosen again


class StrengthPanel(MapPanel):
    """The same with a slider for the strength ``a`` and a switch for the ``form``; the weights stay as they were trained."""

    def draw(self) -> None:
        self.image.value = strength_png(self.explorer, self.view, self.a.value, self.form.value)

    def _more_controls(self) -> list[ipywidgets.Widget]:
        config = self.explorer.config
        self.a = ipywidgets.FloatSlider(
            value=config.a, min=0, max=1, step=0.05, description="a", style={"description_width": "60px"}
        )
        self.form = ipywidgets.ToggleButtons(options=list(FORMS), value=config.form)
        for control in (self.a, self.form):
            control.observe(lambda change: self.draw(), "value")
        note = ipywidgets.HTML(
            f"These weights were trained at a = {config.a:g} in the {config.form} form. Anywhere else the network is put to a use "
            f"it was not trained for. It names one of its classes whatever a picture shows."
        )
        return [ipywidgets.HBox([self.a, self.form], layout=ipywidgets.Layout(flex_flow="row wrap")), note]


def _display_panel(panel: MapPanel) -> View:
    display(panel.box)
    return panel.view


def _display_picture(view: View, content: bytes) -> View:
    """The picture alone, and no widget: a saved notebook would carry its state, and show nothing of it."""
    print("The controls want a live notebook (jupyter lab notebooks/); this is where they start.")
    display(Image(content))
    return view
