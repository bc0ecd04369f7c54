"""Certificates of an authority that only the tests trust."""

import ssl
from pathlib import Path
from typing import Final, final

import trio
import trustme

HOSTNAME: Final = "mx.example.com"


@final
class Authority:
    """One authority, and the certificate of our server.

    Attributes:
        certificate: A PEM file with the chain and the key.
    """

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self.certificate = folder / "mx.pem"
        self.ca_file = folder / "ca.pem"
        self.issue().private_key_and_cert_chain_pem.write_to_path(self.certificate)
        self._ca.cert_pem.write_to_path(self.ca_file)

    def issue(self) -> trustme.LeafCert:
        """Another certificate of our server, with a key of its own."""
        return self._ca.issue_cert(HOSTNAME, "127.0.0.1")

    def issue_to(self, *names: str, common_name: str | None = None) -> trustme.LeafCert:
        """A certificate of somebody else."""
        return self._ca.issue_cert(*names, common_name=common_name)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that takes nobody but our server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._ca.configure_trust(context)
        return context

    def client(self, stream: trio.abc.Stream, context: ssl.SSLContext | None = None) -> trio.SSLStream[trio.abc.Stream]:
        """The client's end of TLS, before the handshake. An end of file without a close_notify is an error to it."""
        return trio.SSLStream(stream, context or self.trusting(), server_hostname=HOSTNAME)
