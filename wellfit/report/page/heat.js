'use strict';
// The map of layers and steps, and the curves of the layer chosen in it.
wellfit.heat = (() => {
  const { node, number, whole, tail, unpack, color, data } = wellfit;
  const COLUMNS = 400;
  const STOPS = ['440154', '482475', '414487', '355f8d', '2a788e', '21918c', '22a884', '44bf70', '7ad151', 'bddf26', 'fde725']
    .map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  // `shown` holds the layers that the chosen metric was measured of; `layer` is the chosen one.
  const state = { metric: 0, layer: -1, column: -1, height: 20, shown: [], charts: [] };
  const layers = () => data.layers.layers;
  const chosenRow = () => state.shown.indexOf(state.layer);
  const metric = () => data.layers.metrics[state.metric];
  const steps = () => data.layers.steps;
  const columnCount = () => Math.min(COLUMNS, data.layers.stretch ? Math.ceil(steps().length / 2) : steps().length);
  const tables = new Map();
  let parts = null;

  // What one cell stands for: [first point, last point + 1].
  const points = (column) => {
    const pair = data.layers.stretch ? 2 : 1;
    const units = steps().length / pair;
    const first = Math.floor((column * units) / columnCount());
    return [first * pair, Math.max(first + 1, Math.floor(((column + 1) * units) / columnCount())) * pair];
  };

  // A non-finite value wins; else the (geometric) mean of the points.
  const cellValue = (values, from, to, log) => {
    let sum = 0, count = 0, zeros = 0;
    for (let i = from; i < to; i++) {
      const value = values[i];
      if (value === undefined) continue;
      if (!Number.isFinite(value)) return value;
      if (log && value <= 0) { zeros++; continue; }
      sum += log ? Math.log10(value) : value;
      count++;
    }
    if (count) return log ? 10 ** (sum / count) : sum / count;
    return zeros ? 0 : undefined;
  };

  const table = () => {
    const known = tables.get(state.metric);
    if (known) return known;
    const { log } = metric();
    const rows = state.shown.map((layer) => {
      const values = unpack(layers()[layer].curves[state.metric], log);
      return Array.from({ length: columnCount() }, (_, column) => cellValue(values, ...points(column), log));
    });
    let low = Infinity, high = -Infinity, bad = false, zero = false, absent = false;
    for (const row of rows) for (const value of row) {
      if (value === undefined) absent = true;
      else if (!Number.isFinite(value)) bad = true;
      else if (log && value <= 0) zero = true;
      else { low = Math.min(low, value); high = Math.max(high, value); }
    }
    if (!log) [low, high] = [0, 1];
    else if (low > high) [low, high] = [0.1, 1];
    else if (high / low < 10) { const middle = Math.sqrt(low * high); [low, high] = [middle / Math.sqrt(10), middle * Math.sqrt(10)]; }
    const made = { rows, low, high, bad, zero, absent };
    tables.set(state.metric, made);
    return made;
  };

  const share = (value, { low, high }) => (metric().log ? Math.log(value / low) / Math.log(high / low) : (value - low) / (high - low));

  const shade = (at) => {
    const place = Math.min(1, Math.max(0, at)) * (STOPS.length - 1);
    const index = Math.min(STOPS.length - 2, Math.floor(place));
    return STOPS[index].map((from, channel) => Math.round(from + (place - index) * (STOPS[index + 1][channel] - from)));
  };

  const parse = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

  const drawMap = () => {
    const { canvas, box } = parts;
    const rows = state.shown.length, columns = columnCount();
    const made = table();
    const image = new ImageData(columns, rows);
    const special = { bad: parse(color('bad')), zero: parse(color('zero')), absent: parse(color('absent')) };
    made.rows.forEach((row, y) => row.forEach((value, x) => {
      const rgb = value === undefined ? special.absent : !Number.isFinite(value) ? special.bad
        : metric().log && value <= 0 ? special.zero : shade(share(value, made));
      image.data.set([...rgb, 255], 4 * (y * columns + x));
    }));
    const small = document.createElement('canvas');
    small.width = columns;
    small.height = rows;
    small.getContext('2d').putImageData(image, 0, 0);
    const ratio = devicePixelRatio || 1;
    canvas.width = Math.round(box.clientWidth * ratio);
    canvas.height = Math.round(rows * state.height * ratio);
    canvas.style.height = `${rows * state.height}px`;
    const ctx = canvas.getContext('2d');
    ctx.imageSmoothingEnabled = false;
    ctx.drawImage(small, 0, 0, canvas.width, canvas.height);
    if (state.height >= 8) {
      ctx.fillStyle = color('surface');
      for (let row = 1; row < rows; row++) ctx.fillRect(0, Math.round(row * state.height * ratio) - ratio / 2, canvas.width, ratio);
    }
  };

  const drawTicks = () => {
    const { ticks, box } = parts;
    const count = Math.max(2, Math.min(columnCount(), Math.floor(box.clientWidth / 110)));
    ticks.replaceChildren(...Array.from({ length: count }, (_, index) => {
      const column = Math.round((index * (columnCount() - 1)) / (count - 1));
      const label = node('span', {}, whole(steps()[points(column)[0]]));
      label.style.left = `${(100 * (column + 0.5)) / columnCount()}%`;
      return label;
    }));
  };

  const swatch = (name, words) => {
    const mark = node('i', { class: 'swatch' });
    mark.style.background = color(name);
    return node('span', { class: 'key' }, mark, words);
  };

  const drawLegend = () => {
    const made = table();
    const scale = node('i', { class: 'scale' });
    scale.style.background = `linear-gradient(to right, ${STOPS.map((rgb) => `rgb(${rgb})`).join(', ')})`;
    const name = metric().log ? 'logarithmic' : 'linear';
    parts.legend.replaceChildren(
      node('span', { class: 'key' }, number(Number(made.low.toPrecision(2))), scale, number(Number(made.high.toPrecision(2))), node('span', { class: 'quiet' }, ` ${name}`)),
      ...[made.bad && swatch('bad', 'not finite'), made.zero && swatch('zero', 'exactly 0'), made.absent && swatch('absent', 'not measured')].filter(Boolean));
  };

  const cellWords = (row, column) => {
    const [from, to] = points(column);
    const first = steps()[from], last = steps()[Math.min(to, steps().length) - 1];
    const value = table().rows[row][column];
    return [layers()[state.shown[row]].name, first === last ? `step ${whole(first)}` : `steps ${whole(first)}–${whole(last)}`,
      value === undefined ? 'not measured' : `${metric().title.toLowerCase()} ${number(value)}`];
  };

  const showTip = (row, column) => {
    const { tip, box, canvas } = parts;
    const [name, when, what] = cellWords(row, column);
    tip.replaceChildren(node('b', {}, tail(name, 60)), node('span', {}, what), node('span', { class: 'quiet' }, when));
    tip.hidden = false;
    const x = ((column + 0.5) / columnCount()) * canvas.clientWidth;
    const right = x > box.clientWidth / 2;
    tip.style.left = right ? 'auto' : `${x + 14}px`;
    tip.style.right = right ? `${box.clientWidth - x + 14}px` : 'auto';
    tip.style.top = `${Math.min(row * state.height + state.height / 2, Math.max(0, box.clientHeight - 60))}px`;
  };

  const hideTip = () => { parts.tip.hidden = true; };

  const cellAt = (event) => {
    const frame = parts.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - frame.left) / frame.width) * columnCount());
    const row = Math.floor((event.clientY - frame.top) / state.height);
    const inside = column >= 0 && column < columnCount() && row >= 0 && row < state.shown.length;
    return inside ? [row, column] : null;
  };

  const markRow = () => {
    const row = chosenRow();
    parts.options.forEach((option, index) => {
      option.setAttribute('aria-selected', String(index === row));
      option.classList.toggle('chosen', index === row);
    });
    parts.mark.hidden = row < 0;
    parts.mark.style.top = `${row * state.height}px`;
    parts.mark.style.height = `${state.height}px`;
    if (row >= 0) parts.list.setAttribute('aria-activedescendant', parts.options[row].id);
    else parts.list.removeAttribute('aria-activedescendant');
  };

  const chart = (box, now, layer, index) => {
    const about = data.layers.metrics[index];
    const values = unpack(layer.curves[index], about.log);
    if (!values) {
      box.append(node('p', { class: 'empty' }, 'Not measured here.'));
      return null;
    }
    const bad = steps().filter((step, at) => values[at] !== undefined && !Number.isFinite(values[at]));
    const drawn = values.map((value) => (value === undefined ? undefined : Number.isFinite(value) ? value : null));
    const words = (at) => (at === null || at === undefined || values[at] === undefined ? '' : `${number(values[at])} at step ${whole(steps()[at])}`);
    const latest = values.length - 1 - [...values].reverse().findIndex((value) => value !== undefined);
    now.textContent = words(latest);
    return wellfit.curves.plot(box, [steps(), drawn], [wellfit.curves.line(about.title, color('curve-0'))], {
      log: about.log, height: 150, sync: 'steps', bad, legend: false, range: about.log ? null : [-0.02, 1.02],
      epochs: data.curves && data.curves.epochs.length <= 12 ? data.curves.epochs : [],
      onCursor: (u) => { now.textContent = words(u.cursor.idx === null || u.cursor.left < 0 ? latest : u.cursor.idx); },
    });
  };

  const drawLayer = () => {
    const place = document.getElementById('layer');
    state.charts.forEach((u) => u && u.destroy());
    state.charts = [];
    place.replaceChildren();
    if (state.layer < 0) {
      place.append(node('p', { class: 'quiet hint' }, 'Choose a layer for its curves: click a row, or use the arrow keys in the map.'));
      return;
    }
    const layer = layers()[state.layer];
    const grid = node('div', { class: 'charts' });
    place.append(node('header', { class: 'layer' }, node('h3', {}, layer.name),
      node('span', { class: 'quiet' }, [layer.class, layer.place].filter(Boolean).join(' · '))), grid);
    // All frames first: a plot takes its width from its frame, which the others make narrower.
    const frames = data.layers.metrics.map((about) => [node('div', { class: 'plot' }), node('span', { class: 'now' }), about]);
    grid.append(...frames.map(([box, now, about]) => node('figure', { class: 'chart', 'data-metric': about.key },
      node('figcaption', {}, node('h4', { title: about.about }, about.title), now), box)));
    state.charts = frames.map(([box, now], index) => chart(box, now, layer, index));
  };

  const open = (layer, scroll = false) => {
    state.layer = layer;
    markRow();
    drawLayer();
    if (scroll) document.getElementById('layer').scrollIntoView({ block: 'nearest' });
  };

  const onKey = (event) => {
    const rows = state.shown.length, columns = columnCount();
    const chosen = chosenRow();
    const row = Math.max(0, chosen), column = state.column < 0 ? columns - 1 : state.column;
    const moves = {
      ArrowDown: [chosen < 0 ? 0 : Math.min(rows - 1, row + 1), state.column], ArrowUp: [Math.max(0, row - 1), state.column],
      Home: [0, state.column], End: [rows - 1, state.column],
      ArrowLeft: [row, Math.max(0, column - 1)], ArrowRight: [row, Math.min(columns - 1, column + 1)],
    };
    if (event.key === 'Escape') { state.column = -1; hideTip(); return; }
    const move = moves[event.key];
    if (!move || !rows) return;
    event.preventDefault();
    state.column = move[1];
    if (move[0] !== chosen) open(state.shown[move[0]]);
    if (state.column >= 0) {
      showTip(move[0], state.column);
      parts.voice.textContent = cellWords(move[0], state.column).join(', ');
    }
  };

  const build = () => {
    state.shown = layers().map((_, index) => index).filter((index) => layers()[index].curves[state.metric]);
    const rows = state.shown.length;
    state.height = rows <= 26 ? 20 : Math.max(2, Math.floor(520 / rows));
    const every = Math.ceil(13 / state.height);
    const options = state.shown.map((at, index) => {
      const layer = layers()[at];
      const option = node('div', { class: 'option', role: 'option', id: `row-${index}`, title: layer.name, 'aria-label': layer.name, onclick: () => open(at) },
        node('span', { class: index % every ? 'rare' : '' }, tail(layer.name, 30)));
      option.style.height = `${state.height}px`;
      option.style.lineHeight = `${state.height}px`;
      return option;
    });
    parts = {
      options, canvas: node('canvas', { 'aria-hidden': 'true' }), mark: node('div', { class: 'mark', hidden: true }), tip: node('div', { class: 'tip', hidden: true }),
      ticks: node('div', { class: 'ticks', 'aria-hidden': 'true' }), legend: node('div', { class: 'legend' }), voice: node('div', { class: 'unseen', 'aria-live': 'polite' }),
    };
    parts.box = node('div', { class: 'map' }, parts.canvas, parts.mark, parts.tip);
    parts.list = node('div', { class: 'names', role: 'listbox', tabIndex: 0, 'aria-label': 'Layers', onkeydown: onKey, onblur: hideTip }, ...options);
    parts.canvas.addEventListener('mousemove', (event) => { const cell = cellAt(event); if (cell) showTip(...cell); else hideTip(); });
    parts.canvas.addEventListener('mouseleave', hideTip);
    parts.canvas.addEventListener('click', (event) => { const cell = cellAt(event); if (cell) { open(state.shown[cell[0]]); parts.list.focus({ preventScroll: true }); } });
    document.getElementById('heat').replaceChildren(node('div', { class: 'heat' }, parts.list, parts.box, node('span', { class: 'axis quiet' }, 'watched step'), parts.ticks), parts.legend, parts.voice);
  };

  const chooseMetric = (index) => {
    state.metric = index;
    const { about } = metric();
    const { total } = data.layers;
    const left = total > layers().length ? ` ${whole(layers().length)} of ${whole(total)} layers are shown.` : '';
    document.getElementById('metric-about').textContent = about + left;
    build();
    draw();
  };

  const choices = () => {
    document.getElementById('metric-choice').replaceChildren(...data.layers.metrics.map((one, index) => (one.heat
      ? node('label', {}, node('input', { type: 'radio', name: 'metric', value: one.key, checked: index === state.metric, onchange: () => chooseMetric(index) }), node('span', {}, one.title)) : null)).filter(Boolean));
  };

  const draw = () => {
    if (!state.shown.length) {
      document.getElementById('heat').replaceChildren(node('p', { class: 'empty' }, 'Not measured for any layer.'));
      return;
    }
    drawMap();
    drawTicks();
    drawLegend();
    markRow();
  };

  const show = () => {
    const measured = data.layers.metrics.findIndex((one, index) => one.heat && layers().some((layer) => layer.curves[index]));
    state.metric = Math.max(0, measured);
    choices();
    chooseMetric(state.metric);
    drawLayer();
  };

  const redraw = () => { draw(); drawLayer(); };

  return { show, redraw, open };
})();
