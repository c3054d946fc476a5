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
  const draw = (source: CanvasImageSource, { left, top, width, height }: DOMRect) =>
    context.drawImage(source, left - box.left, top - box.top, width, height);
  draw(canvas, canvas.getBoundingClientRect());
  for (const svg of plot.querySelectorAll("svg"))
    if (!svg.closest("button")) draw(await drawn(svg), svg.getBoundingClientRect());
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
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  const image = new Image();
  image.src = `data:image/svg+xml,${encodeURIComponent(new XMLSerializer().serializeToString(copy))}`;
  await image.decode();
  return image;
}
