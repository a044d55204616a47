// A correct client of the registry, over stubs made of its protos and nothing else of ours.
//
// A `Keeper` keeps one instance registered, a `Watcher` follows a set of instances over any number of streams. Both are
// the state machines of docs/protocol.md. What happens to them they tell `say(event, facts)`.

import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import grpc from '@grpc/grpc-js';
import { duration, health, milliseconds, onair, reasonOf } from './stubs.js';

const CALL_TIMEOUT = 10_000;
const LEAVE_TIMEOUT = 3_000;
const LONGEST_PAUSE = 2_000;
// Of a stream that has not said yet how often it speaks.
const FIRST_SILENCE = 30_000;

// Trying the same again cannot help: what is asked for is wrong, or forbidden, or unknown to this server.
const FINAL = new Set([
  grpc.status.INVALID_ARGUMENT,
  grpc.status.UNIMPLEMENTED,
  grpc.status.ALREADY_EXISTS,
  grpc.status.PERMISSION_DENIED,
  grpc.status.UNAUTHENTICATED,
]);

/** Another process has our key, at the address `holder`, if it was told. Stop; registering again would start a duel. */
export class Superseded extends Error {
  constructor(message, holder = '') {
    super(message);
    this.holder = holder;
  }
}

const waiting = () => new grpc.Metadata({ waitForReady: true });

/**
 * A channel that can be given up.
 *
 * A connection whose other end is gone without a word looks alive for a quarter of an hour, and every further call of
 * its channel goes there. So whoever waited in vain for an answer takes a new one.
 */
export class Line {
  constructor(target) {
    this.target = target;
    this.dial();
  }

  dial() {
    this.registry = new onair.Registry(this.target, grpc.credentials.createInsecure(), {
      // By default a channel may wait for two minutes before it dials again, longer than most leases live.
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 3_000,
      // Otherwise a new channel shares the connection of the one that was given up.
      'grpc.use_local_subchannel_pool': 1,
    });
    const channelOverride = this.registry.getChannel();
    this.health = new health.Health(this.target, grpc.credentials.createInsecure(), { channelOverride });
  }

  renew() {
    const old = this.registry;
    this.dial();
    old.close();
  }

  /** A call of the registry's, as a promise. */
  call(method, request, timeout) {
    return unary(this.registry, method, request, timeout);
  }

  /** Throws what cannot be helped by trying again. */
  failed(error) {
    if (error.code === undefined) throw error; // no failure of a call
    if (reasonOf(error) === 'SUPERSEDED') {
      throw new Superseded(error.details, error.metadata.get('onair-holder')[0]);
    }
    if (FINAL.has(error.code)) throw error;
    if (error.code === grpc.status.DEADLINE_EXCEEDED) this.renew();
  }
}

/** A call of any client's, as a promise. */
export function unary(client, method, request, timeout) {
  return new Promise((resolve, reject) => {
    client[method](request, waiting(), { deadline: Date.now() + timeout }, (error, reply) =>
      error ? reject(error) : resolve(reply),
    );
  });
}

/** A random part of a time, from the share `from` on to all of it. */
const spread = (time, from) => time * (from + (1 - from) * Math.random());

/** Pauses between attempts: doubling, spread, never shorter than what the server asks for. */
class Backoff {
  constructor(longest = LONGEST_PAUSE) {
    this.longest = longest;
    this.reset();
  }

  reset() {
    this.next = 100;
  }

  async pause(signal, error) {
    let wait = spread(this.next, 0.5);
    this.next = Math.min(this.next * 2, this.longest);
    const [asked] = error?.metadata?.get('grpc-retry-pushback-ms') ?? [];
    if (asked) wait = Math.max(wait, spread(asked * 1.5, 2 / 3));
    await sleep(wait, undefined, { signal });
  }
}

/** Keeps one instance registered while `run` runs. */
export class Keeper {
  constructor(line, instance, ttl, say) {
    this.line = line;
    this.say = say;
    // Holds the last token and, once known, the id.
    this.request = { instance, ttl };
  }

  /** Registers and beats, and registers again whenever the lease is lost; throws when that makes no sense. */
  async run(signal) {
    for (;;) {
      await this.register(signal);
      await this.beatUntilLost(signal);
    }
  }

  async register(signal) {
    // One id for all attempts: however many of them arrive, one registration is made.
    this.request.requestId = randomUUID();
    const backoff = new Backoff();
    for (;;) {
      try {
        const { lease, instance, revision } = await this.line.call('register', this.request, CALL_TIMEOUT);
        this.request.leaseToken = lease.token;
        // An id that was made up for us is ours from now on.
        this.request.instance.id = instance.id;
        this.interval = milliseconds(lease.heartbeatInterval);
        this.say('registered', { instance, revision });
        return;
      } catch (error) {
        this.line.failed(error);
        await backoff.pause(signal, error);
      }
    }
  }

  /** Returns when the lease is gone and its key is free. */
  async beatUntilLost(signal) {
    const backoff = new Backoff(this.interval);
    const untilNext = () => sleep(spread(this.interval, 0.9), undefined, { signal });
    await untilNext();
    for (;;) {
      let state, holder, failure;
      try {
        // A beat that hangs is worth less than the next one.
        ({ state, holder } = await this.beat(Math.max(this.interval, 500)));
      } catch (error) {
        this.line.failed(error);
        failure = error;
      }
      if (state) this.say('beat', { state });
      switch (state) {
        case 'BEAT_STATE_RENEWED':
          backoff.reset();
          await untilNext();
          break;
        case 'BEAT_STATE_SUPERSEDED':
          throw new Superseded('a newer registration has our key', holder);
        case 'BEAT_STATE_EXPIRED':
        case 'BEAT_STATE_UNKNOWN':
        case 'BEAT_STATE_DENIED':
          return;
        default: // a failure, or what this code does not know: try again soon
          await backoff.pause(signal, failure);
      }
    }
  }

  async beat(timeout) {
    const beats = [{ leaseToken: this.request.leaseToken }];
    return (await this.line.call('heartbeat', { beats }, timeout)).results[0];
  }

  /**
   * Takes the instance out of traffic, and returns when its clients know. The lease has to be kept meanwhile. Throws if
   * another process has our key; whatever else goes wrong is told, and nothing to stay for.
   */
  async drain(wait) {
    const { instance, leaseToken } = this.request;
    // Should it be lost, what is registered anew takes no traffic either.
    instance.status = 'STATUS_DRAINING';
    if (!leaseToken) return; // it never was registered
    const backoff = new Backoff();
    const until = Date.now() + wait;
    for (;;) {
      const left = Math.max(until - Date.now(), 0);
      try {
        const request = { leaseToken, wait: duration(left / 1_000) };
        const { pending = '0', sent = '0', acked = '0' } = await this.line.call('drain', request, left + LEAVE_TIMEOUT);
        this.say('drained', { pending, sent, acked });
        return;
      } catch (error) {
        if (left === 0 || FINAL.has(error.code)) {
          this.say('failed', { code: grpc.status[error.code] }); // nobody hears of it, so there is nothing to wait for
          return;
        }
        this.line.failed(error);
        // A beat that hangs takes the channel from this call as well: it may be made again.
        await backoff.pause(undefined, error);
      }
    }
  }

  /** Takes the instance away. Nothing may register it any more. */
  async leave() {
    const { leaseToken } = this.request;
    if (!leaseToken) return;
    try {
      const { removed = '0' } = await this.line.call('deregister', { leaseToken }, LEAVE_TIMEOUT);
      this.say('deregistered', { removed });
    } catch (error) {
      this.say('failed', { code: grpc.status[error.code] }); // the lease ends by itself
    }
  }
}

const keyOf = ({ namespace, service, id }) => `${namespace}/${service}/${id}`; // no name has a slash

/** Follows a set of instances over any number of streams as if it were one. */
export class Watcher {
  constructor(line, selectors, say) {
    this.line = line;
    this.say = say;
    this.request = { selectors, resumeToken: '' };
    this.silence = FIRST_SILENCE;
    this.instances = new Map();
    // Keys that the snapshot under way has not named yet; undefined while there is no snapshot.
    this.unnamed = undefined;
    // The messages of a revision (or snapshot) that is not complete.
    this.held = [];
  }

  /** Yields what each whole revision, or snapshot, did to `instances`. No events: a bookmark. */
  async *run(signal) {
    const backoff = new Backoff();
    for (;;) {
      // What was not complete comes again, whole.
      this.held = [];
      if (!this.request.resumeToken) this.unnamed = new Set(this.instances.keys());
      this.say('watching', { token: this.request.resumeToken });
      const stream = this.line.registry.watch(this.request, waiting());
      let isSilent = false;
      const giveUp = () => {
        isSilent = true;
        stream.cancel();
      };
      let silence = setTimeout(giveUp, this.silence);
      const left = () => stream.cancel();
      signal.addEventListener('abort', left);
      let failure;
      try {
        for await (const message of stream) {
          backoff.reset();
          // Two silent intervals, and a second for the way.
          if (message.bookmarkInterval) this.silence = 2 * milliseconds(message.bookmarkInterval) + 1_000;
          clearTimeout(silence);
          silence = setTimeout(giveUp, this.silence);
          const revision = this.take(message);
          if (revision) yield revision;
        }
      } catch (error) {
        signal.throwIfAborted();
        if (isSilent) {
          this.say('silent');
          this.line.renew();
        } else {
          this.say('ended', { code: grpc.status[error.code], reason: reasonOf(error) });
          this.line.failed((failure = error));
        }
      } finally {
        clearTimeout(silence);
        signal.removeEventListener('abort', left);
        stream.cancel();
      }
      await backoff.pause(signal, failure);
    }
  }

  take(message) {
    if (message.reset) {
      // Keep what is there; what the snapshot does not name goes when it is complete.
      this.say('reset', { reason: message.reset.reason });
      this.held = [];
      this.unnamed = new Set(this.instances.keys());
      this.request.resumeToken = '';
    }
    this.held.push(message);
    if (message.more) return undefined;
    const events = this.held.flatMap((held) => held.events);
    this.held = [];
    for (const { type, instance } of events) {
      const key = keyOf(instance);
      if (type === 'EVENT_TYPE_OFFLINE') this.instances.delete(key);
      else this.instances.set(key, instance);
      this.unnamed?.delete(key);
    }
    if (message.snapshotEnd) {
      for (const key of this.unnamed ?? []) this.instances.delete(key);
      this.unnamed = undefined;
    }
    // Only now: with this token the server takes it that everything so far was acted on.
    this.request.resumeToken = message.resumeToken || this.request.resumeToken;
    return { number: message.revision ?? '0', token: message.resumeToken, events, snapshot: !!message.snapshotEnd };
  }
}
