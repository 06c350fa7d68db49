// Votes by hour, with uPlot. Colours come from the style sheet, so that light and dark both fit.
import { hour, say } from "./numbers.js";

let chart = null;
let shown = "";

export function showHours(rows) {
  const place = document.getElementById("plot");
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const key = JSON.stringify([rows, place.clientWidth, colour("--accent")]);
  if (key === shown) return;
  shown = key;
  chart?.destroy();
  chart = null;
  place.hidden = rows.length < 2;
  if (place.hidden) return;
  const [first, last] = [rows[0][0], rows[rows.length - 1][0]];
  const by = new Map(rows);
  const x = [];
  for (let t = first; t <= last; t += 3600) x.push(t);
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const options = {
    width: place.clientWidth,
    height: 170,
    cursor: { show: false },
    legend: { show: false },
    scales: { x: { range: [first - 1800, last + 1800] }, y: { range: (_, __, max) => [0, Math.max(1, max * 1.1)] } },
    axes: [{ ...axis, incrs: [1, 2, 3, 4, 6, 12, 24].map((n) => n * 3600), values: (_, at) => at.map(hour) }, { ...axis, size: 44, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000] }],
    series: [{}, { label: say("plot.votes"), fill: colour("--accent"), stroke: colour("--accent"), width: 0, paths: uPlot.paths.bars({ size: [0.8, 48] }), points: { show: false } }],
  };
  chart = new uPlot(options, [x, x.map((t) => by.get(t) ?? 0)], place);
}
