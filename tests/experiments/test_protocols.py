"""One table decides what is run and compared: networks are equal where they do the same, and lists hold what comparisons need."""

from itertools import pairwise

import pytest

from resattn import paths
from resattn.analysis.records import load_records
from resattn.config import TrainConfig
from resattn.experiments.protocols import (
    COMPARISONS,
    FOUR_HEADS,
    PRINTED0,
    RESNET8,
    TABLE3,
    Network,
    list_runs,
    network,
)

CONTROLS = ["content", "oracle", "parts", "size", "modules", "heads", "learned"]


def networks(*arguments, **settings):
    return {network(**config.identity()) for config in list_runs(*arguments, **settings).values()}


def test_every_run_is_another():
    runs = list_runs("shapes", 2)
    assert len({config.slug for config in runs.values()}) == len(runs) == 2 * len(networks("shapes", 1))


def test_questions_come_whole_and_seed_by_seed():
    names = list(list_runs("shapes", 2))
    questions = [name.partition("/")[0] for name in names]
    assert list(dict.fromkeys(questions)) == CONTROLS
    assert questions == sorted(questions, key=CONTROLS.index)
    seeds = [int(name.partition("-seed")[2][0]) for name in names if name.startswith("content/")]
    assert seeds == sorted(seeds)


def test_all_but_the_network_is_the_same():
    own = {"model", "form", "a", "source", "base", "heads", "weights", "widths"}
    runs = list_runs("cifar10", 1, lr=0.02)
    rests = [{name: v for name, v in config.identity().items() if name not in own} for config in runs.values()]
    assert all(one == other for one, other in pairwise(rests))
    assert (rests[0]["lr"], rests[0]["image_size"], rests[0]["epochs"], rests[0]["batch_size"]) == (0.02, 64, 5, 128)


def test_photographs_get_no_map_that_only_shapes_have():
    shapes = {config.source for config in list_runs("shapes", 1).values()}
    assert {"oracle", "box", "square", "dino-tiny"} <= shapes
    sources = {config.source for config in list_runs("cifar10", 1, lr=0.02, source="saliency").values()}
    assert sources == {"uniform", "center", "shuffled", "saliency", "learned"}


def test_a_presets_controls_look_at_its_own_maps():
    runs = list_runs("cifar10", 1, preset="short").values()
    assert {run.source for run in runs} == {"vit-s14", "vit-s14-saliency", "shuffled", "uniform", "center", "learned"}
    assert {run.base for run in runs if run.source == "shuffled"} == {"vit-s14"}
    assert all(run.epochs == 5 for run in runs)


def test_table_3_is_a_list_of_its_own():
    runs = list_runs("cifar10", 3, part="table3", preset="reduced")
    assert len(runs) == 3 * len(TABLE3)
    assert {each.bare for each in networks("cifar10", 1, part="table3", preset="reduced")} == set(TABLE3)
    assert {(run.epochs, run.image_size, run.source) for run in runs.values()} == {(100, 64, "vit-s14")}


@pytest.mark.parametrize("source", ["center", "vit-s14-saliency", "learned"])
def test_table_3_is_listed_whole_for_any_maps(source):
    found = networks("cifar10", 1, part="table3", source=source)
    assert {each.bare for each in found} == set(TABLE3)
    assert {each.source for each in found if each.a} == {source}


@pytest.mark.parametrize(("name", "value"), [("part", "table9"), ("preset", "huge")])
def test_an_unknown_list_is_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be one of .*got '{value}'"):
        list_runs("shapes", 1, **{name: value})


def test_every_control_on_record_is_in_the_list():
    records = load_records(paths.RESULTS / "controls")
    listed = {
        config.slug
        for data in ("shapes", "cifar10")
        for source in ("saliency", "vit-s14")
        for config in list_runs(data, 8, source=source).values()
    }
    assert set(records["path"].map(lambda path: path.rpartition("/")[2].removesuffix(".json"))) <= listed


def test_every_run_serves_a_comparison():
    compared = {each for row in COMPARISONS for each in (row.one, row.other)}
    for preset in (None, "short"):
        assert networks("shapes", 1, preset=preset) <= compared


def test_a_network_is_what_it_looks_at():
    assert (
        network(form="printed", a=0, source="saliency") == network(form="printed", a=0.0, source="center") == PRINTED0
    )
    assert network(**TrainConfig(model="resnet8", source="center").identity()) == RESNET8
    assert network(**TrainConfig(form="unmasked", a=1).identity()) == network(form="unmasked", a=1)
    vit = TrainConfig(form="gated", a=1, source="dino-tiny", weights=FOUR_HEADS)
    assert network(**vit.identity()) == network(form="gated", a=1, source="dino-tiny", weights=FOUR_HEADS)
    shuffled = [network(form="gated", a=1, source="shuffled", base=base) for base in ("saliency", "vit-s14")]
    assert shuffled[0] != shuffled[1]


@pytest.mark.parametrize("row", [row for row in COMPARISONS if row.question in ("heads", "modules", "size")])
def test_a_networks_settings_make_that_network(row):
    for each in (row.one, row.other):
        assert network(**TrainConfig(**each.settings()).identity()) == each


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"form": "gated", "a": 1, "source": "dino-tiny", "heads": "all"}, "gated a=1, dino-tiny all heads"),
        ({"form": "gated", "a": 1, "source": "dino-tiny", "heads": 2}, "gated a=1, dino-tiny head 2"),
        ({"form": "gated", "a": 1, "source": "dino-tiny", "weights": FOUR_HEADS}, "gated a=1, dino-tiny-4heads"),
        ({"form": "gated", "a": 1, "source": "dino", "weights": "random"}, "gated a=1, dino random"),
        ({"form": "gated", "a": 1, "source": "dino"}, "gated a=1, dino"),
        ({"form": "gated", "a": 1, "source": "shuffled", "base": "vit-s14"}, "gated a=1, shuffled vit-s14"),
        ({"form": "printed", "a": 0.5, "source": "saliency"}, "printed a=0.5, saliency"),
        ({"form": "printed", "a": 0, "source": "saliency"}, "printed a=0"),
        ({"form": "unmasked", "a": 1, "source": "saliency"}, "unmasked a=1"),
        ({"model": "resnet8-se"}, "SE-ResNet8"),
        ({"model": "resnet8", "widths": (18, 36, 71)}, "ResNet8 18-36-71"),
    ],
)
def test_a_networks_name_says_whose_maps_it_looks_at_where_it_does(settings, name):
    assert str(network(**TrainConfig(**settings).identity())) == name


def test_networks_come_baseline_first_then_by_form_and_strength():
    forms = [("gated", 1), ("printed", 0.5), ("unmasked", 1), ("printed", 0), ("residual", 0.5), ("gated", 0.5)]
    found = sorted([*(network(form=form, a=a) for form, a in forms), network("resnet8-cbam"), RESNET8])
    names = ["ResNet8", "printed a=0", "printed a=0.5", "gated a=0.5", "gated a=1", "residual a=0.5", "unmasked a=1"]
    assert [each.name for each in found] == [*names, "CBAM-ResNet8"]
    assert isinstance(found[0], Network)


def test_names_of_learned_maps_are_whole_and_digests_short():
    for weights, said in (("dino-tiny", "learned dino-tiny"), ("random", "learned random")):
        assert network(form="gated", a=1.0, source="learned", weights=weights).maps == said
    assert network(form="gated", a=1.0, source="dino", weights="0123456789abcdef").maps == "dino 01234567"
