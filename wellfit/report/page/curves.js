'use strict';
// Curves, drawn by uPlot: loss, evaluation, learning rate, and those of one layer.
wellfit.curves = (() => {
  const { node, number, whole, tick, color, data } = wellfit;
  const FONT = '12px system-ui, -apple-system, "Segoe UI", sans-serif';
  const AXIS = 58;

  const nice = (low, high, count) => {
    const rough = (high - low) / count || 1;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * unit).find((candidate) => candidate >= rough * 0.999);
    const ticks = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9 && ticks.length < 50; at++) ticks.push(Number((at * step).toPrecision(12)));
    return ticks;
  };

  // Whole decades over a wide range, 1-2-5 over a middling one, even steps over a narrow one.
  const logTicks = (low, high, count) => {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9);
    if (last - first >= 2) {
      const stride = Math.max(1, Math.ceil((last - first + 1) / count));
      const ticks = [];
      for (let power = first; power <= last; power += stride) ticks.push(10 ** power);
      return ticks;
    }
    if (high / low < 5) return nice(low, high, count);
    const ticks = [];
    for (let power = first - 1; power <= last; power++) for (const factor of [1, 2, 5]) ticks.push(factor * 10 ** power);
    const inside = ticks.filter((value) => value >= low * 0.999 && value <= high * 1.001);
    const decades = inside.filter((value) => Math.abs(Math.log10(value) % 1) < 1e-9);
    return inside.length > count + 1 && decades.length > 1 ? decades : inside;
  };

  const logRange = (low, high) => {
    const bottom = Math.log10(low), top = Math.log10(high);
    const pad = Math.max(0.05 * (top - bottom), 0.08);
    return [10 ** (bottom - pad), 10 ** (top + pad)];
  };

  const finiteOf = (columns, log) => {
    let low = Infinity, high = -Infinity;
    for (const column of columns) for (const value of column) {
      if (value === null || value === undefined || !Number.isFinite(value) || (log && value <= 0)) continue;
      if (value < low) low = value;
      if (value > high) high = value;
    }
    return low <= high ? [low, high] : null;
  };

  // Every how many epochs there is room for a line.
  const epochStride = (epochs, width) => [1, 2, 5, 10, 20, 50, 100, 200].find((stride) => (width * stride) / epochs.length >= 22) || 500;

  // Vertical lines where epochs begin, under the curves.
  const epochMarks = (epochs) => (u) => {
    const { ctx } = u;
    const stride = epochStride(epochs, u.width - AXIS);
    ctx.save();
    ctx.strokeStyle = color('epoch');
    ctx.lineWidth = devicePixelRatio;
    epochs.forEach((step, index) => {
      if (index % stride || step < u.scales.x.min || step > u.scales.x.max) return;
      const x = Math.round(u.valToPos(step, 'x', true)) + 0.5;
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
    });
    ctx.restore();
  };

  // A value that is not finite has no height: a red tick at the foot of the plot says where it was.
  const badMarks = (steps) => (u) => {
    const { ctx } = u;
    const size = 7 * devicePixelRatio;
    ctx.save();
    ctx.fillStyle = color('bad');
    for (const step of steps) {
      if (step < u.scales.x.min || step > u.scales.x.max) continue;
      const x = u.valToPos(step, 'x', true);
      ctx.fillRect(x - devicePixelRatio, u.bbox.top + u.bbox.height - size, 2 * devicePixelRatio, size);
    }
    ctx.restore();
  };

  const axes = (log) => {
    const shared = { stroke: color('quiet'), font: FONT, grid: { stroke: color('grid'), width: 1 }, ticks: { show: false } };
    return [
      { ...shared, size: 28, gap: 6, space: 70, grid: { show: false }, values: (u, at) => at.map((value) => (Number.isInteger(value) ? whole(value) : '')) },
      {
        ...shared, size: AXIS, gap: 8,
        splits: (u, index, low, high) => (log ? logTicks(low, high, Math.max(2, u.height / 50)) : nice(low, high, Math.max(2, u.height / 50))),
        filter: (u, at) => at,
        values: (u, at) => at.map(tick),
      },
    ];
  };

  // One plot. `columns` is [x, y...]; null breaks a line, undefined is passed over.
  const plot = (place, columns, series, { log, height, sync, bad = [], epochs = [], range, legend = true, onCursor }) => {
    const limits = range || finiteOf(columns.slice(1), log);
    if (!limits) {
      place.append(node('p', { class: 'empty' }, bad.length ? 'No finite value above zero.' : 'Nothing above zero to draw.'));
      return null;
    }
    const shown = log ? logRange(...limits) : range || (() => {
      const pad = 0.06 * (limits[1] - limits[0]) || Math.abs(limits[0]) * 0.1 || 1;
      return [limits[0] - pad, limits[1] + pad];
    })();
    const clean = columns.map((column, index) => (index && log ? column.map((value) => (value !== null && value <= 0 ? null : value)) : column));
    const x = columns[0];
    const span = [x[0], x[x.length - 1] > x[0] ? x[x.length - 1] : x[0] + 1];
    const u = new uPlot({
      width: Math.max(200, place.clientWidth), height,
      padding: [8, 16, 0, 0],
      scales: { x: { time: false, range: (self, low, high) => (low === null || low === high ? span : [low, high]) }, y: { distr: log ? 3 : 1, range: () => shown } },
      axes: axes(log),
      series: [{ label: 'step', value: (self, value) => (value === null ? '–' : whole(value)) }, ...series],
      legend: { show: legend },
      cursor: { y: false, points: { size: 7, width: 1.5, fill: color('surface'), stroke: (self, index) => self.series[index].stroke(self, index) }, sync: sync ? { key: sync, setSeries: false } : undefined, drag: { x: true, y: false } },
      hooks: { drawClear: [epochMarks(epochs)], draw: [badMarks(bad)], setCursor: onCursor ? [onCursor] : [] },
    }, clean, place);
    return u;
  };

  const line = (label, stroke, width = 1.5, more = {}) =>
    ({ label, stroke, width, points: { show: false }, value: (u, value) => number(value), ...more });

  // The running median of the finite values around each point: calm, yet not pulled about by single spikes.
  const smooth = (values) => {
    const reach = Math.round(values.length / 80);
    if (reach < 1) return null;
    return values.map((value, index) => {
      if (value === null) return null;
      const around = values.slice(Math.max(0, index - reach), index + reach + 1).filter((other) => other !== null).sort((a, b) => a - b);
      return around[around.length >> 1];
    });
  };

  const lossTables = () => {
    const { losses, evaluations } = data.curves;
    const tables = [], series = [];
    losses.forEach((curve, index) => {
      const stroke = color(`curve-${index % 4}`);
      const calm = smooth(curve.y);
      tables.push([curve.x, curve.y, ...(calm ? [calm] : [])]);
      series.push(line(curve.name, calm ? color(`faint-${index % 4}`) : stroke, calm ? 1 : 1.5));
      if (calm) series.push(line('running median', stroke, 2));
    });
    evaluations.forEach((curve, index) => {
      tables.push([curve.x, curve.y]);
      series.push(line(curve.name, color(`evaluation-${index % 2}`), 2, { points: { show: curve.x.length < 60, size: 5 }, spanGaps: true }));
    });
    return [uPlot.join(tables), series];
  };

  const lossWords = () => {
    const { losses, epochs } = data.curves;
    const words = [];
    const stride = epochStride(epochs, document.getElementById('loss-plot').clientWidth - AXIS);
    if (epochs.length > 1) words.push(stride > 1 ? `Vertical lines: every ${stride}th of ${epochs.length} epochs begins.`.replace('2th', '2nd') : 'Vertical lines: an epoch begins.');
    const bad = losses.flatMap((curve) => curve.bad);
    if (bad.length) words.push(`Red ticks: the loss was not finite, first at step ${whole(Math.min(...bad))}.`);
    document.getElementById('loss-words').textContent = words.join(' ');
  };

  const drawRates = () => {
    const place = document.getElementById('rate-plot');
    place.replaceChildren();
    const { rates, last, epochs } = data.curves;
    if (!rates.length) return null;
    const tables = rates.map(({ x, y }) => (x[x.length - 1] < last ? [[...x, last], [...y, y[y.length - 1]]] : [x, y]));
    const series = rates.map((curve, index) => line(curve.name, color(`curve-${(index + 2) % 4}`), 1.5, { paths: uPlot.paths.stepped({ align: 1 }), spanGaps: true }));
    place.append(node('h3', {}, 'Learning rate'));
    return plot(place, uPlot.join(tables), series, { log: false, height: 120, sync: 'steps', epochs });
  };

  const drawLoss = (log) => {
    const place = document.getElementById('loss-plot');
    place.replaceChildren();
    const [columns, series] = lossTables();
    const bad = data.curves.losses.flatMap((curve) => curve.bad);
    lossWords();
    return plot(place, columns, series, { log, height: 300, sync: 'steps', bad, epochs: data.curves.epochs });
  };

  const hasLoss = () => data.curves && data.curves.losses.length + data.curves.evaluations.length > 0;

  // A loss that falls a hundredfold says nothing on a linear scale.
  const wantsLog = () => {
    const all = finiteOf(data.curves.losses.map((curve) => curve.y), false);
    return Boolean(all && all[0] > 0 && all[1] / all[0] > 100);
  };

  return { plot, line, drawLoss, drawRates, hasLoss, wantsLog, nice, logTicks };
})();
