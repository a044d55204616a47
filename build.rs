//! Compiles the protos with a pure-Rust compiler (no `protoc`), twice: messages and clients as anyone would have them,
//! then server traits whose hot replies are bytes that were encoded once.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// The files that have all of the API with what they import.
const API: [&str; 5] = [
    "onair/v1/registry.proto",
    "onair/v1/deployments.proto",
    "onair/v1/catalog.proto",
    "onair/v1/admin.proto",
    "onair/v1/error.proto",
];
/// Types that `src/registry` owns; the generated code uses those.
const REGISTRY_TYPES: [&str; 4] = ["Instance", "Status", "EventType", "Cause"];
/// Replies that a server sends as bytes made once (`grpc::raw`).
const RAW_REPLIES: [&str; 2] = ["GetInstanceResponse", "LookupResponse"];

/// Messages that a server reads and writes by itself (`grpc::beats`).
const BEATS: [&str; 2] = ["HeartbeatRequest", "HeartbeatResponse"];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rustc-env=ONAIR_COMMIT={}", commit());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let api = protox::compile(API, ["proto"])?;
    let mut clients = tonic_prost_build::configure()
        .btree_map(".")
        .build_server(false)
        .compile_well_known_types(false)
        .extern_path(".google.rpc", "::tonic_types::pb");
    for name in REGISTRY_TYPES {
        clients = clients.extern_path(format!(".onair.v1.{name}"), format!("crate::registry::{name}"));
    }
    clients.compile_fds(api.clone())?;

    let servers_out = out.join("server");
    std::fs::create_dir_all(&servers_out)?;
    let mut servers = tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::Codec")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .extern_path(".onair.v1", "crate::proto")
        .out_dir(&servers_out);
    for name in BEATS {
        servers = servers.extern_path(format!(".onair.v1.{name}"), format!("crate::grpc::beats::{name}"));
    }
    for name in RAW_REPLIES {
        servers = servers.extern_path(format!(".onair.v1.{name}"), format!("crate::grpc::raw::{name}"));
    }
    servers.compile_fds(api)?;

    let floor = protox::compile(["onair/bench/v1/floor.proto"], ["proto/bench"])?;
    tonic_prost_build::configure()
        .build_client(false)
        .codec_path("crate::grpc::codec::Codec") // or the floor would pay for larger buffers than what stands on it
        .bytes(".")
        .compile_fds(floor)?;

    // With comments, so that `grpcurl describe` shows the specification; and without, for what lives in memory.
    for (file, comments) in [("onair.bin", true), ("onair-bare.bin", false)] {
        let mut compiler = protox::Compiler::new(["proto"])?;
        compiler.include_imports(true).include_source_info(comments);
        compiler.open_files(API)?;
        std::fs::write(out.join(file), compiler.encode_file_descriptor_set())?;
    }
    Ok(())
}

/// The commit this is built from, `unknown` outside a checkout.
fn commit() -> String {
    for name in ["HEAD", "logs/HEAD"] {
        // Of a worktree too, and only what is there: a missing file would mean a new build each time.
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}

/// The one line that git answers, if it does.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
