"""Image cells of a Parquet log: bytes, lists of bytes, structs, paths, encoded text, npy files, and arrays' bytes."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from mifsim.data.logs.format import MAX_IMAGE_BYTES, ImageEncoding, excerpt
from mifsim.data.logs.rows import Exact
from mifsim.data.npy import read_npy

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ACCEPTED_IMAGES = "bytes, lists of bytes, struct<bytes, path>, or text: paths or encoded images"

MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"P2", b"P5", b"P6", b"BM", b"II*\0", b"MM\0*")
"""First bytes of image files."""

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_HEX = re.compile(r"(?:[0-9a-fA-F]{2})+")
_HEAD = 64  # characters that are examined to tell how a cell is encoded
_DTYPES = re.compile(r"[<>=|]?(?:u1|f2|f4|f8)|uint8|float16|float32|float64")


class Problem(NamedTuple):
    """The reason why a cell is unusable."""

    text: str


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is text."""
    import pyarrow as pa

    is_ = pa.types
    return bool(is_.is_string(kind) or is_.is_large_string(kind) or is_.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a type is bytes, of variable or fixed length."""
    import pyarrow as pa

    is_ = pa.types
    return bool(
        is_.is_binary(kind) or is_.is_large_binary(kind) or is_.is_binary_view(kind) or is_.is_fixed_size_binary(kind)
    )


def is_image(kind: pa.DataType) -> bool:
    """Return whether a column of this type can contain images."""
    import pyarrow as pa

    is_ = pa.types
    if is_.is_dictionary(kind):
        return is_image(kind.value_type)
    if is_.is_struct(kind):
        fields = {kind.field(at).name: kind.field(at).type for at in range(kind.num_fields)}
        return "bytes" in fields and all(is_image(fields[name]) for name in ("bytes", "path") if name in fields)
    return bool(is_text(kind) or is_bytes(kind) or _is_list_of_bytes(kind) or is_.is_null(kind))


def _is_list_of_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    is_ = pa.types
    of_many = is_.is_list(kind) or is_.is_large_list(kind) or is_.is_fixed_size_list(kind)
    return bool(of_many and is_.is_integer(kind.value_type))


def texts(column: pa.Array) -> list[str | None]:
    """Return a column of text or bytes as text; bytes that are not UTF-8 are escaped, not an error for all rows."""
    import pyarrow as pa

    raw = column.cast(pa.binary()).to_pylist()
    return [None if text is None else text.decode("utf-8", "backslashreplace") for text in raw]


def image_cells(column: pa.Array, encoding: ImageEncoding) -> list[bytes | str | Problem | None]:
    """Return the images of a column of a type that `is_image` accepts.

    Parameters
    ----------
    column : Array
    encoding : ImageEncoding
        How text (and bytes, for ``"base64"`` and ``"hex"``) encodes an image.

    Returns
    -------
    list of bytes, str, Problem or None
        For each row the bytes of an image; a path; a problem; or None for null.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        return image_cells(column.dictionary_decode(), encoding)
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_struct(kind):
        return _struct_cells(column, encoding)
    if _is_list_of_bytes(kind):
        return [_list_bytes(column[number]) for number in range(len(column))]
    if is_text(kind):
        read = _from_hex if encoding == "hex" else _from_base64 if encoding == "base64" else _as_path
        return [None if text is None else read(text) for text in texts(column)]
    raw: list[bytes | None] = column.to_pylist()
    if encoding not in ("base64", "hex"):
        return list(raw)
    read = _from_hex if encoding == "hex" else _from_base64
    return [None if cell is None else read(cell.decode("ascii", "replace")) for cell in raw]


def _struct_cells(column: pa.Array, encoding: ImageEncoding) -> list[bytes | str | Problem | None]:
    """Return the images of structs ``{bytes, path}``, as Hugging Face stores them: the bytes, or else the path."""
    import pyarrow.compute as pc

    names = [field.name for field in column.type]
    found = image_cells(pc.struct_field(column, "bytes"), encoding)
    if "path" not in names:
        return found
    paths = image_cells(pc.struct_field(column, "path"), "file")
    return [path if image is None else image for image, path in zip(found, paths, strict=True)]


def _list_bytes(cell: pa.Scalar) -> bytes | Problem | None:
    if not cell.is_valid:
        return None
    values = cell.values
    if values.null_count:
        return Problem("a list of bytes with nulls")
    numbers: npt.NDArray[Any] = values.to_numpy(zero_copy_only=False)
    if numbers.dtype == np.int8:  # Java's bytes, from -128 to 127
        numbers = numbers.view(np.uint8)
    if numbers.dtype != np.uint8 and numbers.size and not (numbers.min() >= 0 and numbers.max() <= 255):
        return Problem("a list of numbers that are not bytes (accepted: 0 to 255)")
    return numbers.astype(np.uint8).tobytes()


def _as_path(text: str) -> str | Problem:
    if (problem := encoding_problem(text)) is not None:
        return Problem(problem)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        return Problem(f"{excerpt(text)}: a URL; images must be in the log, or files in its folder")
    return text


def encoding_problem(text: str) -> str | None:
    """Return a message if text looks like an encoded image, whose encoding must be declared; None otherwise."""
    if text[:5].lower() == "data:":
        return f"{excerpt(text)}: a data URL; set image_encoding = 'base64'"
    head = "".join(text[:_HEAD].split())
    whole = head if len(text) <= _HEAD else head[: len(head) // 4 * 4]
    if _BASE64.fullmatch(head) and len(head) >= 8:
        if (first := _decoded_base64(whole)) is not None and first.startswith(MAGIC):
            return f"{excerpt(text)}: looks like an image in base64; set image_encoding = 'base64'"
        if _HEX.fullmatch(head[: len(head) // 2 * 2]) and bytes.fromhex(head[: len(head) // 2 * 2]).startswith(MAGIC):
            return f"{excerpt(text)}: looks like an image in hexadecimal; set image_encoding = 'hex'"
        if len(text) > 4 * _HEAD and _BASE64.fullmatch("".join(text.split())):
            return f"{excerpt(text)}: no path, perhaps base64 of something; for images, set image_encoding = 'base64'"
    return None


def _from_base64(text: str) -> bytes | Problem:
    if len(text) > 2 * MAX_IMAGE_BYTES:
        return Problem(f"an image of more than {MAX_IMAGE_BYTES:,} bytes")
    body = text
    if text.lstrip()[:5].lower() == "data:":
        header, comma, body = text.partition(",")
        if not comma or not header.rstrip().lower().endswith(";base64"):
            return Problem(f"{excerpt(text)}: a data URL that is not base64")
    found = _decoded_base64("".join(body.split()))
    if found is None:
        return Problem(f"{excerpt(text)}: not base64 (image_encoding = 'base64')")
    return found


def _decoded_base64(text: str) -> bytes | None:
    """Decode base64 in the standard or the URL-safe alphabet, with or without padding."""
    plain = text.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _from_hex(text: str) -> bytes | Problem:
    try:
        return bytes.fromhex(text.strip().removeprefix("0x").removeprefix("\\x"))
    except ValueError:
        return Problem(f"{excerpt(text)}: not hexadecimal (image_encoding = 'hex')")


def stored_arrays(dtypes: list[Any], shapes: list[Any]) -> list[Exact | Problem | None]:
    """Return the dtype and shape of each row's array, of which the image column contains the bytes."""
    return [_stored_array(dtype, shape) for dtype, shape in zip(dtypes, shapes, strict=True)]


def npy_array(data: bytes) -> tuple[bytes, Exact] | Problem:
    """Return the bytes of the array in an npy file, with its dtype and shape."""
    try:
        array = read_npy(data)
    except ValueError as error:
        return Problem(" ".join(str(error).split())[:200])
    exact = _stored_array(array.dtype.str.replace("|", "="), array.shape)
    return exact if isinstance(exact, Problem) else (array.tobytes(), exact)


def _stored_array(dtype: Any, shape: Any) -> Exact | Problem:
    if isinstance(dtype, bytes):
        dtype = dtype.decode("ascii", "replace")
    if not isinstance(dtype, str) or not _DTYPES.fullmatch(dtype):
        return Problem(f"dtype {excerpt(str(dtype))} (accepted: uint8, float16, float32, float64)")
    numbers = [str(size) for size in shape] if isinstance(shape, (list, tuple)) else re.findall(r"-?\d+", str(shape))
    if not all(re.fullmatch(r"\d{1,6}", number) for number in numbers) or len(numbers) not in (2, 3):
        return Problem(f"shape {excerpt(str(shape))} (accepted: height and width, or height, width and 1 or 3)")
    sizes = tuple(int(number) for number in numbers)
    if 0 in sizes or (len(sizes) == 3 and sizes[2] not in (1, 3)):
        return Problem(f"shape {excerpt(str(shape))} (accepted: height and width, or height, width and 1 or 3)")
    return Exact(np.dtype(dtype).str, sizes)


def path_texts(file: pq.ParquetFile, name: str) -> Iterator[str]:
    """Yield the paths that a column of images names; none if it contains the images themselves."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = file.schema_arrow.field(name).type
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_struct = pa.types.is_struct(value)
    if not (is_text(value) or (is_struct and any(field.name == "path" for field in value))):
        return
    groups = [group for group in range(file.num_row_groups) if not is_struct or _may_lack_bytes(file, name, group)]
    for batch in file.iter_batches(4096 if not is_struct else 64, row_groups=groups, columns=[name]):
        column = batch.column(0)
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if is_struct:
            without = pc.is_null(pc.struct_field(column, "bytes"))
            column = pc.struct_field(column, "path").filter(without)
        if not pa.types.is_null(column.type):
            yield from (text for text in texts(column) if text is not None)


def _may_lack_bytes(file: pq.ParquetFile, name: str, group: int) -> bool:
    """Return whether some struct of a row group may have no bytes; its statistics tell it without reading images."""
    metadata = file.metadata.row_group(group)
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        if column.path_in_schema == f"{name}.bytes":
            known = column.is_stats_set and column.statistics is not None and column.statistics.has_null_count
            return not (known and column.statistics.null_count == 0)
    return True
