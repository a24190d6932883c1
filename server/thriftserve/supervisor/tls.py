"""TLS on the server's side: certificate files in, one context out.

--tls-cert, --tls-key, --tls-client-ca  -->  tls_context()  -->  handshake in the thread that serves the client
"""

from __future__ import annotations

import ssl

from thriftserve.errors import ConfigError
from thriftserve.settings import HostSettings


def tls_context(settings: HostSettings) -> ssl.SSLContext | None:
    """Return a TLS context for the files that the settings name, or None if TLS is off.

    Raises:
        ConfigError: a file does not exist or is not PEM, or the key does not belong to the certificate.
    """
    if not settings.tls_cert:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A drain shuts down reading, which looks like a truncated stream. Messages carry their own length.
    context.options |= ssl.OP_IGNORE_UNEXPECTED_EOF
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        key = f" with tls_key {settings.tls_key!r}" if settings.tls_key else ""
        raise ConfigError(f"tls_cert {settings.tls_cert!r}{key} can't be used: {error}") from None
    if settings.tls_client_ca:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"tls_client_ca {settings.tls_client_ca!r} can't be used: {error}") from None
        context.verify_mode = ssl.CERT_REQUIRED
    return context
