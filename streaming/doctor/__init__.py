"""`flask doctor`: what stands between a relay and its readers, measured from outside. A map of the package:

command     the command and its report
examine     the checks in their order, each a few requests and a verdict
site        the requests: one deployed address, read with a clock beside it
local       before a deploy: settings, the shared store, each upstream
            and pure, from measurements to sentences with a fix:
measured    what was measured
verdict     what a check says
transport   reachable, TLS, HTTP version, headers, WebSocket
flow        buffering, compression, silence, length, resume, instances
hops        which proxies and platforms the headers name, and what to change there
settings    settings that contradict each other

From outside it is a client like any other; `GET /probe` gives it frames, and it starts no run.
"""
