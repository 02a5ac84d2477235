"""What a dashboard is made of, and the queries that many panels share.

Several orchestrators may run and tell the same, so every series is first reduced to one with `one` or `per_second`.
Metrics are those of METRICS.md.
"""

from dataclasses import dataclass, field

RED, ORANGE = "red", "orange"


@dataclass
class Panel:
    """One panel. `queries` are pairs of PromQL and legend; `columns` are units of a table's columns."""

    title: str
    description: str
    queries: list
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 12
    height: int = 8
    thresholds: list = field(default_factory=list)
    least: float = None
    most: float = None
    decimals: int = None
    trend: bool = False
    names: bool = False
    links: list = field(default_factory=list)
    columns: list = field(default_factory=list)
    hidden: list = field(default_factory=list)
    needs: str = ""


@dataclass
class Variable:
    """What a dashboard may be narrowed to."""

    name: str
    label: str
    description: str
    query: str
    multi: bool = False


@dataclass
class Dashboard:
    """One dashboard; `name` is its file and the end of its uid."""

    name: str
    title: str
    description: str
    panels: list
    variables: list = field(default_factory=list)


def row(title):
    """A heading."""
    return Panel(title, "", [], kind="row")


def stat(title, description, query, unit="short", **more):
    """A figure."""
    return Panel(title, description, [query], unit, "stat", **({"width": 4, "height": 4} | more))


def one(labels, metric, where=""):
    """The series of a metric, whichever orchestrator tells it."""
    return f"max by ({labels}) ({metric}{{{where}}})" if where else f"max by ({labels}) ({metric})"


def per_second(labels, counter, where=""):
    """The rate of a counter of the sites, summed over their processes."""
    counted = f"rate({counter}{{{where}}}[$__rate_interval])" if where else f"rate({counter}[$__rate_interval])"
    return f"sum by ({labels}) (max without (instance, job) ({counted}))"


def at_sites(labels, gauge, where=""):
    """A gauge of the sites, summed over their processes."""
    return f"sum by ({labels}) ({one(f'{labels}, worker', gauge, where)})"


def or_zero(query):
    """0 where there is no series."""
    return f"({query}) or vector(0)"
