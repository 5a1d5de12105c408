"""A figure that notebooks show by themselves; imports matplotlib."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


class Picture(Figure):
    """A figure without pyplot: nothing to close, and the backend in use stays as it is."""

    def __init__(self, width: float, height: float, dpi: float) -> None:
        super().__init__(figsize=(width, height), facecolor="white", dpi=dpi)
        FigureCanvasAgg(self)

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """Return what a notebook shows, and how wide: as on a screen of 96 dots an inch."""
        data = io.BytesIO()
        self.savefig(data, format="png")
        return data.getvalue(), {"width": round(96 * float(self.get_figwidth()))}

    def written(self, path: str | os.PathLike[str] | None) -> Picture:
        """Write the figure to a path, in the format of its suffix, where there is one."""
        if path is not None:
            self.savefig(Path(path), dpi=self.dpi)
        return self
