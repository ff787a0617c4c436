'use strict';
// Puts the page together, and draws it again when the window or the colour scheme changes.
(() => {
  const { data, curves, heat, findings } = wellfit;
  const plots = [];
  const hasLoss = curves.hasLoss();
  const hasLayers = Boolean(data.layers && data.layers.layers.length && data.layers.steps.length);
  const toggle = document.getElementById('loss-log');

  const drawLosses = () => {
    plots.splice(0).forEach((u) => u && u.destroy());
    plots.push(curves.drawLoss(toggle.checked), curves.drawRates());
  };

  const drawAll = () => {
    if (hasLoss) drawLosses();
    if (hasLayers) heat.redraw();
  };

  findings.show();
  if (hasLoss) {
    document.getElementById('loss').hidden = false;
    toggle.checked = curves.wantsLog();
    toggle.addEventListener('change', drawLosses);
    drawLosses();
  }
  if (hasLayers) {
    document.getElementById('layers').hidden = false;
    heat.show();
  }

  let width = window.innerWidth, waiting = 0;
  window.addEventListener('resize', () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 120);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
})();
