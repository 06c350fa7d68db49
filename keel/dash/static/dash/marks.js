// What stands on a picture beside its curves: alarms, rollbacks, values that are not finite, values that were taken back.
const SIZE = 5;

/** Events by where they stand, those of one pixel together; the gravest says the colour. */
function placed(u, events) {
  const by = new Map();
  for (const event of events) {
    if (event.step < u.scales.x.min || event.step > u.scales.x.max) continue;
    const x = Math.round(u.valToPos(event.step, "x", true));
    by.set(x, [...(by.get(x) || []), event]);
  }
  return by;
}

const gravest = (events) => ["critical", "warning"].find((level) => events.some((e) => e.level === level)) || "info";

export function drawMarks(u, chart) {
  const { ctx, bbox } = u;
  const scale = devicePixelRatio;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  for (const event of chart.events) {
    if (event.kind !== "emergency" || event.back_to === undefined) continue;
    const from = u.valToPos(event.back_to, "x", true);
    ctx.fillStyle = chart.colour("--undone");
    ctx.fillRect(from, bbox.top, u.valToPos(event.step, "x", true) - from, bbox.height);
  }
  for (const [x, events] of placed(u, chart.events)) {
    const back = events.some((e) => e.kind === "emergency");
    ctx.strokeStyle = ctx.fillStyle = chart.colour(`--level-${gravest(events)}`);
    ctx.lineWidth = (back ? 1.5 : 1) * scale;
    ctx.setLineDash(back ? [] : [3 * scale, 3 * scale]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    ctx.setLineDash([]);
    ctx.beginPath();
    ctx.moveTo(x - SIZE * scale, bbox.top);
    ctx.lineTo(x + SIZE * scale, bbox.top);
    ctx.lineTo(x, bbox.top + 1.6 * SIZE * scale);
    ctx.fill();
  }
  for (const curve of chart.lost) {
    ctx.strokeStyle = chart.colourOf(curve);
    ctx.lineWidth = 1.2 * scale;
    path(u, curve.points.filter((p) => typeof p[1] === "number"), scale);
    for (const [step, low, high] of curve.points) {
      if (typeof low !== "number") {
        sign(u, chart, step, low);
        continue;
      }
      const [x, y, top] = [u.valToPos(step, "x", true), u.valToPos(low, "y", true), u.valToPos(high, "y", true)];
      for (const at of y === top ? [y] : [y, top]) diamond(ctx, x, at, 3.5 * scale);
      if (y !== top) line(ctx, x, y, top);
    }
  }
  for (const [step, kind] of chart.holes) sign(u, chart, step, kind);
  ctx.restore();
}

/** What was taken back hangs together: a thin line through it, a new one where steps begin anew. */
function path(u, points, scale) {
  const { ctx } = u;
  ctx.save();
  ctx.setLineDash([2 * scale, 2 * scale]);
  ctx.beginPath();
  points.forEach(([step, , high], i) => {
    const [x, y] = [u.valToPos(step, "x", true), u.valToPos(high, "y", true)];
    if (i && step > points[i - 1][0]) ctx.lineTo(x, y);
    else ctx.moveTo(x, y);
  });
  ctx.stroke();
  ctx.restore();
}

function line(ctx, x, from, to) {
  ctx.beginPath();
  ctx.moveTo(x, from);
  ctx.lineTo(x, to);
  ctx.stroke();
}

function diamond(ctx, x, y, size) {
  ctx.beginPath();
  ctx.moveTo(x, y - size);
  ctx.lineTo(x + size, y);
  ctx.lineTo(x, y + size);
  ctx.lineTo(x - size, y);
  ctx.closePath();
  ctx.stroke();
}

/** Not a number: a cross at the bottom; infinite: a triangle at the top or the bottom. */
function sign(u, chart, step, kind) {
  const { ctx, bbox } = u;
  const size = 4.5 * devicePixelRatio;
  const x = u.valToPos(step, "x", true);
  const y = kind === "Infinity" ? bbox.top + 2 * size : bbox.top + bbox.height - 2 * size;
  ctx.strokeStyle = ctx.fillStyle = chart.colour("--level-critical");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.beginPath();
  if (kind === "NaN") {
    ctx.moveTo(x - size, y - size);
    ctx.lineTo(x + size, y + size);
    ctx.moveTo(x + size, y - size);
    ctx.lineTo(x - size, y + size);
    ctx.stroke();
    return;
  }
  const up = kind === "Infinity" ? -1 : 1;
  ctx.moveTo(x - size, y - (up * size) / 2);
  ctx.lineTo(x + size, y - (up * size) / 2);
  ctx.lineTo(x, y + up * size);
  ctx.fill();
}

/** Events near the cursor, for the line under a picture. */
export function near(u, events) {
  const { left, idx } = u.cursor;
  if (left === null || left < 0 || idx === null) return [];
  return events.filter((e) => e.step >= u.scales.x.min && e.step <= u.scales.x.max && Math.abs(u.valToPos(e.step, "x") - left) <= SIZE).slice(-3);
}
