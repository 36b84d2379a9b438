"""The report in a browser, built from the committed records and figures: nothing missing, nothing cut off, light and dark."""

import json
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import HOSTILE

from resattn import paths
from resattn.report.page import build_report

from .conftest import DESKTOP, PHONE

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The folder of the report of the committed evidence."""
    out = tmp_path_factory.mktemp("report")
    return build_report(paths.RESULTS, paths.FIGURES, paths.NOTEBOOKS, out).parent


def missing_images(page):
    return page.evaluate("[...document.images].filter(img => !img.complete || !img.naturalWidth).map(img => img.alt)")


def sideways(page):
    """How many pixels the page is wider than its window."""
    return page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


def pictures_in(notebook):
    """How many outputs of an executed notebook are pictures."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def lightness(page, selector):
    red, green, blue = page.locator(selector).first.evaluate(
        "node => getComputedStyle(node).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    )
    return (red + green + blue) / 765


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_report_opens_whole(open_page, report, size, scheme):
    page = open_page((report / "index.html").as_uri(), size, scheme)
    assert page.complaints == []
    assert page.locator("figure img").count() == len({path.stem for path in paths.FIGURES.glob("*.png")})
    assert missing_images(page) == []
    assert sideways(page) <= 0
    assert (lightness(page, "body") > 0.9) == (scheme == "light")
    assert lightness(page, "figure .scroll") == 1, "figures are drawn for a white ground"


def test_wide_tables_scroll_in_their_own_frame_on_a_phone(open_page, report):
    page = open_page((report / "index.html").as_uri(), PHONE)
    frame = page.locator(".scroll:has(.table3)").first
    assert frame.evaluate("node => node.scrollWidth > node.clientWidth")
    frame.evaluate("node => node.scrollLeft = 50")
    assert frame.evaluate("node => node.scrollLeft") == 50


def test_report_prints_in_ink_on_paper_within_its_margins(open_page, report):
    page = open_page((report / "index.html").as_uri(), (680, 960), "dark")
    page.emulate_media(media="print")
    assert lightness(page, "body") == 1
    assert sideways(page) <= 0
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.parametrize("name", sorted(path.stem for path in paths.NOTEBOOKS.glob("*.ipynb")))
def test_notebooks_open_whole_from_the_report(open_page, report, name):
    page = open_page((report / "index.html").as_uri(), PHONE)
    page.locator(f'#notebooks ~ * a[href="notebooks/{name}.html"]').click()
    page.wait_for_url(f"**/{name}.html")
    assert page.complaints == []
    assert missing_images(page) == []
    assert page.locator("img").count() == pictures_in(paths.NOTEBOOKS / f"{name}.ipynb")
    assert sideways(page) <= 0
    assert "$" not in "".join(page.locator(".text_cell").all_inner_texts()), "formulas are MathML"


def test_names_that_are_tags_run_no_script_and_fetch_nothing(open_page, hostile_report):
    pages = [hostile_report / "index.html", *sorted((hostile_report / "notebooks").glob("*.html"))]
    assert len(pages) == 3
    for path in pages:
        page = open_page(path.as_uri())
        page.wait_for_timeout(200)
        assert page.complaints == []
        assert HOSTILE in page.locator("main").inner_text()
        page.locator("body").evaluate("node => node.insertAdjacentHTML('beforeend', '<img src=x onerror=alert(7)>')")
        page.wait_for_timeout(200)
        assert page.complaints, "the policy refuses and reports what the escaping let through"
        assert not any("a script said" in complaint for complaint in page.complaints)
    page = open_page(pages[0].as_uri())
    links = page.locator("a[href^='notebooks/'], a[href^='records/']").evaluate_all(
        "nodes => nodes.map(node => node.href)"
    )
    assert links
    assert all(Path(unquote(link.removeprefix("file://"))).is_file() for link in links)
