'use strict';
// The verdict, the findings, and what was watched.
wellfit.findings = (() => {
  const { node, coded, whole, plural, data } = wellfit;

  const verdict = () => {
    const { errors, notes, run } = data;
    const few = `${plural(run.steps, 'step')} ${run.steps === 1 ? 'is' : 'are'} too few to judge.`;
    return {
      ill: [plural(errors, 'error'), 'error', notes ? `and ${plural(notes, 'note')}` : ''],
      'no-training': ['Nothing to judge', 'note', 'No training step was seen.'],
      failed: ['No error found', 'note', `but the program ended with exit code ${run.exit_code}.`],
      unwatched: ['No error found', 'note', 'but nothing except the loss was seen.'],
      'too-short': ['No illness seen', 'note', `but ${few}`],
      healthy: ['Healthy', 'well', notes ? `with ${plural(notes, 'note')}` : 'No illness was found.'],
    }[data.verdict];
  };

  const figure = (name, value, more) =>
    value === null ? null : node('div', {}, node('dt', {}, name), node('dd', {}, value, more ? node('span', {}, ` ${more}`) : null));

  const duration = (seconds) => {
    if (seconds === null) return null;
    if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 2 : 1)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  };

  const head = () => {
    const { run } = data;
    const [word, tone, rest] = verdict();
    const share = run.cost_share === null || run.cost_share > 0.0995 ? '' : `${Number((100 * run.cost_share).toPrecision(2))} %`;
    document.getElementById('head').append(...[
      node('p', { class: 'brand' }, node('b', {}, 'wellfit'), node('span', {}, run.id)),
      node('h1', { class: tone }, word, rest ? node('small', {}, ` ${rest}`) : null),
      run.command ? node('p', { class: 'command' }, node('code', {}, run.command)) : null,
      ...run.overrides.map((line) => node('p', { class: 'command' }, line)),
      run.switched_off ? node('p', { class: 'warning' }, `The probe switched itself off: ${run.switched_off}`) : null,
      node('dl', { class: 'figures' }, ...[
        figure('steps', whole(run.steps)),
        figure('watched', whole(run.watched)),
        figure('run time', duration(run.seconds)),
        figure('cost of watching', duration(run.cost_seconds), share),
        figure('exit code', run.exit_code === null ? null : String(run.exit_code)),
        run.processes > 1 ? figure('processes', String(run.processes)) : null,
        run.made_with.length ? figure('made with', run.made_with.join(', ')) : null,
      ].filter(Boolean)),
    ].filter(Boolean));
  };

  const source = (finding) => {
    if (!finding.source) return null;
    const { first, lines, blamed } = finding.source;
    const rows = lines.map((line, index) => node('div', { class: first + index === blamed ? 'line blamed' : 'line' },
      node('span', { class: 'at', 'aria-hidden': 'true' }, String(first + index)), node('span', {}, line || ' ')));
    return node('div', { class: 'source', role: 'figure', 'aria-label': `Source at ${finding.place}`, tabIndex: 0 }, ...rows);
  };

  const evidence = (finding) => {
    if (!finding.evidence.length) return null;
    const rows = finding.evidence.map(([name, value]) => node('tr', {}, node('th', { scope: 'row' }, name), node('td', {}, value)));
    return node('div', {}, node('h4', {}, 'Evidence'), node('table', {}, node('tbody', {}, ...rows)));
  };

  const cure = (finding) => {
    if (!finding.fixes.length) return null;
    const items = finding.fixes.map((fix) => node('li', {}, ...coded(fix.title),
      fix.safe ? null : node('span', { class: 'quiet' }, ' – changes what the program means'),
      fix.override ? node('span', { class: 'quiet' }, ' – try ', node('code', {}, `--override ${fix.override}`)) : null));
    return node('div', {}, node('h4', {}, 'Cure'), node('ul', {}, ...items));
  };

  const explains = (finding) => {
    if (!finding.consequences.length) return null;
    return node('div', {}, node('h4', {}, 'Explains'), node('p', {}, finding.consequences.join(', ')));
  };

  const layerButton = (finding, index) => {
    if (!finding.layer) return null;
    if (index < 0) return node('span', { class: 'of' }, finding.layer);
    return node('button', { class: 'of link', type: 'button', title: 'Show the curves of this layer', onclick: () => wellfit.heat.open(index, true) }, finding.layer);
  };

  const card = (finding) => {
    const names = data.layers ? data.layers.layers.map((layer) => layer.name) : [];
    const parent = (finding.layer || '').replace(/\.[^.]*$/, '');
    const at = finding.layer ? (names.includes(finding.layer) ? names.indexOf(finding.layer) : names.indexOf(parent)) : -1;
    return node('article', { class: `finding ${finding.severity}` },
      node('header', {},
        node('span', { class: 'severity' }, finding.severity),
        node('h3', {}, finding.rule),
        node('span', { class: 'code' }, finding.code),
        layerButton(finding, at),
        finding.place ? node('span', { class: 'place' }, finding.place) : null,
        finding.step === null ? null : node('span', { class: 'step' }, `step ${whole(finding.step)}`)),
      node('p', { class: 'message' }, ...coded(finding.message)),
      source(finding),
      node('div', { class: 'facts' }, ...[evidence(finding), cure(finding), explains(finding)].filter(Boolean)));
  };

  const list = () => {
    const place = document.getElementById('findings');
    const errors = data.findings.filter((finding) => finding.severity === 'error');
    const notes = data.findings.filter((finding) => finding.severity !== 'error');
    place.append(...errors.map(card));
    if (notes.length) {
      const details = node('details', { open: !errors.length }, node('summary', {}, plural(data.notes, 'note')), ...notes.map(card));
      place.append(details);
    }
    if (data.findings_left_out) place.append(node('p', { class: 'quiet' }, `${plural(data.findings_left_out, 'finding')} more in findings.json.`));
    if (!place.childNodes.length) place.remove();
  };

  const foot = () => {
    const { run, unseen } = data;
    const place = document.getElementById('foot');
    place.append(node('h2', {}, 'What was watched'), node('p', {}, `${run.watching}.`));
    if (run.processes > 1) {
      place.append(node('p', {}, `${run.processes} processes took part. The findings are about all of them; the curves and the map are those of the first.`));
    }
    if (unseen.length) {
      place.append(node('h3', {}, 'Not seen'), node('ul', {}, ...unseen.map((entry) =>
        node('li', {}, node('b', {}, entry.what), entry.why ? ` – ${entry.why}` : ''))));
    }
  };

  const show = () => { head(); list(); foot(); };
  return { show };
})();
