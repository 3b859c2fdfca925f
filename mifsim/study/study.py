"""A whole study: read, checked, written with every default filled in."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from mifsim.cache import atomic_write, digest
from mifsim.clients.protocol import Knowledge
from mifsim.data import DataConfig
from mifsim.defense import NoDefenseConfig
from mifsim.errors import StudyError, UserError
from mifsim.plugins import loaded_plugins, restore
from mifsim.study.crossing import Matrix, cross, with_filters
from mifsim.study.messages import explain
from mifsim.study.populations import Attacks, Users
from mifsim.study.sections import Filter, Leakage, Name, Section, Server
from mifsim.study.tuning import Tuning
from mifsim.study.wire import ResponsePolicy, Transport
from mifsim.tables.storage import Folder, RemotePath
from mifsim.victims import VictimConfig


class Study(Section):
    """A whole study.

    Examples
    --------
    >>> study = Study.load("digits")
    >>> study.server.transport
    'float32'
    """

    name: Name = Field(description="what the run is called")
    description: str = Field("", description="what it is for")
    seed: int = Field(0, ge=0, lt=2**63, description="everything random follows from it")
    data: DataConfig = DataConfig()
    victim: VictimConfig = VictimConfig()
    server: Server = Server()
    leakage: Leakage = Leakage()
    tuning: Tuning = Tuning()
    matrix: Matrix = Matrix()
    filters: list[Filter] = Field(default_factory=list)
    attacks: list[Attacks] = Field(default_factory=list)
    users: list[Users] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        if not self.attacks and not self.users:
            raise ValueError("no clients: add at least one [[attacks]] or [[users]] table")
        for what, names in (
            ("filters", [item.name for item in self.filters]),
            ("attacks and users", [item.name for item in (*self.attacks, *self.users)]),
        ):
            if twice := {name for name in names if names.count(name) > 1}:
                raise ValueError(f"{what} need names of their own; used twice: {', '.join(sorted(twice))}")
        limits, workloads = self.tuning.false_positive_limit, {users.name for users in self.users}
        if isinstance(limits, dict) and set(limits) != workloads:
            raise ValueError(
                f"tuning.false_positive_limit names {', '.join(sorted(limits))}; "
                f"it must name each workload: {', '.join(sorted(workloads))}"
            )
        gives = self.policy.gives
        for population in (*self.attacks, *self.users):
            needs = type(population.client).needs
            if needs > gives:
                raise ValueError(
                    f"{population.name!r} needs {_in_words(needs)}, but server.response = {self.server.response!r} "
                    f"gives {_in_words(gives)}"
                )
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
        """Return the study of its matrix: every attack with every row of evasions; the filters given beside its own.

        Raises
        ------
        StudyError
            Where attacks or filters would have the same name.
        """
        plain = self.model_copy(
            update={
                "attacks": cross(self.attacks, self.matrix),
                "filters": with_filters(self.filters, filters),
                "matrix": Matrix(),
            }
        )
        return Study.parse(plain.to_toml(), self.name)

    def undefended(self) -> Study:
        """Return the study of its attacks alone, where nothing filters.

        Raises
        ------
        StudyError
            Where it has no attacks.
        """
        if not self.attacks:
            raise StudyError(f"{self.name}: attacks: is missing (there is nothing to measure)")
        nothing = [Filter(name="no filter", config=NoDefenseConfig())]
        plain = self.model_copy(update={"filters": nothing, "users": [], "tuning": Tuning()})
        return Study.parse(plain.to_toml(), self.name)

    @property
    def populations(self) -> Iterator[Attacks | Users]:
        """Attackers first: their sessions are the longest."""
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
            Naming the file, the key, the value and what is accepted.
        """
        path = source if isinstance(source, RemotePath) else find_study(source)
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StudyError(f"{path}: cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise StudyError(f"{path}: is not TOML: {error}") from None
        for override in overrides:
            _override(table, override)
        return cls.parse(table, str(path), base=path.parent if isinstance(path, Path) else None)

    @classmethod
    def parse(cls, table: Mapping[str, Any], origin: str = "study", base: Path | None = None) -> Study:
        """Check a study given as a mapping; `base` is where its relative paths start."""
        try:
            return cls.model_validate(_rooted(table, base) if base else table)
        except ValidationError as error:
            raise StudyError("\n".join(f"{origin}: {line}" for line in explain(error, cls))) from None
        except UserError as error:
            raise StudyError(f"{origin}: {error}") from None

    def to_toml(self) -> dict[str, Any]:
        """Return the study as plain tables, every default written out."""
        plain = self.model_dump(mode="json", exclude_none=True, exclude={"filters", "attacks", "users", "matrix"})
        plain["matrix"] = self.matrix.to_toml()
        plain["filters"] = [item.to_toml() for item in self.filters]
        plain["attacks"] = [item.to_toml() for item in self.attacks]
        plain["users"] = [item.to_toml() for item in self.users]
        return plain

    def save(self, path: Folder) -> None:
        """Write the study as it runs."""
        import tomli_w

        with atomic_write(path) as temporary:
            temporary.write_text(tomli_w.dumps(self.to_toml()), encoding="utf-8")

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Cross to other processes with the plug-ins whose classes the study needs: they are loaded there first."""
        if not (plugins := loaded_plugins()):
            return super().__reduce_ex__(protocol)
        return restore, (plugins, Study.parse, self.to_toml(), self.name)

    @property
    def fingerprint(self) -> str:
        """A digest of everything that determines the rows: not of hosts or names that only say how work is spread."""
        plain = self.to_toml()
        for key in ("hosts", "model_replicas", "grow_seconds", "sessions_per_host"):
            plain["server"].pop(key, None)
        return digest(plain)


def _in_words(knowledge: Knowledge) -> str:
    return {
        Knowledge.LABEL: "the label",
        Knowledge.TOP_K: "top-k confidences",
        Knowledge.CONFIDENCE: "the confidence vector",
    }[knowledge]


def shipped_studies() -> dict[str, Path]:
    """Return the studies that come with the package, by name."""
    folder = Path(str(resources.files("mifsim") / "studies"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_study(source: str | Path) -> Path:
    """Return the path of a study file or of a shipped study."""
    path = Path(source)
    if path.is_file():
        return path
    shipped = shipped_studies()
    if str(source) in shipped:
        return shipped[str(source)]
    near = difflib.get_close_matches(str(source), shipped, 1, 0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise StudyError(f"{source}: no such file, and no shipped study of that name{hint} (shipped: {', '.join(shipped)})")


def _override(table: dict[str, Any], text: str) -> None:
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise StudyError(f"--set {text}: expected key=value, such as server.transport=uint8")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw  # a bare word is a string: --set server.transport=uint8
    *path, last = key.strip().split(".")
    place: Any = table
    for step in path:
        if isinstance(place, list):
            place = place[_index(place, step, text)]
        else:
            place = place.setdefault(step, {})
        if not isinstance(place, (dict, list)):
            raise StudyError(f"--set {text}: {step!r} is a value, not a table")
    if isinstance(place, list):
        place[_index(place, last, text)] = value
    else:
        place[last] = value


def _index(place: list[Any], step: str, text: str) -> int:
    if not step.isdigit() or int(step) >= len(place):
        raise StudyError(
            f"--set {text}: {step!r} is no position in a list of {len(place)} (accepted: 0 to {len(place) - 1})"
        )
    return int(step)


def _rooted(table: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """Make relative paths in a study start at the study's folder, as a reader of the file expects."""
    rooted = dict(table)
    for section, key in (("data", "folder"), ("victim", "file")):
        part = rooted.get(section)
        if isinstance(part, dict) and isinstance(part.get(key), str):
            rooted[section] = {**part, key: _absolute(part[key], base)}
    if isinstance(users := rooted.get("users"), list):
        rooted["users"] = [
            {**item, "path": _absolute(item["path"], base)}
            if isinstance(item, dict) and item.get("path") and isinstance(item["path"], str)
            else item
            for item in users
        ]
    return rooted


def _absolute(path: str, base: Path) -> str:
    return str((base / Path(path).expanduser()).resolve())
