"""Executed notebooks as web pages that need no network: nbconvert's HTML, formulas as MathML, pictures and style inside."""

import functools
import re
from pathlib import Path

import jinja2
from markupsafe import Markup

from resattn.files import atomic_write

_TAGS = (
    "a b blockquote br code dd del div dl dt em h1 h2 h3 h4 h5 h6 hr i img li ol p pre s small span strong sub sup table tbody td tfoot th "
    "thead tr ul math menclose mfrac mi mmultiscripts mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable "
    "mtd mtext mtr munder munderover none semantics"
)
_ATTRIBUTES = (
    "accent align alt class colspan columnalign display dir fence form height id largeop linethickness lspace mathvariant maxsize minsize "
    "movablelimits rowspan rspace scope separator stretchy symmetric tabindex title width xmlns"
)
_CODE_STYLES = ("xcode", "github-dark")  # of Pygments: on light, on dark


@functools.cache
def templates() -> jinja2.Environment:
    """The page templates of the package; what is put into them is escaped, and a name they lack is an error."""
    loader, tidy = jinja2.PackageLoader("resattn.report"), {"trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, **tidy)


def notebook_title(path: Path | str) -> str:
    """The first heading of a notebook, or its file's name where it has none; ValueError where the file is not a notebook."""
    text = "\n".join(cell.source for cell in _read(path).cells if cell.cell_type == "markdown")
    heading = re.search(r"^# +(.+)$", text, re.MULTILINE)
    return heading[1] if heading else Path(path).stem


def write_page(notebook: Path | str, target: Path, back: str = "../index.html") -> Path:
    """Render an executed notebook to ``target``, with a link ``back``; ValueError where the file is not a notebook."""
    notebook, content = Path(notebook), _read(notebook)
    _describe_pictures(content)
    body, _ = _exporter().from_notebook_node(content)
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.DOTALL)  # pandas' own, for each table
    about = {"title": notebook_title(notebook), "name": notebook.stem, "back": back}
    about |= {"body": Markup(_cleaner().clean(body)), "code_style": Markup(_code_style())}
    html = templates().get_template("notebook.html").render(about)
    return atomic_write(target, lambda partial: partial.write_text(html, encoding="utf-8"))


def _read(path: Path | str):
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat has no common ancestor for what can be wrong with a file
        raise ValueError(f"notebook {path} cannot be read ({type(error).__name__}: {error})") from error


def _describe_pictures(notebook) -> None:
    """Pictures get a text alternative: nbconvert writes the one it finds in a cell's metadata."""
    section = "the notebook"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE)
            section = headings[-1] if headings else section
        else:
            cell.metadata.setdefault("alt", f"Picture made by the cell above, in the part “{section}”")


@functools.cache
def _exporter():
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
    markdown = MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True))
    exporter.register_filter("markdown2html", markdown.render)
    return exporter


@functools.cache
def _cleaner():
    """Keeps what notebooks and nbconvert need; other tags are shown as text, and pictures come from the page itself."""
    from bleach.sanitizer import Cleaner

    def allowed(tag: str, name: str, value: str) -> bool:
        if name in ("src", "href"):
            return value.startswith("data:image/") if tag == "img" else tag == "a" and name == "href"
        return name in _ATTRIBUTES.split()

    return Cleaner(tags=set(_TAGS.split()), attributes=allowed, protocols={"http", "https", "mailto", "data"})


@functools.cache
def _code_style() -> str:
    """Colours of highlighted code, for light and dark."""
    from pygments.formatters import HtmlFormatter

    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in _CODE_STYLES)
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}"
