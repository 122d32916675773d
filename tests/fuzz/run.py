"""One target under the fuzzer: `python -m tests.fuzz.run NAME [libFuzzer's options and folders]`."""

import logging
import sys

import atheris

with atheris.instrument_imports(include=["streaming", "wsproto", "werkzeug.formparser", "werkzeug.sansio"]):
    from tests.fuzz.targets import TARGETS

logging.disable()  # a session logs what breaks it off; here that is raised
target = TARGETS[sys.argv[1]]
atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
atheris.Fuzz()
