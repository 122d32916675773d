"""Who asks, as far as the relay must know."""

from typing import Literal

import msgspec

from streaming.wire.trace import Trace


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks. `owner` is whose conversations, keys, chats and files these are; None: whoever holds their ids.

    `kind`  local      a program on this machine, asking a relay that is open to nobody else
            known      a key's or a token's holder
            visitor    a person on the relay's page
            anonymous  anybody else

    `account` is what is counted under; `crowd` counts beside it, for all visitors behind one address. `tier` names the
    limits of a known caller, None = the usual ones. `user` is what upstreams are told in the place of what the ask
    says; None = what it says. `request_id` is the HTTP request's that came with it, for upstreams that note it, and
    `trace` its trace; None = none.
    """

    owner: str | None = None
    kind: Literal["local", "known", "visitor", "anonymous"] = "local"
    account: str = ""
    crowd: str | None = None
    tier: str | None = None
    user: str | None = None
    request_id: str | None = None
    trace: Trace | None = None
