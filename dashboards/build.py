#!/usr/bin/env python3
"""Writes the Grafana dashboards into dashboards/grafana from panels/.

    dashboards/build.py            write them
    dashboards/build.py --check    fail where a written one is not current
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True

from panels import DASHBOARDS

HERE = Path(__file__).resolve().parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
LINK = {
    "title": "Rounds",
    "type": "dashboards",
    "icon": "external link",
    "tooltip": "The other dashboards of Rounds",
    "url": "",
    "tags": ["rounds"],
    "asDropdown": True,
    "targetBlank": False,
    "includeVars": False,
    "keepTime": True,
}
LEGEND = {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull"]}


def target(index, query, instant):
    """One query of a panel."""
    expr, legend = query
    return {
        "expr": expr,
        "instant": instant,
        "range": not instant,
        "format": "table" if instant == "table" else "time_series",
        "legendFormat": legend,
        "refId": chr(ord("A") + index),
        "datasource": SOURCE,
    } | ({"instant": True, "range": False} if instant else {})


def options(panel):
    """The options of a kind of panel."""
    if panel.kind == "timeseries":
        return {"legend": LEGEND, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "table":
        footer = {"show": False, "reducer": [], "countRows": False}
        return {
            "frameIndex": 0,
            "showHeader": True,
            "showTypeIcons": False,
            "sortBy": [],
            "footer": footer,
            "cellHeight": "sm",
        }
    shown = {"values": False, "calcs": ["lastNotNull"], "fields": ""}
    if panel.kind == "bargauge":
        return {
            "displayMode": "basic",
            "valueMode": "color",
            "showUnfilled": True,
            "minVizWidth": 8,
            "minVizHeight": 16,
            "reduceOptions": shown,
            "orientation": "horizontal",
        }
    return {
        "graphMode": "area" if panel.trend else "none",
        "colorMode": "value",
        "justifyMode": "auto",
        "textMode": "name" if panel.names else "auto",
        "reduceOptions": shown,
        "orientation": "auto",
    }


def steps(panel):
    """Colours by value: green, then each threshold's."""
    coloured = [{"value": None, "color": "green"}]
    coloured += [{"value": value, "color": colour} for value, colour in panel.thresholds]
    return {"mode": "absolute", "steps": coloured}


def custom(panel):
    """How lines are drawn."""
    if panel.kind != "timeseries":
        return {}
    return {"custom": {"lineWidth": 1, "fillOpacity": 0, "showPoints": "auto", "spanNulls": 60000}}


def field_config(panel):
    """Units and colours."""
    defaults = {"unit": panel.unit}
    if panel.decimals is not None:
        defaults["decimals"] = panel.decimals
    if panel.least is not None:
        defaults["min"] = panel.least
    if panel.most is not None:
        defaults["max"] = panel.most
    defaults["thresholds"] = steps(panel)
    if panel.links:
        own = {"type": "link", "icon": "", "tooltip": "", "tags": [], "asDropdown": False, "keepTime": False}
        defaults["links"] = [LINK | own | {"title": title, "url": url} for title, url in panel.links]
    defaults |= custom(panel)
    overrides = [
        {"matcher": {"id": "byName", "options": column}, "properties": [{"id": "unit", "value": unit}]}
        for column, unit in panel.columns
    ]
    return {"defaults": defaults, "overrides": overrides}


def transformations(panel):
    """Of a table: one row for each set of labels, columns named for the queries."""
    if panel.kind != "table":
        return []
    names = {f"Value #{chr(ord('A') + index)}": legend for index, (_, legend) in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        names = {"Value": panel.queries[0][1]}
    organise = {"excludeByName": {"Time": True} | {name: True for name in panel.hidden}, "renameByName": names}
    return [{"id": "merge", "options": {}}, {"id": "organize", "options": organise}]


def laid_out(panels):
    """The panels in rows of 24 columns."""
    x = y = height = 0
    out = []
    for index, panel in enumerate(panels):
        width = 24 if panel.kind == "row" else panel.width
        if x + width > 24 or panel.kind == "row":
            x, y, height = 0, y + height, 0
        place = {"h": 1 if panel.kind == "row" else panel.height, "w": width, "x": x, "y": y}
        x, height = x + width, max(height, place["h"])
        if panel.kind == "row":
            out.append(
                {"type": "row", "collapsed": False, "title": panel.title, "gridPos": place, "id": index + 1, "panels": []}
            )
            continue
        instant = {"table": "table", "timeseries": False}.get(panel.kind, True)
        instant = instant and not panel.trend
        out.append(
            {
                "type": panel.kind,
                "id": index + 1,
                "targets": [target(i, query, instant) for i, query in enumerate(panel.queries)],
                "title": panel.title,
                "description": panel.description,
                "transparent": False,
                "datasource": SOURCE,
                "gridPos": place,
                "repeatDirection": "h",
                "transformations": transformations(panel),
                "options": options(panel),
                "fieldConfig": field_config(panel),
            }
        )
    return out


def variables(dashboard):
    """The data source, then what the dashboard may be narrowed to."""
    # What Grafana's SDK adds where it is missing.
    unused = {"id": "00000000-0000-0000-0000-000000000000", "auto": False, "auto_min": "10s", "auto_count": 30}
    out = [
        unused
        | {
            "type": "datasource",
            "name": "datasource",
            "label": "Data source",
            "description": "The Prometheus that reads the orchestrator",
            "query": "prometheus",
            "hide": 0,
            "skipUrlSync": False,
            "multi": False,
            "includeAll": False,
        }
    ]
    for variable in dashboard.variables:
        out.append(
            unused
            | {
                "type": "query",
                "name": variable.name,
                "label": variable.label,
                "description": variable.description,
                "datasource": SOURCE,
                "query": {"query": variable.query, "refId": variable.name},
                "refresh": 2,
                "sort": 1,
                "hide": 0,
                "skipUrlSync": False,
                "multi": variable.multi,
                "includeAll": variable.multi,
            }
            | ({"allValue": ".*"} if variable.multi else {})
        )
    return out


def document(dashboard):
    """The dashboard as Grafana reads it."""
    return {
        "uid": f"rounds-{dashboard.name}",
        "title": f"Rounds / {dashboard.title}",
        "description": dashboard.description,
        "tags": ["rounds"],
        "timezone": "browser",
        "style": "dark",
        "editable": False,
        "graphTooltip": 1,
        "time": {"from": "now-6h", "to": "now"},
        "fiscalYearStartMonth": 0,
        "refresh": "10s",
        "schemaVersion": 38,
        "panels": laid_out(dashboard.panels),
        "templating": {"list": variables(dashboard)},
        "annotations": {"list": []},
        "links": [LINK],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail where a written dashboard is not current")
    arguments = parser.parse_args()
    stale = []
    for dashboard in DASHBOARDS:
        file = HERE / "grafana" / f"{dashboard.name}.json"
        text = json.dumps(document(dashboard), indent=2, ensure_ascii=False) + "\n"
        if not arguments.check:
            file.write_text(text)
        elif not file.exists() or file.read_text() != text:
            stale.append(file.name)
    known = {f"{dashboard.name}.json" for dashboard in DASHBOARDS}
    stale += [file.name for file in (HERE / "grafana").glob("*.json") if file.name not in known]
    if stale:
        sys.exit(f"dashboards/grafana: not current: {', '.join(stale)}; run dashboards/build.py")


if __name__ == "__main__":
    main()
