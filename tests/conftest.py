"""Every test process is patched as the served one is, before anything that opens sockets is imported."""

from gevent import monkey

monkey.patch_all()

collect_ignore = ["browser", "real"]  # processes of their own: a browser's client does not go with the patches
