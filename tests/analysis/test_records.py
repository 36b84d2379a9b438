"""One reader of records: what training writes is read, and everything else is refused by name with what is wrong."""

import json

import pandas as pd
import pytest

from resattn import paths
from resattn.analysis.records import load_records, main_records, read_record
from resattn.config import TrainConfig
from resattn.experiments.protocols import network


@pytest.fixture
def spoil(tmp_path, make_record):
    """A function that changes one thing in a good record and reads it: the message of its refusal."""

    def read(change):
        path = make_record(tmp_path / "records", 0.5, history=[0.4, 0.6, 0.6], form="gated", a=1.0)
        record = json.loads(path.read_text())
        change(record)
        path.write_text(json.dumps(record))
        with pytest.raises(ValueError, match="is not one that training wrote") as caught:
            load_records(tmp_path / "records")
        assert str(path) in str(caught.value)
        return str(caught.value)

    return read


def test_every_committed_record_is_read():
    records = load_records(paths.RESULTS)
    files = [path for path in paths.RESULTS.rglob("*.json") if path.parent.name != "search"]
    assert len(records) == len(files) == len(set(records["path"]))


@pytest.mark.parametrize("value", [1.5, 87.0, float("nan"), float("inf"), None, True, -0.2, "0.5"])
@pytest.mark.parametrize("name", ["test_acc", "test_acc_at_best_val"])
def test_an_accuracy_is_a_fraction(spoil, name, value):
    message = spoil(lambda record: record["metrics"].update({name: value}))
    assert f"metrics.{name}" in message or "not a finite number" in message


def test_a_number_too_large_is_refused(make_record, tmp_path):
    path = make_record(tmp_path, 0.5, model="resnet8", epochs=1)
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 1e999'))
    assert "1e999" in path.read_text()
    with pytest.raises(ValueError, match="1e999 is not a finite number"):
        read_record(path)


@pytest.mark.parametrize("value", [1.5, float("nan"), None, True])
def test_so_is_every_validation_accuracy(spoil, value):
    message = spoil(lambda record: record["metrics"]["epochs"][1].update({"val_acc": value}))
    assert "metrics.epochs[1].val_acc" in message or "not a finite number" in message


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("a", 7, "a must be a number in [0, 1], got 7"),
        ("model", "resnet9000", "model must be one of"),
        ("form", "sideways", "form must be one of"),
        ("source", "crystal-ball", "source must be one of"),
        ("seed", "0", "seed must be a whole number"),
        ("seed", 99, "its config belongs to a file"),
        ("lr", 0.3, "its config belongs to a file"),
        ("epochs", 0, "epochs must be a whole number"),
        ("dataset", 5, "not one that training wrote"),
        ("colour", "red", "unexpected keyword argument"),
        ("n_val", "many", "n_val must be a whole number"),
        ("heads", "mean", "config is not one that TrainConfig writes"),
    ],
)
def test_settings_are_those_of_a_run_of_this_name(spoil, name, value, said):
    assert said in spoil(lambda record: record["config"].update({name: value}))


def test_metrics_agree_with_the_epochs(spoil):
    assert "epochs: [] should be non-empty" in spoil(lambda record: record["metrics"].update(epochs=[]))
    assert "2 epochs, where config says 3" in spoil(lambda record: record["metrics"]["epochs"].pop())
    said = spoil(lambda record: record["metrics"].update(best_val_epoch=3))
    assert "best_val_epoch 3, where val_acc is first highest at 2" in said


@pytest.mark.parametrize("name", ["finished", "device", "python", "seconds", "threads", "versions"])
def test_the_environment_holds_text_and_numbers(spoil, name):
    assert f"environment.{name}" in spoil(lambda record: record["environment"].update({name: None}))


@pytest.mark.parametrize("part", ["config", "metrics", "parameters", "environment"])
def test_no_part_may_be_missing(spoil, part):
    assert f"'{part}' is a required property" in spoil(lambda record: record.pop(part))


@pytest.mark.parametrize("text", ["", "{not json", "[]", "null", '{"config": {}}', '"trials"'])
def test_a_file_that_is_no_record_is_named(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(ValueError, match=r"broken\.json is not one that training wrote"):
        load_records(tmp_path)


def test_folders_are_read_with_all_below_and_without_searches(tmp_path, make_record):
    for folder, seed in (("short", 0), ("short/more", 1), ("reduced", 2)):
        make_record(tmp_path / folder, 0.5, seed=seed)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "found.json").write_text('{"config": {}, "trials": []}')
    assert load_records(tmp_path)["seed"].tolist() == [0, 1, 2]
    assert load_records(tmp_path / "short", tmp_path / "reduced")["seed"].tolist() == [0, 1, 2]
    assert read_record(tmp_path / "search" / "found.json") is None
    assert len(load_records(tmp_path / "nothing")) == 0


def test_a_run_that_lies_in_two_folders_counts_once_if_it_is_the_same(tmp_path, make_record):
    make_record(tmp_path / "one", 0.5)
    make_record(tmp_path / "two", 0.5)
    assert len(load_records(tmp_path)) == 1
    make_record(tmp_path / "two", 0.6)
    with pytest.raises(ValueError, match="with another result; keep one of them"):
        load_records(tmp_path)


def test_settings_are_columns(tmp_path, make_record):
    make_record(tmp_path, 0.5, form="gated", a=0.5, source="shuffled", base="vit-s14", seed=3, lr=0.01)
    make_record(tmp_path, 0.5, model="resnet8", widths=(18, 36, 71), seed=3, lr=0.01)
    plain, gated = load_records(tmp_path).to_dict("records")[::-1]
    assert (gated["form"], gated["a"], gated["source"], gated["base"]) == ("gated", 0.5, "shuffled", "vit-s14")
    assert (gated["model"], gated["seed"], gated["lr"], gated["epochs"]) == ("resattn", 3, 0.01, 1)
    assert gated["network"] == network(form="gated", a=0.5, source="shuffled", base="vit-s14")
    assert (plain["widths"], plain["name"]) == ((18, 36, 71), "ResNet8 18-36-71")
    assert pd.isna(plain["form"])
    assert pd.isna(plain["a"])
    assert plain["protocol"] == gated["protocol"], "networks and seeds are no part of it"


@pytest.mark.parametrize("preset", ["paper", "reduced", "short", "demo"])
def test_the_preset_is_known_whatever_the_maps_and_the_data(tmp_path, make_record, preset):
    settings = vars(TrainConfig.preset(preset, dataset="birds", source="center"))
    make_record(tmp_path, 0.5, **settings)
    make_record(tmp_path, 0.5, **settings | {"lr": 0.123})
    assert sorted(load_records(tmp_path)["preset"]) == sorted([preset, "other"])


def test_main_records_are_of_one_protocol_and_one_source(tmp_path, make_record):
    short = {"dataset": "cifar10", "epochs": 5, "image_size": 64, "lr": 0.01}
    for seed in range(3):
        make_record(tmp_path, 0.5, **short, model="resnet8", seed=seed)
        make_record(tmp_path, 0.5, **short, form="gated", a=1.0, source="saliency", seed=seed)
        make_record(tmp_path, 0.5, **short, form="printed", a=0.0, source="saliency", seed=seed)
        make_record(tmp_path, 0.5, **short, model="resnet8-se", seed=seed)
        make_record(tmp_path, 0.5, **short | {"epochs": 2}, model="resnet8", seed=seed)
    assert len(main_records(load_records(tmp_path))) == 9
    make_record(tmp_path, 0.5, **short, form="gated", a=1.0, source="vit-s14")
    make_record(tmp_path, 0.4, **short, form="printed", a=0.0, source="vit-s14")
    main = main_records(load_records(tmp_path))
    assert set(main["source"].dropna()) == {"vit-s14"}, "the preset's own maps, though there are fewer"
    assert main["variant"].tolist() == [*3 * ["ResNet8"], *3 * ["printed a=0"], "gated a=1"]
    make_record(tmp_path, 0.5, **short | {"epochs": 100}, model="resnet8")
    make_record(tmp_path, 0.5, **short | {"dataset": "birds", "lr": 0.5}, model="resnet8")
    main = main_records(load_records(tmp_path))
    assert main.groupby(["dataset", "preset"]).size().to_dict() == {
        ("birds", "other"): 1, ("cifar10", "reduced"): 1, ("cifar10", "short"): 7,
    }, "each preset by itself, other settings only where there are none"  # fmt: skip


def test_settings_in_words(tmp_path, make_record):
    make_record(tmp_path, 0.5, epochs=5, image_size=64, lr=0.01, form="gated", weight_decay=0.03)
    make_record(tmp_path, 0.5, epochs=1, image_size=64, form="gated")
    assert sorted(load_records(tmp_path)["settings"]) == [
        "64 pixels, 1 epoch, batch 128, learning rate 0.2, cosine schedule",
        "64 pixels, 5 epochs, batch 128, learning rate 0.01, cosine schedule, weight decay 0.03",
    ]


def test_a_run_that_took_another_time_is_the_same_result(tmp_path, make_record):
    for folder, seconds in (("one", 1.0), ("two", 2.0)):
        path = make_record(tmp_path / folder, 0.5, model="resnet8", epochs=1)
        record = json.loads(path.read_text())
        record["metrics"]["epochs"][0]["seconds"] = seconds
        path.write_text(json.dumps(record))
    assert len(load_records(tmp_path)) == 1


def test_folders_of_one_name_are_not_compared(tmp_path, make_record):
    for seed, folder in enumerate(("here", "elsewhere")):
        path = make_record(tmp_path, 0.5, dataset="birds", model="resnet8", epochs=1, seed=seed)
        record = json.loads(path.read_text())
        record["environment"]["folder"] = folder
        path.write_text(json.dumps(record))
    assert load_records(tmp_path)["protocol"].nunique() == 2
