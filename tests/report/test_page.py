"""The page in a real browser: it draws, answers to pointer and keys, and stays in its frame."""

import re

import pytest

from trimtab.report import write_report

pytestmark = pytest.mark.slow

HEAT = ".heat-field"
INK = """
(element) => {
  const canvas = element.querySelector("canvas");
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(data.buffer)).size;
}
"""
IS_CUT = """
(element) => {
  const range = document.createRange();
  range.selectNodeContents(element);
  return range.getBoundingClientRect().width > element.clientWidth + 0.5;
}
"""
OVERLAPS = """
() => {
  const found = [];
  for (const group of document.querySelectorAll(".axis, .heat-labels, .heat-axis")) {
    const texts = [...group.querySelectorAll("text, span:not(.picked, .covered)")];
    const boxes = texts.map((text) => text.getBoundingClientRect());
    boxes.forEach((p, i) => boxes.slice(i + 1).forEach((q, j) => {
      const across = p.left < q.right && q.left < p.right;
      const down = p.top < q.bottom - 1 && q.top < p.bottom - 1;
      if (across && down) found.push([texts[i].textContent, texts[i + 1 + j].textContent]);
    }));
  }
  return found;
}
"""


def panel(page, title):
    return page.locator(".panel", has=page.locator("h3", has_text=re.compile(f"^{title}"))).first


@pytest.fixture
def page(make_run, show, tmp_path):
    return show(write_report([make_run()], tmp_path / "report.html"))


def test_every_part_is_there(page):
    assert page.title() == "run"
    assert page.locator("h2").all_inner_texts() == [
        "Curves",
        "Layers",
        "Histograms",
        "Events",
        "Settings",
    ]
    assert page.locator("h1").inner_text() == "run"
    assert page.locator(".verdict strong").inner_text() == "3 steps skipped"
    assert page.locator(".tile dt").count() == 8
    assert "1.23 M parameters" in page.locator(".run-meta").inner_text()


def test_charts_have_curves_and_heat_maps_have_colours(page):
    for title in ("Loss", "Gradient norm", "Learning rate"):
        path = panel(page, title).locator("svg.plot path").first.get_attribute("d")
        assert len(path) > 1000
    heats = page.locator(HEAT)
    assert heats.count() == 6  # four, another one and the histogram
    for i in range(heats.count()):
        assert heats.nth(i).evaluate(INK) > 10


def test_clipped_and_skipped_steps_are_marked(page):
    loss = panel(page, "Loss")
    assert loss.locator("path.rug.tint-clipped").count() >= 1
    d = loss.locator("path.rug.tint-skipped").get_attribute("d")
    assert d.count("M") == 3


def test_a_layer_is_picked_by_click(page):
    field = page.locator(f"{HEAT}[aria-label^='Gradient norm']")
    box = field.bounding_box()
    field.click(position={"x": box["width"] / 2, "y": box["height"] * 4.5 / 12})
    assert page.locator(".follow-name").inner_text() == "blocks.1.norm.weight"
    assert page.locator("#follow .plot").count() == 8
    assert page.locator("#follow-site").input_value() == "parameter 4"


def test_a_layer_is_picked_by_touch(make_run, show, tmp_path):
    page = show(write_report([make_run()], tmp_path / "r.html"), size=(390, 844), touch=True)
    field = page.locator(HEAT).first
    field.scroll_into_view_if_needed()
    box = field.bounding_box()
    field.tap(position={"x": 60, "y": box["height"] * 0.5 / 12})
    assert page.locator(".follow-name").inner_text() == "embed.weight"


def test_a_layer_is_picked_by_keyboard(page):
    field = page.locator(f"{HEAT}[aria-label^='Activation RMS']")
    field.focus()
    page.keyboard.press("Home")
    assert page.locator(".follow-name").inner_text() == "embed"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert page.locator(".follow-name").inner_text() == "blocks.0.attention.out_proj"
    assert field.get_attribute("aria-valuenow") == "3"
    before = field.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowLeft")
    assert re.fullmatch(
        r"blocks\.0\.attention\.out_proj, step \d+: [\d.]+", field.get_attribute("aria-valuetext")
    )
    assert field.get_attribute("aria-valuetext") != before
    page.keyboard.press("End")
    assert page.locator(".follow-name").inner_text() == "blocks.2.feed_forward.up"


def test_a_layer_is_picked_by_name(page):
    page.locator("#follow-site").select_option(label="blocks.2.norm.weight")
    assert page.locator(".follow-name").inner_text() == "blocks.2.norm.weight"
    picked = page.locator(".heat-labels .picked").all()
    assert {label.get_attribute("title") for label in picked} == {"blocks.2.norm.weight"}


def test_the_followed_layer_shows_its_values(make_run, show, tmp_path):
    from trimtab.report._runs import RunData

    path = make_run()
    layers = RunData.load(path).layers["parameter"]
    page = show(write_report([path], tmp_path / "r.html"))
    page.locator("#follow-site").select_option(label="blocks.2.norm.weight")
    chart = page.locator("#follow svg.plot").first
    chart.focus()
    page.keyboard.press("End")

    said = chart.get_attribute("aria-valuetext")

    exact = layers.values["gradient.norm"][layers.sites.index("blocks.2.norm.weight"), -1]
    assert said.startswith("Step 290: ")
    assert float(said.rsplit(" ", 1)[1]) == pytest.approx(exact, rel=1e-3)


def test_hovering_tells_exact_values(page):
    plot = panel(page, "Loss").locator("svg.plot")
    box = plot.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 80)
    tip = panel(page, "Loss").locator(".tip")
    assert tip.is_visible()
    assert re.search(r"Step \d+\s+training\s+[\d.]+", tip.inner_text())
    page.mouse.move(5, 5)
    assert not tip.is_visible()


def test_charts_answer_to_keys(page):
    plot = panel(page, "Gradient norm").locator("svg.plot")
    plot.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert plot.get_attribute("aria-valuenow") == "1"
    assert "clip threshold 1" in plot.get_attribute("aria-valuetext")


def test_the_scale_can_be_switched(page):
    loss = panel(page, "Loss")
    before = loss.locator("path.ink").get_attribute("d")
    loss.get_by_role("button", name="Log").click()
    assert loss.get_by_role("button", name="Log").get_attribute("aria-pressed") == "true"
    assert loss.get_by_role("button", name="Linear").get_attribute("aria-pressed") == "false"
    assert loss.locator("path.ink").get_attribute("d") != before


def test_smoothing_can_be_changed(page):
    loss = panel(page, "Loss")
    assert "training, smoothed" in loss.locator(".legend").inner_text()
    page.locator("#smoothing").focus()
    page.keyboard.press("Home")
    assert "smoothed" not in loss.locator(".legend").inner_text()


def test_another_signal_can_be_chosen(page):
    page.locator("#signal").select_option(label="Activation kurtosis")
    assert page.locator(".more h3").inner_text() == "Activation kurtosis"
    assert "normal distribution" in page.locator(".more .note").inner_text()
    assert page.locator(f".more {HEAT}").evaluate(INK) > 10


def test_another_histogram_can_be_chosen(page):
    page.locator("#histogram").select_option(label="Activation of blocks.1.norm")
    assert page.locator("#histograms h3").inner_text() == "Activation of blocks.1.norm"


@pytest.mark.parametrize(("scheme", "other"), [("light", "Dark"), ("dark", "Light")])
def test_the_theme_follows_the_system_and_the_choice(make_run, show, tmp_path, scheme, other):
    page = show(write_report([make_run()], tmp_path / "r.html"), scheme=scheme)

    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)))

    first = brightness()
    assert (first > 600) is (scheme == "light")
    page.get_by_role("button", name=other).click()
    assert (brightness() > 600) is (other == "Light")
    page.get_by_role("button", name="Auto").click()
    assert brightness() == first


@pytest.mark.parametrize("size", [(390, 844), (768, 1024), (1280, 800)], ids=str)
@pytest.mark.parametrize("num_runs", [1, 2])
def test_nothing_is_wider_than_the_screen(make_run, show, tmp_path, size, num_runs):
    paths = [make_run(f"run{i}", seed=i, num_steps=100) for i in range(num_runs)]
    page = show(write_report(paths, tmp_path / "r.html"), size=size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    wide = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
          .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll"))
          .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert wide == []


@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=str)
def test_long_names_fit_into_the_margin(make_run, show, tmp_path, size):
    path = make_run(num_layers=8, first_site="transformer.encoder.embedding.position")
    page = show(write_report([path], tmp_path / "r.html"), size=size)
    page.locator("#follow-site").select_option(label="blocks.0.attention.out_proj.weight")
    labels = page.locator(".heat-labels span").all()
    assert any("…" in label.inner_text() for label in labels)
    assert [label.inner_text() for label in labels if label.evaluate(IS_CUT)] == []


@pytest.mark.parametrize("size", [(390, 844), (1280, 800)], ids=str)
def test_labels_do_not_overlap(make_run, show, tmp_path, size):
    page = show(write_report([make_run(num_layers=60)], tmp_path / "r.html"), size=size)
    overlaps = page.evaluate(OVERLAPS)
    assert overlaps == []


def test_two_runs_stand_side_by_side(make_run, show, tmp_path):
    paths = [make_run("calm", skipped=()), make_run("wild", seed=1, num_steps=220)]
    page = show(write_report(paths, tmp_path / "r.html"))
    assert page.title() == "calm and wild"
    assert page.locator("h1").all_inner_texts() == ["calm", "wild"]
    assert page.locator(".verdict strong").all_inner_texts() == ["Healthy", "3 steps skipped"]
    assert page.locator(HEAT).count() == 12
    assert panel(page, "Loss").locator("path.ink").count() == 2
    page.get_by_label("Only differences").check()
    rows = page.locator("#settings .panel").first.locator("tbody tr:visible th")
    assert rows.all_inner_texts() == ["seed"]


def test_runs_with_different_layers_can_be_compared(make_run, show, tmp_path):
    paths = [make_run("small", num_layers=6), make_run("large", num_layers=9, first_site="stem")]
    page = show(write_report(paths, tmp_path / "r.html"))
    page.locator("#follow-site").select_option(label="stem")
    assert page.locator(".follow-name").inner_text() == "stem"
    assert page.locator("#follow path.ink").first.get_attribute("class").endswith("tint-1")


def test_a_run_that_was_not_watched(csv_run, show, tmp_path):
    page = show(write_report([csv_run], tmp_path / "r.html"))
    assert page.locator(".verdict strong").inner_text() == "Healthy"
    assert "Layers were not watched" in page.locator("#layers").inner_text()
    assert page.locator(HEAT).count() == 0
    assert page.locator("#settings").inner_text().startswith("Settings")


def test_names_cannot_become_code(make_run, show, tmp_path):
    evil = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
    path = make_run(first_site=evil, name=evil, config={evil: evil, "$data": "${script}"})
    page = show(write_report([path], tmp_path / "r.html"))
    assert page.title() == evil
    assert page.locator("h1").inner_text() == evil
    assert page.locator("img").count() == 0
    page.locator("#follow-site").select_option(label=f"{evil}.weight")
    assert page.locator(".follow-name").inner_text() == f"{evil}.weight"


def test_a_large_run_draws_at_once(make_run, show, tmp_path):
    path = make_run(num_steps=10_000, num_layers=100, every=10)
    report = write_report([path], tmp_path / "r.html")
    assert report.stat().st_size <= 3_000_000
    page = show(report)
    drawn = int(page.locator("html").get_attribute("data-drawn"))
    assert drawn < 3000  # about 0.5 s on a quiet machine; this one may be busy


def test_a_print_is_light_and_without_controls(make_run, show, tmp_path):
    page = show(write_report([make_run()], tmp_path / "r.html"), scheme="dark")
    page.emulate_media(media="print")
    colour = page.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor")
    assert colour == "rgb(255, 255, 255)"
    assert page.locator(".controls:visible").count() == 0
