"""Headless Chromium over its debugging pipe: what a page does, as a browser sees it.

No driver and no package: the protocol is JSON, ended by NUL, on two file descriptors.
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
]


def find():
    """The program, or None."""
    return next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)


class Browser:
    """One browser with one page. What it logged and asked the network for is kept."""

    def __enter__(self):
        self.profile = tempfile.mkdtemp()
        to_child, self.to = os.pipe()
        self.of, from_child = os.pipe()

        def pipes():
            # The protocol's numbers; the ones that we have may be among them.
            a, b = os.dup2(to_child, 60), os.dup2(from_child, 61)
            os.dup2(a, 3), os.dup2(b, 4)

        self.process = subprocess.Popen(
            [find(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            preexec_fn=pipes, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_child), os.close(from_child)
        self.rest, self.next, self.session, self.events = b"", 0, None, []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target for target in targets if target["type"] == "page")
        attach = {"targetId": page["targetId"], "flatten": True}
        self.session = self.call("Target.attachToTarget", **attach)["sessionId"]
        for domain in ["Page", "Runtime", "Log", "Network"]:
            self.call(f"{domain}.enable")
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.to), os.close(self.of)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _read(self):
        while b"\0" not in self.rest:
            chunk = os.read(self.of, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium ended")
            self.rest += chunk
        message, self.rest = self.rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, **params):
        """Calls a method and waits for its result; events meanwhile are kept."""
        self.next += 1
        message = {"id": self.next, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self.next:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def open(self, path, width=1280, height=900, dark=False, scale=1):
        """Opens a file and waits until it is there."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=scale, mobile=width < 600)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.events.clear()
        self.call("Page.navigate", url=f"file://{os.path.abspath(path)}")
        while self.run("document.readyState") != "complete":
            time.sleep(0.02)

    def run(self, expression):
        """The value of a JavaScript expression."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True,
                           awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def key(self, name, code):
        """Presses a key."""
        for kind in ["keyDown", "keyUp"]:
            self.call("Input.dispatchKeyEvent", type=kind, key=name, code=name,
                      windowsVirtualKeyCode=code)

    def requests(self):
        """Addresses that the page asked the network for. What is within the page, the page itself,
        and what its policy held back are not among them."""
        held = {event["params"]["requestId"] for event in self.events
                if event.get("method") == "Network.loadingFailed"
                and event["params"].get("blockedReason") == "csp"}
        sent = [event["params"] for event in self.events
                if event.get("method") == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent
                if request["requestId"] not in held and request.get("type") != "Document"
                and not request["request"]["url"].startswith("data:")]

    def complaints(self):
        """Errors and warnings of the console: exceptions, what the policy refused."""
        logged = [event["params"] for event in self.events if event.get("method") in
                  ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")]
        return [json.dumps(entry)[:500] for entry in logged]

    def screenshot(self, path, whole=True):
        """A PNG of the whole page, or of what is in view."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        with open(path, "wb") as file:
            file.write(base64.b64decode(picture["data"]))

    def pdf(self, path):
        printed = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=False)
        with open(path, "wb") as file:
            file.write(base64.b64decode(printed["data"]))
