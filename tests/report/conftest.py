"""Recorded runs to show, and a browser to show them in."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from trimtab.signals import RunWriter
from trimtab.signals._catalogue import names
from trimtab.signals._histogram import histogram_edges

BINS = histogram_edges()
KINDS = ("activation", "gradient", "weight")


def site_names(num_layers):
    parts = ("norm", "attention.q_proj", "attention.out_proj", "feed_forward.up")
    return [f"blocks.{i // 4}.{parts[i % 4]}" for i in range(num_layers)]


def fill(writer, num_steps, *, num_layers, every, val_every, skipped, seed, first_site):
    """Write a run whose loss falls, whose last layers die and which skips some steps."""
    random = np.random.default_rng(seed)
    modules = [first_site, *site_names(num_layers)[1:]]
    parameters = [f"{site}.weight" for site in modules]
    depth = np.linspace(0, 1, num_layers)
    for step in range(num_steps):
        bad = step in skipped
        norm = np.nan if bad else float(np.exp(random.normal(0, 0.3)) * (3 if step < 20 else 0.8))
        row = {
            "loss": np.nan
            if bad
            else 2 + 3 * np.exp(-step / (0.2 * num_steps)) + random.normal(0, 0.1),
            "gradient.norm": norm,
            "gradient.clip_coefficient": 1.0 if bad else min(1.0, 1.0 / norm),
            "gradient.clip_threshold": 1.0,
            "learning_rate": 1e-3 * min(1, (step + 1) / 50) * (1 - 0.9 * step / num_steps),
            "step.skipped": float(bad),
            "step.seconds": 0.05 + random.exponential(0.005),
            "weight.norm": 100 + step / num_steps,
        }
        if val_every and step % val_every == val_every - 1:
            row["val_loss"] = 2.2 + 3 * np.exp(-step / (0.2 * num_steps))
        writer.append("steps", step, {k: np.array([v]) for k, v in row.items()})
        if bad:
            writer.event(step, "skipped", reason="gradient not finite")
        if every and step % every == 0:
            shape = (len(depth), len(names("parameter")))
            values = np.exp(random.normal(-3, 0.5, shape) + depth[:, None] * 3)
            columns = dict(zip(names("parameter"), values.T.astype(np.float32), strict=True))
            if bad:
                columns["gradient.norm"] = np.full(num_layers, np.nan, np.float32)
            writer.append("parameters", step, columns, parameters)
            shape = (len(depth), len(names("module")))
            values = np.exp(random.normal(-1, 0.2, shape) + depth[:, None])
            columns = dict(zip(names("module"), values.T.astype(np.float32), strict=True))
            columns["activation.mean"] *= random.choice([-1, 1], num_layers)
            dead = np.clip(depth * step / num_steps, 0, 1)
            columns["activation.dead_fraction"] = np.where(depth < 0.5, np.nan, dead)
            writer.append("modules", step, columns, modules)
        if every and step % (10 * every) == 0:
            sites = [
                f"{kind}/{site}"
                for kind, of in zip(KINDS, (modules, parameters, parameters), strict=True)
                for site in of
            ]
            place = np.linspace(-1, 1, len(BINS) - 1)
            shape = np.exp(-(((abs(place) - random.uniform(0.2, 0.8, (len(sites), 1))) / 0.1) ** 2))
            counts = random.poisson(200 * shape).astype(float)
            writer.append("histograms", step, {"count": counts}, sites)


@pytest.fixture
def make_run(tmp_path):
    """Record a run into a folder below `tmp_path`; returns the folder."""

    def make(
        folder="run",
        *,
        num_steps=300,
        num_layers=12,
        every=10,
        val_every=50,
        skipped=(70, 71, 200),
        seed=0,
        first_site="embed",
        close=True,
        **info,
    ):
        path = tmp_path / folder
        modules = [first_site, *site_names(num_layers)[1:]]
        described = {
            "name": folder,
            "started": "2026-11-25T15:02:03.5",
            "config": {"optimizer": {"lr": 1e-3, "betas": [0.9, 0.95]}, "seed": seed},
            "environment": {"torch": "2.13.0", "python": "3.11.7", "device": "cpu"},
            "model": {"class": "GPT", "num_parameters": 1_234_567},
            "sites": {"modules": modules, "parameters": [f"{m}.weight" for m in modules]},
            "histogram_edges": BINS,
        }
        writer = RunWriter(path, info=described | info)
        fill(
            writer,
            num_steps,
            num_layers=num_layers,
            every=every,
            val_every=val_every,
            skipped=skipped,
            seed=seed,
            first_site=first_site,
        )
        if close:
            writer.close()
        else:
            writer.flush()
            make.writers.append(writer)
        return path

    make.writers = []
    yield make
    for writer in make.writers:
        writer.close()


@pytest.fixture
def csv_run(tmp_path):
    """A folder as `trimtab train` leaves it without watching."""
    path = tmp_path / "gpt-20261124-150203"
    path.mkdir()
    header = "step,loss,grad_norm,clip_coefficient,lr,loss_scale,skipped,tokens,seconds,val_loss"
    rows = [
        f"{s},{5 / s + 1},{2 / s},{min(1, s / 2)},{0.001 * s},1.0,0,{100 * s},{0.5 * s},"
        + (f"{6 / s}" if s % 10 == 0 else "")
        for s in range(1, 41)
    ]
    (path / "metrics.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    (path / "config.toml").write_text('recipe = "gpt"\n\n[optimizer]\nlr = 0.001\n', "utf-8")
    summary = '{"recipe": "gpt", "stopped": "finished", "num_parameters": 810000, "device": "cpu"}'
    (path / "summary.json").write_text(summary, encoding="utf-8")
    return path


def find_chromium():
    """Return the browser; without one, skip on a developer's machine and fail in CI."""
    found = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if found:
        return found
    reason = "The report's page needs Chromium: apt-get install chromium, or set CHROMIUM."
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser():
    path = find_chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Opened:
    """A page with everything that it complained of or asked for."""

    def __init__(self, page, url):
        self.page, self.complaints, self.requests = page, [], []
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-drawn]", state="attached")


@pytest.fixture
def show(browser):
    """Open a file in the browser; what it does wrong fails the test."""
    opened = []

    def show(path: Path, *, size=(1280, 800), scheme="light", touch=False):
        context = browser.new_context(
            viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, has_touch=touch
        )
        opened.append(Opened(context.new_page(), path.resolve().as_uri()))
        return opened[-1].page

    yield show
    for one in opened:
        one.page.context.close()
        assert one.complaints == []
        assert len(one.requests) == 1, one.requests  # the file itself
