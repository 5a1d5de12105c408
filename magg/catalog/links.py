"""What a catalog knows of each granule beside its name, and how that is packed into JSON.

Granules of a day share their folders, so that a folder is written once and a granule is its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from magg.errors import CatalogError


@dataclass(frozen=True, slots=True)
class GranuleInfo:
    """What is known of a granule.

    Parameters
    ----------
    https : str
        Its HTTPS link, where its name in the catalog is the S3 link.
    start, end : str
        When it was measured: ISO 8601, UTC.
    """

    https: str = ""
    start: str = ""
    end: str = ""


def pack(granules: Iterable[str], info: Mapping[str, GranuleInfo]) -> dict[str, list[Any]]:
    """Return folders, each as (own, HTTPS), and granules, each as (folder, name, start, end).

    An HTTPS link that does not end like the granule's own stands as a fifth item.
    """
    folders: dict[tuple[str, str], int] = {}
    rows = []
    for granule in granules:
        known = info.get(granule, GranuleInfo())
        folder, slash, name = granule.rpartition("/")
        here, there, irregular = folder + slash, "", known.https
        if name and known.https.endswith(f"/{name}"):
            there, irregular = known.https.removesuffix(name), ""
        row = [folders.setdefault((here, there), len(folders)), name]
        row += [known.start, known.end, irregular]
        while not row[-1] and len(row) > 2:
            row.pop()
        rows.append(row)
    return {"folders": [list(folder) for folder in folders], "granules": rows}


def unpack(document: Mapping[str, Any]) -> tuple[list[str], dict[str, GranuleInfo]]:
    """Return the granules, in the order of the document, and what is known of them.

    Raises
    ------
    CatalogError
        If the document is malformed; names the first granule that is.
    """
    granules: list[str] = []
    info: dict[str, GranuleInfo] = {}
    try:
        folders = [(str(here), str(there)) for here, there in document["folders"]]
        for folder, name, *more in document["granules"]:
            here, there = folders[folder]
            start, end, irregular = [*more, "", "", ""][:3]
            granule = here + name
            granules.append(granule)
            https = irregular or (there + name if there else "")
            if https or start or end:
                info[granule] = GranuleInfo(https, start, end)
    except (KeyError, IndexError, TypeError, ValueError):
        raise CatalogError(
            f"'folders' and 'granules' do not make sense after {len(granules)} granules; "
            "make the catalog anew"
        ) from None
    return granules, info
