"""Running the notebooks of `examples/`: a kernel of this interpreter, in folders of its own."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
# Against hangs: a busy machine may take long for any cell.
CELL_SECONDS = 540
# What decides where programs look for things, and whom they ask.
_OTHERS = re.compile(
    r"AWS_|EARTHDATA_|MAGG_|JUPYTER|IPYTHON|LITHOPS|DASK_|SLURM_|MPL|PYTEST_|COV_|(HTTPS?_PROXY|"
    r"NO_PROXY|NETRC|SCRATCH_BUCKET|BUCKET|CI|COLUMNS|LINES|FORCE_COLOR)$",
    re.IGNORECASE,
)


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a kernel that finds nothing of the user's.

    Parameters
    ----------
    folder : Path
        Home, temporary folder, and place of the commands ``magg`` and ``python``.
    **variables
        Further ones.
    """
    home, temporary, commands = (folder / name for name in ("home", "tmp", "bin"))
    for each in (home, temporary, commands):
        each.mkdir(exist_ok=True)
    for name, call in (("python", ""), ("magg", " -m magg")):
        script = commands / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        script.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not _OTHERS.match(name)}
    own = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_CONFIG_DIR": str(home / "jupyter"),
        "JUPYTER_DATA_DIR": str(home / "jupyter"),
        "MPLCONFIGDIR": str(home / "matplotlib"),
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "COLUMNS": "100",
    }
    return kept | own | variables


def execute(path: Path, folder: Path, variables: Mapping[str, str]) -> Any:
    """Run a notebook from top to bottom and return it with its outputs.

    Parameters
    ----------
    path : Path
    folder : Path
        Where it runs, and writes what it writes.
    variables : mapping of str to str
        The whole environment of the kernel.

    Raises
    ------
    nbclient.exceptions.CellExecutionError
        If a cell raises.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=dict(variables))
    return notebook


def keep(notebook: Any, path: Path, folder: Path) -> None:
    """Write a notebook with its outputs; what lies below the folder gets paths relative to it."""
    import nbformat

    for each in outputs(notebook):
        picture = each.get("data", {}).get("image/png")
        if picture is not None:
            each["data"]["image/png"] = _smaller(picture)
    text = nbformat.writes(notebook)
    here = json.dumps(f"{folder}{os.sep}")[1:-1]
    text = re.sub(f"(/private)?{re.escape(here)}", "", text)
    path.write_text(text + "\n", encoding="utf-8")


def _smaller(picture: str) -> str:
    """Return a PNG, in base64, with 128 colours: a third of the bytes, and none of it shows."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
    data = io.BytesIO()
    few = image.quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(data, format="png", optimize=True)
    return base64.b64encode(data.getvalue()).decode()


def outputs(notebook: Any) -> list[Any]:
    """Return all outputs of a notebook."""
    return [each for cell in notebook.cells for each in cell.get("outputs", ())]
