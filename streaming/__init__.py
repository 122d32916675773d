"""Sluice relays LLM answers token by token, without losing one. A map of the package:

web    faces the user: routes, pages, the gunicorn worker
relay  one log between two sides: runs, cursors, stores, the upstream call
wire   pure: bytes in, bytes out; no I/O, no clock, no environment

Imports run one way, web -> relay -> wire; tests/test_architecture.py holds it. Everything is put together in app.py.
"""
