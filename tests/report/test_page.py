"""The report says what the records say, and nothing else: tables, figures, links, and what is not measured."""

import json
import re
from html import unescape
from html.parser import HTMLParser
from math import isnan

import nbformat
import pytest

from resattn import paths
from resattn.__main__ import main
from resattn.analysis.claims import claim_table
from resattn.analysis.records import load_records, paired_differences, table3
from resattn.config import TrainConfig
from resattn.plots.captions import caption_of
from resattn.plots.results import result_figures, save_figure
from resattn.report.page import build_report, newest_records
from resattn.report.pages import notebook_title, write_page
from resattn.report.summary import facts_of, groups_of, signed

BASE = {"dataset": "cifar10", "model": "resnet8"}
GATED = {"dataset": "cifar10", "form": "gated", "a": 1.0, "source": "saliency"}


def write_record(folder, test_acc, environment=None, **settings):
    config = TrainConfig(**settings)
    history = [{"train_loss": 1.0, "val_loss": 1.0, "val_acc": 0.5}]
    record = {
        "config": config.identity(),
        "metrics": {"test_acc": test_acc, "test_acc_at_best_val": test_acc, "epochs": history},
        "parameters": 78378,
        "environment": {"seconds": 90.0, "device": "a processor"} | (environment or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{config.slug}-{config.heads}.json"
    path.write_text(json.dumps(record))
    return path


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


@pytest.fixture
def build(tmp_path):
    """Write the report of ``tmp_path / "records"`` and read it."""

    def build(figures=tmp_path / "figures", notebooks=tmp_path / "notebooks"):
        return Page(build_report(tmp_path / "records", figures, notebooks, tmp_path / "out"))

    return build


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    return build_report(paths.RESULTS, paths.FIGURES, paths.NOTEBOOKS, out)


def test_committed_evidence_table3_cell_by_cell(committed):
    rows = re.findall(
        r"<tr>(.*?)</tr>", Page(committed).html.split('class="table3"')[1].split("</table>")[0], re.DOTALL
    )[2:]
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    expected = table3(load_records(paths.RESULTS))
    assert cells == [[index, *row] for index, row in zip(expected.index, expected.to_numpy().tolist(), strict=True)]


def test_committed_evidence_every_difference(committed):
    text = Page(committed).section("differences")
    rows = paired_differences(load_records(paths.RESULTS))
    assert len(rows)
    for row in rows.itertuples():
        half = "" if isnan(row.half) else f" ± {row.half:.2f}"
        assert f"{row.variant} {signed(row.mean)}{half} {row.seeds}" in text


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


def test_every_committed_figure_is_shown_with_a_caption_and_its_records(committed):
    page = Page(committed)
    names = {path.stem for path in paths.FIGURES.iterdir()}
    assert [name for name in names if caption_of(name) is None] == [], "add a caption to resattn.plots.captions"
    assert names <= set(page.ids)
    assert len(page.images) == len(names)
    assert all(image["alt"] for image in page.images)
    for name in names:
        figure = page.html.split(f'id="{name}"')[1].split("</figure>")[0]
        assert ("Drawn from" in figure) == bool(caption_of(name)[0].evidence), (
            f"{name}: no record is where its caption says"
        )
    accuracy = page.html.split('id="accuracy-shapes"')[1].split("</figure>")[0]
    assert accuracy.count("records/shapes-") == len(load_records(paths.RESULTS).query("dataset == 'shapes'"))
    scaling = page.html.split('id="scaling"')[1].split("</figure>")[0]
    assert 'href="records/benchmarks/results/scaling-cpu.json"' in scaling


def test_same_records_same_page(committed, tmp_path):
    again = build_report(paths.RESULTS, paths.FIGURES, paths.NOTEBOOKS, tmp_path)
    assert again.read_bytes() == committed.read_bytes()


def test_reduced_protocol_fills_no_cell_of_table3_and_is_named(tmp_path, build):
    for seed in range(3):
        write_record(tmp_path / "records", 0.50 + seed / 100, **BASE, seed=seed, epochs=8)
        write_record(tmp_path / "records", 0.55 + seed / 100, **GATED, seed=seed, epochs=8)
    page = build()
    text = page.section("table3")
    assert text.count("not measured yet") == 2 * 7
    assert "cifar10, reduced protocol: 8 epochs, 224 pixels, batch 128, learning rate 0.2, cosine schedule" in text
    assert "ResNet8 51.00 ± 2.48 (3)" in text
    assert "cifar10 reduced protocol saliency 2 0–2 6" in page.section("run")
    differences = page.section("differences")
    assert "reduced protocol, against ResNet8 : 1 of 1 interval leaves zero out" in differences
    assert "gated a=1 +5.00 ± 0.00 3 saliency" in differences


def test_paper_settings_fill_table3_beside_a_reduced_protocol_with_more_records(tmp_path, build):
    write_record(tmp_path / "records", 0.83, **BASE)
    for seed in range(3):
        write_record(tmp_path / "records", 0.5, **BASE, seed=seed, epochs=8)
    text = build().section("table3")
    assert "ResNet8 83.3 83.00 (1) 41.1 not measured yet" in text
    assert "ResNet8 50.00 ± 0.00 (3) –" in text


def test_one_seed_has_no_interval_and_is_never_apart(tmp_path, build):
    write_record(tmp_path / "records", 0.5, **BASE)
    write_record(tmp_path / "records", 0.9, **GATED)
    page = build()
    assert "one seed, so no interval" in page.section("differences")
    assert "gated a=1 +40.00 1 saliency" in page.section("differences")
    assert 'class="apart"' not in page.html


def test_nothing_run_yet_is_said(build):
    page = build()
    assert "No run has left a record here yet" in page.section("run")
    assert page.section("table3").count("not measured yet") == 2 * 7
    assert "differences" not in page.ids


def test_facts_come_from_the_records(tmp_path):
    about = {
        "threads": 2,
        "python": "3.11.7",
        "versions": {"torch": "2.15.0"},
        "revision": "abc",
        "precision": "float32",
    }
    write_record(tmp_path, 0.5, about | {"finished": "2026-01-02T03:04:05+00:00"}, **BASE)
    write_record(tmp_path, 0.5, about | {"versions": {"torch": "2.16.0"}, "revision": "def"}, **BASE, seed=1)
    assert facts_of(load_records(tmp_path)) == {
        "Machine": "a processor, 2 threads",
        "Software": "Python 3.11.7, torch 2.15.0 and 2.16.0",
        "Precision": "float32",
        "Code": "abc (1), def (1)",
        "Finished": "2026-01-02 03:04 UTC (said by 1 of 2 records)",
        "Training": "3:00 min in all",
    }


def test_plot_positions_keep_order_and_stay_inside(tmp_path):
    for seed in range(3):
        write_record(tmp_path, 0.5 + seed / 50, **BASE, seed=seed)
        write_record(tmp_path, 0.6 - seed / 50, **GATED, seed=seed)
    (row,) = groups_of(load_records(tmp_path))[0].differences["ResNet8"]
    assert 0 < row["low"] < row["middle"] < row["high"] < 100
    assert row["low"] < row["zero"] < row["high"]
    assert not row["apart"]
    assert (row["middle"] - row["zero"]) / (row["high"] - row["middle"]) == pytest.approx(
        row["mean"] / row["half"], 1e-2
    )


def test_folders_below_get_parts_of_their_own(tmp_path, build):
    records = tmp_path / "records"
    write_record(records, 0.5, **BASE)
    write_record(records / "controls", 0.61, **GATED)
    write_record(records / "controls", 0.58, **GATED | {"source": "uniform"})
    for heads in ("mean", "max"):
        write_record(records / "heads", 0.7, **GATED | {"source": "dino-tiny", "heads": heads})
    (records / "notes").mkdir()
    (records / "notes/other.json").write_text('{"trials": 3}')
    page = build()
    controls = page.section("part-1")
    assert controls.startswith("Controls What the paper never ran")
    assert "gated a=1 61.00 (1) saliency" in controls
    assert "Does the content of the map matter? One seed, so no interval." in controls
    assert "gated a=1, saliency +3.00 gated a=1, uniform 1" in controls
    assert "gated a=1 max heads 70.00 (1) dino-tiny max heads" in page.section("part-2")
    assert page.section("part-3").endswith("notes/other.json")
    assert "61.00" not in page.section("table3")
    assert (tmp_path / "out/records/notes/other.json").exists()


def test_many_settings_share_one_table(tmp_path, build):
    for lr in (0.1, 0.2, 0.3, 0.4):
        write_record(tmp_path / "records/tuning", lr, **BASE, lr=lr, epochs=1)
    page = build()
    text = page.section("part-1")
    assert text.count("test accuracy (%)") == 1
    assert "cifar10 ResNet8 30.00 (1) – 1 epoch, 224 pixels, batch 128, learning rate 0.3, cosine schedule" in text


def test_searches_are_answered_in_sentences(tmp_path, build):
    config = TrainConfig(**BASE, epochs=1).identity()
    trials = [
        {"stage": stage, "lr": lr, "weight_decay": decay, "seed": 0, "seconds": 1.0, "diverged": None}
        | {"epochs": [{"val_acc": accuracy, "val_loss": 1.0}]}
        for stage, lr, decay, accuracy in (("random", 0.01, 1e-3, 0.6), ("paper", 0.2, 5e-4, 0.5))
    ]
    (tmp_path / "records/search").mkdir(parents=True)
    (tmp_path / "records/search/a.json").write_text(json.dumps({"config": config, "trials": trials}))
    text = build().section("part-1")
    assert text.startswith("Search The search of Sec. 5.1")
    assert "cifar10, 2 trials" in text
    assert (
        "ResNet8, cosine: best at lr 0.01, weight decay 0.001 (60.0 %; the paper's lr 0.2, weight decay 5e-4: 50.0 %)"
        in text
    )
    assert "1 record search/a.json" in text


def test_runs_of_several_sources_are_compared_source_by_source(tmp_path):
    for source, a, test_acc in (
        ("saliency", 0.0, 0.5),
        ("uniform", 0.0, 0.5),
        ("saliency", 1.0, 0.6),
        ("uniform", 1.0, 0.7),
    ):
        write_record(tmp_path, test_acc, dataset="cifar10", form="printed", a=a, source=source)
    (group,) = groups_of(load_records(tmp_path))
    rows = [(row["variant"], row["source"], row["text"]) for row in group.differences["printed a=0"]]
    assert rows == [("printed a=1", "saliency", "+10.00"), ("printed a=1", "uniform", "+20.00")]


def test_names_are_escaped(tmp_path, build):
    write_record(tmp_path / "records", 0.5, {"device": "<b>bold & co</b>"}, **BASE)
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


def test_figures_of_odd_data_sets_stay_in_their_folder_and_apart(tmp_path, build):
    odd = ["../../../evil", "photos.v1", "photos.v2", "cash$1$_{"]
    for dataset in odd:
        for path in (write_record(tmp_path / "records", 0.5, **BASE | {"dataset": "x", "seed": odd.index(dataset)}),):
            record = json.loads(path.read_text())
            record["config"]["dataset"] = dataset
            path.write_text(json.dumps(record))
    figures = tmp_path / "a/b/c/figures"
    for name, figure in result_figures(load_records(tmp_path / "records")).items():
        assert {path.parent for path in save_figure(figure, figures / name)} == {figures}
        assert (figures / name).resolve().parent == figures.resolve()
    assert len(list(figures.iterdir())) == 2 * 2 * len(odd)
    page = build(figures)
    assert page.html.count("Drawn from 1 record<") == 2 * len(odd)


def test_figures_without_a_caption_come_last_and_svg_goes_before_png(tmp_path, build):
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in ("aaa.png", "scaling.png", "blocks.png", "blocks.svg"):
        (figures / name).write_bytes(b"picture")
    page = build()
    assert [name for name in page.ids if name in ("aaa", "scaling", "blocks")] == ["blocks", "scaling", "aaa"]
    assert [image["src"][:15] for image in page.images] == ["data:image/svg+", "data:image/png;", "data:image/png;"]


def test_claims_are_those_of_the_claim_table_with_links_into_the_report(tmp_path, build):
    for seed in range(3):
        write_record(tmp_path / "records", 0.50 + seed / 100, **BASE, seed=seed)
        write_record(tmp_path / "records", 0.55 + seed / 100, **GATED, seed=seed)
    figures, notebooks = tmp_path / "figures", tmp_path / "notebooks"
    for folder in (figures, notebooks):
        folder.mkdir()
    (figures / "blocks.svg").write_bytes(b"<svg/>")
    nbformat.write(nbformat.v4.new_notebook(), notebooks / "04.ipynb")
    page = build()
    text = page.section("claims")
    for claim, row in claim_table(tmp_path / "records").iterrows():
        said = f"{claim} {row['measured']} {row['verdict']}"
        assert " ".join(said.replace("*", " ").split()) in text
    assert "a = 1: +5.00 ± 0.00 points (paper's settings, 3 seeds)" in text
    links = set(re.findall(r'href="([^"]+)"', page.html.split('id="claims"')[1].split("</section>")[0]))
    assert links == {"notebooks/04.html", "#records"}, "no link to notebook 02, which is not there"


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


def test_command_line(tmp_path, capsys):
    write_record(tmp_path / "records", 0.5, **BASE)
    assert main(["report", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/out/index.html\n"
    (tmp_path / "records/bad.json").write_text("{}")
    assert main(["report", "--records", str(tmp_path / "records"), "--out", str(tmp_path / "out")]) == 2
    assert "bad.json" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["report", "--records", str(tmp_path / "nowhere")])
    assert "--records: must be a folder that exists" in capsys.readouterr().err


def test_without_records_named_the_profile_run_last_counts_else_the_committed_ones():
    assert newest_records() == paths.RESULTS
    write_record(paths.RUNS / "paper/records", 0.5, **BASE)
    assert newest_records() == paths.RUNS / "paper/records"


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
    page = Page(write_page(tmp_path / "03-a.ipynb", tmp_path / "out/a.html"))
    assert notebook_title(tmp_path / "03-a.ipynb") == "A title"
    assert "script" not in page.tags
    assert page.tags.count("math") == 2
    assert "$" not in page.html
    assert [image["src"] for image in page.images] == ["data:image/png;base64,aGVsbG8="]
    assert page.images[0]["alt"] == "Picture made by the cell above, in the part “A title”"
    assert "a &lt; b" in page.html
    assert [link for link in page.links if not link.startswith("data:")] == ["../index.html"]
