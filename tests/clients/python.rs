//! Python, with stubs by grpcio-tools (which has the original `protoc` in it).

use std::process::Command;

use crate::{
    scenario,
    tools::{run, tool, top},
};

/// Stubs of all of `proto/onair`, in a directory that is gone with the value.
fn stubs() -> tempfile::TempDir {
    let into = tempfile::tempdir().unwrap();
    let mut command = Command::new(tool("python"));
    command.current_dir(top()).args(["-m", "grpc_tools.protoc", "--proto_path=proto"]);
    for kind in ["--python_out", "--grpc_python_out"] {
        command.arg(format!("{kind}={}", into.path().display()));
    }
    run(command.args(["http", "instance", "registry", "error", "rules"].map(|name| format!("onair/v1/{name}.proto"))));
    into
}

/// The shape of `google.rpc.Status` in `proto/google` is the same to a client that has the well-known package.
#[test]
fn stubs_go_with_the_well_known_packages() {
    let stubs = stubs();
    let program = "
from google.rpc import status_pb2
from onair.v1 import error_pb2, instance_pb2, registry_pb2, registry_pb2_grpc
group = registry_pb2.SubscriptionGroup(error=status_pb2.Status(code=3, message='why'))
assert registry_pb2.SubscriptionGroup.FromString(group.SerializeToString()).error.message == 'why'
assert error_pb2.ERROR_REASON_LIMIT == 5 and instance_pb2.STATUS_SERVING == 2
print(registry_pb2_grpc.RegistryStub.__name__)
";
    let said = run(Command::new(tool("python")).args(["-c", program]).current_dir(stubs.path()));
    assert_eq!(said.trim_end(), "RegistryStub");
}

#[test]
fn a_client_in_python_takes_the_tour() {
    let stubs = stubs();
    let mut client = Command::new(tool("python"));
    client.arg("-B").arg(top().join("tests/clients/python/scenario.py")).env("PYTHONPATH", stubs.path());
    scenario::take(&mut client);
}
