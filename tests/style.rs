//! Style as a test: what can be said of the files as text, without compiling them. Each rule is first shown faults that
//! it has to find and text that it has to let pass, then the tree. An exception is a line of `EXCEPTIONS`.

#[path = "style/code.rs"]
mod code;

use std::{fmt::Write as _, fs, path::Path, process::Command, sync::LazyLock};

use code::{File, body, heads, macros, mentions, tests_of, words};

/// (rule, file, why it may): one that is no longer needed is a fault too.
const EXCEPTIONS: [(&str, &str, &str); 1] =
    [("no_registry_is_named", "Cargo.lock", "Cargo writes there where each package comes from")];

/// What a checkout has, and what is about to be added to it.
static TREE: LazyLock<Vec<File>> = LazyLock::new(|| {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .expect("git lists the files that these rules are for");
    assert!(listed.status.success(), "not a checkout? {}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).unwrap();
    let read = |path: &str| fs::read_to_string(root.join(path)).ok(); // neither binary nor deleted
    let files: Vec<_> = paths.split_terminator('\0').filter_map(|path| Some(File::new(path, read(path)?))).collect();
    assert!(files.iter().any(|file| file.path == "src/lib.rs"));
    files
});

/// The lines of a file that break a rule.
type Check = fn(&File) -> Vec<usize>;

/// Judges the planted (path, text, broken lines), then the tree.
fn judge(rule: &str, why: &str, check: Check, planted: &[(&str, &str, &[usize])]) {
    assert!(planted.iter().any(|(.., lines)| !lines.is_empty()), "{rule}: show that it finds something");
    for (path, text, lines) in planted {
        assert_eq!(check(&File::new(path, (*text).to_owned())), *lines, "{rule}, planted in {path}:\n{text}");
    }
    let mut faults = String::new();
    for file in &*TREE {
        let exception = EXCEPTIONS.iter().find(|(of, path, _)| *of == rule && *path == file.path);
        match (exception, check(file)) {
            (None, lines) => lines.iter().for_each(|line| writeln!(faults, "{}:{line}", file.path).unwrap()),
            (Some(_), lines) if lines.is_empty() => writeln!(faults, "{}: needs no exception", file.path).unwrap(),
            (Some(_), _) => {}
        }
    }
    assert!(faults.is_empty(), "{rule}: {why}\n{faults}");
}

fn unopened(file: &File) -> Vec<usize> {
    let opens = !file.is_rust() || file.text.starts_with("//! ");
    if opens { vec![] } else { vec![1] }
}

#[test]
fn a_file_opens_with_what_it_owns() {
    let why = "the first line is `//!`: what the file owns, and what it must not know";
    judge(
        "a_file_opens_with_what_it_owns",
        why,
        unopened,
        &[
            ("src/a.rs", "//! Owns a.\nuse b;\n", &[]),
            ("build.rs", "//! Builds.", &[]),
            ("src/a.rs", "use b;\n//! Late.\n", &[1]),
            ("tests/a.rs", "/// Of the item.\nfn a() {}\n", &[1]),
            ("benches/a.rs", "", &[1]),
            ("README.md", "# onair\n", &[]),
        ],
    );
}

const FILE_LINES: usize = 500;

fn too_long(file: &File) -> Vec<usize> {
    let long = file.is_rust() && file.text.lines().count() >= FILE_LINES;
    if long { vec![FILE_LINES] } else { vec![] }
}

#[test]
fn a_file_is_short() {
    let why = "a file of 500 lines owns two things: give one of them a file of its own";
    judge(
        "a_file_is_short",
        why,
        too_long,
        &[
            ("src/a.rs", &"\n".repeat(FILE_LINES - 1), &[]),
            ("src/a.rs", &"\n".repeat(FILE_LINES), &[FILE_LINES]),
            ("docs/a.md", &"\n".repeat(FILE_LINES), &[]),
        ],
    );
}

const FUNCTION_LINES: usize = 70;

fn long_functions(file: &File) -> Vec<usize> {
    // `fn(` is a type.
    let functions = words(&file.code).filter(|(at, word)| *word == "fn" && !file.code[at + 2..].starts_with('('));
    let long = functions.filter(|(at, _)| {
        body(&file.code, *at).is_some_and(|body| file.line(body.end - 1) - file.line(*at) + 1 >= FUNCTION_LINES)
    });
    file.lines(long.map(|(at, _)| at))
}

#[test]
fn a_function_is_short() {
    let why = "a function of 70 lines does several things: name them";
    let lines = |before: &str, count: usize| format!("{before}{}}}\n", "  \"}\"; '{'; // }\n".repeat(count - 2));
    judge(
        "a_function_is_short",
        why,
        long_functions,
        &[
            ("src/a.rs", &lines("fn a() {\n", 69), &[]),
            ("src/a.rs", &lines("fn a() {\n", 70), &[1]),
            ("src/a.rs", &lines("impl A {\nfn b(c: [u8; 4]);\n  pub async fn a<'a>(b: fn(&'a u8)) {\n", 70), &[3]),
            ("src/a.rs", &lines("mod a {\n  fn a() {}\n", 200), &[]),
        ],
    );
}

fn leaves_the_registry(file: &File) -> Vec<usize> {
    if !file.is_of("registry") {
        return vec![];
    }
    let mut places: Vec<_> =
        heads(&file.code, "crate").into_iter().filter(|(_, head)| *head != "registry").map(|(at, _)| at).collect();
    let floors = file.path.matches('/').count() - usize::from(file.path.ends_with("/mod.rs")) - 1;
    for (at, chain) in file.code.match_indices("super").filter(|(at, _)| !file.code[..*at].ends_with("super::")) {
        let supers = file.code[at..].split("::").take_while(|part| *part == chain).count();
        let inner = file.code[..at].matches('{').count().saturating_sub(file.code[..at].matches('}').count());
        if supers > floors + inner {
            places.push(at);
        }
    }
    file.lines(places)
}

#[test]
fn the_registry_knows_nothing_else_of_ours() {
    let why = "the state is the innermost: others import it, and it imports none of them";
    judge(
        "the_registry_knows_nothing_else_of_ours",
        why,
        leaves_the_registry,
        &[
            (
                "src/registry/a.rs",
                "use crate::registry::{A, b::C};\nuse super::d;\nmod tests {\n  use super::*;\n}\n",
                &[],
            ),
            ("src/registry/a.rs", "use crate::grpc::A;\nuse crate::{\n  registry::B,\n  proto,\n};", &[1, 4]),
            ("src/registry/a.rs", "fn a() {\n  crate::engine::b()\n}\n", &[2]),
            ("src/registry/mod.rs", "use super::proto;\n", &[1]),
            ("src/registry/a/b.rs", "use super::super::super::proto;\nuse super::super::c;\n", &[1]),
            ("src/grpc/a.rs", "use crate::proto::A;\n", &[]),
        ],
    );
}

fn impure(file: &File) -> Vec<usize> {
    if !file.is_of("registry") {
        return vec![];
    }
    const NAMES: &[&str] = &[
        "tokio",
        "tonic",
        "hyper",
        "tower",
        "socket2",
        "fjall",
        "rand",
        "getrandom",
        "now_v7",
        "new_v4",
        "Instant",
        "SystemTime",
        "TcpListener",
        "TcpStream",
        "UdpSocket",
        "ToSocketAddrs",
    ];
    let mut places = mentions(&file.code, NAMES);
    let system = ["env", "fs", "io", "os", "process", "thread"];
    places.extend(heads(&file.code, "std").into_iter().filter(|(_, head)| system.contains(head)).map(|(at, _)| at));
    file.lines(places)
}

#[test]
fn the_registry_is_pure() {
    let why = "the state reads no clock, draws no random number and does no I/O: time and the like are arguments";
    judge(
        "the_registry_is_pure",
        why,
        impure,
        &[
            (
                "src/registry/a.rs",
                "use std::{net::IpAddr, time::Duration};\n// tokio\nconst A: &str = \"Instant\";\n",
                &[],
            ),
            ("src/registry/a.rs", "use std::time::Instant;\n", &[1]),
            ("src/registry/a.rs", "use std::{\n  time::{Duration, SystemTime},\n  fs,\n};\n", &[2, 3]),
            ("src/registry/a.rs", "use std::net::{IpAddr, TcpStream};\n", &[1]),
            (
                "src/registry/mod.rs",
                "async fn a() {\n  tokio::task::yield_now().await;\n  std::fs::read(b)\n}\n",
                &[2, 3],
            ),
            ("src/registry.rs", "fn a() { getrandom::fill(b) }\nfn a() -> tonic::Status {}\n", &[1, 2]),
            ("src/actor/a.rs", "use tokio::time::Instant;\n", &[]),
        ],
    );
}

fn looks_outward(file: &File) -> Vec<usize> {
    if !["registry", "watch", "engine", "actor"].iter().any(|name| file.is_of(name)) {
        return vec![];
    }
    let outer = ["grpc", "http", "cli", "server"];
    file.lines(heads(&file.code, "crate").into_iter().filter(|(_, head)| outer.contains(head)).map(|(at, _)| at))
}

#[test]
fn imports_point_inward() {
    let why = "what holds, orders and tells the state does not know who asks: grpc, http, cli and server import it";
    judge(
        "imports_point_inward",
        why,
        looks_outward,
        &[
            ("src/actor/a.rs", "use crate::{engine::Engine, registry::{Key, grpc}};\n", &[]),
            ("src/actor/a.rs", "use crate::{engine::Engine,\n  grpc::raw};\n", &[2]),
            ("src/watch.rs", "fn a() -> crate::server::A {}\n", &[1]),
            ("src/engine/a.rs", "use crate::cli;\n", &[1]),
            ("src/grpc/a.rs", "use crate::grpc::raw;\n", &[]),
        ],
    );
}

fn sleeping(file: &File) -> Vec<usize> {
    let places = tests_of(file).into_iter().flat_map(|test| {
        let found = mentions(&file.code[test.clone()], &["sleep", "sleep_ms", "park_timeout"]);
        found.into_iter().map(move |at| test.start + at)
    });
    file.lines(places)
}

#[test]
fn no_test_sleeps() {
    let why = "await what is waited for; time that passes is the paused clock's";
    judge(
        "no_test_sleeps",
        why,
        sleeping,
        &[
            ("tests/a.rs", "fn a() {\n  std::thread::sleep(b);\n  tokio::time::sleep(b).await;\n}\n", &[2, 3]),
            ("tests/e2e/a.rs", "use tokio::time::sleep;\n", &[1]),
            ("src/a.rs", "fn a() {\n  sleep(b);\n}\n#[cfg(test)]\nmod tests {\n  fn b() { sleep(c) }\n}\n", &[6]),
            ("src/a/tests.rs", "fn a() { sleep(b) }\n", &[1]),
            ("tests/a.rs", "// sleep\nfn a() { Command::new(\"sleep\"); sleep_until(b) }\n", &[]),
            ("src/a.rs", "#[cfg(test)]\nmod tests;\nfn a() { sleep(b) }\n", &[]),
        ],
    );
}

fn unfinished(file: &File) -> Vec<usize> {
    let mut places = macros(&file.code, &["dbg", "todo", "unimplemented"]);
    places.extend(file.code.match_indices("#[ignore").map(|(at, _)| at));
    file.lines(places)
}

#[test]
fn nothing_is_unfinished_or_asleep() {
    let why = "what is here works, and every test runs; long ones have a name in `.ci/long`";
    judge(
        "nothing_is_unfinished_or_asleep",
        why,
        unfinished,
        &[
            ("src/a.rs", "fn a() {\n  todo!()\n}\nfn b() { dbg!(c); }\n", &[2, 4]),
            ("tests/a.rs", "#[test]\n#[ignore = \"slow\"]\nfn a() { unimplemented!() }\n", &[3, 2]),
            ("src/a.rs", "// todo!()\nfn todo() { b(todo != c, \"dbg!\") }\n", &[]),
        ],
    );
}

fn prints(file: &File) -> Vec<usize> {
    // A test says what it skips and why.
    let of_tests = file.path.contains("/tests/") || file.path.ends_with("/tests.rs");
    if !file.path.starts_with("src/") || file.is_of("cli") || file.path == "src/main.rs" || of_tests {
        return vec![];
    }
    file.lines(macros(&file.code, &["print", "println", "eprint", "eprintln"]))
}

#[test]
fn only_commands_print() {
    let why = "standard output and error belong to `src/cli` and `main`; anything else traces or returns";
    judge(
        "only_commands_print",
        why,
        prints,
        &[
            ("src/actor/a.rs", "fn a() {\n  println!();\n  eprintln!();\n}\n", &[2, 3]),
            ("src/cli/a.rs", "fn a() { println!() }\n", &[]),
            ("src/actor/tests/a.rs", "fn a() { println!() }\n", &[]),
            ("src/main.rs", "fn main() { eprintln!() }\n", &[]),
            ("build.rs", "fn main() { println!() }\n", &[]),
            ("src/a.rs", "// println!()\n", &[]),
        ],
    );
}

/// A place of one machine, as text that is not one here.
fn of_one_machine(name: &str) -> String {
    format!("/{name}/")
}

fn machine_paths(file: &File) -> Vec<usize> {
    let names = ["root", "home", "work", "tmp", "Users"].map(of_one_machine);
    let starts = |at: &usize| {
        let before = file.text[..*at].chars().next_back();
        !before.is_some_and(|letter| letter.is_alphanumeric() || "._-~$}*".contains(letter))
    };
    file.lines(names.iter().flat_map(|name| file.text.match_indices(name.as_str()).map(|(at, _)| at).filter(starts)))
}

#[test]
fn no_path_is_of_one_machine() {
    let why = "say it relative to the checkout; tests take their directories from `tempfile`";
    let (root, temporary) = (of_one_machine("root"), of_one_machine("tmp"));
    judge(
        "no_path_is_of_one_machine",
        why,
        machine_paths,
        &[
            ("README.md", &format!("onair\n{root}onair serve\n"), &[2]),
            ("tests/a.rs", &format!("fn a() {{ b(\"{temporary}c\") }}"), &[1]),
            ("docs/a.md", &format!("https://example.com{root} and target{temporary}"), &[]),
        ],
    );
}

fn registry_hosts(file: &File) -> Vec<usize> {
    let hosts = [
        ["crates", ".io"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["npmjs", ".org"],
        ["npmjs", ".com"],
        ["proxy.golang", ".org"],
        ["sum.golang", ".org"],
        ["pkg.go", ".dev"],
        ["debian", ".org"],
    ];
    file.lines(
        hosts.iter().flat_map(|host| file.text.match_indices(&host.concat()).map(|(at, _)| at).collect::<Vec<_>>()),
    )
}

#[test]
fn no_registry_is_named() {
    let why = "packages come by name from wherever this machine's clients are told to ask";
    judge(
        "no_registry_is_named",
        why,
        registry_hosts,
        &[
            ("docs/a.md", &format!("\nSee {}.\n", ["pypi", ".org/p/x"].concat()), &[2]),
            (".ci/run", "go install google.golang.org/grpc/cmd@latest\n", &[]),
        ],
    );
}

#[test]
fn exceptions_name_rules_and_files_that_are_there() {
    let rules = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file!())).unwrap();
    for (rule, path, why) in EXCEPTIONS {
        assert!(rules.contains(&format!("fn {rule}()")), "no rule is called {rule}");
        assert!(TREE.iter().any(|file| file.path == path), "{path} is not there");
        assert!(!why.is_empty(), "{rule} in {path}: say why");
    }
}
