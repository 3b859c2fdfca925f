"""Client of Ray's job API: checks addresses, sends the token, translates errors."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mifsim.addresses import is_loopback
from mifsim.errors import ClusterError, RunError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
RECONNECT_SECONDS = 60.0
"""How long `Cluster.follow` retries when the head does not respond, for example while a tunnel is reopened."""
_VERBOSE_LOGGERS = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def check_address(address: str, plain: bool = False) -> str:
    """Check that a token may be sent to the address of a job API; return the address without a trailing slash.

    Parameters
    ----------
    address : str
    plain : bool
        Whether the user allows the token to cross a network unencrypted.

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
            f"--address {address}: not the address of a job API (accepted: http://127.0.0.1:PORT, the end of a tunnel, "
            "or https://HOST:PORT)"
        )
    if parts.scheme == "http" and not plain and not is_loopback(host):
        raise RunError(
            f"--address {address}: the token and the job's files would cross the network unencrypted; open a tunnel "
            f"(ssh -N -L 8265:127.0.0.1:8265 HEAD) and use {DEFAULT_ADDRESS}, or add --plain-http"
        )
    return address.rstrip("/")


class Cluster:
    """The job API of one cluster.

    Parameters
    ----------
    address : str
        A result of `check_address`.

    Raises
    ------
    ClusterError
        If nothing answers, no token is found, the token is refused, or the cluster runs another version of Ray.
    """

    def __init__(self, address: str) -> None:
        # The default of ray.init for a local cluster: send a token unless the user has switched that off.
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
            from ray.exceptions import AuthenticationError
            from ray.job_submission import JobSubmissionClient

            for name in _VERBOSE_LOGGERS:
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
                f"{address}: the cluster runs Ray {server_version}, this machine has Ray {ray.__version__}; install "
                "the same version on both"
            )

    def submit(self, job: str, entrypoint: str, folder: Path, env: dict[str, str], metadata: dict[str, str]) -> None:
        """Start a job; Ray uploads `folder` as its working folder."""
        with self._translate_errors():
            self._client.submit_job(
                entrypoint=entrypoint,
                submission_id=job,
                runtime_env={"working_dir": str(folder), "env_vars": env},
                metadata=metadata,
            )

    def details(self, job: str) -> Any:
        """Return the job's details from the job API (`ray.job_submission.JobDetails`)."""
        with self._translate_errors():
            return self._client.get_job_info(job)

    def follow(self, job: str, write: Callable[[str], None]) -> Any:
        """Pass the job's log to `write` as it grows; return the job's details when it has ended."""
        log, lost_since = _LogWriter(write), None
        while True:
            try:
                asyncio.run(self._tail(job, log))
                details = self.details(job)
                lost_since = None
            except ClusterError as error:
                lost_since = time.monotonic() if lost_since is None else lost_since
                if time.monotonic() - lost_since > RECONNECT_SECONDS:
                    raise ClusterError(f"{self._address}: no longer answers: {error}") from None
                time.sleep(1)
                continue
            if details.status in ENDED:
                return details
            time.sleep(0.5)

    async def _tail(self, job: str, log: _LogWriter) -> None:
        with self._translate_errors():
            log.restart()
            async for text in self._client.tail_job_logs(job):
                log(text)

    def download(self, node: str, name: str, folder: Path) -> Path | None:
        """Fetch a file from the logs of a node into `folder`; return None if the node has no such file.

        Raises
        ------
        ClusterError
            If the connection breaks.
        """
        import requests

        # Ray's client would read the whole file as text to check whether it is an error message.
        query: dict[str, str] = {"node_id": node, "filename": name, "lines": "-1", "timeout": "3600"}
        with self._translate_errors():
            response = requests.get(
                f"{self._address}/api/v0/logs/file",
                params=query,
                headers=self._client._headers,
                stream=True,
                timeout=(10, 600),
            )
            if response.status_code != 200:
                return None
            handle, path = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as file:
                for chunk in response.iter_content(2**20):
                    file.write(chunk)
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
            raise ClusterError(f"{self._address}: no Ray head answers: {_first_sentence(error)}") from None
        except RuntimeError as error:
            raise ClusterError(f"{self._address}: {_first_sentence(error)}") from None


class _LogWriter:
    """Write a log without repetition, although the job API sends it from its start after every reconnection."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write, self._written, self._position = write, 0, 0

    def restart(self) -> None:
        """Expect the log from its start."""
        self._position = 0

    def __call__(self, text: str) -> None:
        new = text[max(0, self._written - self._position) :]
        self._position += len(text)
        if new:
            self._write(new)
            self._written = self._position


@contextlib.contextmanager
def _only_this_address() -> Iterator[None]:
    """Hide the environment variables that Ray prefers to an explicit address: a job must go to ``--address``."""
    saved = {name: os.environ.pop(name) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS") if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(saved)


def _first_sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]
