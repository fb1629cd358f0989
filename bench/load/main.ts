/** A load process: does the job of its argument and sends the result to its parent. */
import { drive } from './drive.js';
import { hop } from './hop.js';
import type { Job } from './job.js';

const job = JSON.parse(process.argv[2] as string) as Job;
const result = job.kind === 'drive' ? await drive(job) : await hop(job);
process.send?.(result, () => process.exit(0));
