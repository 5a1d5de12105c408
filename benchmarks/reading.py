"""The rows of one cell out of a bucket behind a slow line: magg, h5coro, and h5py over s3fs.

    python benchmarks/reading.py [--data DIR] [--repeats 5] [--kinds paged classic]

Twelve simulated full-size granules (six beams of 90,000 to 110,000 segments, 47 datasets a beam)
all cross one parent cell of order 6; five datasets are needed. They are served by a
process of its own on this machine that answers as S3 does: every request waits for 30 ms, a
connection carries 60 MB/s and all of them together 75 MB/s, which is what a Lambda worker gets.
Opening a connection costs nothing here, and there is no TLS. With ``--server seaweedfs`` a real
server stands behind a proxy that does the same; it needs more time for hundreds of small ranges at
once than the line, so that the line under "obstore alone" is then the one to compare with.

The limit is the bytes of the chunks that hold rows of the cell, at 75 MB/s in all, and one round
trip where the layouts are given; three where nothing is known, because metadata come before
latitudes and these before rows. What must be moved to know which rows to read (metadata and all
latitudes: rows are found, not guessed from footprints) is not in the limit; the time that it alone
takes is printed. Peers are told which rows to read. Every contestant is a process of its own; the
proxy's and the server's CPU time are printed beside each, because they share its machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from measure import verdict

from magg.granules.remote import HEAD_BYTES
from magg.testing import BEAMS, simulate_region

# Beams of different lengths: so tracks enter the cell everywhere in a chunk of 10,000 rows.
GRANULES, OTHER_DATASETS = 12, 40
LENGTHS = dict(zip(BEAMS, range(90_000, 114_000, 4_000), strict=True))
REGION = {"latitude": -75.2, "longitude": -101.0, "width_km": 60.0}
LATENCY_S, CONNECTION_MB_S, TOTAL_MB_S = 0.030, 60.0, 75.0

TIMES_LIMIT, TIMES_LIMIT_UNKNOWN = 1.5, 3.0
MB_MOVED, EXTRA_MB, CPU_S = 20.0, 60.0, 0.25
TIMES_FASTER = 8.0

JOBS = Path(__file__).parent / "jobs"
KNOWN, NOTHING, BYTES = "known", "nothing", "bytes"
# Granules at a time, and KiB that are fetched and kept at once (h5coro's own are 4,096).
H5CORO = ("h5coro 1 4096", "h5coro 12 4096", "h5coro 12 512")
H5PY = ("h5py 1 1024", "h5py 12 1024")
NAMES = {
    KNOWN: "magg, layouts given",
    NOTHING: "magg, nothing known",
    BYTES: "the same ranges, obstore alone",
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder to keep the granules in (2 GB)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--kinds", nargs="+", default=["paged", "classic"])
    parser.add_argument("--without-peers", action="store_true")
    parser.add_argument("--server", choices=["files", "seaweedfs"], default="files")
    options = parser.parse_args()
    missed = 0
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        data = options.data or Path(temporary)
        folder = data if options.server == "files" else None
        server = stack.enter_context(shaped_server(folder))
        for kind in options.kinds:
            granules = make_granules(data / kind, kind == "paged")
            urls = [server.put(granule, kind) for granule in granules]
            missed += compare(
                kind,
                urls,
                server,
                Path(temporary),
                options.repeats,
                peers=not options.without_peers,
            )
    sys.exit(f"{missed} targets missed" if missed else 0)


def make_granules(folder: Path, paged: bool) -> list[Path]:
    """Simulate the granules, unless the folder has them already."""
    found = sorted(folder.glob("*.h5"))
    if len(found) == GRANULES:
        return found
    print(f"Simulating {GRANULES} granules in {folder.name}; this is not measured...", flush=True)
    return simulate_region(
        folder,
        **REGION,
        granules=GRANULES,
        lengths=LENGTHS,
        missing_beams_in=(),
        extra_datasets=OTHER_DATASETS,
        paged=paged,
    )


class Server:
    """The process with the server and the proxy."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None  # noqa: S101
        told = json.loads(process.stdout.readline())
        self.environment, self._direct = told["environment"], told["direct"]
        self.software = told["software"]

    def put(self, granule: Path, prefix: str) -> str:
        """Upload a granule, past the proxy, unless it is there; return its URL."""
        url = f"s3://granules/{prefix}/{granule.name}"
        if self._direct is None:
            return url
        from obstore import put
        from obstore.store import S3Store

        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
        endpoint, key, secret, region = (self._direct[name] for name in names)
        store = S3Store(
            "granules",
            endpoint=endpoint,
            access_key_id=key,
            secret_access_key=secret,
            region=region,
            client_options={"allow_http": True},
        )
        put(store, f"{prefix}/{granule.name}", granule)
        return url

    def counts(self) -> dict[str, float]:
        """Return what came since the last time."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))


@contextmanager
def shaped_server(folder: Path | None) -> Iterator[Server]:
    """Run the server behind the slow line: a real one, or one for the files of a folder."""
    command = [sys.executable, "-P", str(JOBS / "shaped_s3.py")]
    command += map(str, (LATENCY_S, CONNECTION_MB_S, TOTAL_MB_S))
    command += [] if folder is None else [str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        try:
            yield Server(process)
        finally:
            process.stdin.close()
            process.wait(60)


def compare(
    kind: str, urls: list[str], server: Server, folder: Path, repeats: int, *, peers: bool
) -> int:
    """Run all contestants over one kind of granules, print, and return how many targets miss."""
    spec: dict[str, Any] = {"urls": urls, "repeats": 1, "layouts": str(folder / f"{kind}.pickle")}
    layouts_took = contest("layouts", spec, server, folder)
    layouts = pickle.loads(Path(spec["layouts"]).read_bytes())  # noqa: S301 - of this run
    spec["cell"] = fullest_cell(layouts)
    spec["rows"] = {url: rows_of(layouts[url], spec["cell"]) for url in urls}
    spec["repeats"] = repeats
    others = [*H5CORO] if peers and importlib.util.find_spec("h5coro") else []
    others += [*H5PY] if peers and importlib.util.find_spec("s3fs") else []
    found = {}
    for contestant in (KNOWN, BYTES, NOTHING, *others):
        print(f"{kind}: {contestant}...", flush=True)
        spec["repeats"] = 1 if contestant in others else repeats
        found[contestant] = contest(contestant, spec, server, folder)
    return report(kind, layouts, spec, layouts_took, found, server.software)


def contest(contestant: str, spec: dict[str, Any], server: Server, folder: Path) -> dict[str, Any]:
    """Run one contestant in a process of its own; return medians a round."""
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    server.counts()
    printed = subprocess.run(
        [sys.executable, "-P", str(JOBS / "read_cell.py"), contestant, str(path)],
        env=os.environ | server.environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    told = json.loads(printed.splitlines()[-1])
    counts = {name: value / spec["repeats"] for name, value in server.counts().items()}
    medians = {
        name: float(np.median([one[name] for one in told["took"]])) for name in ("wall", "cpu")
    }
    extra = {"extra_mb": told["took"][0]["extra_mb"], "load": os.getloadavg()[0]}
    return counts | medians | extra | {"answer": told["answer"], "rounds": told["took"]}


def fullest_cell(layouts: dict[str, Any]) -> int:
    """Return the cell with the most rows of those that most granules cross."""
    granules: Counter[int] = Counter()
    rows: Counter[int] = Counter()
    for layout in layouts.values():
        granules.update(map(int, layout.cells()))
        for beam in layout.beams:
            for cell, start, stop in zip(beam.cells, beam.starts, beam.stops, strict=True):
                rows[int(cell)] += int(stop - start)
    return max(granules, key=lambda cell: (granules[cell], rows[cell]))


def rows_of(layout: Any, cell: int) -> dict[str, tuple[int, int]]:
    """Return the first and last row of a cell in each beam."""
    runs = {beam.name: beam.runs(cell) for beam in layout.beams}
    return {name: (starts[0], stops[-1]) for name, (starts, stops) in runs.items() if starts}


def needed_bytes(layouts: dict[str, Any], cell: int) -> int:
    """Return the bytes of all chunks that hold rows of the cell."""
    total = 0
    for layout in layouts.values():
        for beam in layout.beams:
            for dataset in beam.all_datasets():
                numbers = {
                    number
                    for start, stop in zip(*beam.runs(cell), strict=True)
                    for number in range(start // dataset.chunk_rows, -(-stop // dataset.chunk_rows))
                }
                total += int(dataset.sizes[sorted(numbers)].sum())
    return total


def latitude_bytes(layouts: dict[str, Any]) -> int:
    """Return the bytes of all latitudes."""
    beams = [beam for layout in layouts.values() for beam in layout.beams]
    return sum(int(beam.latitude.sizes.sum()) for beam in beams)


def report(
    kind: str,
    layouts: dict[str, Any],
    spec: dict[str, Any],
    layouts_took: dict[str, Any],
    found: dict[str, dict[str, Any]],
    software: str,
) -> int:
    """Print the table and the verdicts; return how many targets are missed."""
    needed = needed_bytes(layouts, spec["cell"])
    limit = LATENCY_S + needed / 1e6 / TOTAL_MB_S
    limit_unknown = limit + 2 * LATENCY_S
    to_know = latitude_bytes(layouts) + GRANULES * HEAD_BYTES
    rows = sum(stop - start for beams in spec["rows"].values() for start, stop in beams.values())
    size = sum(layout.size for layout in layouts.values()) / 1e6
    print(
        f"\n{kind}: {GRANULES} granules x 6 beams, {size:,.0f} MB; {rows:,} rows in the cell, "
        f"{needed / 1e6:.1f} MB needed\nlimit {limit:.2f} s (one round trip), knowing nothing "
        f"{limit_unknown:.2f} s (three); heads and latitudes are {to_know / 1e6:.0f} MB more, "
        f"{to_know / 1e6 / TOTAL_MB_S:.2f} s\n"
        f"{software}, medians of {len(found[KNOWN]['rounds'])} rounds (peers: one)\n"
    )
    columns = f"{'wall s':>9}{'x limit':>9}{'CPU s':>8}{'MB':>8}{'requests':>10}{'extra MB':>10}"
    print(f"{'':32}{columns}{'proxy+server CPU s':>20}{'load':>7}")
    for name, took in found.items():
        other = took["proxy_cpu_s"] + took["server_cpu_s"]
        print(
            f"{NAMES.get(name, name):32}{took['wall']:9.2f}{took['wall'] / limit:9.1f}"
            f"{took['cpu']:8.2f}{took['bytes'] / 1e6:8.1f}{took['requests']:10.0f}"
            f"{took['extra_mb']:10.0f}{other:20.2f}{took['load']:7.1f}"
        )
    known, nothing = found[KNOWN], found[NOTHING]
    build = {name: layouts_took[name] / GRANULES for name in ("cpu", "bytes", "requests", "wall")}
    print(
        f"\nOne granule's layout: {build['cpu']:.3f} CPU-s, {build['bytes'] / 1e6:.1f} MB, "
        f"{build['requests']:.0f} requests, {build['wall']:.2f} s alone."
    )
    for what, cost, less in (
        ("bytes", layouts_took["bytes"], nothing["bytes"] - known["bytes"]),
        ("CPU", layouts_took["cpu"], nothing["cpu"] - known["cpu"]),
        ("wall time", layouts_took["wall"], nothing["wall"] - known["wall"]),
    ):
        print(f"In {what} it has paid for itself after {cost / less:.1f} cells of all 12 granules.")
    print()
    answers = {name: took["answer"] for name, took in found.items() if name != BYTES}
    differing = [name for name, one in answers.items() if not np.allclose(one, answers[KNOWN])]
    if differing:
        raise SystemExit(f"observations differ from magg's: {', '.join(differing)}")
    lines = [
        verdict("layouts given, times the limit", known["wall"] / limit, TIMES_LIMIT, "times"),
        verdict("layouts given, moved", known["bytes"] / 1e6, MB_MOVED, "MB"),
        verdict("layouts given, extra memory", known["extra_mb"], EXTRA_MB, "MB"),
        verdict("layouts given, CPU", known["cpu"], CPU_S, "s"),
        verdict(
            "nothing known, times its limit",
            nothing["wall"] / limit_unknown,
            TIMES_LIMIT_UNKNOWN,
            "times",
        ),
    ]
    coro = [took["wall"] for name, took in found.items() if name in H5CORO]
    if coro:
        faster = min(coro) / known["wall"]
        name = f"times faster than h5coro {version('h5coro')} at its best"
        lines.append(verdict(name, faster, TIMES_FASTER, "times", at_least=True))
    else:
        print("----  h5coro was left out or is not installed (pip install h5coro): not compared")
    print("\n".join(lines))
    return sum(line.startswith("MISS") for line in lines)


if __name__ == "__main__":
    main()
