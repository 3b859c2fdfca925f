"""The schema of the guard's traffic log: Parquet files with a row for each judged query."""

from __future__ import annotations

import pyarrow as pa

from mifsim.tables.fields import schema_of

TRAFFIC_VERSION = 1
VERSION_KEY = b"mifsim_traffic_log"
"""Key of the schema's metadata with the version; it tells a traffic log from other logs."""

IMAGES_KEY = b"mifsim_traffic_images"
"""Key of the schema's metadata with the setting ``log.images``."""

TRAFFIC_SCHEMAS: dict[str, pa.Schema] = {
    "traffic": schema_of(
        ("client", pa.string(), "hash of the client's identity, with the guard's key"),
        ("session", pa.string(), "the client and the start of its session"),
        ("query", pa.int64(), "number of the query within the session, from 1; an undone query's number is used again"),
        ("time", pa.timestamp("us", tz="UTC"), "time of the verdict; rises within a session"),
        ("image", pa.binary(), "the image file as it arrived; of an array, an npy file before the transport; or null"),
        ("content_type", pa.string(), "what the client sent: image/png, image/jpeg, image/webp or application/x-npy"),
        ("shape", pa.string(), "shape of the image as it arrived, such as 28x28x1"),
        ("verdict", pa.string(), "safe or unsafe; an unsafe query blocks its client"),
        ("count", pa.float64(), "the detector's count after the query"),
        ("limit", pa.float64(), "the count at which it blocks"),
        ("answered", pa.bool_(), "false: the model gave no answer, and the query was undone, as if it was not sent"),
        ("label", pa.int32(), "class that the model answered; null: the guard did not read it"),
        ("confidence", pa.float32(), "the model's confidence in this class (0 to 1), or null"),
        ("request_id", pa.string(), "x-request-id; the images of one request share it"),
        ("filter", pa.string(), "digest of the detector's configuration"),
        ("policy", pa.string(), "the session policy in words"),
    )
}


def traffic_schema(images: str) -> pa.Schema:
    """Return the schema of a log, for the setting ``log.images``."""
    metadata = {VERSION_KEY: str(TRAFFIC_VERSION).encode(), IMAGES_KEY: images.encode()}
    return TRAFFIC_SCHEMAS["traffic"].with_metadata(metadata)
