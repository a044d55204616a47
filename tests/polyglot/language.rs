//! An example as its README has it: one command that builds it, and one that runs it. Knows nothing of what it does.

use std::{
    env,
    ffi::OsString,
    fs,
    path::PathBuf,
    process::Command,
    sync::{Mutex, PoisonError},
};

use crate::tools::{offered, run, tool, top};

/// A directory of `examples/`.
pub struct Language {
    pub name: &'static str,
    /// What has to be installed, by the names that `.ci/install` knows.
    pub tools: &'static [&'static str],
    /// Whether its watch says what it has acted on.
    pub acknowledges: bool,
}

/// How an example is run.
#[derive(Clone, Debug)]
pub struct Example {
    directory: PathBuf,
    /// The command of the README, up to its first argument.
    program: Vec<String>,
    path: OsString,
    /// Whether its watch says what it has acted on.
    pub acknowledges: bool,
}

impl Language {
    /// Builds it, if its tools can be had; why not is told, and with `CI` set a failure.
    pub fn build(&self) -> Option<Example> {
        // They would only take the machine from each other.
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        // Who says `CI` has said that all are there: a language that is passed over would be a promise that nobody keeps.
        let find = |name: &&str| if env::var_os("CI").is_some() { Some(tool(name)) } else { offered(name) };
        let tools: Option<Vec<_>> = self.tools.iter().map(find).collect();
        let places = tools?.into_iter().map(|tool| tool.parent().unwrap().to_owned());
        let usual = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(places.chain(env::split_paths(&usual))).unwrap();

        let directory = top().join("examples").join(self.name);
        let readme = fs::read_to_string(directory.join("README.md")).unwrap();
        let mut commands = readme.split("```sh\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.trim());
        let (Some(build), Some(start), None) = (commands.next(), commands.next(), commands.next()) else {
            panic!("examples/{}/README.md has two commands", self.name);
        };
        run(Command::new("bash").args(["-e", "-c", build]).current_dir(&directory).env("PATH", &path));
        // Up to its own arguments: `--` by itself is where those of another program end.
        let program = match start.split_once(" -- ") {
            Some((program, _)) => format!("{program} --"),
            None => start.split_once(" --").map_or(start, |(program, _)| program).to_owned(),
        };
        let program = program.split(' ').map(str::to_owned).collect();
        Some(Example { directory, program, path, acknowledges: self.acknowledges })
    }
}

impl Example {
    /// The command that runs it, with these arguments in place of the README's.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("env");
        // `env` looks for the program where PATH says.
        command.env("PATH", &self.path).current_dir(&self.directory).args(&self.program).args(arguments);
        command
    }
}
