"""Ray's job API, in a reader's words: addresses, the token, what is wrong where it does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mifsim.errors import ClusterError, RunError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
PATIENCE_SECONDS = 60.0
"""For a head that does not answer while a job is followed: a tunnel may have to be opened again."""
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def check_address(address: str, plain: bool = False) -> str:
    """Return the address of a job API if a token may be sent there.

    Parameters
    ----------
    address : str
    plain : bool
        Whether the user wants to send the token over a network unencrypted.

    Raises
    ------
    RunError
        For anything but https://host[:port], or http:// on this machine (the end of a tunnel).
    """
    parts = urlsplit(address)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query or parts.username:
        raise RunError(
            f"--address {address}: is no job API (accepted: http://127.0.0.1:PORT, the end of a tunnel, or "
            "https://HOST:PORT)"
        )
    if parts.scheme == "http" and not plain and not _is_loopback(host):
        raise RunError(
            f"--address {address}: the token and the job's files would cross the network unencrypted; open a tunnel "
            f"(ssh -N -L 8265:127.0.0.1:8265 HEAD) and give {DEFAULT_ADDRESS}, or say --plain-http"
        )
    return address.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Cluster:
    """One cluster's job API.

    Parameters
    ----------
    address : str
        As `check_address` returns it.

    Raises
    ------
    ClusterError
        Where nothing answers, there is no token, the token is refused, or Ray is of another version.
    """

    def __init__(self, address: str) -> None:
        # As ray.init has it for a cluster of one's own: a token is sent unless the user has switched that off.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            for name in _TALKATIVE:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._address = address
            with _only_this_address(), self._translate_errors():
                self._client = JobSubmissionClient(address)
                server_version = self._client._server_ray_version
        except ImportError as error:
            raise RunError(f"mifsim submit needs Ray's job API: install mifsim[cluster] ({error})") from None
        except AuthenticationError as error:
            raise ClusterError(f"{address}: {_first_sentence(error)}") from None
        except RuntimeError as error:
            if "ray[default]" in str(error):
                raise RunError("mifsim submit needs Ray's job API: install mifsim[cluster]") from None
            raise ClusterError(f"{address}: {_first_sentence(error)}") from None
        if server_version != ray.__version__:
            raise ClusterError(
                f"{address}: runs Ray {server_version}, here is Ray {ray.__version__}; install the same on both"
            )

    def submit(self, job: str, entrypoint: str, folder: Path, env: dict[str, str], metadata: dict[str, str]) -> None:
        """Start a job in a copy of a folder."""
        with self._translate_errors():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(folder), "env_vars": env},
                metadata=metadata,
            )

    def details(self, job: str) -> Any:
        """Return what the job API says of a job (`ray.job_submission.JobDetails`)."""
        with self._translate_errors():
            return self._client.get_job_info(job)

    def follow(self, job: str, tell: Callable[[str], None]) -> Any:
        """Hand on the job's log as it grows until the job has ended; return its details then."""
        told, lost_since = _Told(tell), None
        while True:
            try:
                asyncio.run(self._tail(job, told))
                details = self.details(job)
                lost_since = None
            except ClusterError as error:
                lost_since = time.monotonic() if lost_since is None else lost_since
                if time.monotonic() - lost_since > PATIENCE_SECONDS:
                    raise ClusterError(f"{self._address}: does not answer any more: {error}") from None
                time.sleep(1)
                continue
            if details.status in ENDED:
                return details
            time.sleep(0.5)

    async def _tail(self, job: str, told: _Told) -> None:
        with self._translate_errors():
            told.begin()
            async for text in self._client.tail_job_logs(job):
                told(text)

    def download(self, node: str, name: str, folder: Path) -> Path | None:
        """Fetch a file from the logs of a node into `folder`; None where it is not there.

        Raises
        ------
        ClusterError
            Where the connection breaks.
        """
        import requests

        # Not through the client: it would read the whole file as text to see whether it is an error.
        query: dict[str, str] = {"node_id": node, "filename": name, "lines": "-1", "timeout": "3600"}
        with self._translate_errors():
            answer = requests.get(
                f"{self._address}/api/v0/logs/file",
                params=query,
                headers=self._client._headers,
                stream=True,
                timeout=(10, 600),
            )
            if answer.status_code != 200:
                return None
            handle, path = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as file:
                for piece in answer.iter_content(2**20):
                    file.write(piece)
        return Path(path)

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        import aiohttp
        import requests
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise ClusterError(f"{self._address}: {_first_sentence(error)}") from None
        except (ConnectionError, requests.RequestException, aiohttp.ClientError) as error:
            raise ClusterError(f"{self._address}: no Ray head answers there: {_first_sentence(error)}") from None
        except RuntimeError as error:
            raise ClusterError(f"{self._address}: {_first_sentence(error)}") from None


class _Told:
    """Hands on a log that starts anew after every break of the connection, without what was handed on already."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell, self._told, self._at = tell, 0, 0

    def begin(self) -> None:
        """Expect the log from its start."""
        self._at = 0

    def __call__(self, text: str) -> None:
        new = text[max(0, self._told - self._at) :]
        self._at += len(text)
        if new:
            self._tell(new)
            self._told = self._at


@contextlib.contextmanager
def _only_this_address() -> Iterator[None]:
    """Ray lets these variables win over the address that it is given: a job must go where the user said."""
    saved = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
