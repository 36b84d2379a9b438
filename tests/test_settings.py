"""One way of checking settings and of offering them on the command line."""

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from resattn.config import TrainConfig
from resattn.dino.config import DinoConfig
from resattn.experiments.search import SearchPlan
from resattn.settings import add_options, check, given, setting


@dataclass(frozen=True)
class Settings:
    name: str = "any"
    path: str | None = None
    kind: str = setting("one", choices=("one", "two"))
    share: float = setting(0.5, low=0, high=1)
    rate: float = setting(0.1, above=0)
    decay: float = setting(0.9, low=0, below=1)
    side: int = setting(8, low=4, multiple=4)
    most: int | None = setting(None, low=1, high=9)
    heads: str | int = setting("mean", choices=("mean", "all"), low=0)
    fast: bool | None = None
    widths: tuple[int, int] = setting((1, 2), low=1)

    def __post_init__(self):
        check(self)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "name must be a text, got 3"),
        ({"kind": "three"}, "kind must be one of one, two; got 'three'"),
        ({"kind": None}, "kind must be one of one, two; got None"),
        ({"share": 1.5}, "share must be a number in [0, 1], got 1.5"),
        ({"share": True}, "share must be a number in [0, 1], got True"),
        ({"share": "0.5"}, "share must be a number in [0, 1], got '0.5'"),
        ({"share": float("nan")}, "share must be a number in [0, 1], got nan"),
        ({"share": None}, "share must be a number in [0, 1], got None"),
        ({"rate": 0}, "rate must be a number above 0, got 0"),
        ({"rate": float("inf")}, "rate must be a number above 0, got inf"),
        ({"decay": 1.0}, "decay must be a number in [0, 1), got 1.0"),
        ({"side": 6}, "side must be a whole number at least 4 and a multiple of 4, got 6"),
        ({"side": 8.0}, "side must be a whole number at least 4 and a multiple of 4, got 8.0"),
        ({"most": 10}, "most must be a whole number in [1, 9] or None, got 10"),
        ({"heads": "median"}, "heads must be 'mean', 'all' or a whole number at least 0, got 'median'"),
        ({"heads": -1}, "heads must be 'mean', 'all' or a whole number at least 0, got -1"),
        ({"fast": "no"}, "fast must be True, False or None, got 'no'"),
        ({"fast": 1}, "fast must be True, False or None, got 1"),
        ({"widths": (1,)}, "widths must be 2 numbers, got (1,)"),
        ({"widths": (1, 0)}, "widths must be a whole number at least 1, got 0"),
    ],
    ids=str,
)
def test_what_is_not_allowed_is_named_with_what_is(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        Settings(**changes)
    assert str(caught.value) == message


def test_what_counts_as_equal_becomes_equal():
    assert Settings(share=1, widths=[3, 4], path=Path("here")) == Settings(share=1.0, widths=(3, 4), path="here")
    assert isinstance(Settings(share=1).share, float)


def test_options_are_read_as_their_fields_types():
    parser = argparse.ArgumentParser()
    add_options(parser, Settings, without=("name",))
    text = "--share 1 --side 12 --heads 3 --fast no --widths 5 6 --path 7"
    options = given(vars(parser.parse_args(text.split())), Settings)
    assert options == {"share": 1.0, "side": 12, "heads": 3, "fast": False, "widths": [5, 6], "path": "7"}
    assert given(vars(parser.parse_args(["--heads", "all"])), Settings) == {"heads": "all"}
    perhaps = given(vars(parser.parse_args(["--fast", "perhaps"])), Settings)
    with pytest.raises(ValueError, match="fast must be True, False or None, got 'perhaps'"):
        Settings(**perhaps)
    for wrong in ("--side 1.5", "--widths 5", "--name x"):
        with pytest.raises(SystemExit):
            parser.parse_args(wrong.split())


def test_options_are_explained_by_the_docstring():
    for settings in (TrainConfig, DinoConfig, SearchPlan):
        parser = argparse.ArgumentParser()
        add_options(parser, settings, without=("config",))
        said = {action.dest: action.help for action in parser._actions}
        assert not [name for name, text in said.items() if text.partition(" (default")[0] == name.replace("_", " ")]
        assert not [name for name, text in said.items() if "`" in text or "None)" in text]
        assert parser.format_help()
        if settings is TrainConfig:
            assert said["heads"].endswith('"mean", "max", an index, or "all" as channels (default mean)')
            assert said["source"].endswith(", box, square, learned (default saliency)")
            assert said["base"].startswith('the source whose maps "shuffled" hands to other images; dino, dino-tiny, ')


def test_a_folder_is_told_by_where_it_is_found(tmp_path, monkeypatch, make_folder):
    """Below the root, or from the working directory: ``load_dataset`` looks there too."""
    make_folder("birds")
    folders = []
    for place in ("one", "two"):
        shutil.copytree(tmp_path / "data" / "birds", tmp_path / place / "sets" / "birds")
        monkeypatch.chdir(tmp_path / place)
        folders.append(TrainConfig("sets/birds").folder)
    assert folders[0] != folders[1]
    assert folders[1] == TrainConfig(str(tmp_path / "two" / "sets" / "birds")).folder
    assert TrainConfig("birds", root=str(tmp_path / "data")).folder != folders[0]


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_those_that_torch_takes(seed):
    with pytest.raises(ValueError, match="seed must be"):
        TrainConfig(seed=seed)
    torch.Generator().manual_seed(TrainConfig(seed=2**63 - 1).seed)
