'use strict';
// Moves the cut. It reads numbers alone, and writes text, coordinates and `hidden`: nothing that
// the table holds becomes markup here. Without it the page shows the cut that it was made with.
(() => {
  const box = document.getElementById('cut');
  if (!box) return;
  const slider = document.getElementById('slider');
  const labels = box.dataset.thresholds.split(' ');
  const kept = box.dataset.kept.split(' ').map(Number);
  const limits = labels.map(Number);
  const [low, high] = box.dataset.range.split(' ').map(Number);
  const rows = Number(box.dataset.rows);
  const show = 6;
  const score = (pair) => Number(pair.dataset.score);
  const pairs = [...document.querySelectorAll('#around [data-score]')];
  pairs.sort((a, b) => score(a) - score(b));
  const below = document.getElementById('below');
  const above = document.getElementById('above');
  const grouped = (n) => n.toLocaleString('en-US');
  const set = (name, text) => {
    document.querySelectorAll('[data-cut="' + name + '"]').forEach((node) => {
      node.textContent = text;
    });
  };

  const update = () => {
    const at = Number(slider.value);
    const limit = limits[at];
    const share = rows ? (100 * kept[at]) / rows : 0;
    set('threshold', labels[at]);
    set('share', share.toFixed(1) + ' %');
    set('rows', grouped(kept[at]));
    set('left', grouped(rows - kept[at]));
    slider.setAttribute('aria-valuetext',
      'threshold ' + labels[at] + ' keeps ' + share.toFixed(1) + ' percent');
    const x = Math.min(100, Math.max(0, (100 * (limit - low)) / (high - low)));
    const line = document.getElementById('cut-line');
    line.setAttribute('x1', x + '%');
    line.setAttribute('x2', x + '%');
    const clip = document.getElementById('cut-clip');
    clip.setAttribute('x', x + '%');
    clip.setAttribute('width', 100 - x + '%');
    const bar = document.getElementById('kept-bar');
    const ofAll = (100 * kept[at]) / Math.max(1, Number(bar.dataset.of));
    bar.setAttribute('width', ofAll + '%');
    set('of-all', ofAll.toFixed(1) + ' %');
    // How many thresholds a pair reaches was counted with the rows: its side is that of the count,
    // and not of a comparison made anew.
    const under = pairs.filter((pair) => Number(pair.dataset.reaches) <= at);
    const over = pairs.filter((pair) => Number(pair.dataset.reaches) > at);
    pairs.forEach((pair) => { pair.hidden = true; });
    under.slice(-show).reverse().forEach((pair) => { pair.hidden = false; below.append(pair); });
    over.slice(0, show).forEach((pair) => { pair.hidden = false; above.append(pair); });
    document.getElementById('none-below').hidden = under.length > 0;
    document.getElementById('none-above').hidden = over.length > 0;
  };

  slider.disabled = false;
  slider.addEventListener('input', update);
  update();
})();
