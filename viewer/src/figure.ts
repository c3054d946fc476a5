/** Pictures to save: on white, with what they are of. */
import { onPaper, theme } from "./colors";
import { canvasPng } from "./ui";

/** Device pixels of a saved picture, at least, a CSS pixel: it may be printed. */
export const FINE = 2;

/** A PNG of a picture of `width` × `height` CSS pixels, with its title above and notes below. */
export function captioned(
  picture: HTMLCanvasElement,
  width: number,
  height: number,
  title: string,
  notes: string[],
): Promise<Blob | null> {
  const canvas = document.createElement("canvas");
  const ratio = picture.width / width;
  onPaper(() => {
    const colors = theme();
    const context = canvas.getContext("2d")!;
    const [small, large] = [colors.font, `600 13px ${colors.font.replace(/^\S+ /, "")}`];
    const lines = [
      ...wrapped(context, title, large, width - 24).map((text) => [text, large, colors.ink]),
      ...notes.filter(Boolean).flatMap((note) =>
        wrapped(context, note, small, width - 24).map((text) => [text, small, colors.muted]),
      ),
    ];
    const titles = lines.filter(([, font]) => font === large).length;
    const top = 8 + 18 * titles;
    canvas.width = picture.width;
    canvas.height = Math.round((top + height + 16 * (lines.length - titles) + 10) * ratio);
    context.fillStyle = colors.ground;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(picture, 0, Math.round(top * ratio));
    context.scale(ratio, ratio);
    context.textBaseline = "top";
    lines.forEach(([text, font, color], at) => {
      [context.font, context.fillStyle] = [font, color];
      context.fillText(text, 12, at < titles ? 6 + 18 * at : top + height + 4 + 16 * (at - titles));
    });
  });
  return canvasPng(canvas);
}

/** A text in lines that fit; it is broken between words, or where a word is too long. */
function wrapped(context: CanvasRenderingContext2D, text: string, font: string, width: number) {
  context.font = font;
  const lines = [""];
  for (const word of text.match(/\S{1,60}\s*/g) ?? []) {
    const longer = lines.at(-1)! + word;
    if (lines.at(-1) && context.measureText(longer.trimEnd()).width > width) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines;
}

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

/**
 * A plot of H5Web as one picture: its canvas with the axes, which are SVG, over it; without its
 * buttons. The page has its light colours, by `paper`.
 */
export async function figure(plot: HTMLElement): Promise<HTMLCanvasElement | null> {
  const canvas = plot.querySelector("canvas");
  if (!canvas) return null;
  const box = plot.getBoundingClientRect();
  const picture = document.createElement("canvas");
  const ratio = Math.max(FINE, devicePixelRatio);
  picture.width = Math.round(box.width * ratio);
  picture.height = Math.round(box.height * ratio);
  const context = picture.getContext("2d")!;
  context.scale(ratio, ratio);
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
  return picture;
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
