"""What the report's page, table and plots say, and how little of a record they trust."""

import base64
import csv
import hashlib
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from tables.everyday import few
from tiny_configs.records import SCALES, SEEDS, pictures, row, sweep, write_sweep

from guidestar.commands import report
from guidestar.core.errors import UserError
from guidestar.evaluation.report import make_sprites, read_record
from guidestar.evaluation.report.curves import axes, columns, lines, pareto
from guidestar.evaluation.report.documents import as_csv
from guidestar.evaluation.report.page import MOST_ROWS
from guidestar.evaluation.report.pictures import SIDE, TILES, sprite
from guidestar.evaluation.report.plots import best, draw, wide

# Characters that mean something to HTML, to scripts, to Plotly, to TeX and to spreadsheets.
ODD = "</script><b id=odd>&amp; \"quoted\" 'single' %{x} ${y} $\\frac{a$ \u2028 é"


def read(tmp_path, record):
    (tmp_path / "sweep.json").write_text(json.dumps(record))
    return read_record(tmp_path)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A work folder with its report, in which rows have odd titles."""
    record = sweep()
    record["name"] = ODD
    record["rows"]["t0"] |= dict(title=ODD, command=f"echo {ODD}", state="COMPLETE")
    record["rows"]["t0"]["parameters"][f"guidance.{ODD}"] = ODD
    record["rows"]["t1"] |= dict(folder=None)
    record["rows"]["t2"] |= dict(frechet_distance=None, state="RUNNING", folder=None)
    record["rows"]["t3"]["folder"] = "../elsewhere"
    work = tmp_path_factory.mktemp("report") / "work"
    write_sweep(work, record)
    report.run(None, work)
    return work


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.scripts, self.ids, self.text = [], [], [], []
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        self.ids.append(found.get("id"))
        self._inside = tag
        if tag == "script":
            self.scripts.append([found, ""])

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1][1] += data
        self.text.append(data)


@pytest.fixture(scope="module")
def page(written):
    return Page((written / "report.html").read_text())


def test_the_pareto_set_is_that_of_an_example_by_hand():
    costs = [1, 2, 2, 3, 4, 5, None, 1]
    quality = [9, 5, 7, 6, 5, 1, 0, 9]
    #         yes yes no(1) no(1) no(1, dearer) yes no  yes: as good as the first in both
    assert pareto(costs, quality) == [0, 7, 1, 5]
    assert pareto([1, 2], [None, 3]) == [1]
    assert pareto([], []) == []


def test_the_pareto_set_follows_what_is_better_in_a_metric(tmp_path):
    record = read(tmp_path, sweep())
    # Costs are 1, 2, 3 in turn; the last of each cost has the lowest distance and best precision.
    assert best(record, "frechet_distance") == best(record, "precision") == [6, 7, 8]
    assert best(record, "recall") == [0]
    assert best(record, "contrast") == []


def test_distances_that_are_many_times_others_are_drawn_by_their_logarithms(tmp_path):
    record = sweep()
    assert not wide(read(tmp_path, record), "frechet_distance")  # 2 to 10
    record["rows"]["t0"]["frechet_distance"] = 21.0
    assert wide(read(tmp_path, record), "frechet_distance")
    assert not wide(read(tmp_path, record), "precision")
    record["rows"]["t0"]["frechet_distance"] = -0.1
    assert not wide(read(tmp_path, record), "frechet_distance")


def test_rows_of_one_rule_are_a_line_along_the_scale(tmp_path):
    record = sweep()
    record["rows"] = dict(reversed(record["rows"].items()))
    record["rows"]["off"] = row("cfg", 1.0, 9, guidance=dict(name="unguided"), parameters={})
    found = {line.label: line for line in lines(read(tmp_path, record), "scale")}
    assert set(found) == {"cfg", "autoguidance", "cfg in (0.5, 5]", "unguided"}
    names = list(record["rows"])
    for label, first in (("cfg", 0), ("autoguidance", 3), ("cfg in (0.5, 5]", 6)):
        assert [names[i] for i in found[label].rows] == [f"t{first + k}" for k in range(3)]
        assert found[label].values == list(SCALES) and found[label].joined
    assert found["unguided"].values == [1.0]  # the scale at which every rule is off


def test_a_row_that_has_no_such_setting_has_no_place_along_it(tmp_path):
    record = sweep()
    record["rows"]["t7"]["guidance"]["low"] = 1.0
    found = {line.label: line.values for line in lines(read(tmp_path, record), "guidance.low")}
    assert found["cfg(scale=2)"] == [] and found["between(cfg(scale=2), high=5)"] == [1.0]


def test_settings_that_a_search_drew_make_points_and_not_a_line_each(tmp_path):
    record = sweep()
    record["rows"] = {
        f"t{n}": row(
            "interval", 1 + n / 7, n, guidance={},
            parameters={"guidance.scale": 1 + n / 7, "guidance.low": n / 9, "seed": n % 2},
        )
        for n in range(30)
    }  # fmt: skip
    found = lines(read(tmp_path, record), "guidance.low")
    assert [len(line.rows) for line in found] == [15, 15] and not any(one.joined for one in found)
    assert axes(read(tmp_path, record))[0].key == "row"


def test_trials_that_have_not_ended_are_in_no_plot(tmp_path):
    record = sweep()
    record["rows"]["t8"]["state"] = "PRUNED"
    found = read(tmp_path, record)
    assert 8 not in [place for line in lines(found, "scale") for place in line.rows]
    assert best(found, "frechet_distance") == [6, 7]


def test_a_table_has_what_a_sweep_chose_or_the_rule_of_an_evaluation(tmp_path):
    record = sweep()
    assert list(columns(read(tmp_path, record))) == ["scale", "rule"]
    for one in record["rows"].values():
        del one["parameters"]
    found = columns(read(tmp_path, record))
    assert found["rule and settings"][::4] == ["cfg", "autoguidance", "cfg in (0.5, 5]"]
    assert found["scale"] == list(SCALES) * 3


def test_the_csv_has_every_number_as_it_was_measured(tmp_path):
    record = sweep()
    record["rows"]["t4"]["title"] = "=1+1"
    record["rows"]["t5"]["frechet_distance"] = 1 / 3
    record["rows"]["t6"]["recall"] = float("nan")
    found = list(csv.DictReader(io.StringIO(as_csv(read(tmp_path, record), {"t0": "10 main"}))))
    assert [one["row"] for one in found] == list(record["rows"])
    for one, kept in zip(found, record["rows"].values(), strict=True):
        for key in ("frechet_distance", "precision", "multiply_adds", "seconds"):
            assert float(one[key]) == kept[key]
        assert float(one["scale"]) in SCALES and one["agreement"] == ""
        assert one["command"] == kept["command"]
    assert found[0]["evaluations"] == "10 main" and found[6]["recall"] == ""
    assert found[4]["title"] == "'=1+1"  # which a spreadsheet shows, and does not compute


def test_nothing_in_a_record_becomes_markup_or_a_script(page, written):
    assert "odd" not in page.ids and "b" not in {tag for tag, found in page.tags if found}
    assert [found.get("type") for found, _ in page.scripts] == ["application/json", None, None]
    data = json.loads(page.scripts[0][1])
    assert data["rows"][0]["title"] == ODD
    assert ODD in page.text and f"echo {ODD}" in page.text
    assert f"{ODD}: sweep" in page.text


def test_the_page_lets_its_own_scripts_run_and_fetches_nothing(page):
    policy = next(found["content"] for tag, found in page.tags if "http-equiv" in found)
    own = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
           for found, text in page.scripts if not found}  # fmt: skip
    assert set(re.findall("'sha256-([^']+)'", policy)) == own and len(own) == 2
    assert policy.startswith("default-src 'none';") and "unsafe-eval" not in policy
    fetched = [found for _, found in page.tags if {"src", "href", "action", "data"} & set(found)]
    assert [found["href"] for found in fetched] == ["#rows"]


def test_the_page_says_what_is_not_there(page):
    said = " ".join(page.text)
    assert "3 of 9 rows have no pictures here" in said
    assert "their images were not kept" in said and "outside of the work folder" in said
    assert re.search(r"8 of 9\s+others: running", said)


def test_every_row_has_its_config_and_command(page):
    shown = [json.loads(text) for text in page.text if text.startswith('{\n "guidance": {')]
    assert [one["guidance"]["name"] for one in shown[::3]] == ["cfg", "autoguidance", "between"]
    assert sum("--config.guidance.scale=2.0" in text for text in page.text) == 3


def test_plots_lie_beside_the_page_as_pictures(written):
    for name in ("quality", "trade_off", "cost"):
        with Image.open(written / f"report_{name}.png") as picture:
            assert picture.size == (880, 550) and len(picture.getcolors(2**20)) > 10


def test_a_sprite_holds_seeds_row_by_row():
    with Image.open(io.BytesIO(sprite(pictures(3, count=6), 192))) as sheet:
        found = np.asarray(sheet.convert("L"))
    assert found.shape == (8 * SIDE, 8 * SIDE)
    assert found[0, 0] == 100 and found[7, 0] == 0 and found[7, 24] == 36 and found[15, 8] == 60


def noise(name, indices):
    draws = np.random.default_rng(int(name[1:]))
    return draws.integers(0, 256, (20, 64, 64, 3), np.uint8)[indices]


@pytest.mark.longer
@pytest.mark.parametrize(
    ("budget", "rows", "edge", "each"),
    few(1, [(10**8, 4, 64, 20), (900_000, 4, 64, 16), (220_000, 4, 32, 16), (110_000, 2, 32, 16)]),
)
def test_pictures_fit_their_budget_and_say_what_was_left_out(budget, rows, edge, each):
    found = make_sprites({f"t{n}": 20 for n in range(4)}, noise, budget, {})
    assert found.size <= budget and found.edge == edge
    assert found.counts == {f"t{n}": each for n in range(rows)}  # those that come first
    said = " ".join(found.told(4))
    assert (f"{rows * each} of {rows * 20} images" if rows == 4 else "2 of 4 rows") in said or (
        each == 20 and not said
    )
    assert ("from 64 to 32 pixels" in said) == (edge == 32)


@pytest.mark.longer
def test_the_page_stays_below_its_size(tmp_path, monkeypatch):
    from guidestar.evaluation.report import documents

    monkeypatch.setattr(documents, "LARGEST", 9_500_000)
    rows = {f"t{n}": row("cfg", 1 + n, n, folder=None) for n in range(MOST_ROWS + 5)}
    record = read(tmp_path, sweep() | {"rows": rows})
    images = {f"t{n}": 20 for n in range(MOST_ROWS - 10, MOST_ROWS + 5)}
    documents.write_documents(record, tmp_path, images, noise, {}, dict.fromkeys(rows, "1 main"))
    assert 8_900_000 < (tmp_path / "report.html").stat().st_size < 9_500_000
    page = Page((tmp_path / "report.html").read_text())
    assert any(f"2,000 of {MOST_ROWS + 5:,} rows are shown" in text for text in page.text)
    assert len((tmp_path / "report.csv").read_text().splitlines()) == MOST_ROWS + 6


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds neither sweep.json nor evidence.json: --mode=report reads the --workdir of"),
        ({"evidence.json": "{"}, "evidence.json cannot be read"),
        ({"evidence.json": "[1]"}, "evidence.json has no rows by their names"),
        ({"evidence.json": '{"rows": ["a"]}'}, "evidence.json has no rows by their names"),
        ({"sweep.json": '{"rows": {}}'}, "sweep.json has no rows yet"),
    ],
)
def test_a_folder_without_a_record_that_can_be_read_is_refused_in_a_line(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as refused:
        report.run(None, tmp_path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    "change",
    [
        dict(title=3, guidance="cfg", parameters=[], evaluations=4, seconds="long", command=None),
        dict(frechet_distance="low", precision=True, multiply_adds=None, folder=7, state=None),
    ],
)
def test_a_record_of_another_format_is_shown_as_far_as_it_can_be(tmp_path, change):
    record = sweep()
    for key in ("metrics", "claims", "real", "date"):
        del record[key]
    record["rows"]["t0"] |= change
    write_sweep(tmp_path, record | {"rows": {"t0": record["rows"]["t0"] | {"folder": None}}})
    report.run(None, tmp_path)
    write_sweep(tmp_path, {"rows": {"t0": {}, "t1": {"claims": 1}}, "claims": [{}, 3], "real": 1})
    report.run(None, tmp_path)
    assert "t1" in (tmp_path / "report.html").read_text()


def test_images_that_are_gone_are_said_to_be(tmp_path, capsys):
    write_sweep(tmp_path)
    for path in (tmp_path / "trials").rglob("*.npz"):
        path.unlink()
    report.run(None, tmp_path)
    assert "9 of 9 rows have no pictures" in capsys.readouterr().out
    assert "their images are gone" in (tmp_path / "report.html").read_text()


@pytest.mark.longer
def test_a_report_is_written_anew_while_its_sweep_runs(tmp_path):
    record = sweep()
    del record["rows"]["t8"]
    write_sweep(tmp_path, record)
    report.run(None, tmp_path)
    write_sweep(tmp_path)
    report.run(None, tmp_path)
    data = json.loads(Page((tmp_path / "report.html").read_text()).scripts[0][1])
    assert len(data["rows"]) == 9 and data["sprite"]["tiles"] == TILES
    assert {one["pictures"] for one in data["rows"]} == {SEEDS}


def test_every_plot_of_a_record_without_numbers_is_left_out(tmp_path):
    assert draw(read(tmp_path, {"rows": {"a": {"title": "a"}}})) == {}
