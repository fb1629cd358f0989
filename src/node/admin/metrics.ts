/**
 * Metrics in Prometheus' text format (version 0.0.4). Values are read when they are scraped, from where they live, so
 * that counting costs the hot paths nothing beyond a number they keep anyway.
 */

export type Labels = Readonly<Record<string, string>>;
/** One sample: labels and value. */
export type Sample = readonly [Labels, number];

interface Metric {
  readonly name: string;
  readonly type: 'counter' | 'gauge';
  readonly help: string;
  read(): Iterable<Sample>;
}

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
}

function line(name: string, labels: Labels, value: number): string {
  const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(text)}"`);
  return `${name}${pairs.length === 0 ? '' : `{${pairs.join(',')}}`} ${value}`;
}

export class MetricsRegistry {
  readonly #metrics: Metric[] = [];

  /** A value that goes up and down. */
  gauge(name: string, help: string, read: () => number | undefined | Iterable<Sample>): void {
    this.#add(name, 'gauge', help, read);
  }

  /** A value that only grows until the process restarts. By convention its name ends in `_total`. */
  counter(name: string, help: string, read: () => number | undefined | Iterable<Sample>): void {
    this.#add(name, 'counter', help, read);
  }

  #add(name: string, type: Metric['type'], help: string, read: () => number | undefined | Iterable<Sample>): void {
    const samples = (): Iterable<Sample> => {
      const value = read();
      if (value === undefined) return [];
      return typeof value === 'number' ? [[{}, value]] : value;
    };
    this.#metrics.push({ name: `tokaido_${name}`, type, help, read: samples });
  }

  /** Everything, as a scraper wants it. */
  render(): string {
    const lines: string[] = [];
    for (const { name, type, help, read } of this.#metrics) {
      const samples = [...read()];
      if (samples.length === 0) continue;
      lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
      for (const [labels, value] of samples) lines.push(line(name, labels, value));
    }
    return `${lines.join('\n')}\n`;
  }
}
