"""The page at /, in headless Chromium: streaming, stop, errors, parameters, keys."""

import os
import re
import shutil
import time

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install -e '.[dev]'")
expect = sync_api.expect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    yield from opened(browser, address)


def opened(browser, address):
    """Yield the page of a server; whatever its scripts complain of is an error."""
    context = browser.new_context()
    context.set_default_timeout(20_000)
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.goto(f"{address}/")
    yield page
    context.close()
    # an answer that is an error is logged by the browser itself
    assert [text for text in complaints if "Failed to load resource" not in text] == []


def fill(page, **values):
    """Set fields by their ids."""
    page.locator("details").evaluate("element => element.open = true")
    for name, value in values.items():
        field = page.locator(f"#{name}")
        if field.evaluate("element => element.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def written(page):
    """Return the text once it has ended."""
    expect(page.locator("#go")).to_be_enabled(timeout=30_000)
    return page.locator("#text").text_content()


def test_a_text_is_written_with_the_parameters(page, client):
    fill(page, prompt="In the beginning ", max_tokens="60", temperature="0.9", seed="3", top_k="20")
    page.click("#go")
    asked = {"model": "tiny", "prompt": "In the beginning ", "max_tokens": 60, "temperature": 0.9, "seed": 3}
    text = client.completions.create(**asked, extra_body={"top_k": 20}).choices[0].text
    assert written(page) == "In the beginning " + text
    state = page.locator("#state").text_content()
    assert "60 tokens" in state
    assert state.endswith("ended by length")
    assert page.locator("#error").text_content() == ""
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=f"{folder}/page.png", full_page=True)


def test_the_text_comes_piece_by_piece(page):
    page.evaluate(
        """() => { window.lengths = [];
        new MutationObserver(() => lengths.push(document.getElementById("text").textContent.length))
          .observe(document.getElementById("text"), { childList: true, subtree: true }); }"""
    )
    fill(page, max_tokens="300", temperature="1")
    page.click("#go")
    written(page)
    lengths = page.evaluate("lengths")
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 5


def test_stop_ends_the_request_and_keeps_the_text(page, shared):
    engine = shared[1]
    before = engine.stats()["tiny"].failed
    fill(page, max_tokens="1000", temperature="0")
    page.locator("#go").click()
    expect(page.locator("#text")).to_contain_text(re.compile(r"And it came to pass \S"))
    page.locator("#halt").click()
    text = written(page)
    assert len(text) < 900
    expect(page.locator("#state")).to_contain_text("stopped")
    assert page.locator("#error").text_content() == ""
    expect(page.locator("#halt")).to_be_disabled()
    end = time.monotonic() + 10
    while engine.stats()["tiny"].failed == before:
        assert time.monotonic() < end
        time.sleep(0.01)
    fill(page, max_tokens="3")
    page.click("#go")
    assert len(written(page)) == len("And it came to pass ") + 3


def test_errors_are_shown_and_the_next_text_clears_them(page):
    fill(page, max_tokens="5000")
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("max_tokens: expected 1 to 1004")
    fill(page, max_tokens="5", schema='{"type": ')
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("JSON schema: ")
    fill(page, schema='{"$ref": "#"}')
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("response_format: ")
    fill(page, schema="")
    page.click("#go")
    expect(page.locator("#error")).to_have_text("")
    assert len(written(page)) == len("And it came to pass ") + 5


def test_a_chat_by_a_schema(page):
    fill(page, kind="chat", prompt="Who?", schema='{"enum": ["Isaac", "Esau"]}', max_tokens="50")
    page.click("#go")
    assert written(page) in ('"Isaac"', '"Esau"')
    expect(page.locator("#state")).to_contain_text("ended by stop")


def test_markup_in_a_prompt_is_text(page):
    fill(page, prompt="<img src=x onerror=alert(1)><script>alert(2)</script>", max_tokens="3")
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    page.click("#go")
    assert written(page).startswith("<img src=x onerror=alert(1)><script>")
    assert page.locator("#text img, #text script").count() == 0


def test_the_keyboard_alone_serves(page):
    fill(page, max_tokens="4")
    page.locator("#prompt").press("Control+Enter")
    assert len(written(page)) == len("And it came to pass ") + 4


def test_a_key_is_asked_for_and_used(browser, serve):
    address, _ = serve(keys=["secret"])
    for page in opened(browser, address):
        expect(page.locator("#error")).to_contain_text("expected an API key")
        fill(page, key="secret")
        page.locator("#key").blur()
        expect(page.locator("#error")).to_have_text("")
        expect(page.locator("#model option")).to_have_text(["tiny"])
        fill(page, max_tokens="3")
        page.click("#go")
        assert len(written(page)) == len("And it came to pass ") + 3


def test_the_model_is_chosen(browser, serve, tiny):
    address, engine = serve()
    engine.add_model("other", tiny)
    for page in opened(browser, address):
        expect(page.locator("#model option")).to_have_text(["tiny", "other"])
        fill(page, model="other", max_tokens="7")
        page.click("#go")
        written(page)
        assert engine.stats()["other"].new_tokens == 7


def test_a_server_that_has_gone_is_told(page):
    page.route("**/v1/completions", lambda route: route.abort())
    page.click("#go")
    expect(page.locator("#error")).to_have_text("The server cannot be reached.")


def test_a_stream_that_breaks_off_is_told(page):
    broken = 'data: {"choices": [{"text": "half"}]}\n\n'
    page.route("**/v1/completions", lambda route: route.fulfill(body=broken, content_type="text/event-stream"))
    page.click("#go")
    expect(page.locator("#error")).to_have_text("The connection has ended before the text.")
    assert written(page).endswith("half")
