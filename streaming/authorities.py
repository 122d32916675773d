"""Whom TLS believes, for calls to upstreams and for the doctor's."""

import ssl

import certifi


def trusting() -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and Mozilla's: a small image has none of its own.

    SSL_CERT_FILE and SSL_CERT_DIR, OpenSSL's own variables, name others in place of the system's: for an upstream whose
    certificate a company signs itself.
    """
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context
