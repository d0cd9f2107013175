"use strict";
// The stack of sections in 3D, turned by dragging. Sections are parallel planes without perspective. Each is painted
// once on its own canvas (`sheet`); a frame is one affine drawImage per sheet, the farthest first. Its time does not
// depend on the number of spots.
for (const box of document.querySelectorAll(".view3d")) show(box);
document.documentElement.dataset.ready = "yes";

function show(box) {
  const scene = JSON.parse(box.querySelector("script").textContent);
  const canvas = box.querySelector("canvas"), pen = canvas.getContext("2d");
  const [gene, stretch, tissue] = ["gene", "stretch", "tissue"].map(name => box.querySelector(`[name=${name}]`));
  const bars = box.querySelectorAll(".bar");
  const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
  const place = ([a, b, c, d, e, f], x, y) => [a * x + c * y + e, b * x + d * y + f];
  const planes = scene.planes.map(one => {
    const sheet = document.createElement("canvas"), photo = new Image();
    [sheet.width, sheet.height] = one.size;
    const positions = packed => Float32Array.from(new Int16Array(bytes(packed).buffer), step => step / scene.steps);
    const [x, y] = [one.x, one.y].map(positions);
    return {...one, sheet, photo, x, y, levels: one.levels.map(bytes)};
  });

  // the circle around all spots, um; the stretch of z that makes the stack about as tall as wide
  const spots = planes.flatMap(one => Array.from(one.x, (x, i) => place(one.matrix, x, one.y[i])));
  const least = axis => spots.reduce((value, spot) => Math.min(value, spot[axis]), Infinity);
  const most = axis => spots.reduce((value, spot) => Math.max(value, spot[axis]), -Infinity);
  const centre = [0, 1].map(axis => (least(axis) + most(axis)) / 2);
  const radius = 1.1 * spots.reduce((value, [x, y]) => Math.max(value, Math.hypot(x - centre[0], y - centre[1])), 1);
  const z = planes.map(one => one.z), depth = Math.max(...z) - Math.min(...z), zMiddle = Math.min(...z) + depth / 2;
  const natural = depth ? Math.max(1, Math.round(1.1 * radius / depth)) : 1;
  stretch.max = 3 * natural;
  stretch.value = natural;
  let turn = -0.5, tilt = 1.05, dragged = null;

  function paint(plane) {  // a section's sheet: H&E, and the gene's spots
    const on = plane.sheet.getContext("2d"), level = plane.levels[gene.value];
    on.clearRect(0, 0, ...plane.size);
    if (tissue.checked && plane.photo.naturalWidth) {
      on.globalAlpha = 0.6;
      on.drawImage(plane.photo, 0, 0, ...plane.size);
      on.globalAlpha = 1;
    }
    for (let i = 0; i < level.length; i++) {
      if (!level[i]) continue;
      on.fillStyle = scene.colours[level[i]];
      on.beginPath();
      on.arc(plane.x[i] + 0.5, plane.y[i] + 0.5, plane.diameter / 2, 0, 7);
      on.fill();
    }
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map(side => Math.round(side * ratio));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const [c, s, up, flat] = [Math.cos(turn), Math.sin(turn), Math.sin(tilt), Math.cos(tilt)];
    const tall = 2 * radius * Math.abs(flat) + depth * stretch.value * up;  // height of the projection, um
    const zoom = Math.min(width / (2 * radius), height / tall);
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, width, height);
    for (const one of [...planes].sort((a, b) => flat >= 0 ? a.z - b.z : b.z - a.z)) {
      const lift = height / 2 - zoom * (one.z - zMiddle) * stretch.value * up;
      const seen = (i, j) => {  // px of the sheet -> px of the canvas
        const at = place(one.matrix, i, j), x = at[0] - centre[0], y = at[1] - centre[1];
        return [width / 2 + zoom * (c * x - s * y), lift + zoom * flat * (s * x + c * y)];
      };
      const [o, x, y] = [seen(0, 0), seen(1, 0), seen(0, 1)];
      pen.setTransform(x[0] - o[0], x[1] - o[1], y[0] - o[0], y[1] - o[1], o[0], o[1]);
      pen.drawImage(one.sheet, 0, 0);
      pen.setTransform(1, 0, 0, 1, 0, 0);
      pen.font = `${13 * ratio}px system-ui, sans-serif`;
      pen.lineWidth = 4 * ratio;
      pen.strokeStyle = "#fff";
      pen.fillStyle = "#222";
      for (const write of ["strokeText", "fillText"]) pen[write](one.name, 8 * ratio, lift);
    }
    stretch.nextElementSibling.textContent = `× ${stretch.value}`;
  }

  function rotate(dx, dy) {
    turn += dx;
    tilt = Math.min(Math.PI, Math.max(0, tilt + dy));
    draw();
  }

  function repaint() {
    planes.forEach(paint);
    bars.forEach((bar, number) => { bar.hidden = number !== Number(gene.value); });
    draw();
  }

  canvas.addEventListener("pointerdown", event => {
    dragged = [event.clientX, event.clientY];
    if (event.isTrusted) canvas.setPointerCapture(event.pointerId);  // the drag goes on beyond the canvas
  });
  canvas.addEventListener("pointermove", event => {
    if (!dragged) return;
    rotate((dragged[0] - event.clientX) * 0.008, (dragged[1] - event.clientY) * 0.008);
    dragged = [event.clientX, event.clientY];
  });
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { dragged = null; });
  canvas.addEventListener("keydown", event => {
    const step = {ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]}[event.key];
    if (!step) return;
    rotate(...step);
    event.preventDefault();
  });
  stretch.addEventListener("input", draw);
  gene.addEventListener("change", repaint);
  tissue.addEventListener("change", repaint);
  new ResizeObserver(draw).observe(canvas);
  repaint();
  for (const plane of planes) {
    plane.photo.onload = () => { paint(plane); draw(); };
    const picture = getComputedStyle(document.querySelector("." + plane.style)).getPropertyValue("--he");
    plane.photo.src = picture.trim().replace(/^url\(["']?|["']?\)$/g, "");
  }
}
