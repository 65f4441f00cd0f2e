"""The report's page in a browser: read from its file, by mouse, by keyboard and on a phone."""

import io
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from tiny_configs.records import SEEDS, sweep, write_sweep

from guidestar.commands import report

pytestmark = pytest.mark.longer
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
ODD = '<img src=x onerror="document.title=1"> %{x} &amp; </script><i id=odd>'
PHONES = ((390, 844), (320, 568))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (BROWSER and DRIVER):
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    selenium = pytest.importorskip("selenium.webdriver", reason="the extra dev installs selenium")
    from selenium.webdriver.chrome.service import Service

    options = selenium.ChromeOptions()
    options.binary_location = BROWSER
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = selenium.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A report of nine rows, one of them of an odd name."""
    record = sweep()
    record["rows"]["t5"]["title"] = ODD
    work = write_sweep(tmp_path_factory.mktemp("work") / "sweep", record)
    report.run(None, work)
    return (work / "report.html").as_uri()


@pytest.fixture
def page(browser, file):
    """The page as it opens on a wide screen; it must not complain."""
    shape(browser, 1280, 900)
    browser.get(file)
    yield browser
    assert [one for one in browser.get_log("browser") if one["level"] != "INFO"] == []


def shape(browser, width, height, *, mobile=False, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )


def found(page, selector):
    return page.find_elements("css selector", selector)


def one(page, selector):
    return page.find_element("css selector", selector)


def press(page, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(page).send_keys(*keys).perform()


def focus(page, selector):
    page.execute_script("arguments[0].focus()", one(page, selector))


def pixels(element):
    return np.asarray(Image.open(io.BytesIO(element.screenshot_as_png)).convert("L"))


def eventually(check):
    for _ in range(40):
        if result := check():
            return result
        time.sleep(0.05)
    return check()


def titles(page):
    return [cell.text.removesuffix("P").strip() for cell in found(page, "#rows tbody th")]


def test_a_head_sorts_the_table_both_ways(page):
    head = next(th for th in found(page, "#rows thead th") if "distance" in th.text)
    button = head.find_element("css selector", "button")
    column = 1 + page.execute_script("return arguments[0].cellIndex", head)
    for way, state in ((1, "ascending"), (-1, "descending")):
        button.click()
        values = [
            float(cell.text)
            for cell in found(page, f"#rows tbody tr:first-child > :nth-child({column})")
        ]
        assert values == sorted(values)[::way] and len(set(values)) == 9
        assert head.get_attribute("aria-sort") == state
    assert titles(page)[0] == "cfg 1.5"
    found(page, "#rows thead button")[0].click()
    assert titles(page)[1] == "autoguidance 1.5" and titles(page)[0] == ODD


def test_the_seed_slider_changes_the_pictures(page):
    from selenium.webdriver import Keys

    one(page, "#each option[value='1']").click()
    tiles = found(page, ".tile")
    assert len(tiles) == 9

    def shown(number, seed):
        picture = pixels(found(page, ".tile")[number])
        high, wide = picture.shape
        upper, lower = picture[high // 4, wide // 2], picture[3 * high // 4, wide // 2]
        # As tiny_configs.records makes them: the trial above, the seed below.
        return abs(int(upper) - (20 * number + 40)) <= 2 and abs(int(lower) - 12 * seed) <= 2

    for number in (0, 4, 8):
        assert shown(number, 0)
    focus(page, "#sliders input")
    press(page, *[Keys.ARROW_RIGHT] * 3)
    assert shown(0, 3) and shown(4, 3)
    press(page, Keys.END)  # in the second sprite
    assert shown(0, SEEDS - 1) and shown(8, SEEDS - 1)
    assert one(page, "#sliders output").text == str(SEEDS - 1)


def test_other_axes_lay_the_same_pictures_out_anew(page):
    one(page, "#each option[value='1']").click()
    one(page, "#down option[value='row']").click()
    one(page, "#across option[value='seed']").click()
    labels = [
        tile.get_attribute("aria-label") for tile in found(page, "#matrix tr:nth-child(2) .tile")
    ]
    assert labels == [f"cfg 2, seed {seed}" for seed in range(12)]
    one(page, "#across option[value='scale']").click()
    one(page, "#down option[value='seed']").click()
    # Three rules have a place in every cell: a slider chooses among them.
    sliders = {label.text.split("\n")[0]: label for label in found(page, "#sliders label")}
    assert set(sliders) == {"Seed", "Size", "rule"} | {"high", "low", "rule.name"} & set(sliders)
    first = found(page, "#matrix .tile")[0].get_attribute("aria-label")
    page.execute_script(
        "const s = arguments[0].querySelector('input'); s.value = 2;"
        "s.dispatchEvent(new Event('input'))",
        sliders["rule"],
    )
    assert found(page, "#matrix .tile")[0].get_attribute("aria-label") != first


@pytest.mark.parametrize("plot", ["along", "trade", "cost"])
def test_a_point_shows_its_values_under_the_mouse(page, plot):
    from selenium.webdriver import ActionChains

    page.execute_script(
        "arguments[0].scrollIntoView({block: 'center'})", one(page, f"#plot-{plot}")
    )
    point = found(page, f"#plot-{plot} .trace .point")[-2 if plot == "cost" else -1]
    ActionChains(page).move_to_element(point).perform()
    label = eventually(lambda: found(page, f"#plot-{plot} .hoverlayer .hovertext"))
    said = label[0].text
    assert "Frechet distance" in said and "G multiply-adds" in said and "precision" in said
    assert "Frechet distance" in one(page, "#readout").text


def test_points_are_reached_by_keyboard_and_lead_to_their_rows(page):
    from selenium.webdriver import Keys

    focus(page, "#plot-along")
    press(page, Keys.ARROW_RIGHT)
    assert eventually(lambda: "cfg 1.5" in one(page, "#readout").text)
    press(page, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert eventually(lambda: "cfg 2" in one(page, "#readout").text)
    assert found(page, "#plot-along .hoverlayer .hovertext")
    press(page, Keys.ENTER)
    opened = one(page, "tbody.chosen")
    assert "cfg 2" in opened.text and '"scale": 2.0' in opened.text
    assert "python main.py --config.guidance.scale=2.0" in opened.text
    assert page.switch_to.active_element.get_attribute("aria-expanded") == "true"
    press(page, Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("aria-expanded") == "false"


def test_a_line_that_is_left_out_is_left_out_of_all_plots(page):
    def points():
        return [len(found(page, f"#plot-{p} .point")) for p in ("along", "trade", "cost")]

    assert eventually(lambda: points() == [9, 9, 12])  # and three that are ringed
    found(page, "#legend input")[0].click()
    assert eventually(lambda: points() == [6, 6, 9])
    one(page, "#none").click()
    assert eventually(lambda: points() == [0, 0, 3])
    one(page, "#all").click()
    assert eventually(lambda: points() == [9, 9, 12])


def test_another_metric_is_plotted_and_written_below_pictures(page):
    before = one(page, "#matrix small").text
    one(page, "#quality option[value='recall']").click()
    assert one(page, "#along-title").text.lower() == "recall along scale"
    assert one(page, "#plot-along .ytitle").text == "recall"
    assert (before, one(page, "#matrix small").text) == ("10.00", "0.900")


def test_heights_are_logarithms_where_that_is_chosen(page):
    kinds = (
        "return ['along', 'cost'].map(n => document.getElementById('plot-' + n).layout.yaxis.type)"
    )
    assert page.execute_script(kinds) != ["log", "log"]  # the largest is five times the smallest
    one(page, "#log").click()
    assert eventually(lambda: page.execute_script(kinds) == ["log", "log"])


def test_everything_is_reached_by_the_tabulator_in_the_order_of_the_page(page):
    from selenium.webdriver import Keys

    page.execute_script(
        """
        window.wanted = [...document.querySelectorAll(
          "a, button, select, input, summary, [tabindex='0']")].filter(
          (e) => e.checkVisibility());
        window.reached = [];
        addEventListener("focusin", (e) => reached.push(wanted.indexOf(e.target)));
        """
    )
    count = page.execute_script("return wanted.length")
    assert count > 35
    one(page, "body").send_keys(Keys.TAB)
    for _ in range(0, count - 1, 20):
        press(page, *[Keys.TAB] * 20)
    reached = page.execute_script("return reached")
    assert reached[:count] == list(range(count))
    unnamed = page.execute_script(
        """
        return wanted.filter((e) => !(e.textContent.trim() || e.ariaLabel || e.labels?.length
          || e.getAttribute("aria-labelledby"))).map((e) => e.outerHTML)
        """
    )
    assert unnamed == []


@pytest.mark.parametrize(("width", "height"), PHONES)
def test_on_a_phone_the_page_is_as_wide_as_the_screen(page, width, height):
    shape(page, width, height, mobile=True)
    page.refresh()
    inner = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(inner) == [width, width]
    found(page, "#rows .open")[0].click()
    assert page.execute_script(inner) == [width, width]
    held = one(page, ".held").rect
    assert held["width"] <= width and pixels(one(page, "#plot-along")).std() > 5
    small = page.execute_script(
        """
        return [...document.querySelectorAll("button, select, input[type=range]")].filter(
          (e) => e.getClientRects().length && e.getBoundingClientRect().height < 24).length
        """
    )
    assert small == 0


def test_it_is_light_or_dark_as_the_system_is_or_as_is_chosen(page):
    def ground():
        return int(pixels(one(page, "section")).mean())

    assert ground() > 200
    shape(page, 1280, 900, scheme="dark")
    assert eventually(lambda: ground() < 80)
    one(page, "#theme").click()
    assert eventually(lambda: ground() > 200)


def test_odd_names_are_text_wherever_they_are_shown(page):
    from selenium.webdriver import Keys

    focus(page, "#plot-along")
    press(page, *[Keys.ARROW_RIGHT] * 6)
    assert eventually(lambda: ODD in one(page, "#readout").text)
    assert eventually(lambda: ODD in one(page, "#plot-along .hoverlayer").text)
    assert not found(page, "#odd, img, .hoverlayer i") and page.title == "tiny: sweep"
    fetched = page.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
    )
    assert [name for name in fetched if not name.startswith("data:")] == []
