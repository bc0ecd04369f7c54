"""The metrics as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final, assert_never, final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from trio_fcgimail import __version__
from trio_fcgimail.server.metrics import BUCKETS, SPECS, Metric, Series, Shape, Spec, Values

PREFIX: Final = "fcgimail_"
_BOUNDS: Final = (*map(str, BUCKETS), "+Inf")
_Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


@final
class _Collector(Collector):
    def __init__(self, samples: dict[Series, Values]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[_Family | InfoMetricFamily]:
        yield InfoMetricFamily(f"{PREFIX}build", "The version.", {"version": __version__})
        families: dict[Metric, _Family] = {}
        for series, values in sorted(self._samples.items(), key=_order):
            metric = series.metric
            if metric not in families:
                families[metric] = _family(metric, SPECS[metric])
            _add(families[metric], series.labels, values)
        yield from families.values()


def _order(sample: tuple[Series, Values]) -> tuple[str, tuple[str, ...]]:
    return sample[0].metric.value, sample[0].labels


def _family(metric: Metric, spec: Spec) -> _Family:
    name = PREFIX + metric.value
    match spec.shape:
        case Shape.COUNTER:
            return CounterMetricFamily(name, spec.about, labels=spec.labels)
        case Shape.HISTOGRAM:
            return HistogramMetricFamily(name, spec.about, labels=spec.labels)
        case Shape.GAUGE | Shape.LEAST:
            return GaugeMetricFamily(name, spec.about, labels=spec.labels)
        case _:
            assert_never(spec.shape)


def _add(family: _Family, labels: tuple[str, ...], values: Values) -> None:
    if isinstance(family, HistogramMetricFamily):
        *counts, total = values
        family.add_metric(labels, list(zip(_BOUNDS, accumulate(counts), strict=True)), total)
    else:
        family.add_metric(labels, values[0])


def render(samples: Iterable[tuple[Series, Values]], accept: str) -> tuple[bytes, str]:
    """All metrics as a page, and its content type.

    Args:
        accept: what the reader takes.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(dict(samples)))
    encoder, content_type = choose_encoder(accept)
    return encoder(registry), content_type
