"""Verdicts follow from intervals: each is checked on records made up so that the answer is known."""

import json

import pytest

from resattn import paths
from resattn.analysis.claims import claim_table, convergence_table, epochs_to_reach, verdict
from resattn.analysis.records import NOT_MEASURED, describe_protocol, load_records, reduced_table
from resattn.config import TrainConfig
from resattn.report.readme import between_marks, main, readme_parts

REDUCED = {"dataset": "cifar10", "epochs": 4, "image_size": 64, "lr": 0.01}


def write_record(folder, accuracies, seed, **settings):
    config = TrainConfig(**REDUCED | settings, seed=seed)
    epochs = [{"train_loss": 2 - value, "val_loss": 1.0, "val_acc": value} for value in accuracies]
    metrics = {"test_acc": accuracies[-1], "test_acc_at_best_val": accuracies[-1], "epochs": epochs}
    record = {"config": config.identity(), "metrics": metrics, "parameters": 1}
    record["environment"] = {"seconds": 1.0, "device": "test"}
    (folder / f"{config.slug}.json").write_text(json.dumps(record))


@pytest.fixture
def results(tmp_path):
    """Three seeds in which printed a=1 gains 5 points over printed a=0, and printed a=0.5 loses 2."""
    for seed, level in enumerate((0.60, 0.62, 0.61)):
        write_record(tmp_path, [0.3, 0.5, level, level], seed, model="resnet8")
        write_record(tmp_path, [0.3, 0.5, level, level], seed, a=0.0)
        write_record(tmp_path, [0.3, 0.5, level, level - 0.02], seed, a=0.5)
        write_record(tmp_path, [0.6, 0.65, level, level + 0.05 + 0.001 * seed], seed, a=1.0)
    return tmp_path


def row(results, part):
    table = claim_table(results)
    [claim] = [claim for claim in table.index if part in claim]
    return table.loc[claim]


def test_epochs_to_reach_is_linear_between_epochs():
    history = [{"val_acc": value} for value in (0.4, 0.8, 1.0)]
    assert epochs_to_reach(history, 0.5) == pytest.approx(1.25)
    assert epochs_to_reach(history, 0.2) == pytest.approx(0.5)
    assert epochs_to_reach(history, 1.0) == pytest.approx(3)
    assert epochs_to_reach([{"val_acc": 0.0}]) == 0


@pytest.mark.parametrize(
    ("mean", "half", "expected"),
    [
        (3.0, 1.0, "holds"),
        (2.0, 1.0, "holds, but smaller than reported"),
        (1.0, 1.5, "does not hold: a gain of the reported size is excluded"),
        (1.0, 5.0, "cannot tell"),
        (-2.0, 1.0, "does not hold: the opposite"),
        (3.0, float("nan"), "cannot tell (one seed)"),
    ],
)
def test_verdicts(mean, half, expected):
    assert verdict(mean, half, claimed=3.7) == expected


def test_a_gain_is_judged_at_each_strength(results):
    gain = row(results, "CIFAR-10: accuracy rises with *a* (83.3, 86.6, 87.0 % at 0, 0.5, 1); printed")
    assert gain["verdict"] == "*a* = 0.5: does not hold: the opposite\n*a* = 1: holds"
    assert gain["measured"].startswith("*a* = 0.5: −2.00 ± 0.00 points\n*a* = 1: +5.10 ± 0.25 points")
    assert "reduced protocol, 3 seeds" in gain["measured"]


def test_what_was_not_run_says_so(results, tmp_path_factory):
    assert row(results, "CIFAR-100: accuracy rises with *a* (41.1, 42.9, 43.4 % at 0, 0.5, 1); gated")["verdict"] == (
        NOT_MEASURED
    )
    nothing = claim_table(tmp_path_factory.mktemp("empty"))
    assert (nothing["verdict"] == NOT_MEASURED).sum() >= 6


def test_convergence_is_judged_by_epochs_to_95_percent(results):
    faster = row(results, "CIFAR-10: training converges faster")
    table = convergence_table(load_records(results)).set_index("variant")
    assert table.loc["printed a=1", "epochs"] < table.loc["printed a=0", "epochs"]
    assert table.loc["ResNet8", "first accuracy"] == pytest.approx(30)
    assert table.loc["ResNet8", "first loss"] == pytest.approx(1.7)
    assert faster["verdict"] == "holds (printed form)"


def test_reduced_table_has_the_papers_numbers_beside_ours(results):
    table = reduced_table(load_records(results))
    assert table.loc["printed a=1", "cifar10 (paper)"] == "87.0"
    assert table.loc["ResNet8", "cifar10 (reduced)"] == "61.00 ± 2.48 (3)"
    assert "cifar100 (reduced)" not in table.columns


def test_table_3_with_another_recipe_is_judged_beside_the_first(results):
    assert not any("our own search" in claim for claim in claim_table(results).index)
    (results / "recipe").mkdir()
    for seed, level in enumerate((0.60, 0.62, 0.61)):
        write_record(results / "recipe", [level], seed, a=0.0, weight_decay=0.03)
        write_record(results / "recipe", [level - 0.1 - 0.001 * seed], seed, a=1.0, weight_decay=0.03)
    again = row(results, "with the recipe of our own search; printed")
    assert again["measured"].startswith("*a* = 1: −10.10 ± 0.25 points")
    assert again["verdict"] == "*a* = 1: does not hold: the opposite"
    assert row(results, "with the recipe of our own search; gated")["verdict"] == NOT_MEASURED
    assert describe_protocol(load_records(results / "recipe")).endswith("cosine schedule, weight decay 0.03")


def test_a_protocol_in_words(results):
    records = load_records(results)
    assert describe_protocol(records) == (
        "maps saliency, 64 pixels, 4 epochs, batch 128, learning rate 0.01, cosine schedule"
    )
    write_record(results, [0.5], 9, epochs=1)
    with pytest.raises(ValueError, match="records must share one protocol, got 2"):
        describe_protocol(load_records(results))


def test_the_readme_is_written_between_its_marks(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CHECKOUT", tmp_path)
    readme = tmp_path / "README.md"
    readme.write_text("before\n" + "\n".join(between_marks(name, "old") for name in readme_parts()) + "\nafter\n")
    main()
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert all(between_marks(name, part) in text for name, part in readme_parts().items())
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="must hold the marks"):
        main()
