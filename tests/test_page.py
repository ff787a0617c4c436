"""The page in a real browser, from disk: it draws, answers to mouse and keys, runs nothing of a stranger's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_report import HOSTILE, findings_of, write_run, write_script
from fixtures_slim import model_report, slim_report

from wellfit.finding import Finding
from wellfit.record import Run, open_run
from wellfit.report import to_html
from wellfit.slim.page import of_model
from wellfit.slim.page import to_html as slim_to_html

webdriver = pytest.importorskip("selenium.webdriver", reason="the page is tested with selenium, which is not installed")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="the page is tested with chromium and chromedriver, which are not installed"
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,900",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A fresh browser that keeps its console and its requests."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Finding], Run, Path]:
    folder = tmp_path_factory.mktemp("ill")
    return findings_of(write_script(folder)), write_run(folder / "run", steps=80, layers=3), folder


def show(browser: Any, page: str, folder: Path) -> list[str]:
    """Open a page from disk with empty logs; every address it asks for afterwards is returned by `requests`."""
    file = folder / "page.html"
    file.write_text(page, encoding="utf-8")
    browser.get("about:blank")
    for name in ("browser", "performance"):
        browser.get_log(name)
    browser.get(file.as_uri())
    return [file.as_uri()]


def requests(browser: Any) -> list[str]:
    """The addresses that the page asked for."""
    found = []
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            found.append(message["params"]["request"]["url"])
    return found


def all_of(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements(By.CSS_SELECTOR, selector))


def painted(browser: Any, selector: str) -> int:
    """How many different colours a canvas holds."""
    script = """
        const canvas = document.querySelector(arguments[0]);
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let i = 0; i < data.length; i += 4) seen.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
        return seen.size;"""
    return int(browser.execute_script(script, selector))


def test_findings_come_first_and_hostile_names_stay_text(browser: Any, ill: Any) -> None:
    findings, run, folder = ill
    expected = show(browser, to_html(findings, run), folder)
    assert browser.find_element(By.TAG_NAME, "h1").text.startswith("2 errors")
    cards = all_of(browser, "article.finding.error")
    assert [card.find_element(By.TAG_NAME, "h3").text for card in cards] == ["lr-high", "dead-units"]
    assert "optimizer = torch.optim.SGD" in cards[0].find_element(By.CSS_SELECTOR, ".blamed").text
    assert "Divide the learning rate by 10" in cards[0].text and "2.912" in cards[0].text
    assert cards[1].find_element(By.CSS_SELECTOR, ".of").text.startswith("</script><img src=x")
    assert not all_of(browser, "img") and HOSTILE.startswith("</script>")
    assert browser.get_log("browser") == []
    assert requests(browser) == expected


def test_clicking_a_layer_shows_its_curves(browser: Any, ill: Any) -> None:
    findings, run, folder = ill
    show(browser, to_html(findings, run), folder)
    assert painted(browser, ".map canvas") > 20
    assert not all_of(browser, "#layer .uplot")
    rows = all_of(browser, ".option")
    assert [row.text for row in rows] == ["blocks.0", "blocks.1", "blocks.2"]
    rows[1].click()
    assert browser.find_element(By.CSS_SELECTOR, "#layer h3").text == "blocks.1"
    drawn = [chart.get_attribute("data-metric") for chart in all_of(browser, "#layer figure:has(.uplot)")]
    assert drawn == ["gradient", "update", "activation", "backward"]
    assert painted(browser, "#layer figure canvas") > 3
    assert "at step 79" in browser.find_element(By.CSS_SELECTOR, "#layer .now").text
    assert browser.get_log("browser") == []


def test_the_map_answers_to_keys_and_to_its_selector(browser: Any, ill: Any) -> None:
    findings, run, folder = ill
    show(browser, to_html(findings, run), folder)
    names = browser.find_element(By.CSS_SELECTOR, ".names")
    names.send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert browser.find_element(By.CSS_SELECTOR, "#layer h3").text == "blocks.1"
    names.send_keys(Keys.ARROW_LEFT)
    assert "blocks.1, step 78, gradient rms" in browser.find_element(By.CSS_SELECTOR, "[aria-live]").get_attribute(
        "textContent"
    )
    browser.find_element(By.CSS_SELECTOR, "input[value=dead]").send_keys(Keys.SPACE)
    assert [row.text for row in all_of(browser, ".option")][1:] == ["blocks.1.act", "blocks.2.act"]
    assert "Share of units" in browser.find_element(By.ID, "metric-about").text
    assert browser.get_log("browser") == []


def test_a_finding_leads_to_its_layer(browser: Any, ill: Any) -> None:
    findings, run, folder = ill
    show(browser, to_html(findings, run), folder)
    all_of(browser, "button.of")[0].click()
    assert browser.find_element(By.CSS_SELECTOR, "#layer h3").text == "blocks.0"


def test_log_scale_of_the_loss(browser: Any, ill: Any) -> None:
    findings, run, folder = ill
    show(browser, to_html(findings, run), folder)
    before = browser.execute_script("return document.querySelector('#loss-plot canvas').toDataURL()")
    toggle = browser.find_element(By.ID, "loss-log")
    toggle.click()
    assert browser.execute_script("return document.querySelector('#loss-plot canvas').toDataURL()") != before
    assert "not finite, first at step 79" in browser.find_element(By.ID, "loss-words").text
    assert browser.get_log("browser") == []


def test_an_empty_run_has_a_page_without_empty_parts(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    show(browser, to_html([], open_run(tmp_path)), tmp_path)
    assert "Nothing to judge" in browser.find_element(By.TAG_NAME, "h1").text
    assert not any(section.is_displayed() for section in all_of(browser, "section"))
    assert browser.get_log("browser") == []


def test_a_single_step_and_many_layers(browser: Any, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps=1, layers=60, hostile=False, diverge=False)
    show(browser, to_html([], run), tmp_path)
    assert browser.find_element(By.TAG_NAME, "h1").text == "No illness seen but 1 step is too few to judge."
    all_of(browser, ".option")[7].click()
    assert browser.find_element(By.CSS_SELECTOR, "#layer h3").text == "blocks.7"
    assert browser.get_log("browser") == []


def test_a_try_of_a_slimming_tells_its_setting(browser: Any, tmp_path: Path) -> None:
    expected = show(browser, slim_to_html(slim_report()), tmp_path)
    assert browser.find_element(By.TAG_NAME, "h1").text == "29x smaller, accuracy +1.01 points"
    tip = browser.find_element(By.CSS_SELECTOR, ".front .tip")
    assert not tip.is_displayed()
    ActionChains(browser).move_to_element(browser.find_element(By.CSS_SELECTOR, ".front .point.try .dot")).perform()
    lines = ["90.00 % (-0.68 points)", "5,100 bytes, 27x smaller"]
    assert tip.text.split("\n")[:2] == lines and "20 % of the weights, 16 values a layer, taught" in tip.text
    inside = (
        "const t = arguments[0].getBoundingClientRect(); return t.left >= 0 && t.right <= innerWidth && t.width > 99"
    )
    assert browser.execute_script(inside, tip)
    browser.execute_script("document.querySelector('.front .point.chosen').focus()")
    assert "the file that was given" in tip.text
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
    browser.execute_script("document.activeElement.blur()")
    assert not tip.is_displayed()
    wide = "return document.documentElement.scrollWidth - innerWidth"
    assert browser.execute_script(wide) <= 0
    assert browser.get_log("browser") == []
    assert requests(browser) == expected


def test_no_table_of_a_slim_model_is_cut_off(browser: Any, tmp_path: Path) -> None:
    show(browser, slim_to_html(of_model(model_report())), tmp_path)
    browser.execute_script("document.querySelector('details').open = true")
    cut = "return [...document.querySelectorAll('.scroll')].map(one => one.scrollWidth - one.clientWidth)"
    assert browser.execute_script(cut) == [0, 0, 0, 0]
    assert browser.get_log("browser") == []
