"""The report says what the records say, and nothing else: one's own runs beside the published ones, figures, notebooks, links."""

import json
import os
import re
from html import unescape
from html.parser import HTMLParser

import nbformat
import pytest

from resattn import paths
from resattn.__main__ import main
from resattn.analysis.claims import claim_table
from resattn.analysis.records import NOT_MEASURED, load_records
from resattn.analysis.tables import accuracy_table, table3
from resattn.plots.results import result_figures
from resattn.plots.style import save_figure
from resattn.report.captions import CAPTIONS, caption_of
from resattn.report.page import build_report, newest_records
from resattn.report.pages import write_page

BASE = {"dataset": "cifar10", "model": "resnet8"}
GATED = {"dataset": "cifar10", "form": "gated", "a": 1.0, "source": "saliency"}


class Page(HTMLParser):
    """What a page links to, its pictures, its anchors, and the text of each section by the id of its heading."""

    def __init__(self, path):
        super().__init__()
        self.links, self.sources, self.images, self.ids, self.tags = [], [], [], [], []
        self.attributes = set()
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.attributes |= attributes.keys()
        self.tags.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag in ("a", "link"):
            self.links += [attributes["href"]] if "href" in attributes else []
        self.sources += [attributes["src"]] if "src" in attributes else []
        self.images += [attributes] if tag == "img" else []

    def section(self, name):
        """The text of a section, tags taken out."""
        html = re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', self.html, re.DOTALL)[1]
        return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())

    def rows(self, name):
        """The cells of every table row of a section, as text."""
        html = re.search(rf'<section aria-labelledby="{name}">(.*?)</section>', self.html, re.DOTALL)[1]
        rows = (re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in re.findall(r"<tr.*?</tr>", html, re.DOTALL))
        return [[unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row] for row in rows]


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty folder in the place of the published records."""
    monkeypatch.setattr(paths, "RESULTS", tmp_path / "results")
    return paths.RESULTS


@pytest.fixture
def build(tmp_path, results):
    """Write the report of ``tmp_path / "records"`` and read it."""

    def build(records=tmp_path / "records", figures=tmp_path / "figures", notebooks=tmp_path / "notebooks"):
        return Page(build_report(records, figures, notebooks, tmp_path / "out"))

    return build


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return build_report(paths.RESULTS, paths.FIGURES, paths.NOTEBOOKS, out)


def test_committed_evidence_is_that_of_the_shared_tables(committed):
    page, records = Page(committed), load_records(paths.RESULTS)
    shown = page.rows("table3")
    for preset in ("reduced", "short", "demo"):
        expected = table3(records, preset).reset_index()
        rows = [list(expected.columns), *expected.to_numpy().tolist()]
        assert rows == shown[: len(rows)]
        shown = shown[len(rows) :]
    assert shown == []
    claims = claim_table()[["claim", "difference", "verdict", "reported"]]
    judged = [(*row, "")[:4] for row in page.rows("claims") if row[0] != "claim"]
    assert sorted(judged) == sorted(map(tuple, claims.to_numpy()))
    run = page.rows("run")[1:]
    assert [row[1:3] for row in run] == accuracy_table(records)[["name", "text"]].to_numpy().tolist()


def test_page_loads_nothing_and_all_links_lead_somewhere(committed):
    page = Page(committed)
    assert "script" not in page.tags
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert len(page.ids) == len(set(page.ids))
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert set(anchors) <= set(page.ids)
    files = [link for link in page.links if not link.startswith(("#", "data:"))]
    assert len(files) > 40
    assert [file for file in files if not (committed.parent / file).is_file()] == []
    assert {path.name for path in paths.RESULTS.rglob("*.json")} == {
        path.name for path in (committed.parent / "records").rglob("*.json")
    }


def test_every_committed_figure_is_shown_with_a_caption(committed):
    page = Page(committed)
    names = {path.stem for path in paths.FIGURES.iterdir()}
    assert [name for name in names if caption_of(name)[0] == len(CAPTIONS)] == [], "add a caption to CAPTIONS"
    assert names <= set(page.ids)
    assert len(page.images) == len(names)
    assert all(image["alt"] for image in page.images)


def test_same_records_same_page(committed, tmp_path):
    again = build_report(paths.RESULTS, paths.FIGURES, paths.NOTEBOOKS, tmp_path)
    assert again.read_bytes() == committed.read_bytes()


def test_own_runs_stand_beside_the_published_ones_and_what_nobody_ran_is_left_out(
    tmp_path, build, make_record, results
):
    for seed in range(3):
        make_record(results, 0.50 + seed / 100, **BASE, seed=seed, epochs=8)
        make_record(results, 0.55 + seed / 90, **GATED, seed=seed, epochs=8)
        make_record(results / "controls", 0.5, **GATED | {"source": "uniform"}, seed=seed, epochs=8)
    make_record(tmp_path / "records", 0.4, **BASE, epochs=8)
    make_record(tmp_path / "records", 0.5, **GATED, epochs=8)
    page = build()
    rows = [row[:3] for row in page.rows("claims")]
    first = rows.index(["gated a=1, saliency − ResNet8", "your runs", "+10.00 (1)"])
    assert rows[first + 1][:2] == ["gated a=1, saliency − ResNet8", "published"]
    assert rows[first + 1][2].startswith("+5.11 ± ")
    assert ["gated a=1: saliency − uniform", "published"] in [row[:2] for row in rows]
    assert NOT_MEASURED not in page.section("claims")
    settings = "224 pixels, 8 epochs, batch 128, learning rate 0.2, cosine schedule"
    assert f"cifar10, {settings}" in page.section("claims")
    assert page.rows("run")[1:] == [
        ["cifar10", "ResNet8", "40.00 (1)", settings],
        ["cifar10", "gated a=1, saliency", "50.00 (1)", settings],
    ]
    assert "2 training runs of 2 networks and settings, 2 s of training, on test." in page.section("run")
    assert "table3" not in page.ids, "8 epochs are no protocol of Table 3"
    assert 'class="own"' in page.html


def test_paper_settings_fill_table3_and_own_numbers_stand_beside_the_published(tmp_path, build, make_record, results):
    make_record(results, 0.80, **BASE, epochs=100)
    make_record(tmp_path / "records", 0.83, **BASE, epochs=100)
    for seed in range(3):
        make_record(tmp_path / "records", 0.5, **BASE, seed=seed, epochs=8)
    rows = build().rows("table3")
    assert rows[0] == ["network", "cifar10 (paper)", "cifar10 (ours)"]
    assert rows[1] == ["ResNet8", "83.3", "83.00 (1)"], "one's own come first"
    assert ["ResNet8", "83.3", "80.00 (1)"] in rows[2:]
    assert ["gated a=1", "87.0", NOT_MEASURED] in rows


def test_nothing_run_yet_is_said(build):
    page = build()
    assert "No run has left a record here yet" in page.section("run")
    assert not {"table3", "claims", "figures", "records"} & set(page.ids)


def test_names_are_escaped(tmp_path, build, make_record):
    path = make_record(tmp_path / "records", 0.5, **BASE)
    record = json.loads(path.read_text())
    record["environment"]["device"] = "<b>bold & co</b>"
    path.write_text(json.dumps(record))
    assert "&lt;b&gt;bold &amp; co&lt;/b&gt;" in build().html


def test_no_name_becomes_a_tag_and_no_page_may_run_a_script(hostile_report):
    pages = [Page(path) for path in (hostile_report / "index.html", *(hostile_report / "notebooks").glob("*.html"))]
    assert len(pages) == 3
    for page in pages:
        assert not {"script", "iframe"} & set(page.tags)
        assert not any(name.startswith("on") for name in page.attributes)
        assert not any("javascript:" in link for link in page.links)
        assert all(source.startswith("data:image/") for source in page.sources)
        assert "q&lt;img src=x onerror=alert(1)&gt;" in page.html
        assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:;" in page.html


def test_figures_of_odd_data_sets_stay_in_their_folder_and_apart(tmp_path, build, make_record):
    odd = ["../../../evil", "photos.v1", "photos.v2", "cash$1$_{"]
    for dataset in odd:
        make_record(tmp_path / "records", 0.5, **BASE | {"dataset": dataset})
    figures = tmp_path / "a/b/c/figures"
    for name, figure in result_figures(load_records(tmp_path / "records")).items():
        assert {path.parent for path in save_figure(figure, figures / name)} == {figures}
        assert (figures / name).resolve().parent == figures.resolve()
    assert len(list(figures.iterdir())) == 2 * 2 * len(odd)
    assert len(build(figures=figures).images) == 2 * len(odd)


def test_figures_without_a_caption_come_last(tmp_path, build):
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("aaa.svg", "scaling.svg", "blocks.svg", "blocks.png"):
        (figures / name).write_bytes(b"picture")
    page = build()
    assert [name for name in page.ids if name in ("aaa", "scaling", "blocks")] == ["blocks", "scaling", "aaa"]
    assert [image["alt"] for image in page.images] == ["Stems and blocks", "What a training step costs", "aaa"]


def test_damaged_input_is_named(tmp_path, build):
    (tmp_path / "records").mkdir()
    (tmp_path / "records/bad.json").write_text("{}")
    with pytest.raises(ValueError, match=r"bad\.json is not one that training wrote"):
        build()
    (tmp_path / "records/bad.json").unlink()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks/bad.ipynb").write_text("{")
    with pytest.raises(ValueError, match=r"bad\.ipynb cannot be read"):
        build()
    assert not (tmp_path / "out/index.html").exists()


def test_command_line(tmp_path, capsys, make_record, results):
    make_record(tmp_path / "records", 0.5, **BASE)
    assert main(["report", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/out/index.html\n"
    (tmp_path / "records/bad.json").write_text("{}")
    assert main(["report", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 2
    assert "bad.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--records", str(tmp_path / "nowhere")])
    assert "--records: must be a folder that exists" in capsys.readouterr().err


def test_without_records_named_the_profile_run_last_counts_else_the_committed_ones(make_record):
    assert newest_records() == paths.RESULTS
    make_record(paths.RUNS / "paper/records", 0.5, **BASE)
    assert newest_records() == paths.RUNS / "paper/records"
    os.utime(make_record(paths.RUNS / "controls/records", 0.5, **BASE), (4e9, 4e9))
    assert newest_records() == paths.RUNS / "controls/records"


def test_notebook_page_is_offline_and_keeps_everything(tmp_path):
    cells = [
        nbformat.v4.new_markdown_cell("# A title\n\nwith $x_{i-1} \\odot m$ and\n$$\\frac{a}{b}$$"),
        nbformat.v4.new_code_cell(
            "print('a < b')",
            execution_count=1,
            outputs=[
                nbformat.v4.new_output("stream", text="a < b\n"),
                nbformat.v4.new_output(
                    "display_data",
                    {"image/png": "aGVsbG8=", "text/plain": "<Figure>", "application/vnd.jupyter.widget-view+json": {}},
                ),
            ],
        ),
    ]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "03-a.ipynb")
    assert write_page(tmp_path / "03-a.ipynb", tmp_path / "out/a.html") == "A title"
    page = Page(tmp_path / "out/a.html")
    assert "script" not in page.tags
    assert page.tags.count("math") == 2
    assert "$" not in page.html
    assert [image["src"] for image in page.images] == ["data:image/png;base64,aGVsbG8="]
    assert page.images[0]["alt"] == "Picture made by the cell above, in the part “A title”"
    assert "a &lt; b" in page.html
    assert [link for link in page.links if not link.startswith("data:")] == ["../index.html"]
