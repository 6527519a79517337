"""What is shipped in deploy/monitoring and docs/ agrees with the metric tables, with itself, and with Prometheus and Grafana."""

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

SOURCE_DIR = Path(os.environ["ANNEAL_SOURCE_DIR"])
sys.path.insert(0, str(SOURCE_DIR / "tools" / "monitoring"))

import dashboards  # noqa: E402
import panels  # noqa: E402
import tables  # noqa: E402

PROMETHEUS = SOURCE_DIR / "deploy" / "monitoring" / "prometheus"
# Names that Prometheus makes itself.
OWN_NAMES = {"up"}
# Of Grafana (packages/grafana-data/src/valueFormats/categories.ts).
GRAFANA_UNITS = {"short", "s", "bytes", "percentunit", "reqps", "sci", "watt", "celsius"}


@pytest.fixture(scope="module")
def all_tables():
    return tables.load(Path(os.environ["ANNEAL_BIN_DIR"]) / "anneal-metric-tables")


@pytest.fixture(scope="module")
def generate():
    path = str(SOURCE_DIR / "tools" / "monitoring" / "generate")
    loader = importlib.machinery.SourceFileLoader("generate", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("generate", loader))
    loader.exec_module(module)
    return module


def load_rules():
    files = [PROMETHEUS / "recording_rules.yml", PROMETHEUS / "alerting_rules.yml"]
    return [rule for path in files for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def metrics_in(expression):
    """The metric names of a PromQL expression: our words that are no label, value, function or keyword."""
    bare = re.sub(r'"[^"]*"|\$\w+', "", expression)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right)\s*\([^)]*\)", "", bare)
    bare = re.sub(r"\{[^}]*\}", "", bare)
    return set(re.findall(r"\b(?:up|[a-z_]+:[a-z_0-9:]+|anneal_\w+)\b", bare))


def promtool(*arguments, text=None):
    done = subprocess.run(["promtool", *map(str, arguments)], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_generated_files_are_up_to_date(generate, all_tables):
    stale = [str(path) for path, text in generate.outputs(all_tables).items() if not path.exists() or path.read_text() != text]
    assert not stale, f"run tools/monitoring/generate: {stale}"
    made = set(generate.outputs(all_tables))
    assert {p for p in (SOURCE_DIR / "deploy/monitoring/grafana/dashboards").iterdir()} <= made


def test_labels_are_known_and_used(all_tables):
    used = {label for metric in tables.by_name(all_tables).values() for label in metric["labels"]}
    assert used == set(tables.LABELS)


def test_values_that_labels_are_bounded_to_are_those_on_the_page():
    for label, values in tables.VALUES.items():
        assert set(tables.LABELS[label].examples) <= values
        if label not in ("code", "program"):
            assert set(re.findall(r"\w+", tables.LABELS[label].bound)) - {"and", "on", "a", "worker"} == values


def test_a_name_of_unknown_unit_is_refused(all_tables):
    assert all(tables.unit_of(name) for name in tables.by_name(all_tables))
    assert tables.unit_of("anneal_rank_wait_seconds") == "seconds"
    assert tables.unit_of("anneal_jobs_failed_total") == "1"
    for name in ("anneal_rank_wait_milliseconds", "anneal_gpu_power_kilowatts", "anneal_job_speed"):
        with pytest.raises(ValueError, match=name):
            tables.unit_of(name)


def test_metrics_of_two_programs_are_the_same_metric(all_tables):
    for program, metrics in all_tables.items():
        for metric in metrics:
            assert metric == tables.by_name(all_tables)[metric["name"]], f"{program}: {metric['name']}"


def test_promtool_finds_nothing_in_the_tables(all_tables):
    assert not promtool("check", "metrics", text=tables.exposition(all_tables, 1)).strip()


def test_promtool_accepts_rules_and_configuration():
    promtool("check", "rules", PROMETHEUS / "recording_rules.yml", PROMETHEUS / "alerting_rules.yml")
    promtool("check", "config", PROMETHEUS / "prometheus.yml")


def test_alerts_fire_and_stay_silent():
    files = sorted((PROMETHEUS / "tests").glob("*.yml"))
    promtool("test", "rules", *files)
    fires, silent = set(), set()
    for path in files:
        for case in yaml.safe_load(path.read_text())["tests"]:
            for check in case["alert_rule_test"]:
                (fires if check["exp_alerts"] else silent).add(check["alertname"])
    alerts = {rule["alert"] for rule in load_rules() if "alert" in rule}
    assert fires == alerts and silent == alerts


def page_of(rule):
    """The page that a runbook_url names, below whatever base the operators have given."""
    base, page = rule["annotations"]["runbook_url"].rsplit("}}", 1)
    assert base + "}}" == "{{ with $externalLabels.anneal_docs }}{{ . }}/{{ end }}"
    return page


@pytest.mark.parametrize("rule", [r for r in load_rules() if "alert" in r], ids=lambda rule: rule["alert"])
def test_alerts_are_complete(rule):
    assert rule["alert"].startswith("Anneal")
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    page = (SOURCE_DIR / page_of(rule)).read_text()
    assert f"`{rule['alert']}`" in page
    for heading in ("## What it means", "## Where to look", "## What to do"):
        assert heading in page


def test_every_runbook_belongs_to_an_alert():
    named = {page_of(rule) for rule in load_rules() if "alert" in rule}
    assert named == {f"docs/runbooks/{path.name}" for path in (SOURCE_DIR / "docs" / "runbooks").glob("*.md")}


def test_rules_and_panels_name_metrics_that_exist(all_tables):
    rules = load_rules()
    recorded = {rule["record"] for rule in rules if "record" in rule}
    known = tables.sample_names(all_tables) | recorded | OWN_NAMES
    expressions = [rule["expr"] for rule in rules]
    expressions += [query.expr for board in dashboards.ALL for panel in board.panels() for query in panel.queries]
    for expression in expressions:
        names = metrics_in(expression)
        assert names and names <= known, f"{names - known} in {expression}"
    in_alerts_and_panels = {name for rule in rules if "alert" in rule for name in metrics_in(rule["expr"])}
    in_alerts_and_panels |= {name for expression in expressions for name in metrics_in(expression)}
    assert recorded <= in_alerts_and_panels


def test_methods_that_are_left_out_exist_and_are_the_same_everywhere():
    expressions = [rule["expr"] for rule in load_rules()]
    expressions += [query.expr for board in dashboards.ALL for panel in board.panels() for query in panel.queries]
    left_out = {found for expression in expressions for found in re.findall(r'method!~"([^"]*)"', expression)}
    assert len(left_out) == 1
    api = "".join(path.read_text() for path in (SOURCE_DIR / "proto" / "anneal" / "v1").glob("*_service.proto"))
    methods = set(re.findall(r"rpc (\w+)\(", api))
    assert set(re.fullmatch(r"\.\*/\(([\w|]+)\)", left_out.pop())[1].split("|")) <= methods


@pytest.mark.parametrize("board", dashboards.ALL, ids=lambda board: board.uid)
def test_dashboards_follow_our_rules(board):
    assert re.fullmatch(r"anneal-[a-z-]+", board.uid) and board.title.startswith("Anneal / ") and board.description
    model = panels.to_json(board)
    numbers = [panel["id"] for panel in model["panels"]]
    assert len(numbers) == len(set(numbers))
    assert {variable["name"] for variable in model["templating"]["list"]} == {"datasource", "job_id", "instance"}
    titles = [(title, panel.title) for title, row in board.rows for panel in row]
    assert len(titles) == len(set(titles)), "two panels of one row have the same title"
    assert all(panel.unit in GRAFANA_UNITS and panel.description.endswith(".") and panel.title and panel.queries
               for panel in board.panels())
    text = "\n".join(query.expr for panel in board.panels() for query in panel.queries)
    assert "$job_id" in text and "$instance" in text, "a variable without effect"
    assert set(re.findall(r"\[([^\]]+)\]", text)) <= {"$__rate_interval", "$__range"}, "a hard-coded interval"
    for panel in model["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= panels.GRID_WIDTH
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and "interval" not in panel
    cells = [(x, y) for p in model["panels"] for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
             for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])]
    assert len(cells) == len(set(cells)), "panels overlap"


def all_panels():
    return [(f"{board.title}, {panel.title}", panel) for board in dashboards.ALL for panel in board.panels()]


def test_numbers_of_jobs_are_neither_added_up_nor_without_their_job():
    for where, panel in all_panels():
        for query in panel.queries:
            if "$job_id" not in query.expr:
                continue
            groups = re.findall(r"\b(?:sum|max|min|avg|count)\b *(?:by *\(([^)]*)\))?", query.expr)
            assert all("job_id" in group for group in groups), f"{where}: {query.expr}"
            assert "{{display_name}}" in query.legend, f"{where}: a legend without the job"


def test_events_are_bars_of_an_interval():
    for where, panel in all_panels():
        counts = any(re.search(r"increase\(|changes\(", query.expr) for query in panel.queries)
        assert panel.bars == counts, where
        assert not any(re.search(r"(increase|changes)\([^)]*\[\$__range\]", query.expr) for query in panel.queries), where
        assert "within the time shown" not in panel.description, where


def test_ages_of_jobs_end_with_what_they_are_the_age_of():
    """time() grows for jobs that wait, are paused or have ended, too: only some states have such an age."""
    ages = [(where, query.expr) for where, panel in all_panels() for query in panel.queries
            if "time() -" in query.expr and "$job_id" in query.expr]
    assert ages and all("anneal_job_state{state=~" in expression for _, expression in ages), ages


def test_jobs_that_have_ended_can_be_chosen():
    for board in dashboards.ALL:
        [job] = [variable for variable in panels.to_json(board)["templating"]["list"] if variable["name"] == "job_id"]
        assert job["query"]["query"] == "query_result(max_over_time(anneal_job_info[$__range]))"


def test_a_service_without_workers_or_calls_shows_zero():
    [workers] = [panel for where, panel in all_panels() if where == "Anneal / Fleet, Workers" and panel.kind == "stat"]
    assert metrics_in(workers.queries[0].expr) == {"anneal_workers"}, "anneal_worker_up has a series a worker: none without workers"


def test_uids_are_distinct():
    assert len({board.uid for board in dashboards.ALL}) == len(dashboards.ALL)


@pytest.fixture(scope="module")
def checks():
    """The folder of the programs that tools/setup --test made to check deploy/."""
    script = f"source {SOURCE_DIR}/tools/lib/common.sh && anneal_deploy_checks"
    folder = Path(subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout)
    assert folder.is_dir(), f"{folder} is missing: run tools/setup --test"
    return folder


def test_the_component_brings_rules_and_dashboards(checks, tmp_path):
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(
        {"namespace": "anneal", "components": [os.path.relpath(SOURCE_DIR / "deploy" / "monitoring", tmp_path)]}))
    built = subprocess.run([checks / "bin" / "kustomize", "build", tmp_path], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    resources = {resource["kind"]: resource for resource in yaml.safe_load_all(built.stdout)}
    config_map = resources["ConfigMap"]
    assert {name.removesuffix(".json") for name in config_map["data"]} == {board.uid for board in dashboards.ALL}
    # kubectl apply keeps a copy in an annotation, and all annotations together are bounded.
    assert len(json.dumps(config_map)) < 250_000
    rule = resources["PrometheusRule"]
    assert [r for group in rule["spec"]["groups"] for r in group["rules"]] == load_rules()
    valid = subprocess.run([checks / "bin" / "node", checks / "validate_crds.mjs"], input=json.dumps([rule]), capture_output=True, text=True)
    assert valid.returncode == 0, valid.stdout + valid.stderr


def test_dashboards_have_grafanas_types(checks):
    """Against the Dashboard type of @grafana/schema; and the check itself finds a fault."""
    def check(models):
        return subprocess.run([checks / "bin" / "node", checks / "check_dashboards.mjs"], input=json.dumps(models), capture_output=True,
                              text=True)
    models = [panels.to_json(board) for board in dashboards.ALL]
    good = check(models)
    assert good.returncode == 0, good.stdout + good.stderr
    models[0]["panels"][1]["gridPos"]["w"] = "wide"
    models[1]["templatin"] = models[1].pop("templating")
    bad = check(models)
    assert bad.returncode == 1 and "anneal-fleet" in bad.stdout and "templatin" in bad.stdout, bad.stdout + bad.stderr
