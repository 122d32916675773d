"""The pure core: bytes in, bytes out. No I/O, no clock, no environment.

events    what a run's log is made of            errors    how a run fails, how a request is refused
sse       the decoder and encoder of SSE         ask       what a caller may ask
formats   log entries -> sse, ndjson, text       answer    log entries -> one JSON answer
usage     token estimates, the digest            jsontext  JSON that fast decoders refuse; split surrogates
dialects  upstream languages: openai, dify
"""
