"""Draws the dashboards of a running installation into docs/ (`make dashboards-pictures`).

It asks the bundled Prometheus of the cluster that KUBECONFIG leads to, and draws what its last minutes were. Grafana is
in no package that could draw them here.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.demo.access import Access, DemoError  # noqa: E402 - found by the path above
from tests.monitoring import boards  # noqa: E402
from tests.monitoring.prometheus import Prometheus  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, help="the TrainingRun of the dashboard of a run")
    parser.add_argument("--ingest", default="annotations")
    parser.add_argument("--namespace", default="azaion")
    parser.add_argument("--minutes", type=float, default=15.0)
    given = parser.parse_args()
    variables = {
        "datasource": "prometheus",
        "namespace": given.namespace,
        "run": given.run,
        "ingest": given.ingest,
    }
    end_s = time.time()
    try:
        with Access(given.namespace).forward("service/azaion-prometheus", 9090) as port:
            prometheus = Prometheus(f"http://127.0.0.1:{port}")
            period = boards.Period(prometheus, variables, end_s - 60 * given.minutes, end_s)
            for name, document in boards.documents().items():
                path = ROOT / "docs" / f"dashboard-{name.removeprefix('azaion-')}.png"
                boards.draw(document, period, path)
                print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} KiB")
    except DemoError as error:
        print(f"pictures.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
