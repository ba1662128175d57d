// The pictures: every view is derived from truth, prediction and mask; one lens lies over all panels of a section.
document.querySelectorAll(".pictures").forEach((root) => {
  "use strict";
  const panelled = root.querySelector(".panels");
  const wiped = root.querySelector("#wipe canvas"); // of the reconstructions alone, as #view and #grid
  const slider = root.querySelector("#wipe input");
  const blends = [...panelled.querySelectorAll("input")]; // one per run that predicts a distribution, moved together
  const data = JSON.parse(document.getElementById(`${root.id}-data`).textContent);
  const [H, W] = data.size;
  const GREY = 128;
  const [PANEL, WIPE] = [256, 640]; // screen pixels that the longer side may take
  const NEAREST = 40; // screen pixels per image pixel where zooming ends

  // t truth, q prediction, h hidden; one channel of one pixel.
  const VIEWS = {
    truth: (t) => t,
    masked: (t, q, h) => (h ? GREY : t),
    composite: (t, q, h) => (h ? q : t),
    prediction: (t, q) => q,
    error: (t, q, h) => (h ? GREY + Math.trunc((q - t) / 2) : GREY),
  };

  const panels = [...panelled.querySelectorAll("figure")].map((figure) => ({ figure, canvas: figure.querySelector("canvas") }));
  const lens = { zoom: 1, x: 0, y: 0 }; // x, y: the image pixel in the upper left corner
  const chosenImage = () => Number(root.querySelector(".thumbnails :checked").value);
  const side = (id) => root.querySelector(`#${id}`);
  let views = []; // one canvas of H x W per panel
  let turn = 0;
  let alpha = 0.5;

  // Whole screen pixels per image pixel where the image is small enough.
  const fitted = (room) => (Math.max(H, W) <= room ? Math.floor(room / Math.max(H, W)) : room / Math.max(H, W));
  const deepest = Math.max(1, NEAREST / fitted(PANEL));

  const decoded = new Map();
  function pixels(source) {
    if (!decoded.has(source)) decoded.set(source, decode(source));
    return decoded.get(source);
  }

  async function decode(source) {
    const image = new Image();
    image.src = source;
    await image.decode();
    const context = new OffscreenCanvas(W, H).getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, W, H).data;
  }

  const whole = (pixels) => canvasOf(new ImageData(new Uint8ClampedArray(pixels), W, H));

  function derive(view, truth, prediction, mask) {
    const [image, p, columns] = [new ImageData(W, H), data.patch_size, W / data.patch_size];
    for (let row = 0, i = 0; row < H; row++) {
      for (let column = 0; column < W; column++, i += 4) {
        const hidden = mask[Math.floor(row / p) * columns + Math.floor(column / p)] === "1";
        for (let c = i; c < i + 3; c++) image.data[c] = view(truth[c], prediction[c], hidden);
        image.data[i + 3] = 255;
      }
    }
    return canvasOf(image);
  }

  function canvasOf(image) {
    const canvas = new OffscreenCanvas(W, H);
    canvas.getContext("2d").putImageData(image, 0, 0);
    return canvas;
  }

  // Of two predictions; as bytes, rounded.
  const between = (x, y) => x.map((value, i) => value + alpha * (y[i] - value));

  async function choose() {
    const [mine, image, view] = [++turn, chosenImage(), root.querySelector("#view :checked")?.value ?? "prediction"];
    const truth = await pixels(data.truth[image]);
    const predictions = await Promise.all(data.predictions.map((images) => (images ? pixels(images[image]) : truth)));
    if (mine !== turn) return; // another choice came while this one was decoded
    data.blends.forEach((ends, i) => { if (ends) predictions[i] = between(...ends.map((end) => predictions[end])); });
    views = predictions.map((prediction, i) => (data.whole[i] ? whole(prediction) : derive(VIEWS[view], truth, prediction, data.masks[image])));
    root.querySelector(".image-name").textContent = `${data.names[image]} (${image + 1} of ${data.names.length})`;
    Object.assign(root.dataset, { image, view, alpha });
    draw();
  }

  function blendAt(share) {
    alpha = share;
    for (const input of blends) {
      input.value = alpha;
      input.closest("figure").querySelector("output").textContent = `mean + ${alpha.toFixed(2)} (draw − mean)`;
    }
    choose();
  }

  function draw() {
    if (!views.length) return; // nothing is decoded yet
    const shown = new Set([...document.querySelectorAll("#rows :checked")].map((box) => box.value));
    panels.forEach(({ figure, canvas }, i) => {
      figure.hidden = "row" in figure.dataset && !shown.has(figure.dataset.row);
      if (!figure.hidden) paint(canvas, PANEL, (context) => context.drawImage(views[i], 0, 0));
    });
    if (wiped) drawWipe();
    Object.assign(root.dataset, lens);
  }

  function drawWipe() {
    const at = slider.value / 100;
    paint(wiped, WIPE, (context) => {
      context.drawImage(views[side("right").value], 0, 0);
      context.beginPath();
      context.rect(lens.x, lens.y, (at * W) / lens.zoom, H);
      context.clip();
      context.drawImage(views[side("left").value], 0, 0);
    });
    const context = wiped.getContext("2d");
    const x = Math.round(wiped.width * at);
    stripe(context, x - 2, 0, 4, wiped.height, "rgb(0 0 0 / 55%)");
    stripe(context, x - 1, 0, 2, wiped.height, "white");
    root.dataset.wipe = at;
  }

  // Paints in image pixels under the lens, then the grid in screen pixels.
  function paint(canvas, room, content) {
    const width = fitted(room) * W;
    canvas.style.width = `${width}px`;
    canvas.width = Math.round(width * devicePixelRatio);
    canvas.height = Math.round((canvas.width * H) / W);
    const context = canvas.getContext("2d");
    const scale = (canvas.width / W) * lens.zoom;
    context.save();
    context.imageSmoothingEnabled = scale < 1;
    context.imageSmoothingQuality = "high";
    context.setTransform(scale, 0, 0, scale, -lens.x * scale, -lens.y * scale);
    content(context);
    context.restore();
    if (root.querySelector("#grid")?.checked) {
      for (let x = 0; x <= W; x += data.patch_size) line(context, Math.round((x - lens.x) * scale), true);
      for (let y = 0; y <= H; y += data.patch_size) line(context, Math.round((y - lens.y) * scale), false);
    }
    Object.assign(canvas.dataset, { scale, x: lens.x, y: lens.y });
  }

  // Dark beside light: seen on any picture.
  function line(context, at, upright) {
    const { width, height } = context.canvas;
    for (const [offset, colour] of [[-1, "rgb(0 0 0 / 55%)"], [0, "rgb(255 255 255 / 65%)"]]) {
      if (upright) stripe(context, at + offset, 0, 1, height, colour);
      else stripe(context, 0, at + offset, width, 1, colour);
    }
  }

  function stripe(context, x, y, width, height, colour) {
    context.fillStyle = colour;
    context.fillRect(x, y, width, height);
  }

  const within = (value, low, high) => Math.min(Math.max(value, low), high);
  let waiting = false;

  function look(zoom, x, y) {
    lens.zoom = within(zoom, 1, deepest);
    lens.x = within(x, 0, W - W / lens.zoom);
    lens.y = within(y, 0, H - H / lens.zoom);
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  // Keeps the point (u, v), shares of the panel, where it is.
  function zoom(factor, u = 0.5, v = 0.5) {
    const next = within(lens.zoom * factor, 1, deepest);
    const shift = 1 / lens.zoom - 1 / next;
    look(next, lens.x + u * W * shift, lens.y + v * H * shift);
  }

  const pan = (u, v) => look(lens.zoom, lens.x + (u * W) / lens.zoom, lens.y + (v * H) / lens.zoom);
  const share = (canvas, event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  };

  function step(by) {
    const images = [...root.querySelectorAll(".thumbnails input")];
    const next = images[(chosenImage() + by + images.length) % images.length];
    next.checked = true;
    next.scrollIntoView({ block: "nearest", inline: "nearest" });
    another();
  }

  function another() {
    look(1, 0, 0);
    choose();
  }

  for (const canvas of root.querySelectorAll("canvas")) {
    canvas.addEventListener("wheel", (event) => {
      const towards = event.deltaY < 0;
      if (towards ? lens.zoom >= deepest : lens.zoom <= 1) return; // nothing to zoom: the page scrolls
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_PIXEL ? event.deltaY / 100 : event.deltaY / 3;
      zoom(1.25 ** -within(lines, -4, 4), ...share(canvas, event));
    }, { passive: false });
    canvas.addEventListener("dblclick", () => look(1, 0, 0));
    let held = null; // [u, v, whether it is the handle of the wipe]
    canvas.addEventListener("pointerdown", (event) => {
      const [u, v] = share(canvas, event);
      held = [u, v, canvas === wiped && Math.abs(u - slider.value / 100) * canvas.clientWidth < 10];
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!held) return;
      const [u, v] = share(canvas, event);
      if (held[2]) {
        slider.value = 100 * u;
        draw();
      } else pan(held[0] - u, held[1] - v);
      held = [u, v, held[2]];
    });
    for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { held = null; });
  }

  panelled.addEventListener("keydown", (event) => {
    const across = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const keys = {
      "+": () => zoom(1.25), "=": () => zoom(1.25), "-": () => zoom(0.8), 0: () => look(1, 0, 0),
      ArrowUp: () => pan(0, -0.1), ArrowDown: () => pan(0, 0.1),
    };
    if (event.target !== panelled || event.ctrlKey || event.metaKey || event.altKey) return;
    if (across) lens.zoom > 1 ? pan(across / 10, 0) : step(across);
    else if (keys[event.key] && (lens.zoom > 1 || !event.key.startsWith("Arrow"))) keys[event.key]();
    else return;
    event.preventDefault();
  });

  for (const thumbnail of root.querySelectorAll("img[data-image]")) thumbnail.src = data.truth[thumbnail.dataset.image];
  for (const button of root.querySelectorAll("button[data-step]")) button.addEventListener("click", () => step(Number(button.dataset.step)));
  root.addEventListener("change", (event) => {
    if (event.target.closest(".thumbnails")) another();
    else if (event.target.closest("#view")) choose();
    else draw();
  });
  for (const input of blends) input.addEventListener("input", () => blendAt(Number(input.value)));
  document.getElementById("rows").addEventListener("change", draw);
  addEventListener("resize", draw);
  root.style.setProperty("--panel", `${fitted(PANEL) * W}px`);
  root.style.setProperty("--wipe", `${fitted(WIPE) * W}px`);
  if (wiped) {
    slider.addEventListener("input", draw);
    side("left").selectedIndex = Math.min(1, panels.length - 1);
    side("right").selectedIndex = Math.min(2, panels.length - 1);
  }
  blendAt(alpha);
});
