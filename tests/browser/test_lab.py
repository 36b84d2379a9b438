"""JupyterLab as a reader uses it: it starts, notebook 01 runs from the menu, and a moved widget changes the picture."""

import re

import nbformat
import pytest
from PIL import Image

from resattn import paths

pytestmark = [pytest.mark.browser, pytest.mark.slow]
NOTEBOOK = "01_attention_maps.ipynb"


def code_of(name):
    return [cell for cell in nbformat.read(paths.NOTEBOOKS / name, as_version=4).cells if cell.cell_type == "code"]


def test_notebook_01_runs_all_cells_without_error(ran_notebook):
    page = ran_notebook(NOTEBOOK)
    errors = page.locator('.jp-Notebook [data-mime-type="application/vnd.jupyter.error"]')
    assert errors.all_inner_texts() == []
    prompts = page.locator(".jp-Notebook .jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert [re.sub(r"\D", "", text) for text in prompts] == [str(n + 1) for n in range(len(code_of(NOTEBOOK)))]
    assert page.locator(".jp-OutputArea-output img").count() >= 3, "the notebook shows pictures"


def test_a_moved_widget_changes_the_picture(ran_notebook):
    page = ran_notebook(NOTEBOOK)
    widgets = page.locator(".jp-OutputArea-output:has(.jupyter-widgets)").filter(has=page.locator("img")).first
    widgets.scroll_into_view_if_needed()
    before = pictures(widgets)
    choice = widgets.locator(".widget-dropdown select, .widget-slider .noUi-handle").first
    if choice.evaluate("element => element.tagName") == "SELECT":
        choice.select_option(
            index=(choice.evaluate("element => element.selectedIndex") + 1) % choice.locator("option").count()
        )
    else:
        choice.press("ArrowRight")
    handle = widgets.element_handle()
    page.wait_for_function(f"([node, before]) => ({PICTURES})(node) !== before", arg=[handle, before], timeout=15_000)
    assert pictures(widgets) != before


def test_an_uploaded_picture_takes_the_place_of_the_chosen_one(ran_notebook, tmp_path):
    page = ran_notebook(NOTEBOOK)
    widgets = page.locator(".jp-OutputArea-output:has(.jupyter-widgets)").filter(has=page.locator("img")).first
    file = tmp_path / "square.png"
    picture = Image.new("RGB", (90, 60), "darkgreen")
    picture.paste("orange", (20, 15, 50, 45))
    picture.save(file)
    before, handle = pictures(widgets), widgets.element_handle()
    with page.expect_file_chooser() as chooser:
        widgets.locator("button", has_text="Your picture").click()
    chooser.value.set_files(file)
    page.wait_for_function(f"([node, before]) => ({PICTURES})(node) !== before", arg=[handle, before], timeout=15_000)
    widgets.get_by_text("square.png").wait_for(timeout=15_000)
    (tmp_path / "words.png").write_text("not a picture")
    before = pictures(widgets)
    with page.expect_file_chooser() as chooser:
        widgets.locator("button", has_text="Your picture").click()
    chooser.value.set_files(tmp_path / "words.png")
    widgets.get_by_text("words.png").wait_for(timeout=15_000)
    assert pictures(widgets) == before, "the last picture stays where a file is none"


# All pictures of a node, drawn small and read back: a blob's address may change where its picture does not.
PICTURES = """node => [...node.querySelectorAll('img')].map(img => {
    const canvas = Object.assign(document.createElement('canvas'), {width: 64, height: 64});
    if (!img.complete || !img.naturalWidth) return '';
    canvas.getContext('2d').drawImage(img, 0, 0, 64, 64);
    return canvas.toDataURL();
}).join()"""


def pictures(node):
    return node.evaluate(PICTURES)
