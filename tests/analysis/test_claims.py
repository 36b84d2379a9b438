"""Verdicts follow from one table of comparisons and one rule, on records made up so that the answer is known."""

import pytest

from resattn import paths
from resattn.analysis.claims import ALL_QUESTIONS, answer, claim_table, claims_page, differences, pair_name
from resattn.analysis.records import NOT_MEASURED, load_records
from resattn.analysis.statistics import holm, mean_interval, p_value
from resattn.config import PRESETS
from resattn.experiments.protocols import COMPARISONS, QUESTIONS, RESNET8, network

SHORT = PRESETS["short"] | {"dataset": "cifar10", "source": "saliency"}
GATED = {"form": "gated", "a": 1.0}


@pytest.fixture
def write(tmp_path, make_record):
    """A function that writes a record a seed, with test accuracies in percent."""

    def records(levels, history=None, **settings):
        for seed, level in enumerate(levels):
            end = level / 100
            make_record(tmp_path, end, [*(history or [0.3, 0.5, end, end]), end], **SHORT | settings, seed=seed)
        return tmp_path

    return records


def row(table, one, other, question=None):
    rows = table[(table["one"] == one) & (table["other"] == other) & (table["metric"] == "accuracy")]
    return rows[rows["question"] == question].iloc[0] if question else rows.iloc[0]


def gated(source, **more):
    return network(**GATED, source=source, **more)


def test_differences_are_taken_within_seeds_and_judged(write):
    write([60, 61, 62], model="resnet8")
    write([63, 64.4, 65.2], **GATED)
    found = row(differences(load_records(write([]))), gated("saliency"), RESNET8)
    mean, half = mean_interval([3, 3.4, 3.2])
    assert (found.seeds, found["mean"], found.half) == (3, pytest.approx(mean), pytest.approx(half))
    assert (found.claimed, found.reported, found.verdict, found.place) == (3.7, "+3.7, above", "supported", "Table 3")
    assert (found.words, found.difference) == ("cifar10, short", "+3.20 ± 0.50 (3)")


def test_holms_correction_is_within_a_question(write):
    """Four comparisons of one question; a second question, protocol or data set does not make the first one stricter."""
    base = [60.0, 61.0, 62.0]
    write(base, model="resnet8")
    gains = {("gated", 0.5): [2, 2.5, 3.2], ("gated", 1.0): [1, 2, 2], ("residual", 0.5): [0, 1, -1]}
    for (form, a), gain in gains.items():
        write([x + y for x, y in zip(base, gain, strict=True)], form=form, a=a)
    write([61, 62, 64], model="resnet8-se")
    for other in ({"lr": 0.02}, {"dataset": "cifar100"}):
        write(base, model="resnet8", **other)
        write([63, 63.5, 65.5], **GATED, **other)
    table = differences(load_records(write([])))
    chosen = table[(table["question"] == "accuracy") & (table["words"] == "cifar10, short")]
    raw = [p_value(row.seeds, row.mean, row.half) for row in chosen.itertuples()]
    assert chosen["p"].tolist() == pytest.approx(holm(raw).tolist())
    first = chosen.iloc[0]
    assert first["mean"] > first["half"]
    assert (first["verdict"][:9], first["significant"]) == ("undecided", False), "its own p of 0.018 is not enough"
    assert "comparisons tested: 4" in answer(table, "accuracy")
    assert "comparisons tested: 1" in answer(table, "modules")


def test_one_lower_does_not_override_any_number_of_higher(write):
    write([70, 71, 72], **GATED, source="saliency")
    write([60, 61.1, 62], **GATED, source="shuffled")
    write([80, 81.1, 82], **GATED, source="center")
    table = differences(load_records(write([])))
    verdicts = table[table["question"] == "content"]["verdict"].tolist()
    assert verdicts == ["supported", "contradicted"], "each row stands for itself"


def test_fewer_epochs_are_better(write):
    write([60, 60, 60], [0.2, 0.3, 0.4, 0.5], model="resnet8")
    write([60, 60.2, 60.1], [0.3, 0.55, 0.6, 0.6], **GATED)
    table = differences(load_records(write([])))
    [speed] = table[table["question"] == "convergence"].to_dict("records")
    assert speed["mean"] < 0
    assert speed["verdict"] == "supported"


def test_protocols_are_kept_apart(write):
    for lr in (0.01, 0.02):
        write([60, 61], model="resnet8", lr=lr)
        write([63 + 100 * lr, 64], **GATED, lr=lr)
    table = differences(load_records(write([])))
    assert table[table["question"] == "accuracy"]["mean"].tolist() == pytest.approx([3.5, 4.0])
    assert set(table["words"]) == {
        "cifar10, short",
        "cifar10, 64 pixels, 5 epochs, batch 128, learning rate 0.02, cosine schedule",
    }


def test_an_answer_has_a_table_for_each_protocol_and_counts_what_was_looked_at(write):
    write([60, 61, 62], model="resnet8")
    write([63, 63.5, 65.5], model="resnet8-se")
    write([60, 63.5, 60.5], model="resnet8-eca")
    write([60], model="resnet8", lr=0.02)
    write([61], model="resnet8-se", lr=0.02)
    said = answer(differences(load_records(write([]))), "modules").splitlines()
    assert "**cifar10, short**, in points; comparisons tested: 2" in said
    assert "| SE-ResNet8 − ResNet8 | +3.00 ± 1.24 (3) | supported |" in said
    assert "| SE-ResNet8 − ResNet8 | +1.00 (1) | undecided; one seed |" in said
    write([60, 61], model="resnet8", precision="bfloat16")
    write([63, 64], model="resnet8-se", precision="bfloat16")
    assert "cosine schedule, bfloat16**, in points" in answer(differences(load_records(write([]))), "modules")
    assert sum("undecided; beyond ±" in line for line in said) == 1
    assert answer(differences(load_records(write([]))), "heads") == NOT_MEASURED


def test_a_pair_is_named_by_what_differs():
    assert pair_name(gated("vit-s14"), gated("shuffled", base="vit-s14")) == "gated a=1: vit-s14 − shuffled vit-s14"
    assert pair_name(gated("saliency"), RESNET8) == "gated a=1, saliency − ResNet8"


def test_the_claims_page_links_to_the_records_and_has_what_was_measured_alone(write):
    write([60, 61, 62], model="resnet8")
    results = write([61, 62.5, 63.4], **GATED)
    page = claims_page(results)
    assert "| gated a=1, saliency − ResNet8 | +1.30 ± 0.66 (3) | supported | +3.7, above | [records](.) |" in page
    assert "cifar100" not in page
    assert len(claim_table(results / "empty")) == 0


@pytest.mark.parametrize("folder", ["checks", "tuning"])
def test_trials_that_chose_settings_are_no_evidence(tmp_path, make_record, folder):
    for place, n in ((folder, 0), ("short", 1)):  # made again as evidence they count
        make_record(tmp_path / place, 0.5, **SHORT, model="resnet8")
        make_record(tmp_path / place, 0.6, **SHORT, **GATED)
        assert (len(claim_table(tmp_path)) > 0) == bool(n)


def test_the_committed_claims_are_what_the_records_say():
    committed = (paths.RESULTS / "CLAIMS.md").read_text(encoding="utf-8")
    assert committed == claims_page(paths.RESULTS), "run python -m resattn.report.readme"
    assert "That search saw ResNet8 alone" in committed
    assert "−0.67 ± 0.29 (3) | contradicted" in committed, "printed a=0 against ResNet8, with the recipe"
    for question, rows in claim_table().groupby("question", observed=True):
        part = committed.split(f"\n## {ALL_QUESTIONS[question]}\n")[1].split("\n## ")[0]
        assert part.count("[records](") == len(rows)
        assert part.count("comparisons tested: ") == rows.groupby(["dataset", "protocol"]).ngroups


def test_every_comparison_is_of_two_networks_and_asked_once():
    asked = [(row.question, row.one, row.other) for row in COMPARISONS]
    assert len(set(asked)) == len(asked)
    assert all(row.one != row.other and row.question in QUESTIONS for row in COMPARISONS)
    printed = [row for row in COMPARISONS if row.question == "accuracy" and row.one.form == "printed"]
    assert {row.other.name for row in printed if row.other.a != 0.5} == {"printed a=0", "ResNet8"}
    assert all((row.one.a, row.one.maps) == (1, row.other.maps) for row in printed if row.other.a == 0.5)
