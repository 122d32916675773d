"""Every test process is patched as the served one is, before anything that opens sockets is imported."""

from gevent import monkey

monkey.patch_all()
