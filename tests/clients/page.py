"""The page in a browser: `look URL PICTURES NAME...` and `order URL TOKEN BACKEND`."""

import sys

from browser import Browser

LIVE = "document.getElementById('live').textContent === 'live'"


def row(text):
    """An expression: the text of the row of an open service that has `text` in it, or null."""
    rows = "[...document.querySelectorAll('.detail tbody tr')]"
    return f"{rows}.map((row) => row.innerText).find((row) => row.includes({text!r})) ?? null"


def figures_move(browser):
    ages = "[...document.querySelectorAll('[aria-label=Workers] tbody tr')].map((row) => row.innerText).join()"
    before = browser.run(ages)
    browser.until("figures move", f"{ages} !== {before!r}")


def look(url, pictures, *names):
    with Browser() as browser:
        browser.look_as(1400, 900, "light")
        browser.open(url)
        browser.until("the page is live", LIVE)
        for name in names:
            # As text, whatever it is made of.
            browser.until(f"{name} is shown", f"document.body.innerText.includes({name!r})")
        assert browser.run("document.querySelectorAll('main b b, main img, main i').length") == 0
        assert browser.run("typeof window.harmed") == "undefined"
        figures_move(browser)
        assert not browser.run("document.querySelector('[data-order]').offsetParent"), "orders are shown"
        assert "Orders" not in browser.text(), "orders are offered"
        # The policy holds what a hostile text would do if it became markup.
        browser.run("""(() => {
            const script = document.createElement("script");
            script.textContent = "window.harmed = 1";
            const image = document.createElement("img");
            image.src = "http://192.0.2.1/x.png";
            document.body.append(script, image);
        })()""")
        assert browser.run("typeof window.harmed") == "undefined"
        refused = [text for text in browser.complaints if "Content Security Policy" in text]
        assert len(refused) >= 2 and refused == browser.complaints, browser.complaints
        by_keyboard(browser)
        filtered(browser)
        sizes(browser, pictures)
        foreign = [asked for asked in browser.asked if not asked.startswith((url, "data:", "http://192.0.2.1/"))]
        assert not foreign, foreign
        assert browser.loads == 1, "it was loaded once"


def by_keyboard(browser):
    """A service closes and opens, and a column sorts, without a mouse."""
    opened = "document.querySelector('.opener').getAttribute('aria-expanded')"
    assert browser.run(opened) == "true", "few backends are shown at once"
    browser.run("document.querySelector('.opener').focus()")
    for expected in ["false", "true"]:
        browser.press("Enter")
        browser.until("the service opens and closes", f"{opened} === {expected!r}")
    browser.until("its backends are back", "document.querySelectorAll('.detail tbody tr').length > 0")
    browser.run("document.querySelector('th button').focus()")
    browser.press("Enter")
    browser.until("it is sorted", "document.querySelector('th[aria-sort]') !== null")


def filtered(browser):
    browser.run("""(() => {
        const filter = document.getElementById("filter");
        filter.value = "no such thing";
        filter.oninput();
    })()""")
    browser.until("nothing fits", "!document.querySelector('main section:not([hidden]) .detail')")
    browser.run("document.getElementById('filter').value = ''; draw()")
    browser.until("all fits", "document.querySelectorAll('.detail tbody tr').length > 0")


def sizes(browser, pictures):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.picture(f"{pictures}/light.png")
    browser.look_as(1400, 900, "dark")
    assert browser.run(ground) != light
    browser.picture(f"{pictures}/dark.png")
    browser.look_as(360, 760, "light", 2)
    browser.picture(f"{pictures}/phone.png")
    assert browser.run("document.documentElement.scrollWidth <= 360"), "it is wider than a phone"


def order(url, token, backend):
    with Browser() as browser:
        browser.look_as(1400, 900, "dark")
        browser.open(url)
        browser.until("the backend is shown", row(backend))
        press = "document.querySelector(`[aria-label='Orders for %s']`).click()" % backend
        browser.until("orders are offered", f"document.querySelector(`[aria-label='Orders for {backend}']`) !== null")

        def give(name, said, shown=token):
            browser.run(press)
            browser.run(f"document.getElementById('dialog-token').value = {shown!r}")
            browser.run(f"document.querySelector('[data-order={name}]').click()")
            browser.until(said, f"document.getElementById('dialog-said').textContent.includes({said!r})")
            browser.run("document.getElementById('dialog-close').click()")

        give("drain", "this is not the token", "wrong-wrong-wrong-wrong")
        assert "draining" not in browser.run(row(backend))
        give("drain", "drain: done")
        browser.until("it drains, and the page shows it", f"({row(backend)}).includes('draining')")
        browser.until("it is among those that do not serve",
                      "document.querySelector(\"[aria-label='Backends that take no work']\").innerText"
                      f".includes({backend!r})")
        # The token is known now.
        give("undrain", "undrain: done", "")
        browser.until("it is back", f"!({row(backend)}).includes('draining')")
        browser.run(press)
        browser.run("document.getElementById('dialog-weight').value = 7")
        browser.run("document.querySelector('[data-order=weight]').click()")
        browser.until("the weight is taken", "document.getElementById('dialog-said').textContent.includes('weight: done')")
        assert browser.loads == 1, "it was loaded once"


if __name__ == "__main__":
    {"look": look, "order": order}[sys.argv[1]](*sys.argv[2:])
    print("all good")
