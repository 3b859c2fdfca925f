"""What a job is to do: written where it is submitted, read where it runs, and checked in both places."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mifsim._version import __version__
from mifsim.errors import ClusterError, RunError
from mifsim.tables.storage import folder

Command = Literal["simulate", "tune", "matrix"]

JOB_SPEC_FILE = "order.json"
BUNDLE_FILE = "parcel.tar"
"""What a job's working folder holds, beside the order: the study and the files that it names."""

STUDY_FILE = "study.toml"
JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}$"
_ROOMS = ("mifsim", "tuning", "reports", "cluster")
_PROGRAM = (".py", ".toml", ".j2", ".css", ".js")


def _seen_by_all(text: str) -> str:
    try:
        place = folder(text)
    except RunError as error:
        raise ValueError(str(error)) from None
    if isinstance(place, Path) and not place.is_absolute():
        raise ValueError(f"{text}: must be an absolute path, or a URL")
    return text


class JobSpec(BaseModel):
    """One job.

    Attributes
    ----------
    job : str
        Its id, under which Ray's job API knows it.
    command : {"simulate", "tune", "matrix"}
    storage : str or None
        A folder that all nodes see, as an absolute path or a URL; None: a folder of the job's own on the node that it
        starts on.
    run : str
        The run's folder, inside `storage` or the job's own folder.
    resume : bool
        Whether `run` is there already and is to be gone on with.
    filters : tuple of (name, file)
        For a matrix; the files are in the parcel.
    bring : bool
        Whether the run is packed to be fetched.
    parcel : str
        Hex digest (SHA-256) of the parcel; empty where the job has none.
    source : str
        Of the program that submitted: see `source_digest`.
    versions : dict of str to str
        Where it was submitted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    job: str = Field(pattern=JOB_ID)
    command: Command
    storage: Annotated[str, AfterValidator(_seen_by_all)] | None = None
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,120}$")
    resume: bool = False
    filters: tuple[tuple[str, Annotated[str, Field(pattern=r"^filters/\d+\.toml$")]], ...] = ()
    fetch: bool = False
    bundle: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    source: str
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Read the order in a job's working folder.

        Raises
        ------
        ClusterError
            Where there is none, or another release of mifsim wrote it.
        """
        file = folder / JOB_SPEC_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise ClusterError(
                f"{file}: cannot be read: {error.strerror or error}; start jobs by mifsim submit"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ClusterError(
                f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; mifsim {__version__} of this cluster "
                "cannot read what was submitted (another release?)"
            ) from None

    @property
    def archive(self) -> str:
        """What the packed run is called among the logs of Ray's session, from where the job API hands it out."""
        return f"{self.job}.tar.gz"


def source_digest() -> str:
    """Return 16 hex digits that depend on every program file of mifsim: equal digests run the same program."""
    root = Path(__file__).resolve().parent.parent
    sha = hashlib.sha256()
    for room in _ROOMS:
        for file in sorted(path for path in (root / room).rglob("*") if path.suffix in _PROGRAM):
            sha.update(f"{file.relative_to(root).as_posix()}\0".encode())
            sha.update(file.read_bytes())
            sha.update(b"\0")
    return sha.hexdigest()[:16]


def check_program(spec: JobSpec, here: dict[str, str]) -> list[str]:
    """Compare the program that submitted with the one that runs the job.

    Parameters
    ----------
    order : Order
    here : dict of str to str
        Versions where the job runs; see `mifsim.run.folder.versions`.

    Returns
    -------
    list of str
        A line for each library of another version: the rows may then differ in their last digits.

    Raises
    ------
    ClusterError
        Where mifsim itself is another one.
    """
    if spec.source != (expected_digest := source_digest()):
        raise ClusterError(
            f"the cluster has another mifsim than the one that submitted: {here['mifsim']} (source {expected_digest}) "
            f"on {platform.node()}, {spec.versions.get('mifsim')} (source {spec.source}) "
            "there; install the same on both"
        )
    return [
        f"{name} is {here.get(name, 'not there')} on the cluster and {version} where the job was submitted: "
        "rows may differ from a run there in their last digits"
        for name, version in spec.versions.items()
        if here.get(name) != version
    ]
