"""The tests of the alerting rules notice faults in them: each of rule_mutants.yml must make promtool fail."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

SOURCE_DIR = Path(os.environ["ANNEAL_SOURCE_DIR"])
PROMETHEUS = SOURCE_DIR / "deploy" / "monitoring" / "prometheus"
RULES = ("recording_rules.yml", "alerting_rules.yml")
MUTANTS = yaml.safe_load((SOURCE_DIR / "tests" / "monitoring" / "rule_mutants.yml").read_text())




def load_rules():
    """Recording rules first, as files of one folder are read."""
    parsed = [yaml.safe_load((PROMETHEUS / name).read_text()) for name in RULES]
    return [rule for file in parsed for group in file["groups"] for rule in group["rules"]]


def load_cases():
    # All of them text: for YAML 0x40, forty zeros after the first, is a number.
    files = [yaml.load(path.read_text(), Loader=yaml.BaseLoader) for path in sorted((PROMETHEUS / "tests").glob("*.yml"))]
    return [case for file in files for case in file["tests"]]


def name_of(rule):
    return rule.get("alert") or rule["record"]


def needs(rules, alert):
    """The names of `alert` and of the recording rules that it reads, through others too."""
    by_name = {name_of(rule): rule for rule in rules}
    found, left = set(), [alert]
    while left:
        name = left.pop()
        found.add(name)
        left += [other for other in by_name if other in by_name[name]["expr"] and other not in found]
    return found


def mutate(rule, old, new):
    """Puts `new` for `old` into the rule's expression, or its `for`; spaces count as one."""
    if old.startswith("for: "):
        assert rule["for"] == old.removeprefix("for: "), f"{name_of(rule)} waits for {rule['for']}"
        rule["for"] = new.removeprefix("for: ")
        return
    expression = re.sub(r"\( ", "(", re.sub(r" \)", ")", " ".join(rule["expr"].split())))
    assert expression.count(old) == 1, f"'{old}' stands {expression.count(old)} times in {expression}"
    rule["expr"] = expression.replace(old, new)


def run_tests(folder, rules, alert):
    """promtool's result for the cases about one alert, with the rules that it needs alone: all of them take a minute."""
    needed = needs(rules, alert)
    rules = [rule for rule in rules if name_of(rule) in needed]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    cases = []
    for case in load_cases():
        checks = [check for check in case["alert_rule_test"] if check["alertname"] == alert]
        cases += [{**case, "alert_rule_test": checks}] if checks else []
    assert cases
    (folder / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": cases}))
    # A rule that promtool cannot read would fail every test, and show nothing.
    subprocess.run(["promtool", "check", "rules", folder / "rules.yml"], capture_output=True, check=True)
    return subprocess.run(["promtool", "test", "rules", folder / "tests.yml"], capture_output=True, text=True)


ALERTS = [rule["alert"] for rule in load_rules() if "alert" in rule]


@pytest.mark.parametrize("alert", ALERTS)
def test_rules_as_they_are_pass_and_have_mutants(alert, tmp_path):
    assert alert in MUTANTS
    done = run_tests(tmp_path, load_rules(), alert)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "mutant"), [(name, mutant) for name, mutants in MUTANTS.items() for mutant in mutants],
                         ids=lambda value: value if isinstance(value, str) else f"{value['from']} -> {value['to']}")
def test_each_mutant_is_noticed(name, mutant, tmp_path):
    rules = load_rules()
    [rule] = [rule for rule in rules if name_of(rule) == name]
    mutate(rule, mutant["from"], mutant["to"])
    concerned = [alert for alert in ALERTS if name in needs(load_rules(), alert)]
    assert any(run_tests(tmp_path, rules, alert).returncode != 0 for alert in concerned), (
        f"nothing notices {name}: {rule['expr']}, for {rule.get('for')}")
