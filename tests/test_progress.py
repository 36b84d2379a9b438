"""Bars where someone watches, and the time left: exact where the future is like the past, silent where nothing is known."""

import time
from dataclasses import dataclass

import pytest

from resattn import progress
from resattn.progress import Forecast, track


@dataclass
class FakeJob:
    name: str
    notebook: str = "03_training"
    stage: int = 1
    cost: float = 10.0

    def estimated_seconds(self, cuda):
        return None if cuda and self.notebook == "03_training" else self.cost


TRAINING = [FakeJob("a"), FakeJob("b"), FakeJob("c"), FakeJob("d", cost=20)]
LAST = FakeJob("04", "04_figures", stage=2, cost=12)


def test_nothing_is_said_before_something_ended():
    assert Forecast(2, cuda=False).seconds_left(TRAINING) is None


def test_stages_add_up_and_workers_share_only_within_one():
    forecast = Forecast(2, cuda=False)
    forecast.end(TRAINING[0], 30)  # three times the guess
    assert forecast.seconds_left([*TRAINING[1:], LAST]) == pytest.approx((30 + 30 + 60) / 2 + 36)
    assert forecast.seconds_left([LAST]) == pytest.approx(36), "one job cannot be shared"
    assert forecast.seconds_left([TRAINING[3]]) == pytest.approx(60)
    assert forecast.seconds_left([]) == 0


def test_each_notebook_has_its_own_pace():
    forecast = Forecast(1, cuda=False)
    forecast.end(FakeJob("01", "01_attention_maps", 0, 12), 6)
    assert forecast.seconds_left([TRAINING[0]]) == pytest.approx(5), "the only pace known so far"
    forecast.end(TRAINING[0], 20)
    assert forecast.seconds_left([TRAINING[1]]) == pytest.approx(20)


def test_running_jobs_count_for_what_is_left_of_them(monkeypatch):
    clock = iter((100.0, 104.0, 104.0, 200.0))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    forecast = Forecast(1, cuda=False)
    forecast.end(TRAINING[0], 10)
    forecast.start(TRAINING[1])
    assert forecast.seconds_left([TRAINING[1]]) == pytest.approx(6)
    next(clock)
    assert forecast.seconds_left([TRAINING[1]]) == 0, "late, never negative"


def test_on_a_gpu_training_is_foretold_by_training_alone():
    forecast = Forecast(1, cuda=True)
    forecast.end(FakeJob("01", "01_attention_maps", 0, 12), 24)
    assert forecast.seconds_left([LAST]) == pytest.approx(24)
    assert forecast.seconds_left([*TRAINING, LAST]) is None
    forecast.end(TRAINING[0], 1)
    assert forecast.seconds_left([TRAINING[3], LAST]) == pytest.approx(2 + 24)


def test_a_bar_where_someone_watches_and_lines_where_nobody_does(monkeypatch, capsys):
    assert list(track("abc", 3, "epoch 1/2", every=0)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out.splitlines()[0].startswith("epoch 1/2: 1 of 3, ")
    assert err == ""
    assert list(track("abc", 3, "epoch 1/2", every=float("inf"))) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "interactive", lambda: True)
    assert list(track("abc", 3, "epoch 1/2")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2:   0%" in err
    assert "0/3" in err
