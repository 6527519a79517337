"""Grafana's dashboard model, as far as our dashboards need it.

A dashboard is rows of panels; places and numbers follow from their order. The model is that of Grafana's `Dashboard` type
(npm @grafana/schema), which a test checks the result against.
"""

from dataclasses import dataclass

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
GRID_WIDTH = 24
SCHEMA_VERSION = 39


@dataclass(frozen=True)
class Query:
    expr: str
    # Grafana's legend: text with {{label}}.
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    title: str
    # What it shows, and what to make of it.
    description: str
    # A unit id of Grafana: "short", "s", "bytes", "percentunit", ...
    unit: str
    queries: tuple
    # "timeseries", "stat" or "table"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    logarithmic: bool = False
    bars: bool = False
    minimum: float | None = 0
    # False for what a healthy service without GPUs does not show: tests feed these from the metric tables.
    live: bool = True


def stat(title, description, unit, query, **more):
    """`query`: an expression with one value, or a Query with a legend for several."""
    query = query if isinstance(query, Query) else Query(query)
    return Panel(title, description, unit, (query,), kind="stat", width=4, height=4, **more)


def graph(title, description, unit, *queries, **more):
    return Panel(title, description, unit, queries, **more)


def bars(title, description, unit, *queries, **more):
    """Numbers of events in the rate window that each bar ends. A window is longer than a bar, so that no event falls between two."""
    description += " Each bar counts its rate window: neighbouring bars may show the same event."
    return Panel(title, description, unit, queries, bars=True, stacked=True, **more)


def table(title, description, unit, *queries, **more):
    return Panel(title, description, unit, queries, kind="table", width=12, **more)


def _field_config(panel):
    defaults = {"unit": panel.unit}
    if panel.minimum is not None:
        defaults["min"] = panel.minimum
    if panel.kind == "timeseries":
        custom = {"drawStyle": "line", "lineWidth": 1, "showPoints": "never", "fillOpacity": 0}
        if panel.bars:
            custom |= {"drawStyle": "bars", "fillOpacity": 60, "barAlignment": 0}
        if panel.stacked:
            custom |= {"fillOpacity": max(40, custom["fillOpacity"]), "stacking": {"mode": "normal", "group": "A"}}
        if panel.logarithmic:
            custom["scaleDistribution"] = {"type": "log", "log": 10}
        defaults["custom"] = custom
    return {"defaults": defaults, "overrides": []}


def _options(panel):
    if panel.kind == "timeseries":
        return {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom", "calcs": []},
                "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"values": False, "calcs": ["lastNotNull"], "fields": ""}, "graphMode": "area", "colorMode": "none",
                "textMode": "auto"}
    return {"showHeader": True}


def _panel_json(panel, number, x, y):
    targets = []
    for letter, query in zip("ABCDEFGH", panel.queries, strict=False):
        target = {"refId": letter, "datasource": DATASOURCE, "expr": query.expr, "editorMode": "code", "range": panel.kind != "table",
                  "instant": panel.kind == "table"}
        if query.legend:
            target["legendFormat"] = query.legend
        if panel.kind == "table":
            target["format"] = "table"
        targets.append(target)
    result = {
        "id": number, "type": panel.kind, "title": panel.title, "description": panel.description, "datasource": DATASOURCE,
        "gridPos": {"x": x, "y": y, "w": panel.width, "h": panel.height}, "fieldConfig": _field_config(panel),
        "options": _options(panel), "targets": targets}
    if panel.kind == "table":
        result["transformations"] = [{"id": "merge", "options": {}},
                                     {"id": "organize", "options": {"excludeByName": {"Time": True, "__name__": True, "job": True}}}]
    return result


def _query_variable(name, label, query, description):
    return {
        "name": name, "label": label, "description": description, "type": "query", "datasource": DATASOURCE,
        "query": {"query": query, "refId": f"variable-{name}"}, "refresh": 2, "sort": 1, "multi": True,
        "includeAll": True, "allValue": ".+", "current": {"text": ["All"], "value": ["$__all"], "selected": True}, "options": [],
        "hide": 0, "skipUrlSync": False}


def _variables():
    # Also those that have ended within the time shown.
    job = _query_variable("job_id", "Job", "query_result(max_over_time(anneal_job_info[$__range]))",
                          "Jobs to show, by name: those that a worker has had")
    # Shows names and puts in ids.
    job["regex"] = '/display_name="(?<text>[^"]*)"|job_id="(?<value>[^"]*)"/g'
    instance = _query_variable("instance", "Instance", "label_values(anneal_build_info, instance)", "Programs to show, by address")
    source = {"name": "datasource", "label": "Data source", "description": "The Prometheus that scrapes Anneal", "type": "datasource",
              "query": "prometheus", "refresh": 1, "multi": False, "includeAll": False, "options": [], "hide": 0, "skipUrlSync": False}
    return [source, job, instance]


@dataclass(frozen=True)
class Dashboard:
    # Stable: links to the dashboard hold it, and it names the file.
    uid: str
    title: str
    description: str
    # (title, [Panel]); panels fill a row from the left and wrap.
    rows: list

    def panels(self):
        return [panel for _, row in self.rows for panel in row]


def to_json(board):
    """The dashboard in Grafana's model."""
    panels, y = [], 0
    for row_title, row in board.rows:
        panels.append({"id": len(panels) + 1, "type": "row", "title": row_title, "collapsed": False, "panels": [],
                       "gridPos": {"x": 0, "y": y, "w": GRID_WIDTH, "h": 1}})
        y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > GRID_WIDTH:
                x, y, height = 0, y + height, 0
            panels.append(_panel_json(panel, len(panels) + 1, x, y))
            x, height = x + panel.width, max(height, panel.height)
        y += height
    links = {"type": "dashboards", "title": "Anneal", "tags": ["anneal"], "asDropdown": True, "includeVars": True, "keepTime": True,
             "targetBlank": False, "icon": "", "tooltip": "", "url": ""}
    return {
        "uid": board.uid, "title": board.title, "description": board.description, "tags": ["anneal"],
        "schemaVersion": SCHEMA_VERSION, "editable": True,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "browser", "links": [links],
        "annotations": {"list": []}, "templating": {"list": _variables()}, "panels": panels}
