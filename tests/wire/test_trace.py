"""Trace context, by the examples and rules of W3C Trace Context."""

import pytest

from streaming.wire.trace import Trace, parse

TRACE, PARENT, OURS = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


def parsed(traceparent: str = GOOD, tracestate: str = "") -> Trace | None:
    return parse(traceparent, tracestate, OURS)


def test_we_are_the_callers_child_and_the_next_servers_parent() -> None:
    trace = parsed(GOOD, "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7")
    assert trace is not None
    assert (trace.trace_id, trace.parent_id, trace.span_id, trace.sampled) == (TRACE, PARENT, OURS, True)
    assert trace.headers() == {
        "traceparent": f"00-{TRACE}-{OURS}-01",
        "tracestate": "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7",
    }


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (f"00-{TRACE}-{PARENT}-00", "00"),
        (f"00-{TRACE}-{PARENT}-03", "03"),  # level 2: a random trace id
        (f"00-{TRACE}-{PARENT}-ff", "03"),  # unknown flags are not passed on
        (f"cc-{TRACE}-{PARENT}-03", "01"),  # a later version, of which we know what section 3.2.4 says
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", "01"),
        (f"  {GOOD}\t", "01"),
    ],
)
def test_flags_and_later_versions(traceparent: str, flags: str) -> None:
    trace = parsed(traceparent)
    assert trace is not None
    assert trace.headers() == {"traceparent": f"00-{TRACE}-{OURS}-{flags}"}


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01.",
        f"cc-{TRACE}-{PARENT}-01.more",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}g-{PARENT}-01",
        f"{GOOD},{GOOD}",
        f"{GOOD}\r\nX-Other: 1",
        f"{GOOD}\n",
        "٠٠" + GOOD[2:],
    ],
)
def test_a_broken_traceparent_is_none(traceparent: str) -> None:
    assert parsed(traceparent, "congo=1") is None


@pytest.mark.parametrize(
    ("tracestate", "state"),
    [
        ("", ""),
        (" a=1 ,\tb@c=2 , ,", "a=1,b@c=2"),
        ("a=1 2", "a=1 2"),
        (",".join(f"k{n}=v" for n in range(32)), ",".join(f"k{n}=v" for n in range(32))),
        (",".join(f"k{n}=v" for n in range(33)), ""),
        ("a=1,a=2", ""),
        ("a", ""),
        ("A=1", ""),
        ("a=", ""),
        ("a=b=c", ""),
        ("a=1\r\nX-Other: 1", ""),
        ("a=1\n", ""),
        ("a=ü", ""),
        ("a=" + "x" * 257, ""),
        (",".join(f"k{n}={'v' * 100}" for n in range(6)), ""),
    ],
)
def test_a_broken_tracestate_costs_only_itself(tracestate: str, state: str) -> None:
    trace = parsed(GOOD, tracestate)
    assert trace is not None
    assert trace.state == state
    assert set(trace.headers()) == ({"traceparent", "tracestate"} if state else {"traceparent"})
