"""What holds for dashboards, alerts and runbooks without a running job."""

import json
import re
import subprocess
from pathlib import Path

import build
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models import units

HERE = Path(__file__).resolve().parent
# What Prometheus itself tells.
FOREIGN = {"up": {"service", "part"}, "ALERTS": {"alertname", "alertstate", "service"}}
# Labels that a scrape adds.
SCRAPED = {"instance", "job", "service", "part", "le"}


def documented():
    """The metrics of METRICS.md with their labels, and what the recording rules make."""
    known = {name: set(labels) for name, labels in FOREIGN.items()}
    for line in (HERE / "METRICS.md").read_text().splitlines():
        found = re.match(r"\| `(\w+)` \| (\w+) \| ([^|]*) \|", line)
        if found:
            name, kind, labels = found.groups()
            endings = ["_bucket", "_sum", "_count"] if kind == "histogram" else [""]
            for ending in endings:
                known[name + ending] = set(filter(None, labels.split(", ")))
    for name in re.findall(r"record: (\S+)", (HERE / "alerts/recording.yml").read_text()):
        known[name] = {"job"}
    return known


def query_problems(where, query, known):
    """Metrics and labels that nobody exports, and counters that are not looked at as rates."""
    problems = []
    for name, matchers in re.findall(r"\b((?:rounds|process|job:)[a-z_:]+|up|ALERTS)\b(\{[^}]*\})?", query):
        if name not in known:
            problems.append(f"{where}: {name} is not documented")
            continue
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers):
            if label not in known[name] | SCRAPED:
                problems.append(f"{where}: {name} has no label {label}")
    return problems


def panel_problems(name, panel, known, valid_units):
    """The rules of Grafana's dashboard linter that are worth having, and ours."""
    where = f"{name}.json: {panel.get('title') or panel['id']}"
    if panel["type"] == "row":
        return [] if panel.get("title") else [f"{where}: no title"]
    problems = [f"{where}: no {field}" for field in ("title", "description") if not panel.get(field)]
    if panel["datasource"] != build.SOURCE:
        problems.append(f"{where}: not the dashboard's data source")
    unit = panel["fieldConfig"]["defaults"].get("unit")
    if unit not in valid_units:
        problems.append(f"{where}: unit {unit!r} is none of Grafana's")
    for target in panel["targets"]:
        query = target["expr"]
        problems += query_problems(where, query, known)
        if re.search(r"rate\([^\[]*\[(?!\$__rate_interval\])", query):
            problems.append(f"{where}: rate() over another range than $__rate_interval")
        within = re.sub(r"(?:rate|increase)\([^\[]*\[[^\]]*\]\)", "", query)
        if re.search(r"\w_total\b", within):
            problems.append(f"{where}: a counter outside of rate() or increase()")
        if not target.get("legendFormat"):
            problems.append(f"{where}: a query without a legend")
    return problems


def dashboards():
    """Problems of the written dashboards."""
    plugins.register_default_plugins()
    valid_units = {value for key, value in vars(units).items() if not key.startswith("_") and isinstance(value, str)}
    known, problems, uids = documented(), [], set()
    for file in sorted((HERE / "grafana").glob("*.json")):
        document = json.loads(file.read_text())
        again = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
        if again != document:
            problems.append(f"{file.name}: Grafana's SDK reads it as something else: {difference(document, again)}")
        if document["uid"] in uids:
            problems.append(f"{file.name}: uid {document['uid']} is there twice")
        uids.add(document["uid"])
        if document["editable"]:
            problems.append(f"{file.name}: editable")
        if "rounds" not in document["tags"] or not document["links"]:
            problems.append(f"{file.name}: without the tag and the link to the others")
        names = [variable["name"] for variable in document["templating"]["list"]]
        if names[:1] != ["datasource"]:
            problems.append(f"{file.name}: no variable datasource")
        text = json.dumps(document["panels"])
        problems += [f"{file.name}: variable {name} is not used" for name in names[1:] if f"${name}" not in text]
        for panel in document["panels"]:
            problems += panel_problems(file.stem, panel, known, valid_units)
    return problems


def difference(left, right, path=""):
    """The first place where two documents differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for key in left.keys() | right.keys():
            if left.get(key) != right.get(key) or (key in left) != (key in right):
                return difference(left.get(key), right.get(key), f"{path}.{key}")
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for index, (a, b) in enumerate(zip(left, right)):
            if a != b:
                return difference(a, b, f"{path}[{index}]")
    return f"{path} is {left!r}, and then {right!r}"


def alerts():
    """Each alert has its page and its test; each page and test has its alert; the queries are of documented metrics."""
    text = (HERE / "alerts/alerts.yml").read_text()
    named = set(re.findall(r"alert: (\w+)", text))
    tested = set(re.findall(r"alertname=\"(\w+)\"", (HERE / "alerts/tests.yml").read_text()))
    pages = {file.stem for file in (HERE / "runbooks").glob("*.md")}
    problems = [f"alert {name}: no test" for name in named - tested]
    problems += [f"alert {name}: no page in dashboards/runbooks" for name in named - pages]
    problems += [f"dashboards/runbooks/{name}.md: no such alert" for name in pages - named]
    for name in named:
        if f"runbook: dashboards/runbooks/{name}.md" not in text:
            problems.append(f"alert {name}: does not name its page")
    for file in ("alerts", "recording"):
        rules = (HERE / f"alerts/{file}.yml").read_text()
        for expression in re.findall(r"expr: (?:>-)?((?:.*\n)(?: {10,}.*\n)*)", rules):
            problems += query_problems(f"alerts/{file}.yml", expression, documented())
    return problems


def promtool():
    """What Prometheus's own tool says of rules, their tests and the configuration."""
    rules = [str(HERE / "alerts/alerts.yml"), str(HERE / "alerts/recording.yml")]
    for arguments in (
        ["check", "rules", "--lint=all", "--lint-fatal", *rules],
        ["test", "rules", str(HERE / "alerts/tests.yml")],
        ["check", "config", "--syntax-only", str(HERE / "prometheus.yml")],
    ):
        subprocess.run(["promtool", *arguments], check=True)
