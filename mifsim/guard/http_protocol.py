"""HTTP/1.1 for guards: uvicorn's protocol, with the client's certificate, and without trailers among the headers."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class GuardProtocol(HttpToolsProtocol):
    """HTTP whose requests state the subject of the client's TLS certificate, as the TLS extension of ASGI defines."""

    def on_message_begin(self) -> None:
        """Add the subject to the scope."""
        super().on_message_begin()
        certificate = self.transport.get_extra_info("peercert")
        if certificate:
            names = [f"{key}={value}" for group in certificate.get("subject", ()) for key, value in group]
            self.scope["extensions"] = {"tls": {"client_cert_name": ",".join(names)}}

    def on_headers_complete(self) -> None:
        """End the headers. Fields after the body, such as another identity, must not be added to them."""
        super().on_headers_complete()
        self.headers = []
