"""Features that were found for something else, or chosen otherwise, are never tuned in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moralprobe.errors import UsageError
from moralprobe.steering import selection
from moralprobe.steering.selection import check_features_of

NOW: dict[str, Any] = {
    "sae": "my-sae",
    "vectors": "my.parquet",
    "sae_hash": "a",
    "vectors_hash": "b",
    "li2026": {"rows": 7},
}


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(selection, "made_of", lambda *_: {"sae_hash": "a", "vectors_hash": "b"})

    def check(said: dict[str, Any]) -> list[str]:
        (tmp_path / "features.json").write_text(json.dumps(said))
        return check_features_of(tmp_path, None, tmp_path)  # type: ignore[arg-type]

    return check


def test_what_fits_is_taken_and_what_doesnt_say_is_told(check: Any, tmp_path: Path) -> None:
    assert check(NOW) == []
    (said,) = check({})
    assert "doesn't say which autoencoder" in said
    (tmp_path / "features.json").unlink()
    assert check_features_of(tmp_path, None, tmp_path) == [said]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"sae_hash": "x"}, "of another autoencoder.*made of my-sae"),
        ({"vectors_hash": "x"}, r"of another table.*made of my\.parquet"),
        ({"li2026": {"mono": 3}}, "by an earlier version.*dev and test texts.*sae features"),
    ],
)
def test_what_doesnt_fit_is_refused(other: dict[str, Any], what: str, check: Any) -> None:
    with pytest.raises(UsageError, match=what):
        check({**NOW, **other})
