"""The report in a real browser: nothing leaves the page, nothing is complained of, nothing is wider than the screen."""

import os
import shutil
import subprocess

import numpy as np
import pytest
from matplotlib.image import imread

from alignvis.reports.writing import write_report
from tests.answers import copied
from tests.browser import Browser, find
from tests.reported import analysed, twins

PROGRAM = find()
pytestmark = pytest.mark.skipif(
    PROGRAM is None and "CI" not in os.environ, reason="asks what a browser shows, and there is no Chromium here"
)
PHONE, DESK = 360, 1280  # pixels of CSS


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    """A page with every kind of part, names of hostile length among them."""
    root = twins(tmp_path_factory.mktemp("root"))
    for command in ("rsa", "encode"):
        analysed(root, command, "--subject", "1-2", "--window", "0:0.1")
    copied(root / "runs/sub-01_human", root / f"runs/{'a-long-name-without-a-space' * 7}", seed=5)
    write_report(root, [], root / "report.html", title="Which picture was it, <b>really</b>?")
    return (root / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    assert PROGRAM, "there is no Chromium, and CI should have one"
    browser = Browser(PROGRAM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def wider_than_the_screen(browser: Browser) -> list[str]:
    """Elements that reach beyond the screen and are in no box that scrolls."""
    return browser.value("""(() => {
        const out = [];
        for (const e of document.querySelectorAll('body *')) {
            const box = e.closest('.wide, .card');
            const right = (box && box !== e ? box : e).getBoundingClientRect().right;
            if (right > document.documentElement.clientWidth + 0.5) out.push(e.tagName + '.' + e.className);
        }
        return out;
    })()""")


@pytest.mark.parametrize(("width", "phone"), [(PHONE, True), (DESK, False)])
def test_nothing_is_complained_of_and_no_request_leaves_the_page(browser, address, width, phone):
    browser.look(width, phone=phone)
    browser.open(address)
    said = [event for event in browser.events if event["method"] in ("Log.entryAdded", "Runtime.consoleAPICalled")]
    assert not said and not [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
    asked = [event["params"] for event in browser.events if event["method"] == "Network.requestWillBeSent"]
    urls = [params["request"]["url"] for params in asked]
    assert address in urls and all(url == address or url.startswith("data:") for url in urls), urls
    assert not [event for event in browser.events if event["method"] == "Network.loadingFailed"]


def test_the_watch_would_see_a_request_and_an_error(browser, tmp_path):
    """The same questions on a page that does both."""
    page = tmp_path / "bad.html"
    page.write_text("<img src='http://127.0.0.1:9/x.png'><script>console.error('no'); missing()</script>")
    browser.open(page.as_uri())
    methods = [event["method"] for event in browser.events]
    assert "Runtime.consoleAPICalled" in methods and "Runtime.exceptionThrown" in methods
    assert any("127.0.0.1" in event["params"]["request"]["url"] for event in browser.events
               if event["method"] == "Network.requestWillBeSent")  # fmt: skip


@pytest.mark.parametrize(("width", "phone"), [(PHONE, True), (DESK, False)])
def test_only_tables_and_figures_scroll_sideways_and_never_the_page(browser, address, width, phone):
    browser.look(width, phone=phone)
    browser.open(address)
    assert browser.value("document.documentElement.scrollWidth") <= width == browser.value("innerWidth")
    assert wider_than_the_screen(browser) == []
    boxes = "Array.from(document.querySelectorAll('.wide, .card'))"
    assert browser.value(f"{boxes}.every(box => ['auto', 'scroll'].includes(getComputedStyle(box).overflowX))")
    assert browser.value(f"{boxes}.every(box => box.tabIndex === 0)")  # the keyboard scrolls them too
    if phone:
        assert browser.value(f"{boxes}.some(box => box.scrollWidth > box.clientWidth)")  # or nothing was asked


def test_every_picture_is_shown(browser, address):
    browser.look(DESK)
    browser.open(address)
    assert browser.value("document.images.length") >= 5
    assert browser.value("Array.from(document.images).every(one => one.complete && one.naturalWidth > 100)")


# Into the tables of scores, names and numbers as long as they get; of each table then its widths and columns.
LONG = """(() => Array.from(document.querySelectorAll('.wide')).slice(0, 2).map(box => {
    const around = ends => ` <span class="around">(${ends})</span>`;
    const spread = '51.0 <wbr><span class="whole">± 12.3</span>' + around('22.8 to 40.6');
    const name = '●&nbsp;harmonization_<wbr>vitb16_<wbr>imagenet_<wbr>noalign <span class="second">eegconformer</span>';
    const said = [name, '<strong>all 10</strong>', '5'];
    const held = [spread, spread, spread, spread, spread];
    held.push('7.83' + around('4.67 to 12.5'), '0.202' + around('0.139 to 0.277'), '[1–5, <wbr>11–15, <wbr>21–25]');
    for (const row of box.querySelectorAll('tbody tr')) {
        const cells = Array.from(row.children);
        [...said, ...held].forEach((words, place) => { cells[place].innerHTML = words; });
    }
    return [box.scrollWidth, box.clientWidth, box.querySelectorAll('thead th').length];
}))()"""


@pytest.mark.parametrize("dark", [False, True])
def test_tables_of_scores_are_whole_on_a_desk_with_names_and_spreads_as_long_as_they_get(browser, address, dark):
    browser.look(DESK, dark=dark)
    browser.open(address)
    widths = browser.value(LONG)
    assert all(inner <= outer and columns == 11 for inner, outer, columns in widths) and len(widths) == 2, widths


@pytest.mark.parametrize("long", [False, True])
def test_on_a_phone_the_first_score_stands_beside_the_name_of_its_row_which_stays(browser, address, long):
    browser.look(PHONE, phone=True)
    browser.open(address)
    if long:
        browser.value(LONG)
    places = """Array.from(document.querySelectorAll('.wide')).slice(0, 2).map(box => {
        box.scrollLeft = %d;
        const edges = one => [one.getBoundingClientRect().left, one.getBoundingClientRect().right];
        const row = box.querySelector('tbody tr'), words = row.children[3].querySelector('.around');
        return [edges(box), edges(row.children[0]), edges(words), getComputedStyle(row.children[0]).backgroundColor];
    })"""
    for box, name, score, _ in browser.value(places % 0):
        assert box[0] <= name[0] and 110 <= name[1] - name[0] < 160 and name[1] < score[0] and score[1] <= box[1]
    for box, name, score, behind in browser.value(places % 150):
        assert abs(name[0] - box[0]) < 1 and score[0] < name[1]  # the score has gone below the name
        assert behind == "rgb(255, 255, 255)"  # and does not shine through


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_an_interval_is_a_line_of_its_own_below_its_number_and_quieter(browser, address, width):
    browser.look(width, phone=width == PHONE)
    browser.open(address)
    found = browser.value("""Array.from(document.querySelectorAll('td .around')).map(one => {
        const range = document.createRange(), cell = one.parentElement;
        range.setStart(cell, 0);
        range.setEndBefore(one);
        const above = range.getBoundingClientRect(), [here, ...more] = Array.from(one.getClientRects());
        const [own, whole] = [one, cell].map(each => parseFloat(getComputedStyle(each).fontSize));
        const lines = here.height / parseFloat(getComputedStyle(one).lineHeight);
        return [more.length, lines, here.top >= above.bottom - 1, own / whole, one.textContent];
    })""")
    assert len(found) > 60 and all(words.startswith("(") and " to " in words for *_, words in found)
    assert all(more == 0 and lines < 1.5 and below and size < 0.9 for more, lines, below, size, _ in found)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_options_of_commands_are_not_taken_apart_at_their_hyphens(browser, address, width):
    browser.look(width, phone=width == PHONE)
    browser.open(address)
    lines = browser.value("Array.from(document.querySelectorAll('pre .whole')).map(one => one.getClientRects().length)")
    assert len(lines) > 10 and set(lines) == {1}
    said = browser.value("Array.from(document.querySelectorAll('pre code')).map(one => one.textContent)")
    assert any(" --dataset tiny --subject 1 --raw RECORDING" in line for line in said)  # as it is copied


@pytest.mark.parametrize("dark", [False, True])
def test_words_can_be_read_in_light_and_in_dark(browser, address, dark, tmp_path):
    """WCAG 2.1: 4.5 to 1 between words and what is behind them; figures stand on white in both."""
    browser.look(DESK, dark=dark)
    browser.open(address)
    contrasts = browser.value("""(() => {
        const parts = colour => colour.match(/[\\d.]+/g).map(Number);
        const light = colour => {
            const shares = parts(colour).map(v => v / 255);
            const [r, g, b] = shares.map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const behind = e => {
            for (; e; e = e.parentElement) {
                const colour = getComputedStyle(e).backgroundColor;
                if (parts(colour).length === 3) return colour;
            }
            return 'rgb(255, 255, 255)';
        };
        const worst = {};
        for (const e of document.querySelectorAll('body *')) {
            if (!Array.from(e.childNodes).some(n => n.nodeType === 3 && n.textContent.trim())) continue;
            const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
            const key = e.tagName + '.' + e.className, ratio = (a + .05) / (b + .05);
            worst[key] = Math.min(worst[key] ?? 99, ratio);
        }
        return worst;
    })()""")
    assert len(contrasts) > 10 and min(contrasts.values()) >= 4.5, {k: v for k, v in contrasts.items() if v < 4.5}
    cards = "Array.from(document.querySelectorAll('.card'))"
    assert browser.value(f"{cards}.every(one => getComputedStyle(one).backgroundColor === 'rgb(255, 255, 255)')")
    (tmp_path / "shot.png").write_bytes(browser.screenshot())
    shot = imread(tmp_path / "shot.png")[..., :3]
    paper = np.median(shot.reshape(-1, 3), axis=0).mean()
    assert paper < 0.25 if dark else paper > 0.9
    assert shot.std() > 0.05 and len(np.unique((shot * 255).astype(np.uint8).reshape(-1, 3), axis=0)) > 50


def test_links_of_the_contents_lead_to_their_parts(browser, address):
    browser.look(DESK)
    browser.open(address)
    assert browser.value("""Array.from(document.querySelectorAll('nav a')).every(link => {
        link.click();
        return location.hash === link.getAttribute('href') && document.querySelector(':target') !== null;
    })""")


def test_it_prints_whole(browser, address, tmp_path):
    """On paper nothing scrolls, so nothing may be cut: every table and figure fits the sheet."""
    browser.look(DESK)
    browser.open(address)
    browser.ask("Emulation.setEmulatedMedia", media="print", features=[])
    browser.ask("Emulation.setDeviceMetricsOverride", width=680, height=990, deviceScaleFactor=1, mobile=False)  # A4
    assert wider_than_the_screen(browser) == []
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.value("Array.from(document.images).every(one => one.getBoundingClientRect().height < 990)")
    browser.value(LONG)
    cut = "Array.from(document.querySelectorAll('table')).filter(one => one.getBoundingClientRect().right > 680.5)"
    assert browser.value(f"{cut}.map(one => one.innerText.slice(0, 200))") == []
    lines = browser.value("""Array.from(document.querySelectorAll('td .around')).map(
        one => one.getBoundingClientRect().height / parseFloat(getComputedStyle(one).lineHeight))""")
    assert len(lines) > 60 and max(lines) < 1.5  # no number of an interval is taken apart
    browser.ask("Emulation.setEmulatedMedia", media="", features=[])
    (tmp_path / "page.pdf").write_bytes(browser.pdf())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF") and (tmp_path / "page.pdf").stat().st_size > 20_000
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", str(tmp_path / "page.pdf"), "-"], capture_output=True, text=True).stdout
        assert "How to reproduce it" in text and "Chance is 2.5 %" in text
