"""Tables from records made up so that every number is known."""

import math

import pytest

from resattn.analysis.records import NOT_MEASURED, load_records
from resattn.analysis.tables import _paper, accuracy_table, epochs_to_reach, table3, to_markdown
from resattn.config import PRESETS
from resattn.experiments.protocols import network

PAPER = PRESETS["paper"] | {"dataset": "cifar10", "source": "saliency"}
SHORT = PRESETS["short"] | {"dataset": "cifar10", "source": "saliency"}


@pytest.fixture
def records(tmp_path, make_record):
    """Three seeds at the paper's settings, in a folder that a test may add to."""
    for seed, (base, printed, gated) in enumerate([(0.80, 0.82, 0.85), (0.82, 0.83, 0.84), (0.78, 0.83, 0.86)]):
        make_record(tmp_path, base, **PAPER, model="resnet8", seed=seed)
        make_record(tmp_path, printed, **PAPER, form="printed", a=0.0, seed=seed)
        make_record(tmp_path, gated, **PAPER, form="gated", a=1.0, seed=seed)
    return tmp_path


def test_accuracy_has_the_papers_number_beside_ours(records):
    table = accuracy_table(load_records(records)).set_index("variant")
    assert table.index.tolist() == ["ResNet8", "printed a=0", "gated a=1"]
    assert table.loc["ResNet8", "mean"] == pytest.approx(80.0)
    assert table["paper"].tolist() == [83.3, 83.3, 87.0]
    assert list(table["seeds"]) == [3, 3, 3]


def test_only_networks_of_table_3_have_a_number_of_the_paper(records, make_record):
    make_record(records, 0.7, **PAPER, form="scaled", a=1.0)
    make_record(records, 0.7, **PAPER, model="resnet8-se")
    make_record(records, 0.7, **PAPER, model="resnet8", widths=(18, 36, 71))
    paper = accuracy_table(load_records(records)).set_index("variant")["paper"]
    assert paper.dropna().to_dict() == {"ResNet8": 83.3, "printed a=0": 83.3, "gated a=1": 87.0}


def test_runs_with_maps_that_are_not_looked_at_are_one_network(records, make_record):
    make_record(records, 0.5, **PAPER | {"source": "center"}, form="printed", a=0.0, seed=0)
    make_record(records, 0.5, **PAPER | {"source": "center"}, form="printed", a=0.0, seed=5)
    assert accuracy_table(load_records(records)).set_index("variant").loc["printed a=0", "seeds"] == 4


def test_table3_fills_only_what_was_run_at_its_protocol(records, make_record):
    make_record(records, 0.99, **SHORT | {"dataset": "cifar100"}, form="gated", a=0.5)
    table = table3(load_records(records))
    assert list(table.columns) == ["cifar10 (paper)", "cifar10 (ours)"]
    assert table.loc["ResNet8"].tolist() == ["83.3", "80.00 ± 4.97 (3)"]
    assert table.loc["printed a=1"].tolist() == ["87.0", NOT_MEASURED]
    short = table3(load_records(records), "short")
    assert list(short.columns) == ["cifar100 (paper)", "cifar100 (ours)"]
    assert short.loc["gated a=0.5"].tolist() == ["42.9", "99.00 (1)"]
    assert short.loc["residual a=0.5"].tolist() == ["42.9", NOT_MEASURED]


def test_a_network_with_fewer_seeds_is_shown_with_their_number(records, make_record):
    make_record(records, 0.9, **PAPER, form="residual", a=1.0)
    assert table3(load_records(records)).loc["residual a=1", "cifar10 (ours)"] == "90.00 (1)"


def test_table3_has_the_networks_of_the_paper_alone(tmp_path, make_record):
    assert table3(load_records(tmp_path)).columns.empty
    make_record(tmp_path, 0.5, **PRESETS["demo"], form="gated", a=0.25)
    table = table3(load_records(tmp_path), "demo")
    assert table["shapes (ours)"].to_dict() == dict.fromkeys(
        ["ResNet8", "printed a=0", "printed a=0.5", "printed a=1", "gated a=0.5", "gated a=1", "residual a=0.5", "residual a=1"],
        NOT_MEASURED,
    )  # fmt: skip


def test_epochs_to_reach_is_linear_between_epochs():
    history = [{"val_acc": value} for value in (0.4, 0.8, 1.0)]
    assert epochs_to_reach(history, 0.5) == pytest.approx(1.25)
    assert epochs_to_reach(history, 0.2) == pytest.approx(0.5)
    assert epochs_to_reach(history, 1.0) == pytest.approx(3)
    assert epochs_to_reach([{"val_acc": 0.0}]) == 0


def test_markdown_holds_every_cell(records):
    table = table3(load_records(records))
    lines = to_markdown(table).splitlines()
    assert len(lines) == len(table) + 2
    assert lines[2].split(" | ")[1] == "83.3"
    assert to_markdown(table.rename(index={"ResNet8": "a|b<i>"})).splitlines()[2].startswith(r"| a\|b&lt;i> |")


def test_the_papers_numbers_are_for_its_networks_alone():
    assert _paper("cifar10", network(form="gated", a=1.0, source="dino")) == 87.0
    for other in ({"model": "resnet18"}, {"depths": (3, 3, 3)}, {"widths": (18, 36, 71)}):
        assert math.isnan(_paper("cifar10", network(**{"form": "gated", "a": 1.0, "source": "dino"} | other))), other
