#!/usr/bin/env python3
"""Drives dev/view's page in headless Chromium: real clicks, keys and pointer moves by the W3C WebDriver protocol, nothing but
Python's own library. Called by test/view_check.sh, which makes the runs:

    view_check.py FOLDER [SHOTS]    FOLDER: where the runs are; SHOTS: a folder for screenshots

What the page shows is compared with the logs, routing files and truths themselves, read here by other code than dev/view's.
Ends with `N passed, N failed`.
"""
import base64, json, os, socket, struct, subprocess, sys, tempfile, time, urllib.error, urllib.request

passed, failed = 0, 0

def check(what, good, seen=""):
    global passed, failed
    passed, failed = passed + bool(good), failed + (not good)
    if not good:
        print("FAILED: %s %s" % (what, str(seen)[:600]), flush=True)

# ----------------------------------------------------------------------------
# A browser

class Browser:
    ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key under which the protocol names an element

    def __init__(self):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.home = tempfile.TemporaryDirectory()
        self.driver = subprocess.Popen(["chromedriver", "--port=%d" % port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.url = "http://127.0.0.1:%d/session" % port
        arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--window-size=1280,1000",
                     "--force-device-scale-factor=1", "--host-resolver-rules=MAP * ~NOTFOUND", "--user-data-dir=" + self.home.name]
        wish = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
                                                 "goog:chromeOptions": {"args": arguments}}}}
        for attempt in range(100):
            try:
                self.session = self.call("POST", "", wish)["sessionId"]
                break
            except (ConnectionError, urllib.error.URLError) as error:
                if isinstance(error, urllib.error.HTTPError) or attempt == 99 or self.driver.poll() is not None:
                    raise
                time.sleep(0.1)
        self.url += "/" + self.session

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError("%s %s: %s" % (method, path, error.read()[:400])) from None

    def close(self):
        try:
            self.call("DELETE", "")
        except (OSError, RuntimeError):
            pass
        self.driver.terminate()
        self.driver.wait()
        self.home.cleanup()

    def open(self, path):
        begin = time.time()
        self.call("POST", "/url", {"url": "file://" + os.path.abspath(path)})
        self.js("return document.title")
        return time.time() - begin

    def js(self, script, *arguments):
        return self.call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def find(self, css):
        return self.call("POST", "/element", {"using": "css selector", "value": css})[self.ELEMENT]

    def click(self, css):
        self.call("POST", "/element/%s/click" % self.find(css), {})

    def keys(self, css, text):
        self.call("POST", "/element/%s/value" % self.find(css), {"text": text})

    def point(self, css, x=0, y=0, press=False):  # pixels from the middle of the element
        element = self.find(css)
        self.js("document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", css)
        steps = [{"type": "pointerMove", "duration": 0, "origin": {self.ELEMENT: element}, "x": int(x), "y": int(y)}]
        if press:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        self.call("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": steps}]})

    def text(self, css):
        return self.js("const e = document.querySelector(arguments[0]); return e ? e.textContent : null", css)

    def count(self, css):
        return self.js("return document.querySelectorAll(arguments[0]).length", css)

    def picture(self, css=None):
        path = "/screenshot" if css is None else "/element/%s/screenshot" % self.find(css)
        return base64.b64decode(self.call("GET", path))

    def console(self):
        return self.call("POST", "/se/log", {"type": "browser"})

    def command(self, name, **parameters):  # of Chromium's own protocol
        return self.call("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

HOME, RIGHT, LEFT, ESCAPE = "\ue011", "\ue014", "\ue012", "\ue00c"

# ----------------------------------------------------------------------------
# The files, read again

def read_log(folder):
    steps, others = {}, []
    with open(os.path.join(folder, "log.jsonl"), encoding="latin-1") as f:
        for line in f:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["type"] == "step":
                steps[record["step"]] = record
            else:
                others.append(record)
    return [steps[s] for s in sorted(steps)], others

def read_tensors(path):
    with open(path, "rb") as f:
        length, = struct.unpack("<Q", f.read(8))
        header = json.loads(f.read(length))
        data = f.read()
    meta = header.pop("__metadata__")
    kinds = {"U8": "B", "I32": "i", "F32": "f", "F64": "d"}
    out = {}
    for name, t in header.items():
        a, b = t["data_offsets"]
        kind = kinds[t["dtype"]]
        out[name] = (t["shape"], struct.unpack("<%d%s" % ((b - a) // struct.calcsize(kind), kind), data[a:b]))
    return meta, out

def page_data(browser):
    return json.loads(browser.js("return document.getElementById('data').textContent"))["runs"]

# ----------------------------------------------------------------------------
# What is checked

def healthy(browser, what, width=1280):
    errors = [e["message"] for e in browser.console() if e["level"] in ("SEVERE", "WARNING")]
    check(what + ": the console is silent", not errors, errors)
    check(what + ": nothing is fetched", browser.js("return performance.getEntriesByType('resource').length") == 0)
    wide = browser.js("return [document.documentElement.scrollWidth, innerWidth]")
    check(what + ": fits a window of %d" % width, wide[0] <= wide[1], wide)
    bare = browser.js("return [...document.querySelectorAll('section svg[role=img]')].filter(s => "
                      "s.querySelectorAll('text').length < 4).length")
    check(what + ": every chart has names and numbers at its axes", bare == 0)

def points(path):  # of an SVG path
    return sum(path.count(c) for c in "MLV")

def check_curves(browser, folders):
    for i, folder in enumerate(folders):
        steps, others = read_log(folder)
        d = browser.js("return document.querySelector(`path[data-run=\"${arguments[0]}\"][data-kind=train]`).getAttribute('d')", i)
        check("%s: a point for each record" % folder, points(d) == len(steps), (points(d), len(steps)))
        vals = len({r["step"] for r in others if r["type"] == "val"})
        d = browser.js("return document.querySelector(`path[data-run=\"${arguments[0]}\"][data-kind=val]`).getAttribute('d')", i)
        check("%s: and for each validation" % folder, points(d) == vals, (points(d), vals))
    check("as many curves as runs", browser.count("path[data-kind=train]") == len(folders))
    before = browser.picture("#curves-chart")
    browser.click("#logarithmic")
    check("a logarithmic axis changes the picture", browser.picture("#curves-chart") != before)
    browser.click("#logarithmic")
    check("and back", browser.picture("#curves-chart") == before)
    browser.click("#cut")
    check("without spikes the picture is another", browser.picture("#curves-chart") != before)
    browser.click("#cut")
    browser.click("input[data-toggle='1']")
    curves = [browser.count("path[data-run='%d']" % i) for i in range(2)]
    check("a click hides the curves of a run", curves == [2, 0], curves)
    check("which is seen", browser.picture("#curves-chart") != before)
    browser.click("input[data-toggle='1']")
    check("another click shows them again", browser.count("path[data-run='1']") == 2)
    browser.keys("#smoothing", RIGHT * 30)
    check("smoothing adds its curve", browser.count("path[data-kind=smooth]") == len(folders))
    browser.keys("#smoothing", HOME)
    browser.point("#curves-chart svg", 200, 0)
    steps, _ = read_log(folders[0])
    said = browser.text("#curves-chart .readout")
    near = [s for s in steps if "steps %d:" % s["step"] in said]
    want = "training %s;" % float("%.4g" % near[0]["loss"]) if near else "a record"
    check("pointing at the curves says the loss in the log", want in said, said)
    ticks = "return [...document.querySelectorAll('#curves-chart svg text')].map(t => t.textContent).join()"
    before = browser.js(ticks)
    browser.js("const s = document.getElementById('over'); s.value = 'seconds'; s.dispatchEvent(new Event('change'))")
    check("seconds in place of steps", "seconds" in browser.js(ticks) and browser.js(ticks) != before)
    browser.js("const s = document.getElementById('over'); s.value = 'steps'; s.dispatchEvent(new Event('change'))")

def check_experts(browser, folder):
    steps, others = read_log(folder)
    events = [r for r in others if r["type"] == "event"]
    layers = [l["layer"] for l in steps[0]["layers"]]
    check("the run of this test has events", len(events) > 2)
    check("a line for each layer", browser.count("#experts path[data-layer]") == len(layers))
    check("a mark for each event", browser.count("#experts path.event") == len(events), browser.count("#experts path.event"))
    check("and a row in the list", browser.count("#events tbody tr") == len(events))
    browser.point("#experts-chart svg", 500, 0)
    said = browser.text("#experts-chart .readout")
    near = [s for s in steps if "steps %d:" % s["step"] in said]
    want = "; ".join("layer %d %d" % (l["layer"], l["experts"]) for l in near[0]["layers"]) if near else "a record"
    check("pointing says how many experts", said.endswith(want), said)

def cells(browser, css):
    return browser.js("return [...document.querySelectorAll(arguments[0])].map(r => "
                      "[...r.querySelectorAll('td[data-value]')].map(c => +c.dataset.value))", css)

def check_load(browser, folder):
    steps, _ = read_log(folder)
    shown = [s for s in steps if "layers" in s]
    def same(record, what):
        want = [[round(1000 * x) for x in l["load"] + l["hist"]] for l in record["layers"]]
        got = cells(browser, "#load-table tbody tr")
        check(what, len(got) == len(want) and all(abs(a - b) <= 1 for g, w in zip(got, want) for a, b in zip(g, w))
              and all(len(g) == len(w) for g, w in zip(got, want)), (got, want))
    same(shown[-1], "the load map begins with the last record")
    before = browser.picture("#load-table")
    browser.keys("#step", HOME)
    same(shown[0], "the key Home goes to the first")
    check("and changes the picture", browser.picture("#load-table") != before)
    browser.keys("#step", RIGHT * 3)
    same(shown[3], "three times the right arrow to the fourth")
    said = browser.text("#step-now")
    check("it says which", said.startswith("%d of %d" % (shown[3]["step"], shown[-1]["step"])), said)
    browser.point("#step", 120, 0, press=True)
    at = int(browser.js("return document.getElementById('step').value"))
    check("the pointer moves the slider", 3 < at < len(shown) - 1, at)
    same(shown[at], "and the map to that record")
    browser.click("#play")
    time.sleep(0.6)
    check("play moves it on", int(browser.js("return document.getElementById('step').value")) > at)
    browser.click("#play")
    at = browser.js("return document.getElementById('step').value")
    time.sleep(0.3)
    check("and stops", browser.js("return document.getElementById('step').value") == at)

def check_sample(browser, folder, dump, end_dump, stats):
    data = page_data(browser)[0]["sample"]
    _, others = read_log(folder)
    sample = [r for r in others if r["type"] == "sample"][-1]
    check("the tokens are those of the log", data["tokens"][1:] == sample["tokens"])
    check("each is shown", browser.count("#tokens span") == len(data["tokens"]))
    meta, routing = read_tensors(dump)  # of the sample as a text, by the training program
    T = int(meta["T"])
    check("the dump is of this text", list(routing["token"][1][:T]) == data["tokens"][:T])
    _, end = read_tensors(end_dump)  # of the last T tokens as a text
    steps, _ = read_log(folder)
    for layer, wanted, logged in zip(data["layers"], stats["layers"], steps[-1]["layers"]):
        (_, E), is_open = routing["h.%d.open" % layer["layer"]]
        n = len(data["tokens"])
        check("layer %d: the experts that the program's own dump has" % layer["layer"],
              layer["open"][:T * E] == "".join(map(str, is_open[:T * E])) and len(layer["open"]) == n * E)
        check("layer %d: its k" % layer["layer"], layer["k"][:T] == list(routing["h.%d.k" % layer["layer"]][1][:T]))
        got, want = layer["open"][-E:], "".join(map(str, end["h.%d.open" % layer["layer"]][1][(T - 1) * E:T * E]))
        check("layer %d: the last token, with T tokens in view" % layer["layer"], got == want, (got, want))
        for e in range(E):
            scores = layer["score"][e:T * E:E]
            got, want = (min(scores), max(scores), sum(scores) / T), (wanted["low"][e], wanted["high"][e], wanted["mean"][e])
            check("layer %d expert %d: cosines as dev/stats has them" % (layer["layer"], e),
                  all(abs(a - b) < 2e-4 for a, b in zip(got, want)), (got, want))
            check("layer %d expert %d: threshold as in the log" % (layer["layer"], e), abs(layer["G"][e] - logged["G"][e]) < 2e-4)
        for i in range(n):
            far = [e for e in range(E) if layer["mask"][e] and abs(layer["score"][i * E + e] - layer["G"][e]) > 2e-4]
            right = all((layer["score"][i * E + e] > layer["G"][e]) == (layer["open"][i * E + e] == "1") for e in far)
            if not right and layer["k"][i] > 0:
                check("layer %d token %d: used where the cosine is above the threshold" % (layer["layer"], i), False)

    def details(i, what):
        for layer in data["layers"]:
            E = len(layer["mask"])
            rows = browser.js("return [...document.querySelectorAll(arguments[0])].map(r => "
                              "[+r.dataset.expert, ...[...r.children].map(c => c.textContent)])",
                              "#token table[data-layer='%d'] tbody tr" % layer["layer"])
            want = [[e, str(e), "%.4f" % layer["score"][i * E + e], "%.4f" % layer["G"][e]] for e in range(E) if layer["mask"][e]]
            used = [e for e in range(E) if layer["open"][i * E + e] == "1"]
            check(what + ": its cosines and thresholds", [r[:4] for r in rows] == want, (rows, want))
            check(what + ": its experts", [r[0] for r in rows if r[5]] == used, (rows, used))
            heading = browser.text("#token h3[data-layer='%d']" % layer["layer"]) or ""
            check(what + ": its k", "k = %d," % layer["k"][i] in heading, heading)
        check(what + ": its number", (browser.text("#token-name") or "").startswith("token %d of" % i), browser.text("#token-name"))
    several = [i for i, t in enumerate(data["tokens"]) if t > 32]
    a, b = several[3], several[-2]
    browser.point("[data-token='%d']" % a)
    details(a, "pointing at a token")
    before = browser.picture("#token")
    browser.click("[data-token='%d']" % b)
    details(b, "a click on another")
    check("which changes the picture", browser.picture("#token") != before)
    browser.point("[data-token='%d']" % a)
    details(b, "pointing elsewhere changes nothing then")
    browser.keys("#tokens", LEFT)
    details(b - 1, "the left arrow")
    browser.keys("#tokens", ESCAPE)
    browser.point("[data-token='%d']" % b)
    browser.point("[data-token='%d']" % a)
    details(a, "Escape lets go")
    colours = browser.js("return [...document.querySelectorAll('#tokens span')].map(s => getComputedStyle(s).backgroundColor)")
    k = data["layers"][0]["k"]
    check("one colour for each k", len(set(zip(colours, k))) == len(set(k)) == len(set(colours)), set(zip(colours, k)))

def check_matrix(browser, folder, truth_path):
    _, routing = read_tensors(os.path.join(folder, "routing.safetensors"))
    meta, truth = read_tensors(truth_path)
    names = meta["domains"].split(",")
    domain, n = truth["domain"][1], len(routing["token"][1])
    for name in [r for r in routing if r.endswith(".open")]:
        (_, E), is_open = routing[name]
        for d, domain_name in enumerate(names):
            at = [i for i in range(n) if domain[i] == d]
            want = [1000 * sum(is_open[i * E + e] for i in at) / len(at) for e in range(E)]
            used = [e for e in range(E) if any(is_open[e::E])]
            got = cells(browser, "#matrix table[data-layer='%s'] tr[data-row='%s']" % (name.split(".")[1], domain_name))
            check("%s of %s: the share of its tokens" % (name, domain_name), len(got) == 1 and len(got[0]) == len(used)
                  and all(abs(g - want[e]) <= 0.51 for g, e in zip(got[0], used)), (got, want))

def check_pictures(browser, folder, truth_path):
    meta, routing = read_tensors(os.path.join(folder, "routing.safetensors"))
    T, shown = int(meta["T"]), browser.count("#pictures canvas")
    check("pictures are there", shown >= 8)
    layer = meta["moe_layers"].split(",")[0]
    (_, E), is_open = routing["h.%s.open" % layer]
    rows = int((T - 1) ** 0.5)
    for picture, r, c in ((0, 0, 0), (1, 3, 5), (5, rows - 1, rows - 1)):
        box = browser.js("const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.width, b.height]",
                         "canvas[data-picture='%d']" % picture)
        browser.point("canvas[data-picture='%d']" % picture, ((c + 0.5) / rows - 0.5) * box[0], ((r + 0.5) / rows - 0.5) * box[1])
        token = picture * T + 1 + r * rows + c
        want = [e for e in range(E) if is_open[token * E + e]]
        said = browser.text("#patch")
        check("a patch and its experts", said.startswith("picture %d, patch in row %d, column %d: " % (picture, r, c))
              and said.endswith(": " + ", ".join(map(str, want))), (said, want))
    pixels = "return [...document.querySelectorAll('#pictures canvas')].map(c => c.toDataURL()).join()"
    before = browser.js(pixels)
    expert = browser.js("return [...document.querySelectorAll('#picture-experts button')].map(b => +b.dataset.expert)"
                        ".find(e => e >= 0)")
    browser.click("#picture-experts button[data-expert='%d']" % expert)
    check("a click on an expert draws its patches", browser.js(pixels) != before)
    middles = ("const canvas = document.querySelector('canvas[data-picture=\"0\"]'), copy = document.createElement('canvas'); "
               "const n = arguments[0], s = canvas.width / n, g = copy.getContext('2d', {willReadFrequently: true}); "
               "copy.width = copy.height = canvas.width; g.drawImage(canvas, 0, 0); "
               "return [...Array(n * n).keys()].map(t => g.getImageData(t % n * s + s / 2, "
               "Math.floor(t / n) * s + s / 2, 1, 1).data[0])")  # the red of the middle of each patch
    red = browser.js(middles, rows)
    browser.click("#picture-experts button[data-expert='-2']")
    plain = browser.js(middles, rows)
    lit = [a == b for a, b in zip(red, plain)]
    want = [bool(is_open[(1 + t) * E + expert]) for t in range(rows * rows)]
    check("the others are dark", sum(a == b for a, b in zip(lit, want)) >= 0.9 * len(want), (lit, want))
    with open(os.path.join(folder, "pictures.bin"), "rb") as f:
        record = f.read(3074)
    side = 32 // rows
    want = [record[2 + (t // rows * side + side // 2) * 32 + t % rows * side + side // 2] for t in range(rows * rows)]
    check("and the picture is that of the file", plain == want, (plain, want))
    with open(truth_path, "rb") as f:
        kinds = f.read()
    n = len(routing["label"][1])
    at = [i * T + 1 + p for i in range(n) for p in range(T - 1) if kinds[i * (T - 1) + p] == 1]
    want = [1000 * sum(is_open[i * E + e] for i in at) / len(at) for e in range(E)]
    used = [e for e in range(E) if any(is_open[e::E])]
    got = cells(browser, "#matrix table[data-layer='%s'] tr[data-row='edge']" % layer)
    check("experts of patches on an edge", len(got) == 1 and len(got[0]) == len(used)
          and all(abs(g - want[e]) <= 0.51 for g, e in zip(got[0], used)), (got, want))

def main():
    folder, shots = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    os.chdir(folder)
    browser = Browser()
    def shot(name):
        if shots:
            height = browser.js("return document.documentElement.scrollHeight")
            width = browser.js("return innerWidth")
            browser.command("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
            with open(os.path.join(shots, name), "wb") as f:
                f.write(browser.picture())
            browser.command("Emulation.clearDeviceMetricsOverride")
    try:
        browser.open("text/view.html")
        check("the title names the runs", browser.js("return document.title") == "text, dense - DynMoE")
        check_curves(browser, ["text", "dense"])
        check_experts(browser, "text")
        check_load(browser, "text")
        with open("stats.json", encoding="utf-8") as f:
            check_sample(browser, "text", "sample.safetensors", "end.safetensors", json.load(f))
        check_matrix(browser, "text", "text.truth")
        healthy(browser, "text")
        browser.click("[data-token='40']")
        shot("text.png")
        browser.js("const s = document.getElementById('run'); s.value = 1; s.dispatchEvent(new Event('change'))")
        check("a dense run says why it has no experts", "dense model" in browser.text("#experts"))
        check("and has no load", browser.js("return document.getElementById('load').hidden"))
        healthy(browser, "dense")

        browser.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
        browser.call("POST", "/window/rect", {"width": 800, "height": 900})
        browser.open("text/view.html")
        back = browser.js("return getComputedStyle(document.body).backgroundColor")
        check("dark where the system is", back == "rgb(20, 23, 27)", back)
        healthy(browser, "narrow and dark", 800)
        browser.click("[data-token='40']")
        shot("narrow_dark.png")
        browser.command("Emulation.setEmulatedMedia", features=[])
        browser.call("POST", "/window/rect", {"width": 1280, "height": 1000})

        if os.path.exists("pictures/view.html"):
            browser.open("pictures/view.html")
            shot("pictures.png")
            check_pictures(browser, "pictures", "pictures.truth")
            healthy(browser, "pictures")
            shot("pictures_after.png")

        size, seconds = os.path.getsize("long/view.html"), browser.open("long/view.html")
        check("50,000 steps: below 5 MB", size < 5e6, size)
        check("50,000 steps: opens within 10 seconds", seconds < 10, seconds)
        print("50,000 steps: %.1f MB, open after %.1f s" % (size / 1e6, seconds))
        check("50,000 steps: a curve", browser.count("path[data-kind=train]") == 1)
        check("50,000 steps: up to its end", "50,000 steps" in browser.text("#about"))
        low = browser.js("const r = JSON.parse(document.getElementById('data').textContent).runs[0]; return r.steps.map(s => s[2])")
        check("50,000 steps: the spike is drawn", max(low) == 99, max(low))
        check("50,000 steps: all events", browser.count("#events tbody tr") == 333, browser.count("#events tbody tr"))
        browser.keys("#step", HOME)
        said = browser.text("#step-now")
        check("50,000 steps: the slider goes to the first", said.startswith("1 of 50,000"), said)
        healthy(browser, "50,000 steps")
        shot("long.png")

        browser.open("hostile/view.html")
        check("text from a log stays text", browser.js("return window.broken === undefined"), browser.js("return window.broken"))
        check("and is shown", "</script><script>window.broken" in browser.text("#about"), browser.text("#about"))
        healthy(browser, "hostile")
    finally:
        browser.close()
    print("%d passed, %d failed" % (passed, failed))
    sys.exit(failed > 0)

main()
