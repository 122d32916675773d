"""Where a request comes from, told by nobody but the proxies that may tell it."""

import ipaddress
from functools import lru_cache

from flask import Request

FORWARDED = ("X-Forwarded-For", "Forwarded", "X-Real-Ip", "Via")
"""What proxies add: a request that has one of these is not a program's on this machine."""

IPV6_PREFIX = 64  # what one line gets: within it, whoever wants to can have another address for each request
KNOWN_ADDRESSES = 1024  # reading one takes as long as reading a small body, and who floods comes again and again
LOCAL_NAMES = {"localhost", "127.0.0.1", "[::1]"}


def client_address(request: Request, proxies: str) -> str:
    """Return the client's address, of IPv6 the network. `proxies` is the setting TRUSTED_PROXIES.

    What more proxies than these, or the client itself, wrote before them is not looked at. Where the header is missing
    or no address, it is the address of who connected.
    """
    peer = request.environ.get("REMOTE_ADDR") or ""
    told = ""
    if proxies.isdigit():
        hops = [each.strip() for each in ",".join(request.headers.getlist("X-Forwarded-For")).split(",")]
        told = hops[-int(proxies)] if 0 < int(proxies) <= len(hops) else ""
    elif proxies != "auto":
        told = request.headers.get(proxies, "").strip()
    return _normal(told) or _normal(peer) or "unknown"


def is_local(request: Request) -> bool:
    """Return whether a program on this machine asks, and nobody through it.

    The name in Host is the address that was asked: a page whose name was rebound to 127.0.0.1 has another.
    """
    peer = _normal(request.environ.get("REMOTE_ADDR") or "")
    host = request.host.rpartition(":")[0] if request.host.rpartition(":")[2].isdigit() else request.host
    forwarded = any(name in request.headers for name in FORWARDED)
    return is_loopback(peer) and host.lower() in LOCAL_NAMES and not forwarded


@lru_cache(KNOWN_ADDRESSES)
def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens there."""
    try:
        return ipaddress.ip_address(host.partition("/")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"


@lru_cache(KNOWN_ADDRESSES)
def _normal(text: str) -> str:
    """Return the address in one spelling, "" where it is none. Some proxies write a port behind it."""
    bare = text[1:].partition("]")[0] if text.startswith("[") else text
    if bare.count(":") == 1:
        bare = bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address) if address.is_loopback else str(ipaddress.ip_network((address, IPV6_PREFIX), strict=False))
