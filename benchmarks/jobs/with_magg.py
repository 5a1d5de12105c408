"""The job with magg: ``with_magg.py catalog.json store`` prints its counts as JSON."""

import json
import sys

from magg import load_config, run

if __name__ == "__main__":
    catalog, store = sys.argv[1:]
    summary = run(load_config("atl06"), catalog=catalog, store=store, progress=False)
    if summary["errors"]:
        raise SystemExit(str(summary["errors"]))
    counts = {entry["cell"]: entry["observations"] for entry in summary["results"]}
    print(json.dumps({"observations": counts}))
