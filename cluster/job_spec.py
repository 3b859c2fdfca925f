"""The specification of a job: written on submission, read by the job's driver, validated by both."""

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

JOB_SPEC_FILE = "job.json"
BUNDLE_FILE = "bundle.tar"
"""The second file of a job's working folder: the study, the files that it names, and plug-ins."""

STUDY_FILE = "study.toml"
JOB_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}$"
_PACKAGES = ("mifsim", "tuning", "reports", "cluster")
_SOURCE_SUFFIXES = (".py", ".toml", ".j2", ".css", ".js")


def _check_storage(text: str) -> str:
    try:
        storage = folder(text)
    except RunError as error:
        raise ValueError(str(error)) from None
    if isinstance(storage, Path) and not storage.is_absolute():
        raise ValueError(f"{text}: must be an absolute path, or a URL")
    return text


class JobSpec(BaseModel):
    """The specification of one job.

    Attributes
    ----------
    job : str
        Id of the job in Ray's job API.
    command : {"simulate", "tune", "matrix"}
    storage : str or None
        A folder that all nodes see, as an absolute path or a URL; None: a temporary folder on the driver's node.
    run : str
        Name of the run's folder in `storage` or in the temporary folder.
    resume : bool
        Whether `run` exists already and the job resumes it.
    filters : tuple of (name, file)
        Filter configurations of a matrix; the files are in the bundle.
    plugins : tuple of str
        Names of the plug-in files that the job loads, in this order; the files are in the bundle.
    fetch : bool
        Whether the job packs the run, so that it can be fetched.
    bundle : str
        SHA-256 of the bundle in hex; empty if the job has none.
    source : str
        `source_digest` of the program that submitted the job.
    versions : dict of str to str
        Versions of mifsim and its libraries on the machine that submitted the job.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2] = 2
    job: str = Field(pattern=JOB_ID)
    command: Command
    storage: Annotated[str, AfterValidator(_check_storage)] | None = None
    run: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,120}$")
    resume: bool = False
    filters: tuple[tuple[str, Annotated[str, Field(pattern=r"^filters/\d+\.toml$")]], ...] = ()
    plugins: tuple[Annotated[str, Field(pattern=r"^[^/\\\x00]{1,250}\.py$")], ...] = ()
    fetch: bool = False
    bundle: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    source: str
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> JobSpec:
        """Read the specification in a job's working folder.

        Raises
        ------
        ClusterError
            If there is none, or another release of mifsim wrote it.
        """
        file = folder / JOB_SPEC_FILE
        try:
            return cls.model_validate_json(file.read_bytes())
        except OSError as error:
            raise ClusterError(
                f"{file}: cannot be read: {error.strerror or error}; start jobs with mifsim submit"
            ) from None
        except ValidationError as error:
            first = error.errors()[0]
            raise ClusterError(
                f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; mifsim {__version__} on this cluster "
                "cannot read this job spec; submit the job with the same release"
            ) from None

    @property
    def plugin_members(self) -> list[str]:
        """Names of the plug-in files in the bundle."""
        return [plugin_member(number, name) for number, name in enumerate(self.plugins)]

    @property
    def archive(self) -> str:
        """Name of the packed run among the logs of Ray's session, which the job API serves."""
        return f"{self.job}.tar.gz"


def plugin_member(number: int, name: str) -> str:
    """Return the name in the bundle of the plug-in with this position and file name."""
    return f"plugins/{number}/{name}"


def source_digest() -> str:
    """Return 16 hex digits of a hash over every source file of mifsim: equal digests mean equal programs."""
    root = Path(__file__).resolve().parent.parent
    sha = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted(path for path in (root / package).rglob("*") if path.suffix in _SOURCE_SUFFIXES):
            sha.update(f"{file.relative_to(root).as_posix()}\0".encode())
            sha.update(file.read_bytes())
            sha.update(b"\0")
    return sha.hexdigest()[:16]


def check_program(spec: JobSpec, installed: dict[str, str]) -> list[str]:
    """Compare the program that submitted a job with the program on the cluster.

    Parameters
    ----------
    spec : JobSpec
    installed : dict of str to str
        Versions on the cluster; see `mifsim.run.folder.versions`.

    Returns
    -------
    list of str
        One line for each library whose versions differ: the last digits of rows may then differ too.

    Raises
    ------
    ClusterError
        If the source code of mifsim differs.
    """
    if spec.source != (installed_digest := source_digest()):
        raise ClusterError(
            f"the cluster has another mifsim than the machine that submitted the job: {installed['mifsim']} "
            f"(source {installed_digest}) on {platform.node()}, {spec.versions.get('mifsim')} (source {spec.source}) "
            "on the submitting machine; install the same on both"
        )
    return [
        f"{name} is {installed.get(name, 'not installed')} on the cluster and {version} on the machine that submitted "
        "the job: rows may differ in their last digits"
        for name, version in spec.versions.items()
        if installed.get(name) != version
    ]
