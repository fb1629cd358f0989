/** Replication slots: ours is found, freed, dropped and made here, and how much WAL it keeps is measured. */
import type pg from 'pg';
import { TokaidoError } from '../../base/errors.js';
import type { ReplicationConnection } from './connection.js';
import { type Lsn, parseLsn } from './pgoutput.js';
import { quoteIdentifier } from './setup.js';

/** What is known of the slot on the server. */
export interface SlotState {
  readonly confirmedLsn: Lsn | undefined;
  /** Process that holds it, and that process' application name. */
  readonly activePid: number | undefined;
  readonly activeName: string | undefined;
  /** Postgres gave up the WAL it needs. */
  readonly lost: boolean;
  /** Standbys keep a copy of it; `undefined` where they cannot. */
  readonly isKept: boolean | undefined;
}

/** `undefined` when there is no such slot. Errors: `FEED` when it is not ours to use. */
export async function findSlot(sql: pg.Client, slot: string): Promise<SlotState | undefined> {
  const { rows } = await sql.query<Record<string, string | null>>(
    `SELECT s.plugin, s.database = current_database() AS here, s.confirmed_flush_lsn AS confirmed, s.wal_status AS status,
            s.active_pid AS pid, a.application_name AS name, to_jsonb(s) ->> 'failover' AS kept
     FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid WHERE s.slot_name = $1`,
    [slot],
  );
  const [row] = rows;
  if (row === undefined) return undefined;
  if (row.plugin !== 'pgoutput' || row.here !== 't') {
    throw new TokaidoError('FEED', `the replication slot ${slot} belongs to another plugin or database`, {
      hint: 'choose another postgres.slot',
    });
  }
  return {
    confirmedLsn: row.confirmed == null ? undefined : parseLsn(row.confirmed),
    activePid: row.pid == null ? undefined : Number(row.pid),
    activeName: row.name ?? undefined,
    lost: row.status === 'lost',
    isKept: row.kept == null ? undefined : row.kept === 'true',
  };
}

/** Ends the connection that still holds our slot, left by a process of ours that died. */
export async function releaseSlot(
  sql: pg.Client,
  { activePid, activeName }: SlotState,
  applicationName: string,
): Promise<void> {
  if (activePid === undefined || activeName !== applicationName) return;
  await sql.query('SELECT pg_terminate_backend($1)', [activePid]);
}

/** Has standbys keep a slot that was made without that. */
export async function keepOnStandbys(replication: ReplicationConnection, slot: string): Promise<void> {
  await replication.command(`ALTER_REPLICATION_SLOT ${quoteIdentifier(slot)} (FAILOVER true)`);
}

/** Drops a slot that is of no use, because its changes begin at another moment. Errors: `FEED` while another process uses it. */
export async function dropOldSlot(sql: pg.Client, slot: string, applicationName: string): Promise<void> {
  const found = await findSlot(sql, slot);
  if (found === undefined) return;
  if (found.activePid !== undefined && found.activeName !== applicationName) {
    throw new TokaidoError(
      'FEED',
      `the replication slot ${slot} is in use by ${found.activeName ?? 'another process'}`,
      { hint: 'stop that process, or choose another postgres.slot' },
    );
  }
  await sql.query('SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = $1', [slot]);
}

/** A moment of the database: its rows as `snapshot` shows them are all transactions before `lsn`, and none behind. */
export interface Moment {
  readonly lsn: Lsn;
  /** Valid until the next command on the connection that made it. */
  readonly snapshot: string;
}

/**
 * Makes a slot; its snapshot is of the moment at which the slot begins. Postgres waits until every transaction that runs is
 * over. Errors: `FEED`.
 */
export async function createSlot(
  replication: ReplicationConnection,
  slot: string,
  lifetime: 'lasting' | 'kept by standbys',
): Promise<Moment> {
  // The form with parentheses is younger than the oldest Postgres we know.
  const options = lifetime === 'kept by standbys' ? "(SNAPSHOT 'export', FAILOVER)" : 'EXPORT_SNAPSHOT';
  const [made] = await replication.command(
    `CREATE_REPLICATION_SLOT ${quoteIdentifier(slot)} LOGICAL pgoutput ${options}`,
  );
  const { consistent_point: point, snapshot_name: snapshot } = made ?? {};
  if (point == null || snapshot == null) throw new TokaidoError('FEED', 'Postgres made a slot without a snapshot');
  return { lsn: parseLsn(point), snapshot };
}

/**
 * Writes a message to the WAL, as a transaction of its own. Returns where it ends: all that was visible before lies before
 * that, and everything up to it is on Postgres' disk.
 */
export async function emitMessage(sql: pg.Client): Promise<Lsn> {
  const { rows } = await sql.query<{ lsn: string }>(`SELECT pg_logical_emit_message(true, 'tokaido', '') AS lsn`);
  return parseLsn(rows[0]?.lsn ?? '');
}
