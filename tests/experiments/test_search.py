"""The search of Sec. 5.1: the same points whoever asks, each once, resumed after a kill, and no look at the test split."""

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
import time

import optuna
import pandas as pd
import pytest

from resattn import TrainConfig, load_dataset, paths
from resattn.__main__ import main
from resattn.analysis.claims import judge
from resattn.analysis.search import best_trial, load_searches, search_differences, search_trials
from resattn.data import datasets
from resattn.experiments.search import Point, SearchPlan, Trial, search
from resattn.plots.search import search_figures
from resattn.plots.style import save_figure, use_style
from resattn.training import trainer

TINY = TrainConfig(dataset="birds", model="resnet8", epochs=2, image_size=8, batch_size=4, device="cpu")
OPTIONS = ["--dataset", "birds", "--model", "resnet8", "--epochs", "2", "--image-size", "8", "--batch-size", "4"]
OPTIONS += ["--trials", "6", "--grid", "3", "1", "--confirm", "1", "--device", "cpu"]


@pytest.fixture
def birds(make_folder, tmp_path):
    """Settings of a search whose trials take a blink."""
    make_folder("birds", train=8, test=2, size=8)
    return dataclasses.replace(TINY, root=str(tmp_path / "data"))


def plan(config=TINY, **options):
    return SearchPlan(config, **{"trials": 4, "grid": (3, 1), "confirm": 1} | options)


def recipes(record, *stages):
    return {(t["lr"], t["weight_decay"], t["seed"]) for t in record["trials"] if t["stage"] in stages}


def confirmed(record):
    """How many recipes a search trains again: the best and the paper's, which can be one and the same on some processor."""
    best = best_trial(search_trials(record))
    return len({(best["lr"], best["weight_decay"]), (0.2, 5e-4)})


def without_times(record):
    trials = [
        trial | {"seconds": None, "epochs": [e | {"seconds": None} for e in trial["epochs"]]}
        for trial in record["trials"]
    ]
    return record | {"trials": trials, "environment": None}


def test_random_points_depend_on_seed_and_number_alone():
    one, longer = plan(), plan(trials=9, grid=(5, 5), confirm=0)
    assert one.first_points()[:4] == longer.first_points()[:4]
    assert one.name == longer.name, "more trials extend a study"
    other = plan(dataclasses.replace(TINY, seed=1))
    assert one.first_points()[0] != other.first_points()[0]
    assert one.name != other.name


def test_every_setting_but_the_searched_ones_makes_another_study():
    assert plan(dataclasses.replace(TINY, lr=0.5, weight_decay=0.0)).name == plan().name
    changes = [{"schedule": "constant"}, {"epochs": 3}, {"model": "resattn"}, {"dataset": "shapes"}, {"seed": 4}]
    names = {plan(dataclasses.replace(TINY, **change)).name for change in changes}
    assert len(names | {plan().name, plan(lr_range=(1e-3, 1)).name}) == len(changes) + 2


def test_random_points_fill_the_ranges_evenly_on_the_logarithmic_scale():
    points = plan(trials=400, lr_range=(1e-4, 1), weight_decay_range=(1e-3, 1e-1)).first_points()[:-1]
    assert all(1e-4 <= p.lr <= 1 and 1e-3 <= p.weight_decay <= 1e-1 for p in points)
    for low in (1e-4, 1e-3, 1e-2, 1e-1):
        assert 70 < sum(low <= p.lr < 10 * low for p in points) < 130


def test_the_grid_is_centred_on_the_best_and_leaves_out_the_centre():
    centre = Point("random", 0.02, 1e-3, 0)
    points = plan(grid=(3, 5), span=0.5, lr_range=(1e-4, 1), weight_decay_range=(1e-5, 1e-1)).grid_points(centre)
    assert len(points) == 14
    assert {p.lr for p in points} == {0.002, 0.02, 0.2}
    assert {p.weight_decay for p in points} == {1e-4, 3.162e-4, 1e-3, 3.162e-3, 1e-2}
    assert (0.02, 1e-3) not in {(p.lr, p.weight_decay) for p in points}
    assert len(plan(grid=(2, 2)).grid_points(centre)) == 4, "an even grid has no point in its centre"
    assert plan(grid=(1, 1)).grid_points(centre) == []


def test_a_search_measures_its_points_and_says_what_it_did(birds, tmp_path, capsys):
    record = search(plan(birds), tmp_path / "s.journal", out=tmp_path / "s.json")
    stages = ["random"] * 4 + ["paper"] + ["grid"] * 2 + ["confirm"] * confirmed(record)
    assert [t["stage"] for t in record["trials"]] == stages
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(json.dumps(record))
    assert {(t["lr"], t["weight_decay"]) for t in record["trials"] if t["stage"] == "paper"} == {(0.2, 5e-4)}
    trials = search_trials(record)
    best = best_trial(trials)
    assert recipes(record, "confirm") == {(best["lr"], best["weight_decay"], 1), (0.2, 5e-4, 1)}
    for trial in record["trials"]:
        assert [set(e) for e in trial["epochs"]] == [{"train_loss", "val_loss", "val_acc", "lr", "seconds"}] * 2
        assert trial["diverged"] is None
    assert record["config"]["image_size"] == 8
    assert "lr" not in record["config"]
    assert {path.name for path in (tmp_path / "s.trials").rglob("*.*")} <= {".lock", plan(birds).name}, (
        "checkpoints are gone"
    )
    assert "[5/5] " in capsys.readouterr().out
    again = search(plan(birds), tmp_path / "s.journal")
    assert again["trials"] == record["trials"], "nothing is measured twice"


def test_trials_are_what_training_with_these_settings_gives(birds, tmp_path):
    from resattn import train

    record = search(plan(birds, trials=1, grid=(1, 1), confirm=0), tmp_path / "s.journal")
    trial = record["trials"][0]
    config = dataclasses.replace(birds, lr=trial["lr"], weight_decay=trial["weight_decay"])
    alone = train(config, folder=tmp_path / "alone", on_epoch=lambda history: None)
    assert [e["val_acc"] for e in alone["metrics"]["epochs"]] == [e["val_acc"] for e in trial["epochs"]]
    assert [e["train_loss"] for e in alone["metrics"]["epochs"]] == [e["train_loss"] for e in trial["epochs"]]


def test_the_test_split_is_never_looked_at(birds, tmp_path, monkeypatch):
    class Sealed:
        def __getattr__(self, name):
            raise AssertionError(f"the search looked at the test split's {name}")

        def __len__(self):
            raise AssertionError("the search counted the test split")

    data = dataclasses.replace(load_dataset("birds", birds.root), test=Sealed())
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: data)
    config = dataclasses.replace(birds, model="resattn", source="saliency")
    record = search(plan(config, trials=2), tmp_path / "s.journal")
    assert len(record["trials"]) == 2 + 1 + 2 + confirmed(record)
    assert "test" not in json.dumps(record)


def start_search(home, *options):
    command = [sys.executable, "-m", "resattn", "search", *OPTIONS, *options]
    environment = os.environ | {"RESATTN_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=paths.CHECKOUT, env=environment, **pipes)


@pytest.mark.slow
def test_a_killed_search_on_two_workers_goes_on_and_repeats_no_point(birds, tmp_path):
    options = ["--root", birds.root, "--storage", str(tmp_path / "s.journal"), "--out", str(tmp_path / "s.json")]
    options += ["--trials", "2", "--grid", "1", "1"]
    command = start_search(tmp_path, *options, "--jobs", "2")
    while not (tmp_path / "s.json").exists():  # the first has ended; nothing is being written to the journal
        assert command.poll() is None
        time.sleep(0.01)
    command.kill()
    command.communicate()
    before = len(json.loads((tmp_path / "s.json").read_text())["trials"])
    assert before < 3
    again = start_search(tmp_path, *options, "--jobs", "2")
    out, errors = again.communicate(timeout=300)
    assert again.returncode == 0, out + errors
    record = json.loads((tmp_path / "s.json").read_text())
    assert len(record["trials"]) == 2 + 1 + confirmed(record)
    assert before <= len(record["trials"]) - out.count("val acc") <= before + 2
    assert not list((tmp_path / "s.trials").rglob("*.pt")) + list((tmp_path / "s.trials").rglob("*.json"))
    alone = search(plan(birds, trials=2, grid=(1, 1)), tmp_path / "alone.journal")
    assert without_times(alone)["trials"] == without_times(record)["trials"]


def test_an_outcome_nobody_could_keep_is_kept_by_the_next_command(birds, tmp_path):
    few = plan(birds, trials=1, grid=(1, 1), confirm=0)
    folder = tmp_path / "s.trials" / few.name
    Trial.of(few.first_points()[0], birds, folder).execute()
    (outcome,) = folder.glob("*.json")
    record = search(few, tmp_path / "s.journal")
    assert [t["stage"] for t in record["trials"]] == ["random", "paper"]
    assert not outcome.exists()


def test_an_interrupted_trial_goes_on_from_its_checkpoint(birds, tmp_path, monkeypatch):
    real, epochs = trainer.Trainer.train_epoch, []

    def train_epoch(run):
        epochs.append(run.config.lr)
        if len(epochs) == 2:
            raise KeyboardInterrupt
        real(run)

    monkeypatch.setattr(trainer.Trainer, "train_epoch", train_epoch)
    few = plan(birds, trials=1, grid=(1, 1), confirm=0)
    with pytest.raises(KeyboardInterrupt):
        search(few, tmp_path / "s.journal")
    resumed = search(few, tmp_path / "s.journal")
    assert epochs.count(few.first_points()[0].lr) == 3, "one epoch, one that was interrupted, and that one again"
    untouched = search(few, tmp_path / "alone.journal")
    assert without_times(resumed)["trials"] == without_times(untouched)["trials"]


def test_a_trial_that_fails_is_named_when_the_others_have_ended(birds, tmp_path, monkeypatch):
    lost = plan(birds).first_points()[1]
    real = trainer.Trainer.train_epoch

    def train_epoch(run):
        if run.config.lr == lost.lr:
            raise MemoryError("no memory left")
        real(run)

    monkeypatch.setattr(trainer.Trainer, "train_epoch", train_epoch)
    message = f"1 of 5 trials failed; {re.escape(lost.name)}: MemoryError: no memory left"
    with pytest.raises(ChildProcessError, match=message):
        search(plan(birds), tmp_path / "s.journal", out=tmp_path / "s.json")
    assert len(json.loads((tmp_path / "s.json").read_text())["trials"]) == 4


def test_a_diverged_trial_is_recorded_and_the_search_goes_on(birds, tmp_path, monkeypatch):
    lost = plan(birds).first_points()[1]
    real = trainer.Trainer.train_epoch

    def train_epoch(run):
        if run.config.lr == lost.lr and len(run.history) == 1:
            raise run._not_finite("loss", float("nan"), 3)
        real(run)

    monkeypatch.setattr(trainer.Trainer, "train_epoch", train_epoch)
    record = search(plan(birds), tmp_path / "s.journal")
    (trial,) = [t for t in record["trials"] if t["lr"] == lost.lr]
    assert "loss became nan" in trial["diverged"]
    assert len(trial["epochs"]) == 1
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "s.journal")))
    kept = optuna.load_study(study_name=plan(birds).name, storage=storage).get_trials(deepcopy=False)
    assert [t.value for t in kept if t.user_attrs["lr"] == lost.lr] == [0]
    trials = search_trials(record)
    assert trials["diverged"].sum() == 1
    assert best_trial(trials)["lr"] != lost.lr


def test_when_every_random_point_diverges_it_says_so(birds, tmp_path, monkeypatch):
    def diverge(run):
        raise FloatingPointError("gone")

    monkeypatch.setattr(trainer.Trainer, "train_epoch", diverge)
    with pytest.raises(ValueError, match="every random point diverged; lower the range of lr"):
        search(plan(birds), tmp_path / "s.journal")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials must be a whole number at least 1, got 0"),
        ({"confirm": -1}, "confirm must be a whole number at least 0, got -1"),
        ({"grid": (3, 0)}, "grid must be a whole number at least 1, got 0"),
        ({"span": 0}, r"span must be a number in \(0, 1\], got 0"),
        ({"weight_decay_range": (0, 1)}, "weight_decay_range must be a number above 0, got 0"),
    ],
)
def test_bad_plans_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        plan(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid", "5"], "argument --grid: expected 2 arguments"),
        (["--trials", "0"], "trials must be a whole number at least 1"),
        (["--schedule", "linear"], "schedule must be one of cosine, constant; got 'linear'"),
        (["--dataset", "nowhere"], "nowhere"),
        (["--lr", "0.1"], "unrecognized arguments: --lr"),
    ],
)
def test_bad_options_end_with_a_clear_line(tmp_path, capsys, options, message):
    with contextlib.suppress(SystemExit):  # argparse's way
        assert main(
            [
                "search",
                *OPTIONS,
                "--storage",
                str(tmp_path / "s.journal"),
                "--root",
                str(tmp_path),
                "--jobs",
                "1",
                *options,
            ]
        ) in (1, 2)
    assert message in capsys.readouterr().err


def made_record(schedule, accuracies, **config):
    """A record with trials at (lr, weight decay, seed, stage) as given."""
    about = {"dataset": "shapes", "model": "resnet8", "schedule": schedule, "image_size": 64, "epochs": 3} | config
    trials = [
        {"stage": stage, "lr": lr, "weight_decay": decay, "seed": seed, "seconds": 1.0}
        | {"epochs": [{"val_acc": value, "val_loss": 1 - value}], "diverged": None}
        for (stage, lr, decay, seed), value in accuracies.items()
    ]
    return {"config": about, "trials": trials}


def two_schedules():
    cosine = {("random", 0.01, 1e-3, 0): 0.7, ("random", 0.1, 1e-2, 0): 0.5, ("paper", 0.2, 5e-4, 0): 0.4}
    cosine |= {
        ("confirm", lr, wd, s): v + s / 100 for lr, wd, v in ((0.01, 1e-3, 0.6), (0.2, 5e-4, 0.4)) for s in (1, 2)
    }
    constant = {("random", 0.01, 1e-3, 0): 0.5, ("random", 0.1, 1e-2, 0): 0.6, ("paper", 0.2, 5e-4, 0): 0.3}
    constant |= {
        ("confirm", lr, wd, s): v + s / 100 for lr, wd, v in ((0.1, 1e-2, 0.5), (0.2, 5e-4, 0.3)) for s in (1, 2)
    }
    frames = [search_trials(made_record(*pair)) for pair in (("cosine", cosine), ("constant", constant))]
    return pd.concat(frames, ignore_index=True)


def test_differences_are_computed_from_trials_and_paired_by_seed():
    found = judge(search_differences(two_schedules()))
    assert found["claim"].tolist() == [
        "ResNet8, constant: best recipe found − Table 1's",
        "ResNet8, cosine: best recipe found − Table 1's",
        "ResNet8: cosine − constant, each at its best recipe",
    ]
    assert found["difference"].tolist() == ["+20.00 ± 0.00 (2)", "+20.00 ± 0.00 (2)", "+10.00 ± 0.00 (2)"]
    assert found["verdict"].tolist() == ["contradicted", "contradicted", "supported"]
    assert set(found["words"]) == {"shapes, 64 pixels, 3 epochs, validation"}


@pytest.mark.parametrize("paper", [0.5, 0.0], ids=["paper's own is best", "nothing learns"])
def test_a_search_that_finds_nothing_better_ends_with_a_sensible_answer(birds, tmp_path, monkeypatch, paper):
    def train_epoch(run):
        won = (run.config.lr, run.config.weight_decay) == (0.2, 5e-4)
        run.history.append({"train_loss": 1.0, "val_loss": 0.5 if won else 1.0, "val_acc": paper * won})

    monkeypatch.setattr(trainer.Trainer, "train_epoch", train_epoch)
    monkeypatch.setattr(trainer.Trainer, "state", lambda run: {})
    record = search(plan(birds), tmp_path / "s.journal")
    assert recipes(record, "confirm") == {(0.2, 5e-4, 1)}
    assert len(record["trials"]) == 4 + 1 + 2 + 1
    best = best_trial(search_trials(record))
    assert (best["lr"], best["weight_decay"], best["val_acc"]) == (0.2, 5e-4, paper)
    assert search_differences(search_trials(record)) == [], "nothing to compare with itself"
    assert len(search_figures(search_trials(record))) == 1


def test_what_is_missing_is_said_to_be(tmp_path):
    trials = two_schedules()
    assert len(judge(search_differences(trials[trials["stage"] != "confirm"]))) == 0
    one = judge(search_differences(trials[trials["schedule"] == "cosine"]))
    assert one["question"].tolist() == ["recipe"]
    assert len(load_searches(tmp_path / "nothing")) == 0
    assert search_differences(load_searches(tmp_path / "nothing")) == []
    (tmp_path / "odd.json").write_text('{"config": {}}')
    with pytest.raises(ValueError, match=r"odd.json is not one that a search wrote \(KeyError"):
        load_searches(tmp_path)


def test_the_landscape_also_shows_networks_with_one_schedule_and_diverged_trials():
    trials = two_schedules()
    other = search_trials(
        made_record("cosine", {("random", 0.01, 1e-3, 0): 0.7}, model="resattn", form="printed", a=1.0)
    )
    lost = trials.iloc[[0]].assign(diverged=True, val_acc=0.0, lr=0.9)
    every = pd.concat([trials, other, lost], ignore_index=True)
    figures = search_figures(every)
    (landscape,) = figures.values()
    assert list(figures) == ["search-landscape-shapes-64px-3-epochs"]
    titles = [ax.get_title() for ax in landscape.axes[:3]]
    assert titles == ["ResNet8, constant", "ResNet8, cosine", "printed a=1, cosine"]
    shown = [sum(len(marks.get_offsets()) for marks in ax.collections) for ax in landscape.axes[:6]]
    searched = every[every["stage"] != "confirm"]
    counts = searched.groupby(["network", "schedule"]).size()
    assert shown == [*counts, *counts], "every trial, above and below"


@pytest.mark.slow
def test_the_committed_figures_are_made_from_the_committed_records(tmp_path):
    trials = load_searches(paths.RESULTS / "search")
    assert len(trials)
    use_style()
    figures = search_figures(trials)
    assert figures
    for name, figure in figures.items():
        save_figure(figure, tmp_path / name)
        assert (tmp_path / f"{name}.svg").read_bytes() == (paths.FIGURES / f"{name}.svg").read_bytes(), name
        assert (paths.FIGURES / f"{name}.png").exists()


def test_another_folder_of_the_same_name_is_another_study(tmp_path):
    roots = [str(tmp_path / name) for name in ("one", "two")]
    assert len({plan(dataclasses.replace(TINY, root=root)).name for root in roots}) == 2


def test_two_searches_of_one_network_and_schedule_are_not_taken_for_one(tmp_path):
    for name, source in (("one", "saliency"), ("two", "center")):
        config = {"model": "resattn", "form": "gated", "a": 1.0, "source": source}
        record = made_record("cosine", {("random", 0.01, 1e-3, 0): 0.7}, **config)
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"one.json and .*two.json are of one network and schedule; keep one of them"):
        load_searches(tmp_path)
