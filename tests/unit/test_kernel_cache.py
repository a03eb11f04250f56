"""Compiled kernels are kept by content, in a directory that can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clustersim.kernel_cache import kernel_key, prepare_numba_cache


def test_the_key_changes_with_any_kernel_and_with_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "kernels.py").write_text("one = 1\n")
    first = kernel_key(tmp_path)
    (tmp_path / "a" / "other.py").write_text("two = 2\n")
    assert kernel_key(tmp_path) == first
    (tmp_path / "a" / "kernels.py").write_text("one = 2\n")
    assert kernel_key(tmp_path) != first


def test_a_directory_that_the_user_chose_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/chosen")
    assert prepare_numba_cache() == "/chosen"


def test_the_cache_directory_of_the_user_is_taken_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: tmp_path / name)
    directory = prepare_numba_cache()
    assert Path(directory) == tmp_path / "clustersim" / f"kernels-{kernel_key()}"
    assert os.environ["NUMBA_CACHE_DIR"] == directory == prepare_numba_cache()


def test_a_home_that_cannot_be_written_costs_only_the_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name: file / name)
    directory = Path(prepare_numba_cache())
    assert directory.is_dir()
    assert directory.stat().st_mode & 0o077 == 0
