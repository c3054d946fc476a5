/** Frames of a movie, kept and read ahead. */
import { getBinary, type FrameHeader, type Params } from "./api";
import { decode, type NumberArray } from "./decode";

/** Bytes of one request while a movie plays, and of the frames that are kept. */
const CHUNK = 4_000_000;
const KEPT = 128_000_000;

export interface Picture {
  /** Which array, axes and projection it is of. */
  of: string;
  header: FrameHeader;
  values: NumberArray;
}

/** Frames by their number, read ahead while a movie plays. */
export class Frames {
  private readonly kept = new Map<number, Picture>();
  private reading?: Promise<void>;

  constructor(
    private readonly of: string,
    private readonly params: Params,
    private readonly length: number,
    private readonly frameBytes: number,
  ) {}

  async get(index: number, signal: AbortSignal): Promise<Picture> {
    const kept = this.kept.get(index);
    if (kept) return kept;
    const answer = await getBinary<FrameHeader>("frame", { ...this.params, index }, signal);
    const values = decode(answer, undefined).numbers!;
    const picture = { of: this.of, header: answer.header, values };
    this.keep(index, picture);
    return picture;
  }

  /** Frame `index`, with the frames after it on their way. */
  async play(index: number, signal: AbortSignal): Promise<Picture> {
    while (!this.kept.has(index)) {
      await (this.reading ?? this.read(index, signal)).catch((error: Error) => {
        // What was read ahead for a movie that has been stopped since is asked for anew.
        if (signal.aborted || error.name !== "AbortError") throw error;
      });
    }
    const chunk = this.chunk();
    let next = index + 1;
    while (next < index + 2 * chunk && this.kept.has(next % this.length)) next += 1;
    if (!this.reading && next < index + chunk)
      this.read(next % this.length, signal).catch(() => undefined); // asked again when it is due
    return this.kept.get(index)!;
  }

  private chunk(): number {
    return Math.max(1, Math.min(32, Math.floor(CHUNK / this.frameBytes)));
  }

  private read(start: number, signal: AbortSignal): Promise<void> {
    const stop = Math.min(this.length, start + this.chunk());
    const load = async () => {
      const answer = await getBinary<FrameHeader>("frames", { ...this.params, start, stop }, signal);
      const values = decode(answer, undefined).numbers!;
      const [read, height, width] = answer.header.shape;
      for (let index = start; index < start + read; index += 1) {
        const from = (index - start) * height * width;
        const header = { ...answer.header, shape: [height, width] };
        this.keep(index, { of: this.of, header, values: values.slice(from, from + height * width) });
      }
    };
    this.reading = load().finally(() => (this.reading = undefined));
    return this.reading;
  }

  private keep(index: number, picture: Picture): void {
    this.kept.delete(index);
    this.kept.set(index, picture);
    const most = Math.max(4, Math.floor(KEPT / Math.max(1, picture.values.byteLength)));
    for (const oldest of this.kept.keys()) {
      if (this.kept.size <= most) break;
      this.kept.delete(oldest);
    }
  }
}
