"""The report in a real browser, without a network: Chromium and its driver, by way of selenium.

They are found on the path, or where RERANKX_CHROMIUM and RERANKX_CHROMEDRIVER say. RERANKX_AXE is the path of axe-core's
axe.min.js.
"""

import json
import os
import runpy
import shutil
from pathlib import Path

import pytest

from rerankx.evaluation.report import report

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = os.environ.get("RERANKX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = os.environ.get("RERANKX_CHROMEDRIVER") or shutil.which("chromedriver")
AXE = os.environ.get("RERANKX_AXE")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no chromium and chromedriver")

STAGE = runpy.run_path(str(Path(__file__).parent.parent / "evaluation" / "advice_stage.py"))
advice, hostile, HOSTILE, ENDED = (STAGE[name] for name in ("advice", "hostile", "HOSTILE", "ENDED_BEFORE_ANY_MODEL"))

PAGES = {
    "rerank": lambda: advice(),
    "skip": lambda: advice(decision="skip"),
    "inconclusive": lambda: advice(decision="inconclusive"),
    "ceiling": lambda: advice(**ENDED),
    "hostile": lambda: hostile(" ".join(HOSTILE)),
    "unbroken": lambda: hostile("W" * 10_000),
}
FLAGS = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions",
        {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0},
    )
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reports")
    for name, make in PAGES.items():
        (folder / f"{name}.html").write_text(report(make()), encoding="utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in PAGES}


def shown(browser, uri, width=1280, scheme="light"):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(uri)


@pytest.mark.parametrize("name", PAGES)
def test_the_page_says_nothing_on_the_console_and_asks_for_nothing_but_itself(browser, files, name):
    shown(browser, files[name])
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert asked == [files[name]]
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_nothing_of_a_hostile_text_runs_and_a_script_would_be_stopped(browser, files):
    shown(browser, files["hostile"])
    assert (
        browser.execute_script("return document.scripts.length + document.images.length + document.forms.length") == 0
    )
    # What the page's policy would do to markup that got in after all.
    browser.execute_script("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.ran=1\">')")
    ran = browser.execute_async_script("setTimeout(() => arguments[0](window.ran || 0), 200)")
    assert ran == 0
    assert any("Content Security Policy" in entry["message"] for entry in browser.get_log("browser"))


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_wider_than_the_window(browser, files, name, width):
    shown(browser, files[name], width)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    outside = """
        const kept = new Set(document.querySelectorAll('.scroll *, pre *, .skip-link, svg *'));
        return [...document.body.querySelectorAll('*')].filter(one => !kept.has(one) &&
            one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 80))"""
    assert browser.execute_script(outside) == []


@pytest.mark.parametrize("width", [360, 1280])
def test_every_chart_is_seen_once_and_its_letters_are_readable(browser, files, width):
    shown(browser, files["rerank"], width)
    charts = browser.execute_script("""
        return [...document.querySelectorAll('svg[role=img]')].filter(one => one.checkVisibility()).map(one => {
            const box = one.getBoundingClientRect(), text = one.querySelector('text').getBoundingClientRect();
            return {id: one.getAttribute('aria-labelledby'), width: box.width, height: box.height, letters: text.height}})""")
    seen = [chart["id"].partition("-")[0] for chart in charts]
    assert sorted(seen) == ["depth", "depth", "gains", "recall", "reliability", "tradeoff"]
    assert all(chart["width"] >= 250 and chart["height"] >= 50 and chart["letters"] >= 10 for chart in charts)
    texts_outside = """
        return [...document.querySelectorAll('svg[role=img]')].filter(one => one.checkVisibility()).flatMap(one => {
            const box = one.getBoundingClientRect();
            return [...one.querySelectorAll('text')].filter(text => { const at = text.getBoundingClientRect();
                return at.left < box.left - 1 || at.right > box.right + 1 || at.bottom > box.bottom + 1 || at.top < box.top - 1;
            }).map(text => text.textContent)})"""
    assert browser.execute_script(texts_outside) == []


def brightness(browser, what):
    colour = browser.execute_script(f"return getComputedStyle(document.body).{what}")
    return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(","))) / 3


def test_dark_mode_is_dark(browser, files):
    shown(browser, files["rerank"], scheme="dark")
    assert brightness(browser, "backgroundColor") < 60
    assert brightness(browser, "color") > 180
    shown(browser, files["rerank"])
    assert brightness(browser, "backgroundColor") > 200


def test_print_is_light_and_whole_even_in_dark_mode(browser, files):
    shown(browser, files["rerank"], scheme="dark")
    features = [{"name": "prefers-color-scheme", "value": "dark"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": features})
    assert brightness(browser, "backgroundColor") > 200
    cut = "return [...document.querySelectorAll('.scroll, pre')].filter(one => one.scrollHeight > one.clientHeight + 2).length"
    assert browser.execute_script(cut) == 0


def test_tab_goes_through_the_page_in_its_order_beginning_with_the_skip_link(browser, files):
    shown(browser, files["rerank"])
    focused = """const one = document.activeElement; if (one === document.body) return null;
        one.dataset.visited ??= document.querySelectorAll('[data-visited]').length;
        const style = getComputedStyle(one), all = [...document.querySelectorAll('*')];
        return [all.indexOf(one), one.className, style.outlineStyle !== 'none' || one.matches('.skip-link')]"""
    stops = []
    for _ in range(60):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        stop = browser.execute_script(focused)
        if stop is None or (stops and stop[0] <= stops[0][0]):
            break
        stops.append(stop)
    assert stops[0][1] == "skip-link"
    places = [place for place, _, _ in stops]
    assert places == sorted(places)
    assert all(visible for _, _, visible in stops)
    reachable = browser.execute_script("""return [...document.querySelectorAll('a[href], summary, [tabindex="0"]')]
        .filter(one => one.checkVisibility() && one.dataset.visited === undefined).map(one => one.outerHTML.slice(0, 80))""")
    assert reachable == []


def test_the_skip_link_leads_to_the_decision(browser, files):
    shown(browser, files["rerank"])
    ActionChains(browser).send_keys(Keys.TAB).send_keys(Keys.ENTER).perform()
    assert browser.execute_script("return document.activeElement.id") == "decision"


@pytest.mark.skipif(not AXE, reason="RERANKX_AXE does not say where axe-core is")
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_violation(browser, files, name, scheme, width):
    shown(browser, files[name], width, scheme)
    browser.execute_script("document.querySelectorAll('details').forEach(one => one.open = true)")
    browser.execute_script(Path(AXE).read_text(encoding="utf-8"))
    found = browser.execute_async_script(
        "axe.run().then(arguments[0], error => arguments[0]({violations: [String(error)]}))"
    )
    told = [[one["id"], [node["html"][:120] for node in one["nodes"]][:3]] for one in found["violations"]]
    assert told == []
