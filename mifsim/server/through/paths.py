"""The format of the queries to a guard, which the path of its address stands for.

=====================================  =====================================================================
path of ``--through``                  format of a query
=====================================  =====================================================================
``/v1/models/NAME:predict``            TensorFlow Serving's REST API: a row of numbers
``/v2/models/NAME/infer``              Open Inference Protocol v2: a binary tensor
any other, transport ``float32``       an npy file, which contains the exact numbers
any other, other transports            a PNG file
=====================================  =====================================================================

The numbers are those of the simulation. For ``jpeg-Q``, the pixels are sent with 8 bits and without loss, and the guard
compresses them: a second compression of a JPEG file would change them.
"""

from __future__ import annotations

import json
import re

import numpy as np

from mifsim.errors import RemoteGuardError, VictimError
from mifsim.server.through.connection import GuardConnection
from mifsim.server.through.formats import INPUTS, Arrays, Files, OpenInferenceV2, Pixels, QueryFormat, Serving, row_of
from mifsim.victims.engines.inference_protocol import ProtocolError
from mifsim.victims.engines.open_inference import OpenInference
from mifsim.victims.layout import LayoutName, find_layout

_PREDICT = re.compile(r"/v1/models/[^/:]+(/(versions|labels)/[^/:]+)?:predict")
_INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")


def format_for(
    connection: GuardConnection, pixels: Pixels, shape: tuple[int, ...], layout: str, output: str | None
) -> QueryFormat:
    """Return the format that the path of a guard's address stands for.

    Parameters
    ----------
    connection : GuardConnection
        Of it, the Open Inference Protocol is asked for the model's input.
    pixels : Pixels
    shape : tuple of int
        Shape of the images, (H, W) or (H, W, 3).
    layout : str
        Order of the axes of arrays, as the guard states it; empty: channels last.
    output : str or None
        See `QueryFormat`.

    Raises
    ------
    RemoteGuardError
        If the numbers cannot be sent exactly, or the model does not take the images.
    """
    address, path = connection.address, connection.address.path
    order: LayoutName = "channels-first" if layout == "channels-first" else "channels-last"
    exact = pixels.transport.kind == "float32"
    if exact and pixels.white == 255:
        raise RemoteGuardError(
            f"{address}: the guard takes pixels from 0 to 255 (images.white), in which float32 pixels cannot be sent "
            'exactly (accepted: server.transport = "uint8" or "jpeg-Q")'
        )
    if _PREDICT.fullmatch(path):
        return Serving(pixels, output, order)
    if not _INFER.fullmatch(path):
        return Arrays(pixels, output, order) if exact else Files(pixels, output)
    protocol, model = OpenInference(binary=True), path.removesuffix("/infer")
    stated = connection.get(model)
    try:
        if stated.status != 200:
            raise ProtocolError(f"answers HTTP {stated.status}")
        (image,) = protocol.read_signature(json.loads(stated.body)).inputs
        _, *takes = image.shape or ()
        found = find_layout(str(address), takes, row_of(np.empty(shape, np.float32)).shape[1:], None)
    except VictimError as error:
        raise RemoteGuardError(str(error)) from None
    except ValueError as error:  # a ProtocolError is one
        raise RemoteGuardError(f"{address}: {model} does not state the model's input: {error}") from None
    if image.datatype not in INPUTS or (image.datatype == "UINT8" and exact):
        accepted = [name for name in INPUTS if not exact or name != "UINT8"]
        raise RemoteGuardError(
            f"{address}: the model takes {image.datatype} (accepted with server.transport = {pixels.transport}: "
            f"{', '.join(accepted)})"
        )
    return OpenInferenceV2(pixels, output, image, found)
