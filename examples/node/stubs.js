// Stubs of the registry, made of its protos when the program starts, and what the loader of protos leaves to us: types of
// Google's that other languages have ready.

import { fileURLToPath } from 'node:url';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import healthCheck from 'grpc-health-check';
import protobuf from 'protobufjs';

const protos = fileURLToPath(new URL('../../proto', import.meta.url));
const options = { longs: String, enums: String, arrays: true };

export const onair = grpc.loadPackageDefinition(
  loader.loadSync('onair/v1/registry.proto', { ...options, includeDirs: [protos] }),
).onair.v1;

export const health = grpc.loadPackageDefinition(loader.loadSync(healthCheck.protoPath, options)).grpc.health.v1;

// `google/rpc/status.proto` and what of `google/rpc/error_details.proto` is used here.
const rpc = protobuf.parse(`syntax = "proto3";
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message Any { string type_url = 1; bytes value = 2; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message RetryInfo { Duration retry_delay = 1; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }`).root;

/** The details of a failed call, by the names of their types. */
export function detailsOf(error) {
  const [packed] = error.metadata?.get('grpc-status-details-bin') ?? [];
  const details = {};
  for (const { typeUrl, value } of packed ? rpc.Status.decode(packed).details : []) {
    const name = typeUrl.split('.').at(-1);
    if (name in rpc) details[name] = rpc[name].decode(value);
  }
  return details;
}

/** The registry's reason for a failure; empty where it said nothing. */
export function reasonOf(error) {
  const { ErrorInfo } = detailsOf(error);
  return ErrorInfo?.domain === 'onair' ? ErrorInfo.reason : '';
}

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
