"""A log of one's own: from a server's access log and the images that its clients uploaded to a log that mifsim reads::

    python examples/access_log.py stand-in served      # instead of your own server's files: served/access.log, ...
    python examples/access_log.py convert served examples/traffic.parquet
    python examples/onnx_model.py examples/digits.onnx
    mifsim tune examples/log.toml

The access log is that of nginx in the format ``$remote_user $msec "$request" $status $request_id``. The service has
saved the image of each request as ``uploads/<request id>.png``. The study calibrates the paper's filter on the users'
sessions; its page ``report.html`` says what the log contained and what was left out.
"""

import hashlib
import re
import secrets
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mifsim import load_data
from mifsim.data import DataConfig

LINE = re.compile(
    r'(?P<user>\S+) (?P<seconds>\d+)\.(?P<ms>\d{3}) "(?P<request>[^"]*)" (?P<status>\d{3}) (?P<id>[0-9a-f]+)'
)
"""A line of the access log. Request ids have digits and letters only, so that they name a file of the folder."""
SCHEMA = pa.schema({"client": pa.string(), "time": pa.timestamp("ms", tz="UTC"), "image": pa.binary()})


def convert(served, out, key=None):
    """Write the queries of an access log as Parquet.

    Parameters
    ----------
    served : Path
        Folder of ``access.log`` and ``uploads``.
    out : Path
        The Parquet file, with a row for each query that the model answered. A query whose image is lost has a null, so
        that mifsim can leave out its session: without this query, the session could seem harmless.
    key : bytes or None
        Key of the digests that replace the names of users. None: a new one, so that nobody can find the users again.

    Returns
    -------
    Counter
        How many lines were used, and how many were not, by reason.
    """
    key = key or secrets.token_bytes(32)
    counts, rows = Counter(), {name: [] for name in SCHEMA.names}
    for line in (served / "access.log").read_text(encoding="utf-8").splitlines():
        found = LINE.fullmatch(line)
        if found is None:
            counts["not understood"] += 1
        elif found["request"].split()[:2] != ["POST", "/predict"]:
            counts["no query"] += 1
        elif found["status"] != "200":
            counts["not answered by the model"] += 1
        elif found["user"] == "-":
            counts["without a user"] += 1
        else:
            image = served / "uploads" / f"{found['id']}.png"
            counts["queries" if image.is_file() else "queries without their image"] += 1
            rows["client"].append(hashlib.blake2b(found["user"].encode(), key=key, digest_size=8).hexdigest())
            rows["time"].append(int(found["seconds"] + found["ms"]))
            rows["image"].append(image.read_bytes() if image.is_file() else None)
    pq.write_table(pa.table(rows, SCHEMA), out)
    return counts


def stand_in(served, users=300, seed=0):
    """Write the files of a server that classifies digits: users with one to three visits, a probe, and some failures.

    The digits are those that the model was not trained on and that no attacker has: the subset ``users``.
    """
    rng, digits = np.random.default_rng(seed), load_data(DataConfig(set="mnist-5k")).subset("users")
    uploads, lines = served / "uploads", []
    uploads.mkdir(parents=True)
    for user in range(users):
        time = 1_790_000_000 + rng.uniform(0, 86_400)
        for _ in range(rng.integers(1, 4)):
            for number in rng.choice(len(digits), rng.integers(8, 25), replace=False):
                status = rng.choice([200, 500], p=[0.99, 0.01])
                for _ in range(1 + (rng.random() < 0.05)):  # one in twenty images is sent twice
                    time += rng.uniform(2, 20)
                    name = rng.bytes(8).hex()
                    lines.append((time, f'user-{user:03} {time:.3f} "POST /predict HTTP/1.1" {status} {name}'))
                    cv2.imwrite(str(uploads / f"{name}.png"), np.rint(255 * digits.image(number)).astype(np.uint8))
            time += rng.uniform(3_600, 36_000)
    probes = np.arange(1_790_000_000, 1_790_086_400, 600.0)
    lines += [(time, f'- {time:.3f} "GET /health HTTP/1.1" 200 {rng.bytes(8).hex()}') for time in probes]
    (served / "access.log").write_text("".join(f"{line}\n" for _, line in sorted(lines)), encoding="utf-8")
    min(uploads.iterdir()).unlink()  # the disk was full


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["stand-in", served]:
            stand_in(Path(served))
        case ["convert", served, out]:
            for reason, lines in convert(Path(served), Path(out)).most_common():
                print(f"{lines:6,} {reason}")
        case _:
            sys.exit(__doc__)
