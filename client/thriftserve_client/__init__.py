"""thriftserve_client: call a thriftserve server from Python.

Each name is imported from its module when it is first used, so that programs that use no arrays do not load NumPy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thriftserve_client.address import SslOptions
    from thriftserve_client.client import Client
    from thriftserve_client.codec import data_type, from_tensor, numpy_dtype, to_tensor
    from thriftserve_client.control import Control
    from thriftserve_client.errors import (
        CallTimeout,
        ConnectionFailed,
        DeadlineExceededError,
        FailedPreconditionError,
        InternalError,
        InvalidArgumentError,
        MessageTooLarge,
        NotFoundError,
        ProtocolMismatch,
        ResourceExhaustedError,
        ServerError,
        TensorError,
        ThriftServeClientError,
        UnauthenticatedError,
        UnavailableError,
        UnimplementedError,
    )
    from thriftserve_client.histogram import Histogram
    from thriftserve_client.results import (
        Classification,
        Detection,
        ImageDetections,
        ModelMetadata,
        ModelStatus,
        PerImage,
        Prediction,
        ServerStatus,
        SignatureInfo,
        TensorInfo,
        Timing,
        VersionStatus,
        WorkerStatus,
    )
    from thriftserve_idl.ttypes import DataType, ErrorCode

__all__ = [
    "CallTimeout",
    "Classification",
    "Client",
    "ConnectionFailed",
    "Control",
    "DataType",
    "DeadlineExceededError",
    "Detection",
    "ErrorCode",
    "FailedPreconditionError",
    "Histogram",
    "ImageDetections",
    "InternalError",
    "InvalidArgumentError",
    "MessageTooLarge",
    "ModelMetadata",
    "ModelStatus",
    "NotFoundError",
    "PerImage",
    "Prediction",
    "ProtocolMismatch",
    "ResourceExhaustedError",
    "ServerError",
    "ServerStatus",
    "SignatureInfo",
    "SslOptions",
    "TensorError",
    "TensorInfo",
    "ThriftServeClientError",
    "Timing",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
    "VersionStatus",
    "WorkerStatus",
    "data_type",
    "from_tensor",
    "numpy_dtype",
    "to_tensor",
]

#: Module -> its names in `__all__`.
_NAMES = {
    "thriftserve_client.address": "SslOptions",
    "thriftserve_client.client": "Client",
    "thriftserve_client.codec": "data_type from_tensor numpy_dtype to_tensor",
    "thriftserve_client.control": "Control",
    "thriftserve_client.errors": (
        "CallTimeout ConnectionFailed DeadlineExceededError FailedPreconditionError InternalError "
        "InvalidArgumentError MessageTooLarge NotFoundError ProtocolMismatch ResourceExhaustedError "
        "ServerError TensorError ThriftServeClientError UnauthenticatedError UnavailableError "
        "UnimplementedError"
    ),
    "thriftserve_client.histogram": "Histogram",
    "thriftserve_client.results": (
        "Classification Detection ImageDetections ModelMetadata ModelStatus PerImage Prediction "
        "ServerStatus SignatureInfo TensorInfo Timing VersionStatus WorkerStatus"
    ),
    "thriftserve_idl.ttypes": "DataType ErrorCode",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

if not TYPE_CHECKING:  # a type checker would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
