'use strict';
// Shows what is told of a try beside its dot: under the mouse, on a touch, or when it is reached with Tab.
for (const front of document.querySelectorAll('.front')) {
  const tip = front.querySelector('.tip');
  const hide = () => { tip.hidden = true; };

  const show = (point, lines) => {
    tip.replaceChildren(...lines.map((line, place) => {
      const shown = document.createElement(place ? 'span' : 'b');
      shown.textContent = line;
      return shown;
    }));
    tip.hidden = false;
    const frame = front.getBoundingClientRect(), dot = point.querySelector('.dot').getBoundingClientRect();
    const x = dot.x + dot.width / 2 - frame.x, y = dot.y - frame.y;
    const left = x + 18 + tip.offsetWidth > frame.width ? x - 18 - tip.offsetWidth : x + 18;
    tip.style.left = `${Math.max(0, left)}px`;
    tip.style.top = `${Math.max(0, Math.min(y - 10, frame.height - tip.offsetHeight))}px`;
  };

  for (const point of front.querySelectorAll('.point')) {
    // The title is for browsers without scripts; it would show a second tip here.
    const title = point.querySelector('title'), lines = title.textContent.split('\n');
    title.remove();
    point.setAttribute('aria-label', lines.join(', '));
    point.setAttribute('role', 'img');
    for (const event of ['pointerenter', 'focus', 'click']) point.addEventListener(event, () => show(point, lines));
    for (const event of ['pointerleave', 'blur']) point.addEventListener(event, hide);
  }
  front.addEventListener('keydown', (event) => { if (event.key === 'Escape') hide(); });
}
