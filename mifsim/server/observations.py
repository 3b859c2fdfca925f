"""What a filter that only watches leaves behind: for every query, how similar it is to those before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mifsim.defense import Form, Watch
from mifsim.defense.similarity import FORMS
from mifsim.tables.records import TableWriter

if TYPE_CHECKING:
    from mifsim.server.client_session import ClientSession

FLUSH_ROWS = 20_000


@dataclass(frozen=True)
class Watching:
    """How the sessions of a run are watched; see `Watch` for the fields."""

    n_b_max: int
    forms: tuple[Form, ...]
    hash_size: int

    def detector(self) -> Watch:
        """Return a new guard for one session."""
        return Watch(self.n_b_max, self.forms, self.hash_size)


class SimilarityRows:
    """The rows of one shard's ``similarities``, gathered and written.

    Parameters
    ----------
    writer : TableWriter
        Of that table.
    forms : sequence of {"global", "uniform", "gaussian"}
        Those that the guards watch.
    """

    def __init__(self, writer: TableWriter, forms: Sequence[Form]) -> None:
        self._writer = writer
        self._forms = forms
        self._clear()

    def _clear(self) -> None:
        self._numbers: list[int] = []
        self._queries: list[int] = []
        self._hashes: list[float] = []
        self._seen: dict[Form, list[npt.NDArray[np.float32]]] = {form: [] for form in self._forms}

    def add(self, clients: Sequence[ClientSession], ids: Sequence[str]) -> None:
        """Note the last valid query of each conversation; `ids` are the shard's sessions so far."""
        for client in clients:
            detector = client.session.detector
            assert isinstance(detector, Watch)
            self._append(client.number, client.session.queries, detector.last_hash, detector.last_similarities)
        if len(self._numbers) >= FLUSH_ROWS:
            self.flush(ids)

    def add_invalid(self, number: int, query: int) -> None:
        """Note a query that was no image."""
        nothing = np.empty(0, dtype=np.float32)
        self._append(number, query, float("nan"), dict.fromkeys(self._forms, nothing))

    def _append(self, number: int, query: int, hash_: float, seen: Mapping[Form, npt.NDArray[np.float32]]) -> None:
        self._numbers.append(number)
        self._queries.append(query)
        self._hashes.append(hash_)
        for form in self._forms:
            self._seen[form].append(seen[form])

    def flush(self, ids: Sequence[str]) -> None:
        """Write what is held."""
        if not self._numbers:
            return
        hashes = np.array(self._hashes)
        self._writer.write(
            {
                "session_id": pa.DictionaryArray.from_arrays(pa.array(self._numbers, pa.int32()), list(ids)),
                "query": np.array(self._queries, dtype=np.int64),
                "hash": pa.array(hashes, mask=np.isnan(hashes)),
                **{f"ssim_{form}": self._lists(form) for form in FORMS},
            }
        )
        self._clear()

    def _lists(self, form: Form) -> pa.Array:
        if form not in self._seen:
            return pa.nulls(len(self._numbers), pa.list_(pa.float32()))
        rows = self._seen[form]
        ends = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int32)
        return pa.ListArray.from_arrays(ends, np.concatenate(rows))
