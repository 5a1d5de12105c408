from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from services.earthdata import umm_granule

from magg import Catalog
from magg.cli import main


@pytest.fixture
def catalog_path(catalog, tmp_path):
    return str(catalog.save(tmp_path / "catalog.json"))


@pytest.fixture
def store_path(tmp_path):
    return str(tmp_path / "s.zarr")


def test_run_makes_a_store_and_prints_a_summary(catalog_path, store_path, capsys):
    assert main(["run", "atl06", "--catalog", catalog_path, "--store", store_path, "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "observations" in told
    assert "s.zarr" in told


def test_run_prints_the_summary_as_json(catalog_path, store_path, capsys):
    arguments = ["run", "--config", "atl06", "--catalog", catalog_path, "--store", store_path]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cells_error"] == 0


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(catalog_path, tmp_path, capsys):
    arguments = ["run", "atl06", "--catalog", catalog_path, "--store", str(tmp_path / "n.zarr")]
    assert main([*arguments, "--dry-run"]) == 0
    assert "granules per cell" in capsys.readouterr().out
    assert not (tmp_path / "n.zarr").exists()


def test_the_exit_status_tells_that_a_cell_failed(catalog, tmp_path, store_path, capsys):
    document = {
        "metadata": {"parent_order": 6},
        "catalog": {cell: [*granules, "/lost.h5"] for cell, granules in catalog.cells.items()},
    }
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(document))
    arguments = ["run", "atl06", "--catalog", str(path), "--store", store_path]
    assert main([*arguments, "--max-cells", "1", "--quiet"]) == 1
    assert "lost.h5" in capsys.readouterr().out.replace("\n", "")


def test_a_single_cell_may_be_named_with_its_minus(catalog, catalog_path, store_path, capsys):
    cell = next(iter(catalog.cells))
    arguments = ["run", "atl06", "--catalog", catalog_path, "--store", store_path, "--json"]
    arguments.append("--overwrite")
    assert main([*arguments, f"--morton-cell={cell}"]) == 0
    assert main([*arguments, "--morton-cell", cell]) == 0
    out = capsys.readouterr().out
    assert out.count(f'"cell": "{cell}"') == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "none.yaml", "--catalog", "c.json", "--store", "s"], "built-in"),
        (["run", "atl06", "--catalog", "none.json", "--store", "s"], "no catalog"),
        (["run", "atl06", "--store", "s"], "catalog="),
        (["info", "none.zarr"], "no store"),
        (["plot", "none.zarr"], "no store"),
        (["catalog", "files", "none.h5"], "none.h5"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_two(arguments, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1
    assert "Traceback" not in told
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(FileNotFoundError):
        main(["run", "none.yaml", "--debug"])


def test_catalog_files_makes_a_catalog_that_info_describes(region, tmp_path, capsys):
    path = tmp_path / "catalog.json"
    assert main(["catalog", "files", *map(str, region), "-o", str(path)]) == 0
    assert main(["info", str(path)]) == 0
    assert "of order 6" in capsys.readouterr().out


def test_info_describes_a_store(catalog_path, store_path, capsys):
    main(["run", "atl06", "--catalog", catalog_path, "--store", store_path, "--quiet"])
    assert main(["info", store_path]) == 0
    assert "h_mean" in capsys.readouterr().out
    assert main(["info", store_path, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["child_order"] == 12


def test_plot_draws_a_picture(catalog_path, store_path, tmp_path, capsys):
    main(["run", "atl06", "--catalog", catalog_path, "--store", store_path, "--quiet"])
    picture = tmp_path / "map.png"
    assert main(["plot", store_path, "-o", str(picture), "--variable", "h_q50"]) == 0
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    "command", [[], ["run"], ["catalog", "files"], ["info"], ["demo"], ["plot"]]
)
def test_help_shows_examples(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert "magg " in capsys.readouterr().out


def test_the_module_is_the_command():
    told = subprocess.run(
        [sys.executable, "-m", "magg", "--version"], capture_output=True, text=True, check=True
    )
    assert told.stdout.startswith("magg ")


def test_a_command_logs_what_magg_says_and_not_what_others_say_to_themselves(catalog_path):
    script = (
        "import logging, sys; from magg.cli import main; main(['info', sys.argv[1]]);"
        "logging.getLogger('magg.any').info('of magg'); logging.getLogger('other').info('of other')"
    )
    told = subprocess.run(
        [sys.executable, "-c", script, catalog_path], capture_output=True, text=True, check=True
    )
    assert "of magg" in told.stderr
    assert "of other" not in told.stderr


def test_ctrl_c_gives_exit_status_130(monkeypatch, capsys, catalog_path, store_path):
    from magg import runner

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", interrupted)
    assert main(["run", "atl06", "--catalog", catalog_path, "--store", store_path]) == 130
    assert "the same command continues" in capsys.readouterr().err


@pytest.mark.slow
def test_the_demo_fits_its_surface_and_draws_a_map(tmp_path):
    told = subprocess.run(
        [sys.executable, "-m", "magg", "demo", str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "100"},
    )
    assert "three standard errors" in told.stdout
    assert (tmp_path / "map.png").stat().st_size > 50_000
    assert (tmp_path / "config.yaml").exists()


def test_a_catalog_comes_from_cmr_by_product_cycle_and_area(earthdata, capsys, tmp_path):
    name = "ATL06_20190416093911_{}11_007_01.h5"
    line = [{"Longitude": -100.0, "Latitude": -76.0}, {"Longitude": -101.0, "Latitude": -79.0}]
    extent = {"HorizontalSpatialDomain": {"Geometry": {"Lines": [{"Points": line}]}}}
    earthdata.granules = [umm_granule(name.format(n), extent) for n in ("000103", "000104")]
    path = tmp_path / "catalog.json"
    arguments = ["--cycle", "3", "--bbox=-110,-80,-90,-70", "-o", str(path)]
    assert main(["catalog", "cmr", "ATL06", *arguments]) == 0
    told = capsys.readouterr().out
    assert "ATL06 007" in told
    assert "2019-04-16T09:39:11Z to 2019-04-16T09:44:40Z" in told
    (granule,) = Catalog.load(path).granules
    assert granule.endswith(name.format("000103"))
    assert main(["plot", str(path), "-o", str(tmp_path / "map.png")]) == 0
    assert (tmp_path / "map.png").stat().st_size > 5_000


def test_a_catalog_that_cmr_cannot_give_is_an_error_in_one_line(earthdata, capsys):
    assert main(["catalog", "cmr", "ATL99"]) == 2
    assert "CMR knows no product 'ATL99'" in capsys.readouterr().err
