"""A sentinel file shows whether two processes see the same folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mifsim.server.shared_storage import remove_sentinels, sees_sentinel, sentinel_file


def test_a_sentinel_file_is_visible_in_its_context_and_removed_afterwards(tmp_path: Path) -> None:
    with sentinel_file(tmp_path) as sentinel:
        assert sees_sentinel(sentinel)
        assert all(path.name.startswith(".") for path in tmp_path.iterdir())
    assert not sees_sentinel(sentinel)
    assert list(tmp_path.iterdir()) == []


def test_another_folder_under_the_same_path_fails_the_check(tmp_path: Path) -> None:
    with sentinel_file(tmp_path / "run") as sentinel:
        # A machine without the mount has nothing at this path, or an empty folder, or the folder of another run.
        (tmp_path / "run").rename(tmp_path / "mounted")
        assert not sees_sentinel(sentinel)
        (tmp_path / "run").mkdir()
        assert not sees_sentinel(sentinel)
        with sentinel_file(tmp_path / "run"):
            assert not sees_sentinel(sentinel)
        Path(sentinel).write_text("of another run")
        assert not sees_sentinel(sentinel)
        Path(sentinel).unlink()
        (tmp_path / "run").rmdir()
        (tmp_path / "mounted").rename(tmp_path / "run")
        assert sees_sentinel(sentinel)


def test_sentinel_files_are_removed_after_a_failure_and_by_a_resumed_run(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sentinel_file(tmp_path):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".seen-0123456789abcdef").write_text("left")
    remove_sentinels(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sentinel", ["ftp://nowhere/.seen-x", ""])
def test_an_unreadable_sentinel_is_not_seen(sentinel: str) -> None:
    assert not sees_sentinel(sentinel)
