"""All targets by name: each takes any bytes, and raises where something is wrong with the code."""

from tests.fuzz import answers, requests

TARGETS = {**answers.TARGETS, **requests.TARGETS}
