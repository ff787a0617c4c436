'use strict';
// Elements, numbers and packed curves. Every text of the run reaches the page through `node`, as text and never as HTML.
const wellfit = (() => {
  const node = (tag, properties = {}, ...children) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name === 'class') made.className = value;
      else if (name.includes('-') || name === 'role') made.setAttribute(name, value);
      else made[name] = value;
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
    return made;
  };

  // Words between back-ticks as <code>.
  const coded = (text) => text.split('`').map((part, index) => (index % 2 && part ? node('code', {}, part) : part));

  const exponent = (text) => text.replace(/\.?0*e/, 'e').replace('e+', 'e');

  // Four significant digits, as the terminal writes them.
  const number = (value) => {
    if (value === null || value === undefined) return '–';
    if (Number.isNaN(value)) return 'NaN';
    if (!Number.isFinite(value)) return value > 0 ? 'inf' : '-inf';
    if (value === 0) return '0';
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e6) return exponent(value.toExponential(3));
    return String(Number(value.toPrecision(4)));
  };

  const whole = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, '\u202f');

  const plural = (count, noun) => `${whole(count)} ${noun}${count === 1 ? '' : 's'}`;

  // A short label for an axis.
  const tick = (value) => {
    if (value === 0) return '0';
    const size = Math.abs(value);
    if (size < 1e-3 || size >= 1e5) return exponent(value.toExponential(2));
    return String(Number(value.toPrecision(6)));
  };

  // A long dotted name is known by its end.
  const tail = (name, length) => (name.length > length ? `…${name.slice(1 - length)}` : name);

  const TOP = 65000, ZERO = 65533, INFINITE = 65534, NAN = 65535;

  // Values of a packed curve: undefined where nothing was measured, else a number (also 0, NaN and Infinity).
  const unpack = (curve, log) => {
    if (!curve) return null;
    const bytes = atob(curve.data);
    const values = new Array(bytes.length / 2);
    for (let i = 0; i < values.length; i++) {
      const code = bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8);
      if (code === 0) values[i] = undefined;
      else if (code === NAN) values[i] = NaN;
      else if (code === INFINITE) values[i] = Infinity;
      else if (code === ZERO) values[i] = 0;
      else {
        const scaled = curve.lo + ((code - 1) / (TOP - 1)) * (curve.hi - curve.lo);
        values[i] = log ? 10 ** scaled : scaled;
      }
    }
    return values;
  };

  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

  const data = JSON.parse(document.getElementById('data').textContent);

  return { node, coded, number, whole, plural, tick, tail, unpack, color, data };
})();
