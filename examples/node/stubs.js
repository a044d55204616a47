// Stubs of the registry, made of its protos when the program starts, and what the loader of protos leaves to us: types of
// Google's that other languages have ready.

import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import healthCheck from 'grpc-health-check';

const protos = fileURLToPath(new URL('../../proto', import.meta.url));
const options = { longs: String, enums: String, arrays: true };

export const onair = grpc.loadPackageDefinition(
  loader.loadSync('onair/v1/registry.proto', { ...options, includeDirs: [protos] }),
).onair.v1;

export const health = grpc.loadPackageDefinition(loader.loadSync(healthCheck.protoPath, options)).grpc.health.v1;

/** The registry's reason for a failure; empty where it said nothing. */
export const reasonOf = (error) => error.metadata?.get('onair-reason')[0] ?? '';

export const duration = (seconds) => ({ seconds: Math.trunc(seconds), nanos: Math.round((seconds % 1) * 1e9) });

export const milliseconds = ({ seconds, nanos }) => Number(seconds ?? 0) * 1_000 + (nanos ?? 0) / 1e6;

/** A `google.protobuf.Value` of what JSON has. */
export function toValue(json) {
  if (json === null) return { nullValue: 'NULL_VALUE' };
  if (Array.isArray(json)) return { listValue: { values: json.map(toValue) } };
  if (typeof json !== 'object') return { [`${{ boolean: 'bool' }[typeof json] ?? typeof json}Value`]: json };
  const fields = Object.fromEntries(Object.entries(json).map(([name, value]) => [name, toValue(value)]));
  return { structValue: { fields } };
}

/** What JSON has for a `google.protobuf.Value`. */
export function ofValue({ structValue, listValue, stringValue, numberValue, boolValue }) {
  if (structValue) {
    return Object.fromEntries(Object.entries(structValue.fields ?? {}).map(([name, value]) => [name, ofValue(value)]));
  }
  return listValue ? (listValue.values ?? []).map(ofValue) : (stringValue ?? numberValue ?? boolValue ?? null);
}

/** An instance as JSON has it. */
export function instanceToJson({ metadata, onlineSince, ...instance }) {
  const { seconds = 0, nanos = 0 } = onlineSince ?? {};
  const fraction = String(nanos).padStart(9, '0');
  const time = onlineSince && new Date(Number(seconds) * 1_000).toISOString().replace('000Z', `${fraction}Z`);
  return { ...instance, metadata: metadata && ofValue(metadata), onlineSince: time };
}
