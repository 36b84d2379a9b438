"""Exploring in a notebook: controls for the pictures of :mod:`resattn.explore.views`. Where nobody watches, one picture stands for them.

``explore_maps(Explorer(data))`` and ``explore_strength(Explorer(data))`` are the doors.
"""

import html
import secrets
from pathlib import Path
from typing import Any

import ipywidgets
from IPython.display import Image, display

from resattn.explore.inspect import Explorer, Picture, View, read_picture
from resattn.explore.views import map_view, png, strength_view
from resattn.progress import interactive

_TRAINED = (
    "These weights were trained at a = {0.a:g} in the {0.form} form. Anywhere else the network is put to a use it was not trained for. "
    "It names one of its classes whatever a picture shows."
)


def explore_maps(explorer: Explorer, live: bool | None = None, *, strength: bool = False) -> View:
    """Pick a test image or upload a picture, see its maps and masks (:func:`resattn.explore.views.map_view`).

    ``live`` shows controls (True) or only the picture they start with (False); None means controls where a person watches.
    Returns what is shown at first.
    """
    if interactive() if live is None else live:
        panel = Panel(explorer, strength)
        display(panel.box)
        return panel.view
    # A saved notebook would carry a widget's state, and show nothing of it.
    view = explorer.look(explorer.pick(0))
    print("The controls want a live notebook (jupyter lab notebooks/); this is where they start.")
    display(Image(draw(explorer, view, *((explorer.config.a, explorer.config.form) if strength else ()))))
    return view


def explore_strength(explorer: Explorer, live: bool | None = None) -> View:
    """The same for :func:`resattn.explore.views.strength_view`, with a slider for ``a`` and a switch for the form besides."""
    return explore_maps(explorer, live, strength=True)


def draw(explorer: Explorer, view: View, a: float | None = None, form: str | None = None) -> bytes:
    """The PNG of a view: its maps, or the network's answer at ``a`` and ``form`` beside the one as trained."""
    if a is None or form is None:
        return png(map_view(view))
    answer, trained = explorer.answer(view, a, form), explorer.answer(view, explorer.config.a, explorer.config.form)
    return png(strength_view(view, answer, trained, explorer.sweep(view, form), explorer.data.classes))


class Panel:
    """Controls to choose a picture, with ``strength`` also a slider for ``a`` and a switch for the ``form``; below them what is drawn.

    ``box`` is all of it, to display; ``message`` says which picture was uploaded, or what is wrong with it; ``image`` is the PNG of
    ``view``.
    """

    def __init__(self, explorer: Explorer, strength: bool = False):
        config, labels = explorer.config, explorer.data.test.labels
        self.explorer, self._key = explorer, None
        members = {"all classes": range(len(labels))}
        members |= {name: (labels == k).nonzero().flatten().tolist() for k, name in enumerate(explorer.data.classes)}
        classes = [(name, tuple(indices)) for name, indices in members.items() if len(indices)]
        narrow = {"layout": {"width": "260px"}, "style": {"description_width": "60px"}}
        self.class_filter = ipywidgets.Dropdown(options=classes, description="Class", **narrow)
        self.index = ipywidgets.SelectionSlider(options=self.class_filter.value, description="Image", **narrow)
        self.random = ipywidgets.Button(description="Random", layout={"width": "90px"})
        self.upload = ipywidgets.FileUpload(accept="image/*", description="Your picture")
        self.message = ipywidgets.HTML().add_class("resattn-message")
        self.image = ipywidgets.Image(format="png", layout={"max_width": "100%"}).add_class("resattn-picture")
        controls, rows = {"index": self.index, "upload": self.upload}, []
        if strength:
            self.a = ipywidgets.FloatSlider(config.a, min=0, max=1, step=0.05, description="a", **narrow)
            self.form = ipywidgets.ToggleButtons(options=explorer.forms, value=config.form)
            controls |= {"a": self.a, "form": self.form}
            rows = [_row(self.a, self.form), ipywidgets.HTML(_TRAINED.format(config))]
        self.class_filter.observe(self._pick_class, "value")
        self.index.observe(self._forget_upload, "value")
        self.random.on_click(self._pick_any)
        errors = ipywidgets.interactive_output(self._show, controls)
        choice = _row(self.class_filter, self.index, self.random, self.upload)
        self.box = ipywidgets.VBox([choice, *rows, self.message, self.image, errors])

    def _show(self, index: int, upload: tuple[dict, ...], **strength: Any) -> None:
        if self._key != (index, upload):
            self._key, self.message.value = (index, upload), ""
            try:
                self.view = self.explorer.look(self._read(upload[0]) if upload else self.explorer.pick(index))
            except ValueError as error:
                self.message.value = f'<span role="alert" style="color: #b00020">{html.escape(str(error))}</span>'
                return
        self.image.value = draw(self.explorer, self.view, **strength)

    def _read(self, file: dict) -> Picture:
        size = min(self.explorer.data.test.images.shape[-2:])
        picture = read_picture(bytes(file["content"]), Path(file["name"]).name, size)
        self.message.value = f"{html.escape(picture.name)}: its centre square"
        return picture

    def _pick_class(self, change: dict) -> None:
        self._forget_upload()
        self.index.options = change["new"]

    def _forget_upload(self, _change: dict | None = None) -> None:
        self.upload.value = ()

    def _pick_any(self, _button: ipywidgets.Button) -> None:
        self._forget_upload()
        self.index.value = secrets.choice(self.index.options)


def _row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    return ipywidgets.HBox(widgets, layout={"flex_flow": "row wrap"})
