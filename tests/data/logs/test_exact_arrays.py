"""Arrays in a log as a server received them, with columns of dtype and shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mifsim.data.logs import LogFormat, SessionPolicy, arrange, open_log
from mifsim.data.preprocessing import Preprocessing


class TestExactArrays:
    FORM = LogFormat(encoding="raw")

    @staticmethod
    def write(path: Path, arrays: list[np.ndarray], **changes: Any) -> Path:
        table = {
            "client": ["a"] * len(arrays),
            "time": list(range(len(arrays))),
            "image": [array.tobytes() for array in arrays],
            "dtype": [array.dtype.str for array in arrays],
            "shape": [list(array.shape) for array in arrays],
        }
        pq.write_table(pa.table(table | changes), path)
        return path

    @staticmethod
    def pool(path: Path, shape: tuple[int, ...]) -> Any:
        (pool,) = arrange(open_log(path, TestExactArrays.FORM), SessionPolicy()).pools(Preprocessing(shape))
        return pool

    @pytest.mark.parametrize("shape", [(9, 7), (9, 7, 3)])
    def test_floats_keep_their_bits(self, shape: tuple[int, ...], tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        arrays = [rng.random(shape, np.float32) for _ in range(5)]
        arrays[0].flat[:4] = [0.0, 1.0, np.nextafter(np.float32(1), np.float32(0)), np.float32(1e-40)]
        pool = self.pool(self.write(tmp_path / "log.parquet", arrays), shape)
        for index, array in enumerate(arrays):
            assert pool.image(index).tobytes() == array.tobytes()
        assert pool.images([1, 0]).tobytes() == np.stack([arrays[1], arrays[0]]).tobytes()

    @pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8", "|u1"])
    def test_other_dtypes_become_the_nearest_float32(self, dtype: str, tmp_path: Path) -> None:
        values = np.random.default_rng(1).random((8, 8))
        array = np.rint(values * 255).astype(np.uint8) if dtype == "|u1" else values.astype(dtype)
        pool = self.pool(self.write(tmp_path / "log.parquet", [array]), (8, 8))
        expected = array / np.float32(255) if dtype == "|u1" else array.astype(np.float32)
        np.testing.assert_array_equal(pool.image(0), expected.astype(np.float32))

    def test_shapes_may_be_text_and_have_one_channel(self, tmp_path: Path) -> None:
        array = np.random.default_rng(2).random((8, 8, 1), np.float32)
        path = self.write(
            tmp_path / "log.parquet", [array] * 3, shape=["8x8x1", "(8, 8, 1)", "[8, 8]"], dtype=["float32"] * 3
        )
        pool = self.pool(path, (8, 8))
        assert [pool.image(number).tobytes() for number in range(3)] == [array.tobytes()] * 3
        np.testing.assert_array_equal(self.pool(path, (8, 8, 3)).image(0), np.repeat(array, 3, axis=2))

    def test_arrays_of_another_shape_are_resized_like_images_and_counted(self, tmp_path: Path) -> None:
        wide = np.zeros((8, 24), np.float32)
        wide[:, 8:16] = 100 / 255
        log = arrange(open_log(self.write(tmp_path / "log.parquet", [wide]), self.FORM), SessionPolicy())
        pools = log.pools(Preprocessing((4, 4)))
        np.testing.assert_allclose(pools[0].image(0), 100 / 255, atol=1e-6)
        assert pools.losses["rounded"] == 1
        assert pools.losses["mean_cut_away"] == pytest.approx(2 / 3, abs=1e-4)

    def test_bad_arrays_are_bad_rows(self, tmp_path: Path) -> None:
        good = np.full((8, 8), 0.5, np.float32)
        changed = {
            "dtype": ["<f4"] * 4 + ["object", "<i4", None, "<f4", "<f4", "<f4", "<f4"],
            "shape": [[8, 8]] * 7 + [[8, 9], [2, 4, 8], [8, -8], None],
            "image": [good.tobytes(), (good * 255).tobytes(), (good - 1).tobytes(), (good * np.nan).tobytes()]
            + [good.tobytes()] * 7,
        }
        log = open_log(self.write(tmp_path / "log.parquet", [good] * 11, **changed), self.FORM)
        assert [(row.row, row.problem.split(" (")[0]) for row in log.bad] == [
            (1, "an array with values from 127.5 to 127.5"),
            (2, "an array with values from -0.5 to -0.5"),
            (3, "an array with values that are not finite"),
            (4, "dtype 'object'"),
            (5, "dtype '<i4'"),
            (6, "dtype 'None'"),
            (7, "256 bytes; an array of float32 and shape 8x9 has 288"),
            (8, "shape '[2, 4, 8]'"),
            (9, "shape '[8, -8]'"),
            (10, "shape 'None'"),
        ]
