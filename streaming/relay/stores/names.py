"""What the workers of one site call things in Redis. The part in braces decides the place in a Cluster."""


def lease(tag: str) -> str:
    """Return the key that says that a worker lives."""
    return f"sluice:lease:{tag}"


def journal(tag: str) -> str:
    """Return the stream of what all runs of a worker said in the last seconds."""
    return f"sluice:journal:{{{tag}}}"


def run(run_id: str) -> str:
    """Return the stream of one run; an entry's id is the `seq` of its last event."""
    return f"sluice:run:{{{run_id}}}"


def wake(tag: str) -> str:
    """Return the channel that says that a worker's journal has grown."""
    return f"sluice:wake:{tag}"


def control(tag: str) -> str:
    """Return the channel on which a worker is told things."""
    return f"sluice:control:{tag}"
