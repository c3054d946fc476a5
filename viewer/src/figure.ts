/** A PNG of a plot of H5Web: its canvas with the axes, which are SVG, over it. */
import { theme } from "./colors";
import { canvasPng } from "./ui";

const STYLES = [
  "fill",
  "stroke",
  "stroke-width",
  "stroke-opacity",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
];

/** Pixels around an SVG in which it may draw, too: labels of axes reach out of it. */
const AROUND = 150;

export async function figurePng(plot: HTMLElement | null): Promise<Blob | null> {
  const canvas = plot?.querySelector("canvas");
  if (!plot || !canvas) return null;
  const box = plot.getBoundingClientRect();
  const picture = document.createElement("canvas");
  picture.width = box.width * devicePixelRatio;
  picture.height = box.height * devicePixelRatio;
  const context = picture.getContext("2d")!;
  context.scale(devicePixelRatio, devicePixelRatio);
  context.fillStyle = theme().ground;
  context.fillRect(0, 0, box.width, box.height);
  const place = (element: Element, around = 0): [number, number, number, number] => {
    const { left, top, width, height } = element.getBoundingClientRect();
    const [x, y] = [left - box.left - around, top - box.top - around];
    return [x, y, width + 2 * around, height + 2 * around];
  };
  context.drawImage(canvas, ...place(canvas));
  for (const element of plot.querySelectorAll("*")) {
    const { backgroundImage } = getComputedStyle(element);
    const colors = backgroundImage.match(/rgba?\([^)]*\)/g);
    if (!colors) continue;
    // The colour bar.
    const [x, y, width, height] = place(element);
    const gradient = context.createLinearGradient(x, y + height, x, y);
    colors.forEach((color, at) => gradient.addColorStop(at / (colors.length - 1 || 1), color));
    context.fillStyle = gradient;
    context.fillRect(x, y, width, height);
  }
  for (const svg of plot.querySelectorAll("svg"))
    if (!svg.closest("button") && !svg.parentElement?.closest("svg"))
      context.drawImage(await drawn(svg), ...place(svg, AROUND));
  return canvasPng(picture);
}

/** An SVG as an image, with the styles that the page gives it. */
async function drawn(svg: SVGSVGElement): Promise<HTMLImageElement> {
  const copy = svg.cloneNode(true) as SVGSVGElement;
  const originals = [svg, ...svg.querySelectorAll<SVGElement>("*")];
  [copy, ...copy.querySelectorAll<SVGElement>("*")].forEach((element, index) => {
    const style = getComputedStyle(originals[index]);
    for (const name of STYLES) element.style.setProperty(name, style.getPropertyValue(name));
  });
  const { width, height } = svg.getBoundingClientRect();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", String(width + 2 * AROUND));
  copy.setAttribute("height", String(height + 2 * AROUND));
  copy.setAttribute("viewBox", [-AROUND, -AROUND, width + 2 * AROUND, height + 2 * AROUND].join(" "));
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  return image;
}
