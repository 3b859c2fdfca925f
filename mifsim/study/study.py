"""The class `Study`, which reads, checks and writes a whole study."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from mifsim.cache import atomic_write, digest
from mifsim.clients.users.log import Log
from mifsim.data import DataConfig
from mifsim.data.config import source_of
from mifsim.defense import DetectorConfig, NoDefenseConfig
from mifsim.defense.config_file import toml_text
from mifsim.defense.fit import registered_fits, restore_fits
from mifsim.defense.fitted import load_fit
from mifsim.errors import ConfigError, StudyError, UserError
from mifsim.plugins import loaded_plugins, restore
from mifsim.study.bench import Bench, BenchDetector
from mifsim.study.consistency import check_sections
from mifsim.study.crossing import Matrix, cross, with_filters
from mifsim.study.messages import explain
from mifsim.study.overrides import override, with_absolute_paths
from mifsim.study.populations import Attacks, Users
from mifsim.study.sections import Filter, Leakage, Name, Section, Server
from mifsim.study.shipped import base_of, find_study
from mifsim.study.tuning import Tuning
from mifsim.study.wire import ResponsePolicy, Transport
from mifsim.tables.storage import Folder, RemotePath
from mifsim.victims import VictimConfig

logger = logging.getLogger(__name__)

FITS = "fits"
"""Folder beside a study file that contains the fits of its detectors."""


class Study(Section):
    """A study: all sections of a study file.

    Examples
    --------
    >>> study = Study.load("digits")
    >>> study.server.transport
    'float32'
    """

    name: Name = Field(description="name of the study")
    description: str = Field("", description="purpose of the study, in one line")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of all random numbers of the run")
    data: DataConfig = Field(DataConfig(), description="the images")
    victim: VictimConfig = Field(VictimConfig(), description="the model under attack")
    server: Server = Field(Server(), description="transport, response policy, and distribution of the work")
    leakage: Leakage = Field(Leakage(), description="which reconstructions are kept and scored")
    tuning: Tuning = Field(Tuning(), description="how `mifsim tune` calibrates a detector")
    matrix: Matrix = Field(Matrix(), description="the rows of evasions of `mifsim matrix`")
    bench: Bench = Field(Bench(), description="what `mifsim bench` compares")
    filters: list[Filter] = Field(
        default_factory=list,
        description="detectors under which the sessions run; `mifsim tune` shows them beside its own",
    )
    attacks: list[Attacks] = Field(default_factory=list, description="the attackers")
    users: list[Users] = Field(default_factory=list, description="the honest users; each table is a workload")

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        check_sections(self)
        return self

    @cached_property
    def transport(self) -> Transport:
        """The server's transport."""
        return Transport.parse(self.server.transport)

    @cached_property
    def policy(self) -> ResponsePolicy:
        """The server's response policy."""
        return ResponsePolicy.parse(self.server.response)

    def crossed(self, filters: Sequence[Filter] = ()) -> Study:
        """Return the study that `mifsim matrix` runs: every attack with every row of evasions.

        Parameters
        ----------
        filters : sequence of Filter
            Filters to add to those of the study. The kind ``none`` is always added.

        Raises
        ------
        StudyError
            If two attacks or two filters would have the same name.
        """
        plain = self.model_copy(
            update={
                "attacks": cross(self.attacks, self.matrix),
                "filters": with_filters(self.filters, filters),
                "matrix": Matrix(),
            }
        )
        return Study.parse(plain.to_toml(), self.name)

    def tuning_of(self, detector: BenchDetector, key: str = "bench.detectors") -> Tuning:
        """Return the section ``[tuning]`` that calibrates one of several detectors.

        Parameters
        ----------
        detector : BenchDetector
        key : str
            Key of the study that contains the detector, for messages.

        Raises
        ------
        ValueError
            If the kind, the view or the space of the detector is not valid.
        """
        changes: dict[str, Any] = {
            "kind": detector.kind,
            "view": detector.view,
            "space": detector.space,
            "of": [member.model_dump() for member in detector.of],
            "grid": {},
            "fit": "",
            "compare": [],
        }
        for name in ("trials", "leave_out", "leave_out_trials"):
            if (value := getattr(detector, name)) is not None:
                changes[name] = value
        try:
            return Tuning.model_validate({**self.tuning.model_dump(), **changes})
        except ValidationError as error:
            lines = [line.removeprefix("the study.") for line in explain(error, Tuning)]
            raise ValueError(f"{key}: {detector.name!r}: {'; '.join(lines)}") from None

    def undefended(self) -> Study:
        """Return the study with its attacks only and without a filter.

        Raises
        ------
        StudyError
            If it has no attacks.
        """
        if not self.attacks:
            raise StudyError(f"{self.name}: attacks: missing (add at least one [[attacks]] table)")
        filters = [Filter(name="no filter", config=NoDefenseConfig())]
        plain = self.model_copy(update={"filters": filters, "users": [], "tuning": Tuning()})
        return Study.parse(plain.to_toml(), self.name)

    @property
    def configs(self) -> list[DetectorConfig]:
        """The configurations of the filters, and one of the search space."""
        return [*(item.config for item in self.filters), self.tuning.search_space.corners()[0]]

    @property
    def populations(self) -> Iterator[Attacks | Users]:
        """All populations; attacks first, because their sessions are the longest."""
        yield from self.attacks
        yield from self.users

    @classmethod
    def load(cls, source: str | Folder, overrides: Sequence[str] = ()) -> Study:
        """Read a study.

        Parameters
        ----------
        source : str or Path or RemotePath
            A TOML file, or the name of a shipped study (see `shipped_studies`).
        overrides : sequence of str
            ``key=value`` with dots, as in ``server.transport=uint8`` or ``attacks.0.noise=0.02``.

        Raises
        ------
        StudyError
            If the study cannot be read or is not valid. The message names the file, the key, the value and what is
            accepted.
        """
        path = source if isinstance(source, RemotePath) else find_study(source)
        try:
            table = tomllib.loads(toml_text(path.read_bytes()))
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path}: cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise StudyError(f"{path}: not valid TOML: {error}") from None
        for text in overrides:
            override(table, text)
        study = cls.parse(table, str(path), base=base_of(path) if isinstance(path, Path) else None)
        try:
            for config in study.configs:
                load_fit(config, path.parent / FITS)
        except ConfigError as error:
            raise StudyError(f"{path}: {error}") from None
        for key in study.without_effect():
            logger.warning(
                "%s: data.%s has no effect: the data set %r does not read it, and no users replay a log",
                path,
                key,
                study.data.set,
            )
        return study

    def without_effect(self) -> list[str]:
        """Return the keys of ``[data]`` that preprocess image files, if they are set and the study reads no such file.

        This is no error: the study may be a part of one with a log, such as its attacks.
        """
        reads = source_of(self.data.set).reads
        logs = any(isinstance(users.client, Log) for users in (*self.users, *self.bench.unseen))
        given = {"fit": self.data.fit != "cut", "background": self.data.background is not None}
        return [key for key, is_set in given.items() if is_set and key not in reads and not logs]

    @classmethod
    def parse(cls, table: Mapping[str, Any], origin: str = "study", base: Path | None = None) -> Study:
        """Return a study from a mapping.

        Parameters
        ----------
        table : mapping
            The content of a study file.
        origin : str
            Name of the source, for messages.
        base : Path or None
            Folder to which relative paths in the study refer; None: they are left as they are.

        Raises
        ------
        StudyError
            If the study is not valid; one line for each error.
        """
        try:
            return cls.model_validate(with_absolute_paths(table, base) if base else table)
        except ValidationError as error:
            raise StudyError("\n".join(f"{origin}: {line}" for line in explain(error, cls))) from None
        except UserError as error:
            raise StudyError(f"{origin}: {error}") from None

    def to_toml(self) -> dict[str, Any]:
        """Return the study as nested dicts that TOML can represent, with all defaults."""
        plain = self.model_dump(
            mode="json", exclude_none=True, exclude={"filters", "attacks", "users", "matrix", "bench"}
        )
        plain["tuning"] = self.tuning.to_toml()
        plain["matrix"] = self.matrix.to_toml()
        if self.bench.detectors:
            plain["bench"] = self.bench.to_toml()
        plain["filters"] = [item.to_toml() for item in self.filters]
        plain["attacks"] = [item.to_toml() for item in self.attacks]
        plain["users"] = [item.to_toml() for item in self.users]
        return plain

    def save(self, path: Folder) -> None:
        """Write the study to a file, with all defaults."""
        import tomli_w

        with atomic_write(path) as temporary:
            temporary.write_text(tomli_w.dumps(self.to_toml()), encoding="utf-8")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the study together with the plug-ins and fits of this process, which are restored before it."""
        plugins, fits = loaded_plugins(), registered_fits()
        if not plugins and not fits:
            return super().__reduce_ex__(protocol)
        return restore, (plugins, restore_fits, fits, Study.parse, self.to_toml(), self.name)

    @property
    def fingerprint(self) -> str:
        """A digest of all values except those that only distribute the work, such as ``server.hosts``."""
        plain = self.to_toml()
        for key in ("hosts", "model_replicas", "grow_seconds", "sessions_per_host"):
            plain["server"].pop(key, None)
        return digest(plain)
