"""A headless Chromium, driven over its DevTools protocol."""

import base64
import json
import pathlib
import subprocess
import tempfile
import time

from websockets.sync.client import connect

PATIENCE_SECONDS = 30


class Browser:
    """One tab. What goes wrong in it (errors, refusals by a policy) is in `complaints`, what it asked for in `asked`."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(prefix="steerage-browser-", ignore_cleanup_errors=True)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                     "--disable-background-networking", "--no-first-run", "--hide-scrollbars",
                     "--remote-debugging-port=0", f"--user-data-dir={self.profile.name}", "about:blank"]
        self.process = subprocess.Popen(["chromium", *arguments], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, start_new_session=True)
        self.number = 0
        self.complaints, self.asked, self.loads = [], [], 0
        self.socket = connect(self.address(), max_size=None)
        target = self.call("Target.getTargets")["targetInfos"]
        page = next(one["targetId"] for one in target if one["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(domain + ".enable")

    def address(self):
        file = pathlib.Path(self.profile.name, "DevToolsActivePort")
        until = time.monotonic() + PATIENCE_SECONDS
        while not file.exists() or len(file.read_text().split()) < 2:
            assert self.process.poll() is None, "the browser ended"
            assert time.monotonic() < until, "the browser does not start"
            time.sleep(0.05)
        port, path = file.read_text().split()
        return f"ws://127.0.0.1:{port}{path}"

    def call(self, method, **parameters):
        self.number += 1
        order = {"id": self.number, "method": method, "params": parameters}
        if getattr(self, "session", None):
            order["sessionId"] = self.session
        self.socket.send(json.dumps(order))
        while True:
            message = json.loads(self.socket.recv(timeout=PATIENCE_SECONDS))
            if message.get("id") == self.number:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self.note(message)

    def note(self, message):
        method, about = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(about["exceptionDetails"].get("exception", {}).get("description"))
        elif method == "Log.entryAdded" and about["entry"]["level"] in ["error", "warning"]:
            self.complaints.append(about["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(about["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loads += 1

    def run(self, script):
        """The value of an expression in the page."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, (script, done["exceptionDetails"])
        return done["result"].get("value")

    def until(self, what, script):
        """Waits until an expression is true, and gives it."""
        until = time.monotonic() + PATIENCE_SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < until, f"{what}: not within {PATIENCE_SECONDS} s\n{self.text()}"
            time.sleep(0.1)
        return value

    def text(self):
        return self.run("document.body.innerText")

    def look_as(self, width, height, scheme, scale=1):
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=scale, mobile=phone)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url):
        loads = self.loads
        self.call("Page.navigate", url=url)
        while self.loads == loads:
            self.note(json.loads(self.socket.recv(timeout=PATIENCE_SECONDS)))

    def press(self, key):
        code = {"Enter": 13, "Tab": 9}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key,
                      windowsVirtualKeyCode=code, **(text if kind == "keyDown" else {}))

    def picture(self, file, whole=False):
        done = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        pathlib.Path(file).write_bytes(base64.b64decode(done["data"]))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(timeout=PATIENCE_SECONDS)
        finally:
            self.process.kill()
            self.process.wait()
            self.profile.cleanup()
