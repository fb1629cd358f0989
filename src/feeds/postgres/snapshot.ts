/** The connections that copy tables: all see the rows as of one moment, through one snapshot. */
import type pg from 'pg';
import { assert } from '../../base/errors.js';
import type { Runtime } from '../../base/runtime.js';
import { type ConnectionConfig, connectSql, cut, endSql } from './connection.js';

const BEGIN = 'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY';

export class SnapshotConnections {
  readonly clients: readonly pg.Client[];
  readonly #runtime: Runtime;
  #hasTaken = false;

  private constructor(clients: readonly pg.Client[], runtime: Runtime) {
    this.clients = clients;
    this.#runtime = runtime;
  }

  /** `count` of them, at no moment yet. Errors: `FEED`. */
  static async open(
    config: ConnectionConfig,
    count: number,
    name: string,
    runtime: Runtime,
  ): Promise<SnapshotConnections> {
    const clients: pg.Client[] = [];
    const connections = new SnapshotConnections(clients, runtime);
    try {
      for (let i = 0; i < count; i++) clients.push(await connectSql(config, name));
      return connections;
    } catch (error) {
      await connections.end();
      throw error;
    }
  }

  /** All see what this snapshot shows, which may end once this has resolved. Errors: of Postgres, when it is gone. */
  async share(snapshot: string): Promise<void> {
    for (const sql of this.clients) await this.#join(sql, snapshot);
  }

  async #join(sql: pg.Client, snapshot: string): Promise<void> {
    await sql.query(BEGIN);
    await sql.query(`SET TRANSACTION SNAPSHOT '${snapshot}'`);
  }

  /**
   * The first takes a snapshot of this moment, in place of any before. Returns its text, for a `Sight`, and how the others
   * come to share it.
   */
  async take(): Promise<{ readonly text: string; readonly share: () => Promise<void> }> {
    const [first, ...others] = this.clients;
    assert(first !== undefined, 'a copy has a connection');
    if (this.#hasTaken) await first.query('ROLLBACK');
    this.#hasTaken = true;
    await first.query(BEGIN);
    const { rows } = await first.query<{ text: string; id: string }>(
      'SELECT pg_current_snapshot() AS text, pg_export_snapshot() AS id',
    );
    const [taken] = rows;
    assert(taken !== undefined, 'Postgres says what it was asked for');
    const share = async (): Promise<void> => {
      for (const sql of others) await this.#join(sql, taken.id);
    };
    return { text: taken.text, share };
  }

  /** Ends them politely. Never fails. */
  async end(): Promise<void> {
    await Promise.all(this.clients.map(async (sql) => await endSql(sql, this.#runtime)));
  }

  /** Cuts them: what waits for them fails. */
  cut(): void {
    for (const sql of this.clients) cut(sql);
  }
}
