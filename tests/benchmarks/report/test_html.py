"""`report.html`: what stands in it, and how it behaves in a browser."""

from __future__ import annotations

import copy
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aimc_bridge import drawing
from benchmarks.report import conclusions
from benchmarks.report.html import build, inline, page

DATA = "D <b>bold</b>"
MODEL = "<script>alert(1)</script> & co"
TIMES = (1.0, 3600.0)
ENGINES = ("native", "aihwkit")


def results() -> pd.DataFrame:
    """Return a run of one model: three chips, two phases, two engines, two times."""
    base = {"model": MODEL, "dataset": DATA, "preset": "p<q", "seed": 0}
    table = [
        {**base, "phase": "digital", "engine": "digital", "metric": metric, "value": value}
        for metric, value in (("accuracy", 0.9), ("error", 0.1))
    ]
    for phase, fall in (("direct", 0.20), ("hwa", 0.02)):
        for engine in ENGINES:
            for index, t_s in enumerate(TIMES):
                for chip in range(3):
                    apart = 0.01 if phase == "direct" else 0.02
                    accuracy = 0.88 - fall * index + apart * (chip - 1)
                    place = {"phase": phase, "engine": engine, "t_inference": t_s}
                    place |= {"chip": chip, "seed": chip}
                    table += [
                        {**base, **place, "metric": "accuracy", "value": accuracy},
                        {**base, **place, "metric": "error", "value": 1 - accuracy},
                    ]
    return pd.DataFrame(table)


ABOUT: dict[str, Any] = {
    "command": "python -m benchmarks.run --out 'a<b>'",
    "arguments": {"preset": "p<q", "seed": 3},
    "versions": {"torch": "2.11"},
    "hardware": {
        "cpu": "a machine",
        "gpu": None,
        "memory_gb": 25.3,
        "allocator": {"MALLOC_ARENA_MAX": "2"},
    },
    "studies": {
        "t": {
            "model": MODEL,
            "dataset": DATA,
            "metric": "accuracy",
            "chance_error": 0.5,
            "samples": {DATA: 1000},
            "tiles": 4,
            "analog_weights": 30,
            "wall_s": {"direct native": 2.0, "hwa native": 3.5},
            "intervals": [],
            "coverage": {
                "columns": ["module", "type", "parameters", "where", "tiles", "reason", "macs"],
                "rows": [
                    ["fc", "Linear", 30, "analog", 4, "", 75],
                    ["head", "Linear", 10, "digital", 0, "excluded", 25],
                ],
            },
            "layers": {
                "direct": {
                    "seed": 3,
                    "times": list(TIMES),
                    "layers": ["fc", "fc<2>"],
                    "alpha": [[1.0, 1.1], [1.2, 1.3]],
                    "mvm_error": [[0.05, 0.06], [0.07, 0.08]],
                }
            },
        }
    },
}


@pytest.fixture(scope="module")
def made() -> str:
    return build.of_run(Path("runs/x"), results(), ABOUT).html()


def test_names_that_hold_html_are_text(made: str) -> None:
    assert MODEL not in made and "&lt;script&gt;alert(1)" in made
    assert made.count("<script") == 1  # the page's own
    assert "<b>" not in made and "fc<2>" not in made


def test_spreads_and_intervals_are_not_broken_between_lines() -> None:
    table = page.Table(["A*"], [["95.76 ± 2.02 % (93.86 to 97.66)"], ["<b> (8 x 8)"]])
    made = page.Page("t", "q", ("a",), [page.Section("s", tables=[table])]).html()
    whole = '<span class="whole">'
    assert f"<td>{whole}95.76 ± 2.02 %</span> {whole}(93.86 to 97.66)</span></td>" in made
    assert f"<td>&lt;b&gt; {whole}(8 x 8)</span></td>" in made


def test_a_report_refers_to_nothing_outside_of_it(made: str) -> None:
    text = re.sub(r'xmlns(:\w+)?="[^"]*"', "", made)
    assert not re.search(r"https?://|//[\w.]+/|@import|url\((?!#)", text)
    assert not re.search(r"<(link|img|iframe|object)\b(?![^>]*data:)", text)


def test_ids_are_unique_and_every_reference_has_one(made: str) -> None:
    ids = re.findall(r'\bid="([^"]+)"', made)
    assert len(ids) == len(set(ids))
    wanted = {*re.findall(r'href="#([^"]+)"', made), *re.findall(r"url\(#([^)]+)\)", made)}
    assert wanted <= set(ids)


def test_the_run_is_answered_and_the_shares_are_those_of_its_multiplications(made: str) -> None:
    # A* = 1 - (err - 0.1) / 0.4: direct 0.32 -> 0.45, hwa 0.14 -> 0.90
    assert "45.00 ± 2.50 %" in made and "90.00 ± 5.00 %" in made
    assert "75.0 % of the multiplications are on 4 tiles, with 30 weights." in made
    assert "all parts" in made and "5.5" in made


def test_each_chip_and_each_mean_of_the_figure_is_marked(made: str) -> None:
    figure = made[made.index('class="charts"') : made.index("What is on tiles")]
    for series in ("direct-native", "direct-aihwkit", "hwa-native", "hwa-aihwkit"):
        assert figure.count(f'class="mark chip" data-series="{series}"') == 3
        assert figure.count(f'class="mark point" data-series="{series}"') == len(TIMES)
    # the mean of the chips at 0.87, 0.88, 0.89 with t of 2 degrees of freedom, 4.3027
    assert "direct conversion, native, 1s: 88 ± 2.5 %" in figure


def test_the_machine_is_told_in_words(made: str) -> None:
    cells = re.findall(r"<td>machine</td><td>(.*?)</td><td>(.*?)</td>", made)
    assert cells == [
        ("cpu", "a machine"),
        ("memory, GB", "25.3"),
        ("allocator", "MALLOC_ARENA_MAX=2"),
    ]


def test_a_run_that_recorded_no_layers_says_what_records_them() -> None:
    about = copy.deepcopy(ABOUT)
    del about["studies"]["t"]["coverage"], about["studies"]["t"]["layers"]
    text = build.of_run(Path("x"), results(), about).html()
    assert text.count("a new python -m benchmarks.run") == 2


def test_the_answer_is_the_conclusions_of_the_terminal_and_the_summary() -> None:
    """There is a paragraph for each engine; an interval of one of them changes its own alone."""
    about = copy.deepcopy(ABOUT)
    entry = {"phase": "hwa", "minus": "direct", "engine": "native", "data": DATA}
    entry |= {"t_inference": 3600.0, "mean": -0.18, "low": -0.4, "high": 0.04}
    about["studies"]["t"]["changes"] = [{**entry, "over": "chips, samples"}]
    made = build.of_run(Path("x"), results(), about)
    assert made.answer == tuple(
        found.text for found in conclusions.conclude(results(), about["studies"])
    )
    native, aihwkit = made.answer
    assert "on native" in native and "neither a gain nor a harm" in native
    # direct 0.68, hwa 0.86; chips are 17, 18 and 19 points better
    assert "on aihwkit" in aihwkit and "brings back 18.0 points" in aihwkit
    assert made.question == (
        "What does a model lose on chips of preset p<q, 1h after programming, and what does "
        "hardware-aware training bring back?"
    )
    for text in made.answer:
        assert f"<p>{html.escape(text)}</p>" in made.html()


def test_a_run_without_chips_and_without_training_is_answered() -> None:
    rows = results()
    digital = build.of_run(Path("x"), rows[rows.phase == "digital"], ABOUT)
    assert digital.answer == ("Nothing was measured on a chip.",)
    direct = build.of_run(Path("x"), rows[rows.phase != "hwa"], ABOUT)
    assert direct.question.endswith("1h after programming?") and "training" not in direct.answer[0]


def test_a_button_shows_the_marker_and_the_dashes_of_its_series(made: str) -> None:
    buttons = re.findall(r'<button[^>]*data-filter="([\w-]+)"[^>]*>(.*?)</button>', made)
    keys = dict(buttons)
    assert "stroke-dasharray" in keys["digital"] and 'class="shape"' not in keys["digital"]
    phases = [keys[f"{phase}-{engine}"] for phase in ("direct", "hwa") for engine in ENGINES]
    assert len({re.findall(r'class="shape" d="([^"]+)"', text)[0] for text in phases}) == 4


@pytest.mark.parametrize("marker", drawing.MARKERS)
def test_a_marker_fits_its_button(marker: str) -> None:
    numbers = list(map(float, re.findall(r"-?[\d.]+", inline.marker_path(marker, (12, 6), 8))))
    for values, middle in ((numbers[::2], 12), (numbers[1::2], 6)):
        assert 3 < max(values) - min(values) < 12
        assert abs((max(values) + min(values)) / 2 - middle) < 1


# --- in a browser ---------------------------------------------------------------------------------

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

CONTRAST = """
const lum = (c) => { const v = c.map((x) => { x /= 255; return x <= .04045 ? x / 12.92 :
  Math.pow((x + .055) / 1.055, 2.4); }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
const rgb = (s) => (s.match(/[\\d.]+/g) || []).map(Number);
const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p);
  return (x + .05) / (y + .05); };
const ground = (e) => { for (; e; e = e.parentElement) {
  const c = rgb(getComputedStyle(e).backgroundColor);
  if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
const out = [];
const push = (kind, what, paint, e) =>
  out.push([kind, what, ratio(rgb(paint).slice(0, 3), ground(e))]);
const drawn = [".line", ".point", ".bar"].flatMap((c) => [`svg ${c} path`, `svg ${c} use`]);
for (const e of document.querySelectorAll("h1,h2,p,td,th,caption,button,strong,code")) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  push("text", e.tagName + " " + e.className, getComputedStyle(e).color, e);
}
for (const e of document.querySelectorAll("svg text"))
  push("text", e.textContent, getComputedStyle(e).fill, e);
for (const e of document.querySelectorAll(drawn.join(","))) {
  const s = getComputedStyle(e); const paint = s.stroke !== "none" ? s.stroke : s.fill;
  push("graphic", e.outerHTML.slice(0, 80), paint, e);
}
for (const e of document.querySelectorAll(".swatch"))
  push("graphic", "swatch", getComputedStyle(e).color, e.parentElement);
for (const e of document.querySelectorAll("button"))
  push("graphic", "border", getComputedStyle(e).borderColor, e.parentElement);
return out;
"""


VISIBLE = """
return [...document.querySelectorAll("%s")]
  .filter((e) => getComputedStyle(e).display !== "none").length
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory, made: str) -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium or no chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    profile = tmp_path_factory.mktemp("profile")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(made, encoding="utf-8")
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get("about:blank")
        for name in ("browser", "performance"):
            driver.get_log(name)  # what the browser's own first page loaded
        driver.get(path.as_uri())
        yield driver
    finally:
        driver.quit()


def test_no_console_error_and_no_request(browser: Any) -> None:
    assert browser.get_log("browser") == []
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"
    ]
    assert urls and all(url.startswith(("file:", "data:")) for url in urls)


def test_every_figure_is_drawn(browser: Any) -> None:
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('figure > svg')].map((s) => [s.getBBox().width,"
        " s.getBoundingClientRect().height, s.querySelectorAll('.mark').length])"
    )
    assert len(sizes) == 3  # against time, MVM error, compensation
    assert all(width > 100 and height > 100 and marks > 3 for width, height, marks in sizes)


def test_a_click_filters_the_figure_and_the_table(browser: Any) -> None:
    from selenium.webdriver.common.by import By

    shown = VISIBLE % "svg [data-series='direct-native'], tr[data-series='direct-native']"
    before = browser.execute_script(shown)
    button = browser.find_element(By.CSS_SELECTOR, '[data-filter="direct-native"]')
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert before > 10 and browser.execute_script(shown) == 0
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    assert browser.execute_script(shown) == before
    chips = VISIBLE % "svg .chip"
    toggle = browser.find_element(By.CSS_SELECTOR, "[data-chips]")
    assert browser.execute_script(chips) == 12
    toggle.click()
    assert browser.execute_script(chips) == 0
    toggle.click()


def test_the_keyboard_reaches_every_button_with_visible_focus(browser: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.refresh()  # Tab goes on from the last click, even if nothing has the focus
    buttons = browser.execute_script("return document.querySelectorAll('button').length")
    seen = []
    for _ in range(buttons + 20):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        tag, name, width, place = browser.execute_script(
            "const e = document.activeElement, s = getComputedStyle(e);"
            "return [e.tagName, e.textContent, s.outlineStyle === 'none' ? '0px' : s.outlineWidth,"
            " [...document.querySelectorAll('*')].indexOf(e)]"
        )
        if tag == "BODY" or (seen and place <= seen[-1][0]):
            break
        assert float(width.removesuffix("px")) >= 2, (tag, name)
        seen.append((place, tag, name))
    assert sum(tag == "BUTTON" for _, tag, _ in seen) == buttons
    pressed = browser.execute_script(
        "const all = [...document.querySelectorAll('button')];"
        "return all.every((b) => b.id === 'theme' || b.hasAttribute('aria-pressed'))"
    )
    assert pressed


@pytest.mark.parametrize(("scheme", "other"), [("light", "Dark"), ("dark", "Light")])
def test_the_theme_button_says_what_it_does(browser: Any, scheme: str, other: str) -> None:
    """By mouse and by keyboard; the words follow the system's scheme too."""
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.refresh()
    paper = "return getComputedStyle(document.body).backgroundColor"
    papers = {"Dark": "rgb(21, 24, 27)", "Light": "rgb(255, 255, 255)"}
    words = [other, "Light" if other == "Dark" else "Dark"]
    theme = browser.find_element("id", "theme")
    for act in (theme.click, lambda: theme.send_keys(Keys.SPACE), lambda: theme.send_keys("\n")):
        assert theme.text == f"{words[0]} theme"
        assert theme.get_attribute("aria-pressed") is None  # the words say it
        act()
        assert browser.execute_script(paper) == papers[words[0]]
        words.reverse()
    theme.click()
    turned = {"name": "prefers-color-scheme", "value": other.lower()}
    browser.refresh()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [turned]})
    theme = browser.find_element("id", "theme")
    WebDriverWait(browser, 20).until(lambda _: theme.text == f"{scheme.title()} theme")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_both_schemes(browser: Any, scheme: str) -> None:
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.execute_script("delete document.documentElement.dataset.theme")
    measured = browser.execute_script(CONTRAST)
    kinds = {kind for kind, _, _ in measured}
    assert kinds == {"text", "graphic"} and len(measured) > 100
    low = [m for m in measured if m[2] < (4.5 if m[0] == "text" else 3.0)]
    assert low == []


def test_a_phone_of_360_pixels_scrolls_in_one_direction(browser: Any) -> None:
    size = {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        inner, content = browser.execute_script(
            "return [window.innerWidth, document.documentElement.scrollWidth]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert inner == 360 and content <= 360


def test_a_print_is_dark_on_white_without_the_toggle(browser: Any) -> None:
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        paper, ink, toggle = browser.execute_script(
            "const s = getComputedStyle(document.body);"
            "return [s.backgroundColor, s.color,"
            " getComputedStyle(document.getElementById('theme')).display]"
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert (paper, ink, toggle) == ("rgb(255, 255, 255)", "rgb(0, 0, 0)", "none")


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    made = page.Page("T", "Q?", ("A.",), [page.Section("S", ["<i>words</i>"], code="a && b")])
    path = page.write(made, tmp_path / page.FILE)
    text = path.read_text(encoding="utf-8")
    assert "&lt;i&gt;words&lt;/i&gt;" in text and "a &amp;&amp; b" in text
    assert text.rstrip().endswith("</html>")
