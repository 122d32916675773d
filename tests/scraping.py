"""What `GET /metrics` says, read by Prometheus' own parser."""

from collections.abc import Iterator

import requests
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def families(url: str, session: requests.Session | None = None) -> Iterator[Metric]:
    """Return the metrics of the relay at `url`; `session`: on a kept connection, and so always from the same worker."""
    answer = (session or requests).get(f"{url}/metrics", timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    return text_string_to_metric_families(answer.text)


class Scraped:
    """All samples of one moment."""

    def __init__(self, url: str, session: requests.Session | None = None) -> None:
        self._samples = [sample for family in families(url, session) for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= (sample.labels or {}).items()
        )
