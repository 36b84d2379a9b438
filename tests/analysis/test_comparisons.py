"""What the controls answer: arithmetic by hand, and names that agree with the list of controls."""

import pytest
from test_records import write_record

from resattn.analysis.comparisons import (
    COMPARISONS,
    QUESTIONS,
    accuracy_by_network,
    answer,
    by_data_set,
    conclusion,
    control_figures,
    control_records,
    differences,
    forest_figure,
    sentences,
    verdict,
)
from resattn.analysis.records import load_records, mean_interval, network_name
from resattn.experiments.controls import list_runs


@pytest.fixture
def records(tmp_path):
    """Three seeds of ResNet8 and of two sources, which differ by 10, 11 and 12 points."""
    for seed in range(3):
        write_record(tmp_path, 0.5 + 0.05 * seed, model="resnet8", seed=seed)
        write_record(tmp_path, 0.6 + 0.05 * seed, form="gated", a=1, source="uniform", seed=seed)
        write_record(tmp_path, 0.7 + 0.06 * seed, form="gated", a=1, source="oracle", seed=seed)
    return tmp_path


def row(table, one, other):
    return table[(table["one"] == one) & (table["other"] == other)].iloc[0]


def test_every_comparison_is_of_networks_that_are_trained():
    names = {network_name(config.identity()) for config in list_runs("shapes", 1, dino=True).values()}
    compared = {name for pair in COMPARISONS for name in (pair.one, pair.other)}
    assert compared == names, "every control is there for some comparison, and none is missing"
    assert len(set(COMPARISONS)) == len(COMPARISONS)
    assert list(dict.fromkeys(pair.question for pair in COMPARISONS)) == list(QUESTIONS)


def test_differences_are_taken_within_seeds(records):
    table = differences(load_records(records))
    pair = row(table, "gated a=1, oracle", "gated a=1, uniform")
    mean, half = mean_interval([10, 11, 12])
    assert (pair["seeds"], pair["mean"], pair["half"]) == (3, pytest.approx(mean), pytest.approx(half))
    assert pair["question"] == "oracle"
    assert len(table) == 2, "and oracle against ResNet8; the other pairs have no records"


def test_only_seeds_that_both_have_count(records):
    write_record(records, 0.1, form="gated", a=1, source="oracle", seed=9)
    assert set(differences(load_records(records))["seeds"]) == {3}


def test_protocols_and_data_sets_are_kept_apart(records):
    write_record(records, 0.9, form="gated", a=1, source="oracle", seed=0, epochs=7)
    write_record(records, 0.2, form="gated", a=1, source="uniform", seed=0, epochs=7)
    write_record(records, 0.3, dataset="cifar10", model="resnet8-se")
    write_record(records, 0.1, dataset="cifar10", model="resnet8")
    table = differences(load_records(records))
    assert table["dataset"].tolist() == ["cifar10", *3 * ["shapes"]]
    assert table["mean"].tolist() == pytest.approx([20, 11, 21, 70])


def test_runs_of_table_3_count_where_they_share_the_protocol(tmp_path):
    (tmp_path / "controls").mkdir()
    write_record(tmp_path / "controls", 0.3, dataset="cifar10", model="resnet8-se")
    write_record(tmp_path, 0.2, dataset="cifar10", model="resnet8")
    write_record(tmp_path, 0.9, dataset="cifar10", model="resnet8", epochs=7)
    write_record(tmp_path, 0.9, dataset="cifar100", model="resnet8")
    records = control_records(tmp_path / "controls")
    assert sorted(records["test_acc"]) == [0.2, 0.3]
    write_record(tmp_path, 0.3, dataset="cifar10", model="resnet8-se")
    assert len(control_records(tmp_path / "controls")) == 2, "a run that lies in both folders counts once"


def test_an_interval_says_what_may_be_said():
    assert verdict(2, 1) == "higher"
    assert verdict(-2, 1) == "lower"
    assert verdict(0.5, 1) == verdict(-0.5, 1) == verdict(1, 1) == "not told apart"
    assert verdict(50, float("nan")) == "one seed"


def test_sentences_give_difference_interval_and_verdict(records):
    lines = sentences(differences(load_records(records)), "oracle").splitlines()
    assert lines[0] == "gated a=1: oracle − uniform  +11.00 ± 2.48 (3)  higher"
    assert lines[1].startswith("gated a=1, oracle − ResNet8  +21.00 ± 2.48 (3)")
    assert sentences(differences(load_records(records)), "heads") == ""


def test_the_conclusion_names_what_is_told_apart(records):
    table = differences(load_records(records))
    assert conclusion(table, "oracle") == (
        "2 of 2 intervals leave 0 out: gated a=1: oracle − uniform is higher; gated a=1, oracle − ResNet8 is higher."
    )
    assert conclusion(table.assign(half=99), "oracle").startswith("None of 2 intervals leaves 0 out")


def test_an_answer_leaves_out_data_sets_that_have_none(records):
    write_record(records, 0.4, dataset="cifar10", model="resnet8")
    write_record(records, 0.6, dataset="cifar10", model="resnet8-eca")
    tables = {dataset: differences(own) for dataset, own in by_data_set(load_records(records)).items()}
    assert answer(tables, "oracle").startswith("shapes: 2 of 2 intervals")
    assert answer(tables, "modules").splitlines() == [
        "cifar10: None of 1 intervals leaves 0 out: nothing is told apart here.",
        "ECA-ResNet8 − ResNet8  +20.00 (1)  one seed",
    ]
    assert answer(tables, "heads") == "No records yet."


def test_of_several_protocols_the_one_with_most_records_counts(records):
    write_record(records, 0.9, form="gated", a=1, source="oracle", seed=0, epochs=7)
    assert len(by_data_set(load_records(records))["shapes"]) == 9


def test_a_single_seed_has_no_interval(tmp_path):
    write_record(tmp_path, 0.5, model="resnet8")
    write_record(tmp_path, 0.4, model="resnet8-se")
    assert sentences(differences(load_records(tmp_path)), "modules") == "SE-ResNet8 − ResNet8  −10.00 (1)  one seed"


def test_accuracies_come_best_first(records):
    table = accuracy_by_network(load_records(records))
    assert table["network"].tolist() == ["gated a=1, oracle", "gated a=1, uniform", "ResNet8"]
    assert table["mean"].tolist() == pytest.approx([76, 65, 55])


def test_the_figure_shows_every_difference_where_it_is(records):
    table = differences(load_records(records))
    (ax,) = forest_figure(table, "shapes").axes
    points = [container.lines[0] for container in ax.containers]
    assert [point.get_xdata()[0] for point in points] == pytest.approx(table["mean"].tolist())
    low, high = ax.get_xlim()
    assert low < min(0, min(table["mean"] - table["half"]))
    assert high > max(table["mean"] + table["half"])
    texts = {text.get_text() for text in ax.texts} - {""}  # no second line of the title
    assert {QUESTIONS["oracle"], "+11.00 ± 2.48 (3)", "+21.00 ± 2.48 (3)"} == texts


def test_a_figure_for_each_data_set_that_has_a_comparison(records):
    write_record(records, 0.3, dataset="cifar10", model="resnet8")
    assert list(control_figures(load_records(records))) == ["controls-shapes"]
