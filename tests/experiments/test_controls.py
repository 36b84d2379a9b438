"""The controls: their list, the matched networks, and a queue that survives interruptions and shares its work."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from resattn import TrainConfig, paths, train
from resattn.experiments import controls
from resattn.experiments.controls import (
    CONTROLS,
    SAME_COMPUTE,
    SAME_PARAMETERS,
    is_finished,
    list_runs,
    main,
    run_queue,
)
from resattn.models.cost import matched_widths, network_cost

FULL = TrainConfig(form="gated", a=1, image_size=64)
PLAIN = TrainConfig(model="resnet8", image_size=64)


@pytest.fixture
def trained(monkeypatch):
    """Names of the runs that were trained, none of them for real."""
    slugs = []

    def pretend(config):
        slugs.append(config.slug)
        return {"config": config.identity(), "metrics": {"test_acc": 0.5}}

    monkeypatch.setattr(sys.modules["resattn.training.trainer"], "train", pretend)
    return slugs


# The list


def test_every_run_is_another():
    runs = list_runs("shapes", 2, dino=True)
    assert len({config.slug for config in runs.values()}) == len(runs) == 2 * len(CONTROLS)


def test_questions_come_whole_and_seed_by_seed():
    names = list(list_runs("shapes", 2))
    questions = [name.partition("/")[0] for name in names]
    order = ["content", "parts", "modules", "size", "heads", "learned"]
    assert list(dict.fromkeys(questions)) == order
    assert questions == sorted(questions, key=order.index)
    seeds = [int(name.partition("-seed")[2][0]) for name in names if name.startswith("content/")]
    assert seeds == sorted(seeds)


def test_all_but_the_network_is_the_same():
    network = {"model", "form", "a", "source", "heads", "weights", "widths"}
    rests = [
        {name: value for name, value in config.identity().items() if name not in network}
        for config in list_runs("cifar10", 1, lr=0.02).values()
    ]
    assert all(rest == rests[0] for rest in rests)
    assert rests[0]["lr"] == 0.02
    assert (rests[0]["image_size"], rests[0]["epochs"], rests[0]["batch_size"]) == (64, 5, 128)


def test_photographs_get_no_map_that_only_shapes_have():
    assert {"oracle", "dino-tiny"} <= {config.source for config in list_runs("shapes", 1).values()}
    sources = {config.source for config in list_runs("cifar10", 1, lr=0.02).values()}
    assert sources == {"uniform", "center", "shuffled", "saliency"}
    assert {config.source for config in list_runs("cifar10", 1, dino=True, lr=0.02).values()} == sources | {"dino"}


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


@pytest.mark.parametrize(("measure", "widths"), [("parameters", SAME_PARAMETERS), ("macs", SAME_COMPUTE)])
def test_the_wider_networks_match_and_none_matches_better(measure, widths):
    def cost(widths):
        return getattr(network_cost(replace(PLAIN, widths=widths)), measure)

    target = getattr(network_cost(FULL), measure)
    assert abs(cost(widths) - target) < 0.02 * target < abs(cost((16, 32, 64)) - target)
    assert matched_widths(target, cost) == widths


def test_a_cost_out_of_reach_is_refused():
    with pytest.raises(ValueError, match="target must be between 112 and 224, got 300"):
        matched_widths(300, sum)


# The queue


def test_finished_runs_are_skipped(tmp_path, trained, capsys):
    runs = list_runs("shapes", 1)
    first = dict(list(runs.items())[:3])
    assert run_queue(first, tmp_path) == []
    assert trained == [config.slug for config in first.values()]
    assert run_queue(first, tmp_path) == []
    assert len(trained) == 3
    assert {path.stem for path in tmp_path.glob("*.json")} == set(trained)
    assert "test accuracy 50.00 %" in capsys.readouterr().out


def test_half_a_record_is_made_again(tmp_path, trained):
    name, config = next(iter(list_runs("shapes", 1).items()))
    (tmp_path / f"{config.slug}.json").write_text('{"config": ')
    assert not is_finished(tmp_path, config)
    run_queue({name: config}, tmp_path)
    assert is_finished(tmp_path, config)


def test_a_run_that_fails_does_not_stop_the_others(tmp_path, trained, monkeypatch):
    pretend = sys.modules["resattn.training.trainer"].train

    def fail_once(config):
        if config.form == "scaled":
            raise FloatingPointError("loss became nan")
        return pretend(config)

    monkeypatch.setattr(sys.modules["resattn.training.trainer"], "train", fail_once)
    runs = {name: run for name, run in list_runs("shapes", 1).items() if name.startswith("parts/")}
    failed = run_queue(runs, tmp_path)
    assert failed == [name for name in runs if "scaled" in name]
    assert len(trained) == len(runs) - 1 == 1


def test_no_run_is_started_after_the_time_is_over(tmp_path, trained, capsys):
    runs = list_runs("shapes", 1)
    run_queue(runs, tmp_path, seconds=0)
    assert trained == []
    assert f"{len(runs)} runs not looked at" in capsys.readouterr().out


def test_a_run_another_process_is_on_is_left_to_it_until_that_ends(tmp_path, trained):
    (first, claimed), (second, free) = list(list_runs("shapes", 1).items())[:2]
    code = (
        "import sys; from resattn import TrainConfig; from resattn.experiments import controls; "
        f"claim = controls._claim(TrainConfig(**{claimed.identity() | {'form': 'printed', 'a': 0.5, 'source': 'saliency'}!r})); "
        "print(claim.__enter__(), flush=True); sys.stdin.read()"
    )
    environment = {"RESATTN_HOME": str(paths.RUNS.parent), "PYTHONPATH": str(paths.CHECKOUT), "PATH": "/usr/bin:/bin"}
    other = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "True\n"
    try:
        run_queue({first: claimed, second: free}, tmp_path)
        assert trained == [free.slug]
    finally:
        other.kill()
        other.wait()
    run_queue({first: claimed, second: free}, tmp_path)
    assert trained == [free.slug, claimed.slug]


def test_a_run_someone_finished_meanwhile_is_not_made_again(tmp_path, trained, monkeypatch):
    """The record is looked for under the claim: between looking and claiming another process could write it."""
    name, config = next(iter(list_runs("shapes", 1).items()))
    claim = controls._claim

    def finish_first(config):
        (tmp_path / f"{config.slug}.json").write_text('{"metrics": {}}')
        return claim(config)

    monkeypatch.setattr(controls, "_claim", finish_first)
    run_queue({name: config}, tmp_path)
    assert trained == []


# From the shell


def test_a_control_is_trained_from_the_shell(tmp_path, make_folder, capsys):
    root = make_folder(train=30, test=10).parent
    options = ["--dataset=birds", f"--root={root}", "--lr=0.01", "--epochs=1", "--image-size=16", "--seeds=1"]
    with pytest.raises(SystemExit):
        main([*options, f"--out={tmp_path}", "--only=nothing/*"])
    for _ in range(2):  # batches of 128 do not fit 90 images
        assert main([*options, f"--out={tmp_path}", "--only=parts/*unmasked*"]) == 1
    assert "FAILED parts/birds-unmasked-a1-seed0-" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.json"))


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


def test_the_plan_counts_what_is_done(tmp_path, trained, capsys):
    assert main([f"--out={tmp_path}", "--only=*seed0*", "--minutes=9"]) == 0
    once = len(trained)
    capsys.readouterr()
    main([f"--out={tmp_path}", "--seeds=2", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{2 * once} runs, {once} finished"
    assert sum(line.startswith("finished") for line in lines) == once


def test_photographs_need_a_learning_rate(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--dataset", "cifar10", "--dry-run"])
    assert caught.value.code == 2
    assert "--lr must be given for cifar10" in capsys.readouterr().err
