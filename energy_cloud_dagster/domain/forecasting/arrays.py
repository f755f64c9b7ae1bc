"""Arrays inside canonical JSON: base64 of the zlib'd little-endian bytes, with type and shape."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from energy_cloud_dagster.domain.errors import InvalidInput

#: Types that are written; anything else in a stored text is refused.
KINDS: Final = ("<f8", "<f4", "<i8", "<i4", "<i2", "|u1")
#: Most bytes that one stored array may unfold to.
MOST_BYTES: Final = 64 * 1024 * 1024


def packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    """Return ``array`` as ``{dtype, shape, data}`` for JSON; a type outside ``KINDS`` raises ``InvalidInput``."""
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    if little.dtype.str not in KINDS:
        raise InvalidInput(f"an array of {array.dtype} has no stored form")
    data = base64.b64encode(zlib.compress(little.tobytes(), 6)).decode("ascii")
    return {"dtype": little.dtype.str, "shape": list(little.shape), "data": data}


def unpacked(document: object) -> npt.NDArray[Any]:
    """Return the array that ``packed`` wrote, read-only; anything else raises ``InvalidInput``."""
    try:
        return _read(document)
    except (KeyError, TypeError, ValueError, binascii.Error, zlib.error) as error:
        raise InvalidInput(f"a stored array cannot be read: {error}; fit the model again") from error


def _read(document: Any) -> npt.NDArray[Any]:
    kind, shape = document["dtype"], tuple(int(size) for size in document["shape"])
    if kind not in KINDS or min(shape, default=0) < 0:
        raise ValueError(f"type {kind!r} and shape {shape}")
    size = math.prod(shape) * np.dtype(kind).itemsize
    if size > MOST_BYTES:
        raise ValueError(f"{size} bytes")
    reader = zlib.decompressobj()
    data = reader.decompress(base64.b64decode(document["data"], validate=True), size + 1)
    if len(data) != size or not reader.eof:
        raise ValueError(f"{len(data)} bytes instead of {size}")
    return np.frombuffer(data, dtype=kind).reshape(shape)
