"""Bars where someone watches, lines where nobody does."""

from resattn import progress
from resattn.progress import track


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
