// A program that is on the air: registered while it runs, and following a service.
//
// What happens it says as lines of JSON. Ends with 0 when it was asked to (SIGTERM, SIGINT), with 3 when another process
// took its key.

import { once } from 'node:events';
import { parseArgs } from 'node:util';
import grpc from '@grpc/grpc-js';
import { Keeper, Line, Superseded, unary, Watcher } from './client.js';
import { duration, instanceToJson, toValue } from './stubs.js';

const SUPERSEDED = 3;

const { values: args } = parseArgs({
  options: {
    registry: { type: 'string', default: '127.0.0.1:6624' }, // host:port
    service: { type: 'string' }, // what to register
    id: { type: 'string' }, // which copy of it; made up by the registry if left out
    port: { type: 'string', default: '8080' }, // where it would listen
    ttl: { type: 'string', default: '10' }, // seconds that it lives without a beat
    watch: { type: 'string' }, // the service to follow; its own if left out
    drain: { type: 'string', default: '5' }, // seconds that clients have to hear that it leaves
  },
});
const watched = args.watch ?? args.service;

/** A line: instances as JSON has them. */
function say(event, { instance, instances, ...facts } = {}) {
  const line = { event, at: Date.now(), ...facts };
  if (instance) line.instance = instanceToJson(instance);
  if (instances) line.instances = instances.map(instanceToJson);
  console.log(JSON.stringify(line));
}

// A line of its own for the lease: whatever else there is to read, beats do not wait behind it.
const leaseLine = new Line(args.registry);
const line = new Line(args.registry);
const metadata = toValue({ language: 'node' });
const instance = { service: args.service, id: args.id, port: Number(args.port), version: '1.0.0', metadata };
const keeper = new Keeper(leaseLine, instance, duration(Number(args.ttl)), say);

/** Says what comes, changes and goes. */
async function follow(signal) {
  const watcher = new Watcher(line, [{ service: watched }], say);
  for await (const { number: revision, token, events, snapshot } of watcher.run(signal)) {
    for (const { type, cause = 'CAUSE_UNSPECIFIED', instance } of events) {
      say(type.replace('EVENT_TYPE_', '').toLowerCase(), { cause, revision, instance });
    }
    const ids = Array.from(watcher.instances.values(), ({ id }) => id).sort();
    const kind = events.length > 0 || snapshot ? 'set' : 'bookmark';
    say(kind, { revision, token, snapshotEnd: snapshot, ids });
    if (kind === 'set') ask(revision);
  }
}

let asking = false;
let next;

/** Looks up what there is, no older than what the watch has shown, and asks whether it is well. One at a time. */
async function ask(revision) {
  next = revision;
  if (asking) return;
  asking = true;
  while (next !== undefined) {
    const minRevision = next;
    next = undefined;
    const asked = Date.now();
    try {
      const found = await line.call('lookup', { service: watched, minRevision }, 5_000);
      const { revision = '0', emptiness = 'EMPTINESS_UNSPECIFIED', instances } = found;
      say('looked-up', { asked, minRevision, revision, emptiness, instances });
      const { status } = await unary(line.health, 'check', { service: watched }, 5_000);
      say('health', { service: watched, status });
    } catch (error) {
      // What is known stays good; the next change asks again.
      say('failed', { code: grpc.status[error.code] });
    }
  }
  asking = false;
}

const leaving = new AbortController();
const keeping = keeper.run(leaving.signal);
try {
  await Promise.race([once(process, 'SIGTERM'), once(process, 'SIGINT'), keeping, follow(leaving.signal)]);
  // If another process has its key by then, there is nothing to wait for, and nothing of ours to take away.
  await Promise.race([keeper.drain(Number(args.drain) * 1_000), keeping]);
  leaving.abort();
  const [{ reason }] = await Promise.allSettled([keeping]);
  if (reason instanceof Superseded) throw reason;
  await keeper.leave();
} catch (error) {
  process.exitCode = error instanceof Superseded ? SUPERSEDED : 1;
  if (error instanceof Superseded) say('superseded', { holder: error.holder });
  else console.error(error);
}
process.exit(); // whatever still waits for an answer ends with it
