"""Records to tables: the arithmetic is checked against numbers worked out by hand or by scipy."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from resattn.analysis.records import (
    NOT_MEASURED,
    accuracy_table,
    load_records,
    main_records,
    mean_interval,
    network_name,
    paired_difference,
    paired_differences,
    table3,
    to_markdown,
    variant_name,
    variant_order,
)
from resattn.config import TrainConfig
from resattn.experiments.protocols import FOUR_HEADS
from resattn.plots.style import variant_style


def write_record(folder, test_acc, **settings):
    config = TrainConfig(**settings)
    record = {
        "config": config.identity(),
        "metrics": {
            "test_acc": test_acc,
            "test_acc_at_best_val": test_acc,
            "epochs": [{"train_loss": 1.0, "val_loss": 1.0, "val_acc": 0.5}],
        },
        "parameters": 10,
        "environment": {"seconds": 1.0, "device": "test"},
    }
    path = folder / f"{config.slug}.json"
    path.write_text(json.dumps(record))
    return path


@pytest.fixture
def records(tmp_path):
    for seed, (base, printed, gated) in enumerate([(0.80, 0.82, 0.85), (0.82, 0.83, 0.84), (0.78, 0.83, 0.86)]):
        write_record(tmp_path, base, dataset="cifar10", model="resnet8", seed=seed)
        write_record(tmp_path, printed, dataset="cifar10", form="printed", a=0.0, seed=seed)
        write_record(tmp_path, gated, dataset="cifar10", form="gated", a=1.0, seed=seed)
    return tmp_path


def test_interval_is_students():
    values = [1.0, 2.0, 4.0, 9.0]
    mean, half = mean_interval(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))


def test_interval_of_one_value_is_unknown_and_of_none_an_error():
    assert np.isnan(mean_interval([3.0])[1])
    with pytest.raises(ValueError, match="values must not be empty"):
        mean_interval([])


def test_accuracy_table_has_the_papers_number_beside_ours(records):
    table = accuracy_table(load_records(records)).set_index("variant")
    assert table.loc["ResNet8", "mean"] == pytest.approx(80.0)
    assert table.loc["ResNet8", "paper"] == 83.3
    assert table.loc["gated a=1", "paper"] == 87.0
    assert list(table["seeds"]) == [3, 3, 3]


def test_differences_are_taken_within_seeds(records):
    table = paired_differences(load_records(records)).set_index("variant")
    mean, half = mean_interval([5.0, 2.0, 8.0])
    assert table.loc["gated a=1", ["mean", "half"]].tolist() == pytest.approx([mean, half])
    assert "ResNet8" not in table.index


def test_a_seed_without_partner_does_not_count(records):
    write_record(records, 0.99, dataset="cifar10", form="gated", a=1.0, seed=7)
    table = paired_differences(load_records(records)).set_index("variant")
    assert table.loc["gated a=1", "seeds"] == 3


def test_table3_fills_only_what_was_run_at_the_papers_settings(records):
    write_record(records, 0.99, dataset="cifar100", form="gated", a=0.5, epochs=2)
    table = table3(load_records(records))
    assert table.loc["ResNet8", "cifar10 (ours)"] == "80.00 ± 4.97 (3)"
    assert table.loc["printed a=1", "cifar10 (ours)"] == NOT_MEASURED
    assert (table["cifar100 (ours)"] == NOT_MEASURED).all()
    assert table.loc["printed a=0.5", "cifar100 (paper)"] == "42.9"


def test_table3_of_nothing_is_all_empty(tmp_path):
    table = table3(load_records(tmp_path))
    assert (table[["cifar10 (ours)", "cifar100 (ours)"]] == NOT_MEASURED).all(axis=None)


def test_the_same_seed_twice_is_refused(records):
    path = write_record(records, 0.5, dataset="cifar10", model="resnet8", seed=0)
    path.rename(path.with_name("another-name.json"))
    write_record(records, 0.8, dataset="cifar10", model="resnet8", seed=0)
    with pytest.raises(ValueError, match="seed 0 is there twice"):
        accuracy_table(load_records(records))


@pytest.mark.parametrize("text", ["", "{not json", "[]", '{"config": {}}', "null"])
def test_a_file_that_is_no_record_is_named(records, text):
    (records / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is not one that training wrote"):
        load_records(records)


def test_main_records_keep_the_protocol_with_most_runs(records):
    write_record(records, 0.1, dataset="cifar10", model="resnet8", seed=9, epochs=1)
    assert 9 not in set(main_records(load_records(records))["seed"])


def test_variants_come_baseline_first_then_by_form_and_strength():
    names = ["gated a=1", "printed a=0.5", "ResNet8", "printed a=0", "gated a=0.5"]
    assert variant_order(names) == ["ResNet8", "printed a=0", "printed a=0.5", "gated a=0.5", "gated a=1"]


def test_controls_have_names_of_their_own_and_come_last():
    configs = [
        TrainConfig(model="resnet8"),
        TrainConfig(form="gated", a=1, source="dino-tiny"),
        TrainConfig(form="gated", a=1, source="dino-tiny", heads="all"),
        TrainConfig(form="gated", a=1, source="dino-tiny", heads=2),
        TrainConfig(form="scaled", a=1),
        TrainConfig(form="unmasked", a=1),
        TrainConfig(model="resnet8-cbam"),
        TrainConfig(model="resnet8", widths=(18, 36, 71)),
    ]
    names = [variant_name(config.identity()) for config in configs]
    assert names == ["ResNet8", "gated a=1", "gated a=1 all heads", "gated a=1 head 2", "scaled a=1", "unmasked a=1", "CBAM-ResNet8", "ResNet8 18-36-71"]  # fmt: skip
    assert variant_order(names[::-1]) == names
    assert len({str(variant_style(name)) for name in ("ResNet8", "gated a=1", "scaled a=1", "unmasked a=1", "CBAM-ResNet8")}) == 5  # fmt: skip


def test_a_networks_name_says_whose_maps_it_looks_at_where_it_does():
    def name(**settings):
        return network_name(TrainConfig(**settings).identity())

    assert name(form="gated", a=1, source="dino-tiny", heads="all") == "gated a=1, dino-tiny all heads"
    assert name(form="gated", a=1, source="dino-tiny", weights=FOUR_HEADS) == "gated a=1, dino-tiny-4heads"
    assert name(form="gated", a=1, source="dino", weights="random") == "gated a=1, dino random"
    assert name(form="gated", a=1, source="dino") == "gated a=1, dino"
    assert name(form="printed", a=0.5, source="saliency") == "printed a=0.5, saliency"
    assert name(form="printed", a=0, source="saliency") == "printed a=0"
    assert name(form="unmasked", a=1, source="saliency") == "unmasked a=1"
    assert name(model="resnet8-se") == "SE-ResNet8"


def test_only_networks_of_table_3_have_a_number_of_the_paper(records):
    write_record(records, 0.7, dataset="cifar10", form="scaled", a=1.0, seed=0)
    write_record(records, 0.7, dataset="cifar10", model="resnet8-se", seed=0)
    write_record(records, 0.7, dataset="cifar10", model="resnet8", widths=(18, 36, 71), seed=0)
    table = accuracy_table(load_records(records)).set_index("variant")["paper"]
    assert table.dropna().to_dict() == {"ResNet8": 83.3, "printed a=0": 83.3, "gated a=1": 87.0}
    assert table3(load_records(records)).loc["SE-ResNet8", "cifar10 (paper)"] == "–"


def test_a_pair_needs_one_run_a_seed():
    one, twice = pd.Series([0.5], index=[0]), pd.Series([0.5, 0.6], index=[0, 0])
    with pytest.raises(ValueError, match="must hold one run a seed"):
        paired_difference(one, twice)


def test_markdown_holds_every_cell(records):
    table = table3(load_records(records))
    lines = to_markdown(table).splitlines()
    assert len(lines) == len(table) + 2
    assert lines[2].split(" | ")[1] == "83.3"
