"""A bar where someone watches, a line now and then where nobody does."""

import sys
import time
from types import SimpleNamespace

import pytest

from resattn import progress
from resattn.progress import track


def test_a_bar_where_someone_watches_and_a_line_now_and_then_where_nobody_does(monkeypatch, capsys):
    for every in (float("inf"), 30):
        assert list(track("abc", 3, "epoch 1/2", every)) == ["a", "b", "c"]
        assert capsys.readouterr() == ("", "")
    slow = (time.sleep(0.05) or step for step in "abc")
    assert list(track(slow, 3, "epoch 1/2", every=0.01)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2:  67%" in err
    monkeypatch.setattr(progress, "interactive", lambda: True)
    assert list(track("abc", 3, "epoch 1/2")) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch 1/2:   0%" in err
    assert "0/3" in err


@pytest.mark.parametrize(
    ("headless", "terminal", "watched"), [("1", True, False), ("", True, True), ("", False, False)]
)
def test_who_watches(monkeypatch, headless, terminal, watched):
    monkeypatch.setenv("RESATTN_HEADLESS", headless)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: terminal))
    assert progress.interactive() is watched


def test_times_for_people():
    assert [progress.clock(seconds) for seconds in (7.6, 59.6, 125, 12_000)] == [
        "8 s",
        "1:00 min",
        "2:05 min",
        "3:20 h",
    ]
