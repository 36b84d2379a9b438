"""Executed notebooks as web pages that need no network: nbconvert's HTML, formulas as MathML, pictures and style inside."""

import functools
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from resattn.files import atomic_write

_TABLE = "div p table thead tbody tfoot tr th td"  # the tags that an HTML output may have, which are those of pandas


@functools.cache
def templates() -> jinja2.Environment:
    """The page templates of the package; what is put into them is escaped, and a name they lack is an error."""
    loader, tidy = jinja2.PackageLoader("resattn.report"), {"trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **tidy)


def write_page(notebook: Path, target: Path) -> str:
    """Render an executed notebook to ``target``; returns its title. ValueError where the file is not a notebook."""
    import nbformat

    try:
        content = nbformat.read(notebook, as_version=4)
    except Exception as error:  # nbformat has no common ancestor for what can be wrong with a file
        raise ValueError(f"notebook {notebook} cannot be read ({type(error).__name__}: {error})") from error
    title = _prepare(content) or notebook.stem
    body, _ = _exporter().from_notebook_node(content)
    about = {"title": title, "name": notebook.stem, "body": Markup(body), "code_style": _code_style()}
    html = templates().get_template("notebook.html").render(about)
    atomic_write(target, lambda partial: partial.write_text(html, encoding="utf-8"))
    return title


def _prepare(notebook: Any) -> str:
    """Give pictures a text alternative, from which nbconvert takes it, and clean HTML outputs; returns the first heading."""
    import bleach

    headings = [""]
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings += re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)
        else:
            cell.metadata.setdefault("alt", f"Picture made by the cell above, in the part “{headings[-1]}”")
            for data in (output["data"] for output in cell.outputs if "text/html" in output.get("data", {})):
                plain = re.sub(r"<style.*?</style>", "", data["text/html"], flags=re.DOTALL)
                data["text/html"] = bleach.clean(plain, _TABLE.split(), ["class", "colspan", "rowspan"])
    return headings[min(1, len(headings) - 1)]


@functools.cache
def _exporter() -> Any:
    """nbconvert's HTML without page around it, with formulas as MathML and the static form of what widgets show."""
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
    from traitlets.config import Config

    class Renderer(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return convert(body, display="block")

        def inline_math(self, body: str) -> str:
            return convert(body)

    formats = ["text/html", "text/markdown", "image/png", "image/jpeg", "text/plain"]
    config = Config({"NbConvertBase": {"display_data_priority": formats}})
    exporter = HTMLExporter(template_name="basic", config=config)
    markdown = MarkdownWithMath(
        renderer=Renderer(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
    )
    exporter.register_filter("markdown2html", markdown.render)
    return exporter


def _code_style() -> Markup:
    """Colours of highlighted code, for light and dark."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))
    return Markup(f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}")
