//! `examples/`: a client in each of several languages, built and run as its README says, in one scenario, against the real
//! server. What they print is judged by the checkers that judge every other history.

#[path = "../history/mod.rs"]
mod history;
mod language;
mod lines;
mod program;
mod proxy;
mod scenario;
#[allow(dead_code)] // what only the tour needs
#[path = "../clients/server.rs"]
mod server;
#[allow(dead_code)] // what only browsers need
#[path = "../clients/tools.rs"]
mod tools;
mod witness;

use language::Language;

/// Builds it and has it go through the scenario, if its tools can be had.
async fn go_through(language: Language) {
    if let Some(example) = language.build() {
        scenario::take(&example).await;
    }
}

/// Over generated stubs, with a watch that acknowledges nothing.
async fn by_stubs(name: &'static str, tools: &'static [&'static str]) {
    go_through(Language { name, tools, acknowledges: false }).await;
}

#[tokio::test]
async fn the_example_in_go_survives_what_happens() {
    by_stubs("go", &["go", "buf"]).await;
}

#[tokio::test]
async fn the_example_in_python_survives_what_happens() {
    by_stubs("python", &["python"]).await;
}

#[tokio::test]
async fn the_example_in_node_survives_what_happens() {
    by_stubs("node", &["npm"]).await;
}

#[tokio::test]
async fn the_example_in_java_survives_what_happens() {
    by_stubs("java", &["maven"]).await;
}

#[tokio::test]
async fn the_example_in_rust_survives_what_happens() {
    go_through(Language { name: "rust", tools: &[], acknowledges: true }).await;
}
