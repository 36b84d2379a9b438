"""Claims judged by controls and searches, on records made up so that the answer is known."""

import json

import pytest

from resattn.analysis.control_claims import control_claims
from resattn.analysis.records import NOT_MEASURED
from resattn.config import TrainConfig

PROTOCOL = {"dataset": "shapes", "epochs": 6, "image_size": 64}


@pytest.fixture
def results(tmp_path):
    (tmp_path / "controls").mkdir()
    return tmp_path


def write(results, levels, **settings):
    """A record a seed, with test accuracies in percent."""
    for seed, level in enumerate(levels):
        config = TrainConfig(**PROTOCOL | settings, seed=seed)
        accuracy = level / 100
        epochs = [{"train_loss": 1.0, "val_loss": 1.0, "val_acc": accuracy}]
        metrics = {"test_acc": accuracy, "test_acc_at_best_val": accuracy, "epochs": epochs}
        record = {"config": config.identity(), "metrics": metrics, "parameters": 1}
        record["environment"] = {"seconds": 1.0, "device": "test"}
        (results / "controls" / f"{config.slug}.json").write_text(json.dumps(record))


def row(results, part):
    [(measured, verdict, evidence)] = [told for claim, told in control_claims(results).items() if part in claim]
    return measured, verdict, evidence


def test_without_records_nothing_is_measured(results):
    assert {told[:2] for told in control_claims(results).values()} == {(NOT_MEASURED, NOT_MEASURED)}


def test_a_claim_holds_where_all_judging_intervals_lie_above_zero(results):
    gated = {"form": "gated", "a": 1.0}
    write(results, [60, 61, 62], **gated, source="saliency")
    write(results, [50, 51.5, 52], **gated, source="uniform")
    write(results, [55, 56.5, 57], **gated, source="shuffled")
    measured, verdict, evidence = row(results, "Masks made")
    assert measured.startswith("shapes (3 seeds), points:\ngated a=1, saliency − uniform: +9.83 ± 0.72\n")
    assert verdict == "holds"
    assert "06_controls" in evidence
    write(results, [50, 52, 51], **gated, source="dino-tiny")
    assert row(results, "Masks made")[1] == "cannot tell: 2 of 3 intervals above zero"
    write(results, [40, 41.5, 42], **gated, source="dino-tiny")
    assert row(results, "Masks made")[1] == "does not hold: the opposite in 1 of 3"


def test_what_only_stands_beside_decides_nothing(results):
    write(results, [60, 61, 62], form="printed", a=0.0)
    write(results, [70, 71.5, 72], form="unmasked", a=1.0)
    measured, verdict, _ = row(results, "printed form is attention")
    assert "unmasked a=1 − printed a=0: +10.17 ± 0.72" in measured
    assert verdict == NOT_MEASURED
    write(results, [70, 71.6, 71.8], form="printed", a=1.0, source="saliency")
    assert row(results, "printed form is attention")[1] == "cannot tell"


def test_one_seed_decides_nothing(results):
    write(results, [60], form="gated", a=1.0, source="saliency")
    write(results, [50], model="resnet8-cbam")
    measured, verdict, _ = row(results, "SE, ECA, CBAM")
    assert "shapes (1 seed), points:\ngated a=1, saliency − CBAM-ResNet8: +10.00" in measured
    assert verdict == "cannot tell"


@pytest.mark.parametrize(("gap", "expected"), [(0.05, "holds"), (-0.05, "does not hold: the opposite in 1 of 1")])
def test_schedules_are_judged_on_further_seeds_at_the_best_recipes(results, gap, expected):
    (results / "search").mkdir()
    for schedule, shift in (("cosine", gap), ("constant", 0.0)):
        config = TrainConfig(**PROTOCOL, model="resnet8", schedule=schedule).identity()
        trials = [trial("random", 0, 0.5)] + [
            trial("confirm", seed, 0.5 + shift + 0.001 * seed * (shift != 0)) for seed in (1, 2, 3)
        ]
        record = {"config": config, "trials": trials}
        (results / "search" / f"{schedule}.json").write_text(json.dumps(record))
    measured, verdict, _ = row(results, "learning rate schedule")
    assert verdict == expected
    assert f"shapes, ResNet8: {'+' if gap > 0 else '−'}" in measured


def trial(stage, seed, accuracy):
    epochs = [{"train_loss": 1.0, "val_loss": 1.0, "val_acc": accuracy}]
    common = {"lr": 0.01, "weight_decay": 1e-4, "diverged": None, "seconds": 1.0}
    return common | {"stage": stage, "seed": seed, "epochs": epochs}
