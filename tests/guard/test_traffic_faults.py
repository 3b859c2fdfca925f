"""The traffic log of a guard that is killed, on a full disk, and over time."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import signal
import stat
import sys
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from mifsim.defense.quota import QuotaConfig
from mifsim.errors import GuardError
from mifsim.guard.core import GuardService
from mifsim.guard.message import Request
from mifsim.guard.refusals import Refused
from mifsim.guard.traffic import journal as journals
from tests.guard.guard_processes import POOL, Running, guard, image_request, model_server
from tests.guard.guards import Model, started, write_filter
from tests.guard.traffic_requests import logged, npy, sent, stream, with_log

LIMIT = QuotaConfig(queries=100_000)
posix = pytest.mark.skipif(sys.platform == "win32", reason="needs the locks and signals of POSIX")


def rows_written(running: Running) -> int:
    """Return the number of rows that the guard says it has written."""
    text = running.send(Request("GET", "/metrics"))[2].decode()
    return int(float(re.search(r"^mifsim_guard_log_rows_total (\S+)$", text, re.MULTILINE)[1]))  # type: ignore[index]


@posix
def test_a_guard_that_is_killed_loses_only_what_it_had_not_written(tmp_path: Path) -> None:
    """Whenever it is killed, all rows that it had written are recovered, in their order, and none twice."""
    write_filter(tmp_path, LIMIT, longest=100_000)
    folder = tmp_path / "traffic"
    answered: list[list[str]] = []
    with contextlib.ExitStack() as stack:
        model = model_server()
        stack.callback(model.kill)
        for life in range(2):
            running = guard(tmp_path, model, "--log", str(folder))
            stack.callback(running.kill)
            answered.append([])
            after = 0
            while rows_written(running) < 8 or after < 3:
                after += rows_written(running) >= 8
                answered[life].append(f"{life}-{len(answered[life])}")
                request = image_request("npy", POOL[len(answered[life]) % len(POOL)])
                status, _, _ = running.send(request, {"x-user": "ann", "x-request-id": answered[life][-1]})
                assert status == 200
            durable = rows_written(running)
            running.process.send_signal(signal.SIGTERM if life else signal.SIGKILL)
            assert running.process.wait(60) == (0 if life else -signal.SIGKILL)
            if life == 0:
                assert any(path.name.startswith(".guard-") for path in folder.iterdir())
        found = logged(folder)
        for life, sent_in in enumerate(answered):
            ids = [row["request_id"] for row in found if row["request_id"].startswith(f"{life}-")]
            assert ids == sent_in[: len(ids)]
            assert len(ids) >= 8
        assert len(ids) == len(answered[1]) >= durable  # SIGTERM loses nothing
    numbers = {name: number for number, name in enumerate((name for names in answered for name in names), 1)}
    assert [row["query"] for row in found] == [numbers[row["request_id"]] for row in found]
    assert len({row["session"] for row in found}) == 1
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert all(path.suffix == ".parquet" for path in folder.iterdir())


class FullDisk:
    """A disk on which only some bytes can be written; the last write before it is full is incomplete."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: float = float("inf")
        disk = self

        class File(FileIO):
            def write(self, data: Any) -> int:
                size = int(min(len(data), disk.left))
                disk.left -= size
                if size == 0 and len(data):
                    raise OSError(errno.ENOSPC, "No space left on device")
                return super().write(memoryview(data)[:size])

        monkeypatch.setattr(journals, "FileIO", File)


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.01)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write and retry without a pause."""
    monkeypatch.setattr("mifsim.guard.traffic.writer.FLUSH_SECONDS", 0.01)
    monkeypatch.setattr("mifsim.guard.traffic.writer.RETRY_SECONDS", 0.01)


@pytest.mark.usefixtures("quick")
def test_queries_are_refused_while_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was answered is lost, although the disk was filled in the middle of a row."""

    async def check() -> None:
        disk = FullDisk(monkeypatch)
        write_filter(tmp_path, LIMIT)
        guard_ = await started(with_log(tmp_path), Model("npy"))
        images, answered = stream(0, 40), 0
        for round_ in range(3):
            disk.left = 1000
            for image in images:
                status = await sent(guard_, npy([image], "ann"))
                if status == 503:
                    break
                assert status == 200
                answered += 1
                await asyncio.sleep(0.02)
            assert status == 503
            assert await guard_.problem() == "the traffic log cannot be written"
            with pytest.raises(Refused, match="traffic log") as refused:
                await guard_.handle(npy([images[0]], "ann"))
            assert "retry-after" in dict(refused.value.reply().headers)
            disk.left = float("inf")
            await until(lambda: guard_._log is not None and not guard_._log.problem)
            assert await guard_.problem() == ""
            assert await sent(guard_, npy([images[round_]], "ann")) == 200
            answered += 1
        await guard_.stop()
        found = logged(tmp_path / "traffic")
        assert [row["query"] for row in found] == list(range(1, answered + 1))
        assert value(guard_, "rows") == answered
        assert value(guard_, "dropped") == 0

    asyncio.run(check())


def value(guard_: GuardService, name: str) -> float | None:
    return guard_.metrics.registry.get_sample_value(f"mifsim_guard_log_{name}_total")


@pytest.mark.usefixtures("quick")
def test_rows_are_dropped_and_counted_if_the_log_is_not_required(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers go on; every query is either in the log or counted as dropped."""

    async def check() -> None:
        disk = FullDisk(monkeypatch)
        monkeypatch.setattr("mifsim.guard.traffic.writer.MOST_BYTES", 20_000)
        write_filter(tmp_path, LIMIT)
        guard_ = await started(with_log(tmp_path, log={"required": False}), Model("npy"))
        images = stream(0, 60)
        for number, image in enumerate(images):
            disk.left = 0 if number == 5 else disk.left
            assert await sent(guard_, npy([image], "ann")) == 200
            if number == 4:
                await until(lambda: value(guard_, "rows") == 5)
        assert await guard_.problem() == ""
        dropped = value(guard_, "dropped") or 0
        assert 10 < dropped < 55
        disk.left = float("inf")
        await until(lambda: value(guard_, "rows") == 60 - dropped)
        disk.left = 0
        assert await sent(guard_, npy([images[0]], "ann")) == 200
        await guard_.stop()
        assert value(guard_, "dropped") == dropped + 1
        numbers = [row["query"] for row in logged(tmp_path / "traffic")]
        assert len(numbers) == 60 - dropped
        assert numbers[:5] == [1, 2, 3, 4, 5]
        assert all(first < second for first, second in pairwise(numbers))

    asyncio.run(check())


def test_a_log_that_cannot_be_written_ends_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        write_filter(tmp_path, LIMIT)
        (tmp_path / "file").touch()
        for folder in ("file", "file/below"):
            bad = with_log(tmp_path, log={"folder": str(tmp_path / folder)})
            with pytest.raises(GuardError, match=r"log\.folder = .*file.*cannot be written"):
                await started(bad, Model())
        FullDisk(monkeypatch).left = 10
        with pytest.raises(GuardError, match="No space left"):
            await started(with_log(tmp_path), Model())
        assert list((tmp_path / "traffic").iterdir()) == []
        guard_ = await started(with_log(tmp_path, log={"required": False}), Model("npy"))
        assert await sent(guard_, npy(stream(0, 1), "ann")) == 200
        await guard_.stop()
        assert value(guard_, "dropped") == 1

    asyncio.run(check())


@pytest.mark.usefixtures("quick")
def test_files_are_completed_by_size_and_by_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(log: dict[str, Any], queries: int) -> list[int]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        write_filter(folder, LIMIT, shape=(64, 64, 3))
        guard_ = await started(with_log(folder, log=log), Model("npy", (64, 64, 3)))
        images = stream(0, 12, (64, 64, 3))  # 576 KiB
        for number in range(queries):
            assert await sent(guard_, npy(images, "ann")) == 200
            await until(lambda number=number: value(guard_, "rows") == 12 * (number + 1))
        if log.get("rotate") != "never":
            files = folder / "traffic"
            await until(lambda: any(path.suffix == ".parquet" for path in files.iterdir()))
        await guard_.stop()
        assert [row["query"] for row in logged(folder / "traffic")] == list(range(1, 12 * queries + 1))
        return [pq.read_metadata(path).num_rows for path in sorted((folder / "traffic").iterdir())]

    assert asyncio.run(check({"rotate": "never", "rotate_mb": 1}, 5)) == [24, 24, 12]
    assert asyncio.run(check({"rotate": "never"}, 3)) == [36]
    assert asyncio.run(check({"rotate": "1s"}, 1)) == [12]  # complete before the guard stops


def logged_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("guard-*.parquet"))


@pytest.mark.usefixtures("quick")
def test_a_deleted_journal_is_noticed(tmp_path: Path) -> None:
    """Somebody deletes the folder's files: the next rows go to a new journal, and none is written to a deleted one."""

    async def check() -> None:
        write_filter(tmp_path, LIMIT)
        guard_ = await started(with_log(tmp_path), Model("npy"))
        assert await sent(guard_, npy(stream(0, 1), "ann")) == 200
        await until(lambda: value(guard_, "rows") == 1)
        for path in (tmp_path / "traffic").iterdir():
            path.unlink()
        assert await sent(guard_, npy(stream(1, 1), "ann")) == 200
        await until(lambda: value(guard_, "rows") == 2)
        await guard_.stop()
        assert [row["query"] for row in logged(tmp_path / "traffic")] == [2]

    asyncio.run(check())


def test_a_reload_closes_the_file_and_changes_the_settings(tmp_path: Path) -> None:
    async def check() -> None:
        write_filter(tmp_path, LIMIT)
        guard_ = await started(with_log(tmp_path), Model("npy"))
        folder = tmp_path / "traffic"
        assert await sent(guard_, npy(stream(0, 1), "ann")) == 200
        await guard_.reload(with_log(tmp_path, log={"images": "none", "folder": str(tmp_path / "other")}))
        await until(lambda: logged_files(folder))
        assert await sent(guard_, npy(stream(1, 1), "ann")) == 200
        await guard_.stop()
        first, second = logged(folder)
        assert (first["query"], second["query"]) == (1, 2)
        assert (first["image"] is None, second["image"] is None) == (False, True)
        assert second["shape"] == "12x12"
        assert not (tmp_path / "other").exists()

    asyncio.run(check())
