"""Which lithops configuration is meant, and what magg adds to it."""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from magg.errors import BackendError, require_extra

VARIABLE = "MAGG_LITHOPS_CONFIG"
LOCALHOST = "localhost"
# lithops asks its storage for news every 2 s; a folder may be asked more often than a bucket.
LOCAL_INTERVAL_S = 0.2

Config = Mapping[str, Any] | str | Path


def find_config(config: Config | None = None) -> dict[str, Any]:
    """Return the lithops configuration that is meant, as it is written.

    Parameters
    ----------
    config : mapping, str or Path, optional
        The configuration itself, or its file. Without it the file that ``MAGG_LITHOPS_CONFIG``
        names, or else what lithops itself would take: ``LITHOPS_CONFIG``, ``LITHOPS_CONFIG_FILE``,
        ``.lithops_config``, ``~/.lithops/config`` or ``/etc/lithops/config``.

    Raises
    ------
    MissingExtraError
        If lithops is not installed.
    BackendError
        If there is no configuration, or it cannot be read. lithops would run on this machine
        where it finds none; whoever asks for a cloud would not be told.
    """
    try:
        import lithops.config as lithops_config
    except ImportError:
        raise require_extra("lithops", "lithops") from None
    if isinstance(config, Mapping):
        return _checked(copy.deepcopy(dict(config)), "the config")
    chosen = config or os.environ.get(VARIABLE)
    if chosen is None and "LITHOPS_CONFIG" in os.environ:
        return _read(lambda: lithops_config.load_config(log=False), "LITHOPS_CONFIG")
    if chosen is None:
        chosen = lithops_config.get_default_config_filename()
    if chosen is None:
        raise BackendError(
            f"there is no lithops configuration; name a file in {VARIABLE}, or write "
            "~/.lithops/config. lithops_config/ in magg's repository has some to start from: "
            "localhost.yaml, aws_lambda.yaml, gcp_cloudrun.yaml"
        )
    path = Path(chosen).expanduser()
    if not path.is_file():
        raise BackendError(f"there is no lithops configuration at {path}")
    return _read(lambda: lithops_config.load_config(str(path), log=False), str(path))


def _read(load: Any, where: str) -> dict[str, Any]:
    try:
        return _checked(load(), where)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise BackendError(f"{where} is no lithops configuration ({error})") from None
    except Exception as error:  # noqa: BLE001 - the YAML package is lithops' own
        # A YAML parser shows the lines around a mistake, which may hold credentials.
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise BackendError(f"{where}{line} is no YAML that can be read") from None


def _checked(config: Any, where: str) -> dict[str, Any]:
    if not isinstance(config, dict):
        raise BackendError(f"{where} is no lithops configuration: it must be a mapping of sections")
    wrong = [name for name, part in config.items() if part is not None and not _is_section(part)]
    if wrong:
        raise BackendError(
            f"{where} is no lithops configuration: {', '.join(map(repr, wrong))} must hold "
            "settings, as in `lithops: {backend: aws_lambda, storage: aws_s3}`"
        )
    return config


def _is_section(part: object) -> bool:
    return isinstance(part, Mapping)


def prepared(
    config: Mapping[str, Any], options: Mapping[str, Any], max_workers: int | None
) -> dict[str, Any]:
    """Return a configuration with what magg's way of using lithops needs.

    Parameters
    ----------
    config : mapping
        From `find_config`.
    options : mapping
        Settings of the compute backend, which win over those of the configuration.
    max_workers : int, optional
        Calls at once.
    """
    whole = copy.deepcopy(dict(config))
    general = whole["lithops"] = dict(whole.get("lithops") or {})
    # magg deletes what its calls leave, at once; lithops would start a process that does it later.
    general["data_cleaner"] = False
    # magg is part of the runtime. lithops would send its source with every job.
    general.setdefault("include_modules", "none")
    # Lifted, as arguments above 8 kB go to the storage whatever their number; see `argument_limit`.
    general["data_limit"] = 0
    backend = backend_of(whole)
    if backend is None:
        return whole
    section = whole[backend] = dict(whole.get(backend) or {}) | dict(options)
    if backend == LOCALHOST:
        section.setdefault("runtime", sys.executable)
        general.setdefault("storage", LOCALHOST)
        general.setdefault("monitoring_interval", LOCAL_INTERVAL_S)
        if max_workers is not None:
            section["worker_processes"] = max_workers
    elif max_workers is not None:
        processes = section.get("worker_processes")
        per_worker = processes if isinstance(processes, int) and processes > 0 else 1
        section["max_workers"] = -(-max_workers // per_worker)
    return whole


def backend_of(config: Mapping[str, Any]) -> str | None:
    """Return the compute backend that a configuration names, or None if lithops has to choose."""
    general = config.get("lithops") or {}
    backend = general.get("backend")
    return LOCALHOST if backend is None and general.get("mode") == LOCALHOST else backend


def argument_limit(config: Mapping[str, Any]) -> tuple[int, bool]:
    """Return how many bytes of arguments one job may carry, and whether the user said so.

    lithops' own default is 4 MiB.
    """
    said = (config.get("lithops") or {}).get("data_limit")
    if said is None:
        return 4 * 2**20, False
    return (int(float(said) * 2**20), True) if said else (2**62, False)
