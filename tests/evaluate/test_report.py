from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from keel.core.errors import RunError
from keel.evaluate import report_plots as plots
from keel.evaluate.compare import Answer, PromptAnswers
from keel.evaluate.report import collect, flatten, render, write_report
from keel.evaluate.report_series import Series, series_of
from keel.runs.columns import Columns

ROOT = Path(__file__).resolve().parents[2]
VOID = {"meta", "input", "br", "line", "circle", "rect", "path", "link", "img"}


class Page(HTMLParser):
    """Checks that tags are balanced, and gathers text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def words_of(html: str) -> str:
    return " ".join(" ".join(Page(html).text).split())


def test_the_headline_and_its_numbers(fake_run: Path):
    html = render(collect(fake_run))
    text = words_of(html)
    assert "68.4%" in text
    assert "95% interval 62.1% – 74.2% over 120 prompts" in text
    assert "better than before training" in text
    assert "81.2%" in text
    assert "−0.412 → 0.713" in text
    assert "Supervised fine-tuning 1 min 58 s" in text
    assert "step 12 warning: grad_norm = 131 (> 100)" in text
    assert "rl.algorithm.name" not in text  # settings stand under their section
    assert "algorithm.name grpo" in text
    assert "73.1%" in text
    assert "0.431" in text


def test_every_stage_has_its_curves(fake_run: Path):
    html = render(collect(fake_run))
    for label in ("Loss", "Accuracy", "Reward", "Reward by source", "KL to the reference", "Length of answers", "Entropy"):
        assert f'aria-label="{label}"' in html
    for label in ("Gold utility before and after", "Confidence and accuracy of the reward model", "Win rates with their intervals"):
        assert f'aria-label="{label}"' in html


def test_english_and_chinese_answers_stand_apart(fake_run: Path):
    text = words_of(render(collect(fake_run)))
    assert "English 30 of 30 prompts" in text
    assert "Chinese 10 of 10 prompts" in text
    assert text.index("Can I return shoes") < text.index("Chinese 10 of 10") < text.index("你们寄到挪威吗")
    assert "of the 30 prompts whose language is scored" in text


def test_each_number_says_where_it_came_from(fake_run: Path):
    html = render(collect(fake_run))
    table = html[html.index('<table class="origins">') :]
    rows = re.findall(r"<tr><td>(.*?)</td><td>(.*?)</td><td><code>(.*?)</code></td><td><code>(.*?)</code></td></tr>", table)
    found = {(label, file, name) for label, _, file, name in rows}
    assert ("Win rate by gold utility", "summary.json", "win_rate") in found
    assert ("Reliability plot", "stages/reward/summary.json", "calibration.bins") in found
    assert ("Reinforcement learning: reward (last)", "stages/rl/metrics.jsonl", "reward") in found
    for _, _, file, _ in rows:
        assert (fake_run / file).is_file()


def test_nothing_is_loaded_from_anywhere(fake_run: Path):
    html = render(collect(fake_run))
    assert not re.search(r"(?i)https?:|//[a-z0-9.-]+\.[a-z]{2,}/|@import|url\(", html)
    loading = [a for a in Page(html).attributes if a[1] in ("src", "href", "srcset", "action", "data")]
    assert loading
    assert all(name == "href" and value.startswith("#") for _, name, value in loading)
    assert len(html.encode()) < 3_000_000


def test_answers_and_names_are_escaped(fake_run: Path):
    evil = '<script>alert("x")</script><img src=x onerror=alert(1)>'
    data = collect(fake_run)
    answer = Answer(evil, 1.0, 1.0, {evil: 1.0}, 3)
    row = PromptAnswers("p", evil, (answer,), (answer,), "en", evil)
    stage = dataclasses.replace(
        data.stages[0],
        metrics=Columns.of_rows(({"step": 1, "loss": 1.0, evil: 1.0}, {"step": 2, "loss": 2.0, evil: 2.0})),
        samples=({"step": 1, "prompt": evil, "text": evil, "raw": evil},),
        told=({"kind": "warning", "step": 1, "message": evil},),
    )
    manifest = {"config": {evil: evil, "model": evil}, evil: evil}
    evil_data = dataclasses.replace(
        data, name=evil, answers=(row, dataclasses.replace(row, prompt_id="q", category=evil + "2")), stages=(stage,), manifest=manifest
    )
    html = render(evil_data)
    assert "<img" not in html
    assert html.count("<script") == 1
    assert html.count("&lt;img src=x") > 15
    Page(html)


def test_what_was_not_measured_is_said_and_never_zero(fake_run: Path):
    (fake_run / "summary.json").write_text(json.dumps({"kl": None, "reward_before": 1.0}))
    (fake_run / "samples/evaluation.jsonl").unlink()
    text = words_of(render(collect(fake_run)))
    assert "Headline: summary.json has no win_rate" in text
    assert "Reward before and after: summary.json lacks reward_before or reward_after" in text
    assert "KL: summary.json has no kl." in text
    assert "Side-by-side answers: the run has no samples/evaluation.jsonl" in text
    assert "Gold win rate against" not in text
    assert "Time 9 min 35 s in all" in text  # from the stages' own summaries


@pytest.mark.parametrize(("low", "high", "verdict"), [(0.45, 0.70, "no clear difference"), (0.30, 0.49, "worse than before")])
def test_the_verdict_is_honest(fake_run: Path, low: float, high: float, verdict: str):
    data = collect(fake_run)
    rate = {"mean": (low + high) / 2, "low": low, "high": high, "n": 50}
    assert verdict in words_of(render(dataclasses.replace(data, summary={"win_rate": rate})))


def test_a_single_stage_run_has_a_report_too(fake_run: Path, tmp_path: Path):
    run = tmp_path / "one"
    run.mkdir()
    (run / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')  # cut while being written
    (run / "manifest.json").write_text(json.dumps({"verb": "sft", "config": {"model": "tiny:llama", "seed": 3}}))
    path = write_report(run / "report.html", collect(run))
    html = path.read_text(encoding="utf-8")
    text = words_of(html)
    assert "Supervised fine-tuning" in text
    assert "loss 2 → 1.5" in text
    assert "tiny:llama" in text
    assert [p.name for p in run.glob("report*")] == ["report.html"]


def test_no_run_no_report(tmp_path: Path):
    with pytest.raises(RunError, match="no run in"):
        collect(tmp_path)


def test_a_long_evaluation_is_cut_and_says_so(fake_run: Path):
    data = collect(fake_run)
    rows = [PromptAnswers(f"p{i}", "ask", (Answer("a" * 6_000, 0.0),), (Answer("b" * 6_000, 1.0),), "en") for i in range(200)]
    html = render(dataclasses.replace(data, answers=tuple(rows)))
    assert len(html) < 1_500_000
    assert re.search(r"English \d+ of 200 prompts", words_of(html))
    assert "a" * 4_001 not in html


def test_numbers_for_people():
    shown = [plots.number(v) for v in (0, 0.04871, -1.5, 1234.5, 68, 2.5e-7, 3.2e8, None, float("nan"))]
    assert shown == ["0", "0.0487", "−1.5", "1,234", "68", "2.50e−07", "3.20e+08", "–", "–"]
    assert [plots.duration(v) for v in (0.5, 59.4, 61, 3725)] == ["0.5 s", "59 s", "1 min 1 s", "1 h 2 min"]
    assert plots.percent(0.6842) == "68.4%"


def test_ticks_are_round_and_inside():
    assert plots.ticks(0.0, 1.0) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert plots.ticks(-3.0, 11.0) == [0.0, 5.0, 10.0]
    assert plots.ticks(0.012, 0.019, 4) == pytest.approx([0.012, 0.014, 0.016, 0.018])


def test_smooth_is_centred():
    assert plots.smooth([0.0, 3.0, 6.0, 9.0], 3) == [1.5, 3.0, 6.0, 7.5]


def test_charts_take_degenerate_data():
    one = plots.line_chart("one point", [Series("loss", (5.0,), (1.0,))])
    flat = plots.line_chart("flat", [Series("loss", (1.0, 2.0), (0.0, 0.0))])
    same = plots.histogram("all the same", [1.0, 1.0], [1.0], "score")
    for svg in (one, flat, same):
        assert "nan" not in svg
        Page(svg)
    assert "<circle" in one


def test_long_curves_are_thinned():
    steps = tuple(float(i) for i in range(20_000))
    assert len(plots.line_chart("long", [Series("loss", steps, tuple((-1.0) ** i for i in range(20_000)))])) < 60_000


def test_one_spike_and_one_nan_in_a_long_run_are_in_the_picture():
    """The spike's height and the NaN's place; the moving mean is of all values, not of the extremes."""
    y = np.where(np.arange(100_000) % 10 == 0, 1.0, 0.0)
    y[34_567], y[70_001] = 40.0, np.nan
    curve = series_of("kl", np.arange(1, 100_001), y)
    assert max(zip(curve.y, curve.x)) == (40.0, 34_568.0)
    assert curve.holes == (70_002.0,)
    assert (curve.x[0], curve.x[-1]) == (1.0, 100_000.0)
    assert curve.trend is not None
    assert np.median(curve.trend[1]) == pytest.approx(0.1)
    svg = plots.line_chart("KL", [curve])
    assert "kl is not finite at step 70002" in svg
    assert ">40<" in svg, "the axis goes up to the spike"
    assert len(svg) < 60_000
    assert "nan" not in svg
    Page(svg)


def test_what_an_emergency_took_back_is_in_the_picture(fake_run: Path):
    folder = fake_run / "stages/rl"
    (folder / "abandoned.jsonl").write_text('{"rollback": 1, "step": 5, "reward": -777.0}\n')
    told = {"kind": "emergency", "step": 6, "message": "the reward fell. Back to step 4", "back_to": 4}
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(told) + "\n" + json.dumps({**told, "undone": 4, "message": "told twice"}) + "\n")
    html = render(collect(fake_run))
    card = html[html.index('aria-label="Reward"') :]
    svg = card[: card.index("</svg>")]
    assert "reward −777 at step 5, given up" in svg
    assert "step 6: the reward fell. Back to step 4" in svg
    assert "told twice" not in svg


def test_flatten_reaches_every_leaf():
    tree = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}], "f": {}}
    assert flatten(tree) == [("a.b", 1), ("a.c", [1, 2]), ("d.0.e", None), ("f", {})]


def test_labels_of_intervals_have_room() -> None:
    """Up to 45% of the width is theirs; what is longer is cut and told whole by a title. Nothing begins left of the picture."""
    labels = [
        "a",
        "Gold utility of a judge",
        "很长很长很长很长的名字",
        "W" * 30,
        "a name that no page in the world has room for " * 3,
        "<b>&",
    ]
    for count in range(1, len(labels) + 1):
        svg = str(plots.intervals("t", [(label, 0.5, 0.4, 0.6) for label in labels[:count]], width=520.0))
        shown = re.findall(r'<text class="row-label \w+" x="([\d.]+)"[^>]*>(.*?)</text>', svg)
        for label, (x, inside) in zip(labels, shown, strict=False):
            text, _, title = inside.partition("<title>")
            text = unescape(text)
            assert plots._label_width(text) <= float(x), label
            assert text == label or (text.endswith("…") and unescape(title.removesuffix("</title>")) == label)
        lines = [float(x) for x in re.findall(r'class="(?:grid|half)" x1="([\d.]+)"', svg)]
        assert min(lines) <= 0.45 * 520.0
        assert min(lines) >= max(float(x) for x, _ in shown)


def palettes(css: str) -> list[dict[str, str]]:
    """The variables of each ``:root``: by day, by night."""
    return [dict(re.findall(r"--([\w-]+):\s*([^;]+);", block)) for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)]


def test_reports_wear_the_colours_of_the_house():
    """A report and the pages of servers stand side by side on one screen: the same names for the same colours, by day and by night."""
    house = palettes((ROOT / "keel/site/static/site/site.css").read_text(encoding="utf-8"))
    report = (ROOT / "keel/evaluate/templates/report.css").read_text(encoding="utf-8")
    own = palettes(report)
    assert len(house) == len(own) == 2
    for of_house, of_report in zip(house, own, strict=True):
        assert of_house
        assert {name: of_report.get(name) for name in of_house} == of_house
    pages = [*(ROOT / "keel").rglob("*.css"), *(ROOT / "keel").rglob("*.j2"), *(ROOT / "keel").rglob("*.html")]
    pages = [page for page in pages if not {"annotate", "vendored"} & set(page.parts)]  # the annotators' page has themes of its own
    here = [(ROOT / "keel/dash/static/dash/dash.css").read_text(encoding="utf-8"), report]
    known = {name for css in here for palette in palettes(css) for name in palette} | set(house[0])
    used = {(page.name, name) for page in pages for name in re.findall(r"var\(--([\w-]+)", page.read_text(encoding="utf-8"))}
    set_there = {name for page in pages for name in re.findall(r"--([\w-]+):", page.read_text(encoding="utf-8"))}
    assert {(page, name) for page, name in used if name not in known | set_there} == set()
