"""The controls: their list, the matched networks, and how they are asked for."""

import functools
import json
from dataclasses import replace

import pytest

from resattn import TrainConfig, train
from resattn.__main__ import main
from resattn.experiments.protocols import SAME_AS_RESIDUAL, SAME_COMPUTE, SAME_PARAMETERS, list_runs
from resattn.files import write_json
from resattn.models.cost import matched_widths, network_cost

FULL = TrainConfig(form="gated", a=1, image_size=64)
PLAIN = TrainConfig(model="resnet8", image_size=64)


# What networks cost


def test_cost_by_hand():
    """ResNet8 at 64 pixels: a 16x16 grid after the stem, halved twice."""
    stem = 16 * 3 * 4 * 4
    convolutions = [2 * 16 * 16 * 9, 16 * 32 * 9 + 32 * 32 * 9 + 16 * 32, 32 * 64 * 9 + 64 * 64 * 9 + 32 * 64]
    norms = 2 * (16 + 2 * 16 + 3 * 32 + 3 * 64)
    parameters = stem + sum(convolutions) + norms + 64 * 10 + 10
    macs = stem * 16**2 + sum(part * side**2 for part, side in zip(convolutions, (16, 8, 4), strict=True)) + 64 * 10
    assert network_cost(PLAIN) == (parameters, macs)


def test_what_a_form_leaves_unused_costs_nothing():
    assert network_cost(replace(FULL, form="unmasked")) == network_cost(PLAIN)
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert network_cost(replace(FULL, form="scaled")).parameters == network_cost(PLAIN).parameters - projections
    assert network_cost(replace(FULL, form="scaled")) == network_cost(replace(FULL, form="printed", a=0))
    assert network_cost(FULL).parameters > network_cost(PLAIN).parameters


def test_the_wider_networks_match_and_none_matches_better():
    cost = functools.cache(lambda widths: network_cost(replace(PLAIN, widths=widths)))
    for form, measure, widths in (
        ("gated", "parameters", SAME_PARAMETERS),
        ("gated", "macs", SAME_COMPUTE),
        ("residual", "parameters", SAME_AS_RESIDUAL),
        ("residual", "macs", SAME_AS_RESIDUAL),
    ):
        target = getattr(network_cost(replace(FULL, form=form)), measure)
        found = {each: getattr(cost(each), measure) for each in (widths, (16, 32, 64))}
        assert abs(found[widths] - target) < 0.02 * target < abs(found[16, 32, 64] - target)
        assert matched_widths(target, lambda each, measure=measure: getattr(cost(tuple(each)), measure)) == widths


# From the shell


@pytest.mark.parametrize(
    "changes",
    [
        {"form": "scaled", "a": 1},
        {"model": "resnet8-cbam"},
        {"widths": (6, 12, 24)},
        {"model": "resnet8", "depths": (2, 1, 3)},
    ],
)
def test_every_new_network_trains_and_is_read_back(make_folder, tmp_path, changes):
    from resattn.models.checkpoints import load_trained

    config = TrainConfig(
        "birds", make_folder(train=30, test=10).parent, epochs=1, image_size=16, batch_size=16, lr=0.01
    )
    config = replace(config, **changes)
    record = train(config, folder=tmp_path, on_epoch=lambda _: None)
    assert json.loads(json.dumps(record))["config"] == config.identity()
    net = load_trained(tmp_path / "weights.safetensors", num_classes=3)
    assert record["parameters"] == sum(p.numel() for p in net.parameters())


def plan(tmp_path, capsys, *options):
    assert main(["run", "--profile=controls", "--dry-run", f"--out={tmp_path}", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_plan_counts_what_is_done(tmp_path, capsys):
    runs = list_runs("shapes", 1)
    assert plan(tmp_path, capsys, "--seeds=1")[-1].startswith(f"{len(runs)} runs, 0 finished")
    for config in list(runs.values())[:3]:
        metrics = {"test_acc": 0.5, "epochs": [{}] * config.epochs}
        write_json(
            tmp_path / f"{config.slug}.json", {"config": config.identity(), "metrics": metrics, "environment": {}}
        )
    lines = plan(tmp_path, capsys, "--seeds=2")
    assert lines[-1].startswith(f"{2 * len(runs)} runs, 3 finished")
    assert sum(line.endswith("finished") for line in lines[:-1]) == 3
    assert len(plan(tmp_path, capsys, "--only=parts/*seed0*")) == 3


def test_settings_change_all_runs_and_wrong_ones_are_named(tmp_path, capsys):
    lines = plan(tmp_path, capsys, "--seeds=1", "--dataset=cifar10", "--set", "source=dino")
    assert any("-dino-" in line for line in lines)
    usual, changed = (
        plan(tmp_path, capsys, "--seeds=1", "--dataset=cifar10", *more) for more in ((), ("--set", "lr=0.02"))
    )
    assert len(usual) == len(changed)
    assert not set(usual[:-1]) & set(changed[:-1])
    for options, message in (
        (["--set", "epcohs=2"], "--set epcohs: no such setting"),
        (["--set", "seed=1"], "--set seed: no such setting"),
        (["--set", "epochs=0"], "epochs must be a whole number"),
        (["--only", "nothing/*"], "--only 'nothing/*' matches no run"),
    ):
        assert main(["run", "--profile=controls", f"--out={tmp_path}", *options]) == 2
        assert message in capsys.readouterr().err


def test_short_lists_the_networks_of_the_reduced_table(tmp_path, capsys):
    lines = plan(tmp_path, capsys, "--profile=short", "--seeds=1")
    forms = [f"{form}-a{a}-vit-s14" for form in ("printed", "gated", "residual") for a in ("0.5", "1")]
    names = [line.split("-seed0")[0] for line in lines[:-1]]
    assert names == [f"accuracy/cifar10-{name}" for name in ("resnet8", "printed-a0-vit-s14", *forms)]
