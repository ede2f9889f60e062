"use strict";
// From strokes on paper to an image as MNIST has it: scaled into a box, centered by its center of mass.

const BOX = 20 / 28;  // of the side of the image, as in MNIST

/** Mean of the ink in a rectangle of the paper, with borders in pixels, whole or not. */
function meanInk(ink, side, left, top, width, height) {
  const x0 = Math.max(0, Math.floor(left)), x1 = Math.min(side, Math.max(x0 + 1, Math.round(left + width)));
  const y0 = Math.max(0, Math.floor(top)), y1 = Math.min(side, Math.max(y0 + 1, Math.round(top + height)));
  let total = 0;
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) total += ink[y * side + x];
  return total / ((x1 - x0) * (y1 - y0));
}

/**
 * Intensities from 0 to 1 of an image of `height` rows and `width` columns.
 * `ink`: from 0 to 1, a square of `side` by `side`.
 */
function centered(ink, side, height, width) {
  const image = new Float32Array(height * width);
  let left = side, right = -1, top = side, bottom = -1;
  for (let y = 0; y < side; y++) {
    for (let x = 0; x < side; x++) {
      if (ink[y * side + x] > 0.1) {
        left = Math.min(left, x); right = Math.max(right, x);
        top = Math.min(top, y); bottom = Math.max(bottom, y);
      }
    }
  }
  if (right < 0) return image;
  const longer = Math.max(right - left, bottom - top) + 1;
  const pixel = longer / (BOX * Math.min(height, width));  // pixels of the paper in one of the image
  const columns = Math.max(1, Math.round((right - left + 1) / pixel));
  const rows = Math.max(1, Math.round((bottom - top + 1) / pixel));
  const small = new Float32Array(rows * columns);
  let mass = 0, middleX = 0, middleY = 0;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const value = meanInk(ink, side, left + x * pixel, top + y * pixel, pixel, pixel);
      small[y * columns + x] = value;
      mass += value; middleX += value * (x + 0.5); middleY += value * (y + 0.5);
    }
  }
  const inside = (shift, size, room) => Math.max(0, Math.min(room - size, shift));
  const dx = inside(Math.round(width / 2 - middleX / mass), columns, width);
  const dy = inside(Math.round(height / 2 - middleY / mass), rows, height);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) image[(y + dy) * width + x + dx] = small[y * columns + x];
  }
  return image;
}

/** Makes a canvas a paper for mouse, pen and finger. `changed(ink, side)` is called after each stroke's step. */
function paper(canvas, changed) {
  const side = 280, stroke = side * 0.085;
  canvas.width = canvas.height = side;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const clear = () => {
    context.fillStyle = "#000";
    context.fillRect(0, 0, side, side);
    context.strokeStyle = "#fff";
    context.lineWidth = stroke;
    context.lineCap = context.lineJoin = "round";
  };
  const tell = () => {
    const pixels = context.getImageData(0, 0, side, side).data;
    const ink = new Float32Array(side * side);
    for (let i = 0; i < ink.length; i++) ink[i] = pixels[4 * i] / 255;
    changed(ink, side);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * side, (event.clientY - box.top) / box.height * side];
  };
  let last = null;
  const to = (event) => {
    const here = place(event);
    context.beginPath();
    context.moveTo(...last);
    context.lineTo(...here);
    context.stroke();
    last = here;
    tell();
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    last = place(event);
    to(event);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => { if (last) to(event); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { last = null; });
  clear();
  return { clear };
}
