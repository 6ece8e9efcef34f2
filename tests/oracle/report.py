"""Looks at a report in a browser, and at what it says beside numpy's answer on the table.

Arguments: the page, the table (file or folder), what to check: a comma-separated list of `slider`,
`quantiles`, `groups:COLUMN`, `captions`, `hostile`, `drift:OLD`, `pictures`, `score:COLUMN`. Prints
`SKIPPED` without a browser.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from browser import Browser, find

page, path, checks = sys.argv[1:4]
checks = checks.split(",")
asked = dict(check.partition(":")[::2] for check in checks)


def read(path, column):
    """The column's rows that did not fail, and all of the table."""
    files = sorted(Path(path).glob("*.parquet")) if Path(path).is_dir() else [Path(path)]
    # Columns of text as bytes: they may not be UTF-8.
    tables = [pq.read_table(file, columns=[name for name in pq.read_schema(file).names
                                           if "embedding" not in name]) for file in files]
    table = pa.concat_tables(tables)
    return table, scores(table, column)


def scores(table, column):
    values = table[column].combine_chunks()
    values = values.to_numpy(zero_copy_only=False)
    if not np.issubdtype(values.dtype, np.floating):
        values = values.astype(np.float64)
    good = np.isfinite(values.astype(np.float64))
    if "status" in table.column_names:
        good &= np.array([word in ("ok", "success") for word in table["status"].to_pylist()])
    return values[good]


def same(found, wanted, tolerance=0.0):
    assert abs(float(found) - float(wanted)) <= tolerance, (found, wanted)


def texts(browser, selector):
    return browser.run(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")


def number(text):
    return float(text.replace(",", "").replace(" %", ""))


def slider(browser, kept):
    """Every threshold's count is numpy's; a key moves it, and the text and the bars follow."""
    data = browser.run("({...document.getElementById('cut').dataset})")
    thresholds, counts = data["thresholds"].split(), list(map(int, data["kept"].split()))
    assert len(thresholds) == len(counts) > 100
    for threshold, count in zip(thresholds, counts):
        assert count == int((kept >= kept.dtype.type(threshold)).sum()), threshold
    browser.run("document.getElementById('slider').focus()")
    start = int(browser.run("document.getElementById('slider').value"))
    seen = set()
    # Right, page up, home, end, left.
    for name, code in [("ArrowRight", 39)] * 3 + [("PageUp", 33), ("Home", 36), ("ArrowRight", 39),
                                                  ("End", 35), ("ArrowLeft", 37), ("PageDown", 34)]:
        browser.key(name, code)
        at = int(browser.run("document.getElementById('slider').value"))
        seen.add(at)
        threshold = kept.dtype.type(thresholds[at])
        share = (kept >= threshold).mean() * 100
        said = texts(browser, "output")[0]
        found = re.match(r"Threshold (\S+) keeps ([\d.]+) % ([\d,]+) of ([\d,]+) .* ([\d,]+) left", said)
        assert found, said
        assert found[1] == thresholds[at]
        same(found[2], share, 0.0501)
        same(number(found[3]), (kept >= threshold).sum())
        same(number(found[5]), (kept < threshold).sum())
        value = browser.run("document.getElementById('slider').getAttribute('aria-valuetext')")
        assert thresholds[at] in value and found[2] in value, value
        # The funnel's last step follows.
        step = texts(browser, "#funnel .steps li:last-child span")
        whole = number(re.search(r"of ([\d,]+)", texts(browser, "#funnel .lead")[0])[1])
        same(number(step[-1]), 100 * (kept >= threshold).sum() / whole, 0.0501)
        same(number(step[-2]), (kept >= threshold).sum())
        # The line stands at the threshold, the thumb beneath it.
        low, high = map(float, data["range"].split())
        x = browser.run("document.getElementById('cut-line').getAttribute('x1')")
        same(x.rstrip("%"), 100 * (float(thresholds[at]) - low) / (high - low), 0.001)
        for side, sign in [("above", 1), ("below", -1)]:
            shown = browser.run(f"[...document.querySelectorAll('#{side} .pair:not([hidden])')]"
                                ".map(e => Number(e.dataset.score))")
            assert shown == sorted(shown, reverse=sign < 0), (side, shown)
            assert all((score >= threshold) == (sign > 0) for score in shown), (side, shown)
            drawn = browser.run("[...document.querySelectorAll('#around .pair')]"
                                ".map(e => Number(e.dataset.score))")
            there = [score for score in drawn if (score >= threshold) == (sign > 0)]
            nearest = sorted(there, reverse=sign < 0)[:6]
            assert shown == nearest, (side, shown, nearest)
    assert start not in seen and len(seen) >= 7, seen


def quantiles(browser, kept):
    names = texts(browser, "#scores .quantiles dt")
    values = dict(zip(names, texts(browser, "#scores .quantiles dd")))
    span = max(1e-4, float(kept.max() - kept.min()) / 35_000) + 6e-5
    for name, q in [("min", 0), ("1 %", 0.01), ("5 %", 0.05), ("25 %", 0.25), ("median", 0.5),
                    ("75 %", 0.75), ("95 %", 0.95), ("99 %", 0.99), ("max", 1)]:
        same(values[name], np.quantile(kept, q, method="inverted_cdf"), span)
    same(values["mean"], kept.astype(np.float64).mean(), 1e-4)


def histogram(browser, kept):
    """The bars that are drawn are numpy's, in proportion."""
    low, high = map(float, browser.run("document.getElementById('cut').dataset.range").split())
    bars = browser.run("[...document.querySelectorAll('#scores svg.plot > .bar')].map(e => "
                       "[parseFloat(e.getAttribute('x')), parseFloat(e.getAttribute('width')), "
                       "parseFloat(e.getAttribute('height'))])")
    n = round(100 * 0.88 / bars[0][1])
    edges = [kept.dtype.type(f"{low + (high - low) * i / n:.9g}") for i in range(n + 1)]
    counts, _ = np.histogram(kept, bins=edges)
    drawn = {round(x * n / 100 - 0.06): height for x, _, height in bars}
    assert sorted(drawn) == list(np.nonzero(counts)[0]), (drawn, counts)
    scale = max(drawn.values()) / counts.max()
    for index, height in drawn.items():
        # What is there is seen.
        same(height, max(1, counts[index] * scale), 0.11)


def groups(browser, table, column, score):
    good = np.ones(len(table), bool)
    if "status" in table.column_names:
        good &= np.array(table["status"].to_pylist()) == "ok"
    rows = [r for r, ok in zip(zip(table[column].to_pylist(), table[score].to_pylist()), good) if ok]
    wanted = {}
    for name, value in rows:
        wanted.setdefault("null" if name is None else str(name), []).append(value)
    found = browser.run("""[...document.querySelectorAll('#groups tbody tr')].map(
        tr => [...tr.children].map(td => td.textContent))""")
    named = [row for row in found if row[0] in wanted]
    assert len(named) == min(12, len(wanted)), (len(named), len(wanted))
    largest = sorted(map(len, wanted.values()), reverse=True)[:12]
    assert [int(number(row[1])) for row in named] == largest
    for name, n, mean, low, median, high, *_ in named:
        values = np.array([v for v in wanted[name] if v is not None], np.float64)
        values = values[np.isfinite(values)]
        same(mean, values.mean(), 6e-4)
        for text, q in [(low, 0.05), (median, 0.5), (high, 0.95)]:
            same(text, np.quantile(values, q, method="inverted_cdf"), 7e-4)


def captions(browser, table):
    lengths = []
    for text in table["caption"].cast(pa.binary()).to_pylist():
        try:
            lengths.append(len(text.decode()))
        except (AttributeError, UnicodeDecodeError):
            pass
    names, values = texts(browser, "#captions .quantiles dt"), texts(browser, "#captions .quantiles dd")
    found = dict(zip(names[:10], values[:10]))
    for name, q in [("min", 0), ("5 %", 0.05), ("median", 0.5), ("95 %", 0.95), ("max", 1)]:
        same(number(found[name]), np.quantile(lengths, q, method="inverted_cdf"))
    same(found["mean"], np.mean(lengths), 0.051)
    if "caption_tokens" in table.column_names:
        tokens = table["caption_tokens"].drop_null().to_numpy()
        found = dict(zip(names[10:], values[10:]))
        same(number(found["median"]), np.quantile(tokens, 0.5, method="inverted_cdf"))
        cut = table["caption_truncated"].drop_null().to_numpy(zero_copy_only=False)
        said = texts(browser, "#captions .lead")[0]
        assert f"({int(cut.sum()):,} of {len(cut):,})" in said, said


def drift(browser, new, old_path, score):
    _, old = read(old_path, score)
    rows = browser.run("[...document.querySelectorAll('#intervals tbody tr')].map(e => ({...e.dataset}))")
    edges = np.array([float(row["edge"]) for row in rows[:-1]])
    deciles = np.quantile(old, np.arange(1, 10) / 10, method="inverted_cdf")
    assert len(edges) == len(np.unique(edges)) and np.allclose(edges, np.unique(deciles), atol=1e-4)
    typed = edges.astype(new.dtype)
    count = lambda values: np.bincount(np.digitize(values, typed), minlength=len(typed) + 1)
    was, now = count(old), count(new)
    assert [int(row["old"]) for row in rows] == list(was)
    assert [int(row["new"]) for row in rows] == list(now)
    a, b = np.maximum(was, 0.5) / was.sum(), np.maximum(now, 0.5) / now.sum()
    psi = ((b - a) * np.log(b / a)).sum()
    same(browser.run("document.getElementById('psi').dataset.psi"), psi, 1e-12)
    changes = browser.run("""[...document.querySelectorAll('#drift .columns > div:first-child tbody tr')]
        .map(tr => [...tr.children].map(td => td.textContent))""")
    median = next(row for row in changes if row[0] == "median")
    same(median[3], np.quantile(new, 0.5, method="inverted_cdf")
         - np.quantile(old, 0.5, method="inverted_cdf"), 2.1e-4)


def hostile(browser, table):
    """Every caption that is shown is text, with control characters replaced and nothing else."""
    assert browser.run("window.pwned === undefined")
    assert browser.run("document.scripts.length") == 1
    assert browser.run("document.querySelectorAll('main script, main iframe, main a[href]:not("
                       "[href^=\"#\"]), main style, main object, main link, main meta').length") == 0
    assert browser.run("[...document.images].every(i => i.src.startsWith('data:image/jpeg;base64,'))")
    # No element has an attribute that would run.
    assert browser.run("[...document.querySelectorAll('*')].every(e => [...e.attributes].every("
                       "a => !a.name.startsWith('on') && a.name !== 'style'))")
    shown = browser.run("[...document.querySelectorAll('.pair')].map(e => ["
                        "e.querySelector('.score span').textContent,"
                        "e.querySelector('.words bdi')?.textContent])")
    captions = table["caption"].cast(pa.binary()).to_pylist()
    n = 0
    for row, text in shown:
        caption = captions[int(row.removeprefix("row ").replace(",", ""))]
        if caption is None or text is None:
            continue
        wanted = caption.decode(errors="replace")
        wanted = re.sub(r"[\n\t]", " ", wanted)
        wanted = re.sub(r"[\x00-\x1f\x7f-\x9f]", "\ufffd", wanted)
        assert text == (wanted if len(wanted) <= 400 else wanted[:400] + "…"), (row, text, wanted)
        n += 1
    assert n >= min(100, len(captions)), n


def main():
    if not find():
        print("SKIPPED: no Chromium, so nobody looks at the page; `make test` installs it")
        return
    score = asked.get("score", "similarity")
    table, kept = read(path, score) if checks != ["plain"] else (None, None)
    with Browser() as browser:
        for width, dark in [(1280, False), (390, True)]:
            browser.open(page, width=width, dark=dark)
            browser.run("new Promise(done => setTimeout(done, 100))")
            assert browser.complaints() == [], browser.complaints()
            assert browser.requests() == [], browser.requests()
            # Nothing is wider than the screen.
            wide = browser.run("[...document.querySelectorAll('main *')].filter(e => "
                               f"e.getBoundingClientRect().right > {width + 1} && "
                               "!e.closest('.scroll, pre')).map(e => e.outerHTML.slice(0, 200))")
            assert browser.run("document.documentElement.scrollWidth") <= width, (width, wide[:3])
            assert texts(browser, "h1")[0]
        policy = browser.run("document.querySelector('meta[http-equiv]').content")
        assert policy.startswith("default-src 'none'; img-src data:;"), policy
        assert "unsafe" not in policy and policy.count("sha256-") == 2, policy
        broken = browser.run("[...document.images].filter(i => !i.naturalWidth).length")
        assert broken == 0, broken
        # The policy holds: what would run or load is refused, and this is how a refusal looks.
        browser.run("(() => { const s = document.createElement('script'); s.textContent ="
                    "'window.pwned = 1'; document.body.append(s);"
                    "new Image().src = 'https://example.invalid/x.png'; })()")
        browser.run("new Promise(done => setTimeout(done, 100))")
        assert browser.run("window.pwned === undefined") and len(browser.complaints()) == 2
        assert browser.requests() == []
        browser.open(page)
        if "slider" in asked:
            slider(browser, kept)
            histogram(browser, kept)
        if "quantiles" in asked:
            quantiles(browser, kept)
        if "groups" in asked:
            groups(browser, table, asked["groups"], score)
        if "captions" in asked:
            captions(browser, table)
        if "drift" in asked:
            drift(browser, kept, asked["drift"], score)
        if "hostile" in asked:
            hostile(browser, table)
        if "pictures" in asked:
            assert browser.run("document.images.length") > 60
            assert "image_missing" not in texts(browser, "#pairs .picture span")


main()
