"""The files for Prometheus and Grafana: what they read is measured, and what is measured is drawn."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from common.telemetry import COUNTER, HISTOGRAM
from scripts import monitoring
from tests.architecture.tools import PRODUCT, ROOT, sources

NAMES = {metric.name for metric in monitoring.METRICS}


def test_every_metric_has_one_row_and_a_name_by_the_convention() -> None:
    assert len(NAMES) == len(monitoring.METRICS)
    for metric in monitoring.METRICS:
        assert metric.name.startswith(("dcp_", "DCGM_FI_")), metric.name
        assert metric.name.endswith("_total") is (metric.kind == COUNTER), metric.name
        assert metric.kind != HISTOGRAM or metric.name.endswith("_seconds"), metric.name
        assert metric.help.endswith("."), metric.name
        assert metric.group, metric.name


def test_every_metric_is_measured_somewhere() -> None:
    programs = [path for path in sources(*PRODUCT) if "dcp_client" not in path.parts]
    texts = [path.read_text(encoding="utf-8") for path in programs if path.name != "telemetry.py"]
    own = [(ROOT / program / "telemetry.py").read_text(encoding="utf-8") for program in ("daemon", "common")]
    used = {
        node.value
        for text in (*texts, *own)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert sorted(NAMES - used) == []
    measured = {name for name in used if re.fullmatch(r"(?:dcp_|DCGM_FI_)\w+", name)}
    assert sorted(measured - NAMES) == []


@pytest.mark.parametrize("alert", monitoring.ALERTS, ids=lambda alert: alert.name)
def test_alert_reads_metrics_that_exist_and_says_what_to_do(alert: monitoring.Alert) -> None:
    assert monitoring.names_in(alert.expr) <= {*NAMES, *monitoring.PROCESS}
    assert alert.severity in ("page", "ticket")
    assert alert.meaning.endswith(".")
    assert alert.action.endswith((".", "?"))


def test_dashboard_draws_every_metric() -> None:
    dashboard = json.loads(monitoring.files()[monitoring.FOLDER / "dashboard.json"])
    drawn = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    read = set().union(
        *(monitoring.names_in(target["expr"]) for panel in drawn for target in panel["targets"])
    )
    assert read >= NAMES
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in dashboard["panels"]]
    assert len(places) == len(set(places))


def test_rules_are_those_of_the_table() -> None:
    document = yaml.safe_load(monitoring.files()[monitoring.FOLDER / "alerts.yml"])
    (group,) = document["groups"]
    assert [(rule["alert"], rule["expr"], rule["for"]) for rule in group["rules"]] == [
        (alert.name, alert.expr, alert.wait) for alert in monitoring.ALERTS
    ]


def test_rules_are_valid(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: prometheus); only the form of the rules was tested")
    file = tmp_path / "alerts.yml"
    file.write_text(monitoring.files()[monitoring.FOLDER / "alerts.yml"], encoding="utf-8")
    done = subprocess.run(
        [promtool, "check", "rules", str(file)], capture_output=True, text=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
