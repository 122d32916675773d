"""How things go wrong, in two tables.

    Refusal   a request is refused before a run starts: an HTTP status and {"error": {…}}
    Failure   a run that began fails: `end.error`

Messages are ours: upstream texts leak paths, URLs and the user's input. None of these carries one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from streaming.wire.events import EndError


@dataclass(frozen=True)
class Kind:
    """What a code means: HTTP status, whether trying again can help, the sentence shown."""

    status: int
    retryable: bool
    message: str


FAILURES = {
    "upstream_auth": Kind(502, False, "The upstream refused this relay's credentials."),
    "upstream_rejected": Kind(502, False, "The upstream rejected the request."),
    "upstream_busy": Kind(503, True, "The upstream is busy; try again shortly."),
    "upstream_unreachable": Kind(502, True, "The upstream could not be reached."),
    "upstream_failed": Kind(502, False, "The upstream failed while answering."),
    "upstream_timeout": Kind(504, True, "The upstream fell silent for too long."),
    "upstream_truncated": Kind(502, True, "The upstream's answer was cut off before its end."),
    "upstream_invalid": Kind(502, False, "The upstream sent something that is not its protocol."),
    "run_too_long": Kind(504, False, "The answer took longer than this relay allows."),
    "run_too_large": Kind(502, False, "The answer grew larger than this relay allows."),
    "internal": Kind(500, False, "The relay failed; the fault is on our side."),
}

REFUSALS = {
    "bad_request": 400,
    "bad_cursor": 400,
    "unknown_upstream": 400,
    "not_supported": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "run_not_found": 404,
    "other_instance": 404,
    "conversation_not_found": 404,
    "model_not_found": 404,
    "file_not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conversation_busy": 409,
    "run_unfinished": 409,
    "run_expired": 410,
    "body_too_large": 413,
    "file_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "unsupported_file_type": 415,
    "idempotency_mismatch": 422,
    "rate_limited": 429,
    "too_many_streams": 429,
    "budget_spent": 429,
    "headers_too_large": 431,
    "internal": 500,
    "too_many_runs": 503,
    "too_many_uploads": 503,
    "draining": 503,
    "store_unavailable": 503,
}


BUSY_RETRY_AFTER_SECONDS = 5
"""What callers are told where a busy upstream gives no advice (Dify never does)."""


class RelayError(Exception):
    """Root of the failures and refusals."""


class Failure(RelayError):
    """A run failed. `code` is one of FAILURES; `retry_after` in seconds, None = no advice.

    `remedy` is for the relay itself, where certainly nothing was generated: "retry" = the same call may be made again,
    "elsewhere" = another upstream may be asked, but this one will not do; None = neither (it could be billed twice).
    """

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        status: int | None = None,
        retry_after: int | None = None,
        remedy: Literal["retry", "elsewhere"] | None = None,
    ) -> None:
        kind = FAILURES[code]
        self.code = code
        self.message = message or kind.message
        self.status = status or kind.status
        self.retryable = kind.retryable
        self.retry_after = retry_after
        self.remedy = remedy
        super().__init__(f"{code}: {self.message}")

    def as_end_error(self) -> EndError:
        """The form that `end.error` carries."""
        no_advice = self.code == "upstream_busy" and self.retry_after is None
        return EndError(
            code=self.code,
            message=self.message,
            retryable=self.retryable,
            retry_after=BUSY_RETRY_AFTER_SECONDS if no_advice else self.retry_after,
            status=self.status,
        )


class Refusal(RelayError):
    """A request was refused before it cost anything. `code` is one of REFUSALS; `retry_after` in seconds.

    With `status` the code is one of FAILURES: an upstream refused a call that is no run. `headers` go with the answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        retry_after: int | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.code = code
        self.message = message
        self.status = status or REFUSALS[code]
        self.retry_after = retry_after
        self.headers = headers or {}
        super().__init__(f"{code}: {message}")
