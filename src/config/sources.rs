//! Where values come from: flag, then environment, then one file, then default. Collects every violation before it
//! refuses, and remembers for each value who gave it.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fmt, io,
    marker::PhantomData,
    path::{Path, PathBuf},
};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{PossibleValue, StringValueParser, TypedValueParser},
    parser::ValueSource,
};
use toml::de::{DeTable, DeValue};

use super::{
    Setting, Settings, Shape,
    places::{ConfigFile, in_order, nearest},
};

/// Tables that a file may have.
const SECTIONS: [&str; 3] = ["serve", "client", "run"];
/// Name of the file that is looked for.
const FILE_NAME: &str = "onair.toml";

/// Who gave a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// A line of a file.
    File(PathBuf, usize),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}, line {line}", path.display()),
            Self::Environment(variable) => write!(f, "environment {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// Everything that was wrong, a sentence each.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Refused(pub Vec<String>);

/// What flags and environment say about a family of settings; to be flattened into a command's arguments.
#[derive(Clone, Debug)]
pub struct Given<S> {
    /// `--config` or `ONAIR_CONFIG`.
    pub config: Option<PathBuf>,
    values: BTreeMap<&'static str, (String, Origin)>,
    family: PhantomData<S>,
}

impl<S: Settings> Given<S> {
    fn argument(row: &'static Setting<S>) -> Arg {
        let argument = Arg::new(row.key)
            .long(row.flag.as_str())
            .env(row.variable.as_str())
            .hide_env_values(true)
            .value_name(row.value_name)
            .value_parser(Completed(row.value_name))
            .hide_possible_values(true)
            .help(row.help.as_str())
            .help_heading(if row.help.starts_with("Limit on") { "Limits" } else { S::HEADING })
            .hide(row.hidden);
        match row.shape {
            Shape::One => argument.action(ArgAction::Set),
            Shape::List => argument.action(ArgAction::Append),
            Shape::Switch => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        }
    }
}

/// Takes any text, which is read with all others once all are there; but tells a shell what completes a choice, from the
/// name of its value: `table|json|curl`.
#[derive(Clone, Debug)]
struct Completed(&'static str);

impl TypedValueParser for Completed {
    type Value = String;

    fn parse_ref(&self, command: &Command, argument: Option<&Arg>, text: &OsStr) -> Result<String, clap::Error> {
        StringValueParser::new().parse_ref(command, argument, text)
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.contains('|').then(|| Box::new(self.0.split('|').map(PossibleValue::new)) as Box<_>)
    }
}

impl<S: Settings> clap::Args for Given<S> {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .env("ONAIR_CONFIG")
            .hide_env_values(true)
            .value_name("FILE")
            .value_parser(clap::value_parser!(OsString))
            .help_heading(S::HEADING)
            .help(format!(
                "File of settings (TOML). Default: {FILE_NAME} here if it has a [{}] table, else the one in the \
                 platform's directory for configuration",
                S::SECTION
            ));
        command.arg(config).args(S::table().iter().map(Self::argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl<S: Settings> clap::FromArgMatches for Given<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut values = BTreeMap::new();
        for row in S::table() {
            let origin = match matches.value_source(row.key) {
                Some(ValueSource::CommandLine) => Origin::Flag(format!("--{}", row.flag)),
                Some(ValueSource::EnvVariable) => Origin::Environment(row.variable.clone()),
                _ => continue,
            };
            let texts: Vec<&str> =
                matches.get_many::<String>(row.key).into_iter().flatten().map(String::as_str).collect();
            let text = texts.join(",");
            // A variable that is set to nothing says nothing; but what protects is not left out in silence.
            let protects = row.key.starts_with("tls_");
            if !text.is_empty() || protects || !matches!(origin, Origin::Environment(_)) {
                values.insert(row.key, (text, origin));
            }
        }
        let config = matches.get_one::<OsString>("config").filter(|path| !path.is_empty()).map(PathBuf::from);
        Ok(Self { config, values, family: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// `onair.toml` in the platform's directory for configuration.
#[must_use]
pub fn platform_file() -> Option<PathBuf> {
    directories::ProjectDirs::from("", "", "onair").map(|dirs| dirs.config_dir().join(FILE_NAME))
}

/// The one file that counts: the named one, else `onair.toml` in `here` if it has a table of this family, else
/// `platform`.
///
/// # Errors
/// A file that was named or is there cannot be read.
pub fn locate<S: Settings>(
    named: Option<&Path>,
    here: &Path,
    platform: Option<&Path>,
) -> Result<Option<ConfigFile>, Refused> {
    let cannot = |path: &Path, error: &io::Error| Refused(vec![format!("{}: cannot be read: {error}", path.display())]);
    if let Some(path) = named {
        return ConfigFile::read(path).map(Some).map_err(|error| cannot(path, &error));
    }
    for (path, needs_table) in [(Some(here.join(FILE_NAME)), true), (platform.map(Path::to_owned), false)] {
        let Some(path) = path else { continue };
        match ConfigFile::read(&path) {
            Ok(file) => {
                if !needs_table || has_table(&file.text, S::SECTION) {
                    return Ok(Some(file));
                }
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(error) => return Err(cannot(&path, &error)),
        }
    }
    Ok(None)
}

/// Whether the file has it, or something that looks like it misspelt, as far as it can be parsed: so that its faults are
/// told rather than passed over.
fn has_table(text: &str, section: &'static str) -> bool {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut names = table.get_ref().keys().map(|key| key.get_ref().as_ref());
    names.any(|name| name == section || (!SECTIONS.contains(&name) && !nearest(name, [section]).is_empty()))
}

/// The variable that holds a client's token. It is no setting: what shows settings must not show it.
pub const TOKEN: &str = "ONAIR_TOKEN";

/// A sentence for each variable that looks like a misspelt one of ours. Others that begin like ours are left alone: an
/// orchestrator sets `ONAIR_SERVICE_HOST` for a service that is called onair.
pub fn misspelt(variables: impl Iterator<Item = String>) -> Vec<String> {
    let serve = super::ServeSettings::table().iter().map(|row| row.variable.as_str());
    let client = super::ClientSettings::table().iter().map(|row| row.variable.as_str());
    let known: Vec<&'static str> = serve.chain(client).chain(["ONAIR_CONFIG", "ONAIR_OUTPUT", TOKEN]).collect();
    let ours = variables.filter(|name| name.starts_with("ONAIR_") && !known.contains(&name.as_str()));
    let told = ours.filter_map(|name| {
        let hint = nearest(&name, known.iter().copied());
        (!hint.is_empty()).then(|| format!("{name} is no setting{hint}"))
    });
    told.collect()
}

/// Settings, and where each value came from.
#[derive(Clone, Debug)]
pub struct Resolved<S> {
    /// The settings as they are in force.
    pub settings: S,
    /// The file that was read.
    pub file: Option<PathBuf>,
    origins: BTreeMap<&'static str, Origin>,
}

impl<S: Settings> Resolved<S> {
    /// Who gave the value of `key`.
    #[must_use]
    pub fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Key, value and origin of every setting that is not hidden, in order.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, String, Origin)> {
        let shown = S::table().iter().filter(|row| !row.hidden || self.origins.contains_key(row.key));
        shown.map(|row| (row.key, (row.show)(&self.settings), self.origin(row.key)))
    }
}

/// Puts the sources together: flags and environment over the file over the defaults.
///
/// # Errors
/// Everything that is wrong in any of the sources, overruled or not.
pub fn resolve<S: Settings>(given: &Given<S>, file: Option<&ConfigFile>) -> Result<Resolved<S>, Refused> {
    let mut resolved =
        Resolved { settings: S::default(), file: file.map(|file| file.path.clone()), origins: BTreeMap::new() };
    let mut wrong = Vec::new();
    if let Some(file) = file {
        read_file(file, &mut resolved, &mut wrong);
    }
    for row in S::table() {
        let Some((text, origin)) = given.values.get(row.key) else { continue };
        match (row.read)(&mut resolved.settings, text) {
            Ok(()) => _ = resolved.origins.insert(row.key, origin.clone()),
            Err(why) => wrong.push(match origin {
                Origin::Flag(name) | Origin::Environment(name) => format!("{name}: {why}"),
                Origin::Default | Origin::File(..) => format!("{}: {why}", row.key),
            }),
        }
    }
    if wrong.is_empty() {
        wrong.extend(resolved.settings.check());
    }
    if wrong.is_empty() { Ok(resolved) } else { Err(Refused(wrong)) }
}

fn read_file<S: Settings>(file: &ConfigFile, resolved: &mut Resolved<S>, wrong: &mut Vec<String>) {
    let (document, faults) = DeTable::parse_recoverable(&file.text);
    let place = |at: usize| file.place(at);
    wrong.extend(faults.iter().map(|fault| file.fault(fault)));
    for (key, value) in in_order(document.get_ref()) {
        let (name, at) = (key.get_ref().as_ref(), key.span().start);
        match value.get_ref().as_table() {
            Some(table) if name == S::SECTION => read_table(file, table, resolved, wrong),
            Some(_) if SECTIONS.contains(&name) => {}
            None if SECTIONS.contains(&name) => wrong.push(format!("{}: `{name}` is not a table", place(at))),
            _ => wrong.push(format!("{}: unknown key `{name}`{}", place(at), nearest(name, SECTIONS))),
        }
    }
}

fn read_table<S: Settings>(
    file: &ConfigFile,
    table: &DeTable<'_>,
    resolved: &mut Resolved<S>,
    wrong: &mut Vec<String>,
) {
    for (key, value) in in_order(table) {
        let (name, line) = (key.get_ref().as_ref(), file.line(key.span().start));
        let place = format!("{}, line {line}: ", file.path.display());
        let Some(row) = S::table().iter().find(|row| row.key == name) else {
            let known = S::table().iter().filter(|row| !row.hidden).map(|row| row.key);
            wrong.push(format!("{place}unknown key `{}.{name}`{}", S::SECTION, nearest(name, known)));
            continue;
        };
        let read = value_text(value.get_ref(), row.shape).and_then(|text| (row.read)(&mut resolved.settings, &text));
        match read {
            Ok(()) => _ = resolved.origins.insert(row.key, Origin::File(file.path.clone(), line)),
            Err(why) => wrong.push(format!("{place}{}.{name}: {why}", S::SECTION)),
        }
    }
}

/// The text that a flag would have been given.
fn value_text(value: &DeValue<'_>, shape: Shape) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(truth) => Ok(truth.to_string()),
        DeValue::Integer(figure) if figure.radix() == 10 => Ok(figure.as_str().to_owned()),
        DeValue::Array(parts) if shape == Shape::List => {
            let parts: Result<Vec<_>, _> = parts.iter().map(|part| value_text(part.get_ref(), Shape::One)).collect();
            Ok(parts?.join(","))
        }
        other => Err(format!("a value of type {} does not fit here", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use clap::{Args, FromArgMatches};

    use super::*;
    use crate::config::{Output, ServeSettings};

    fn given(arguments: &[&str]) -> Given<ServeSettings> {
        let command = Given::<ServeSettings>::augment_args(Command::new("serve"));
        let matches = command.try_get_matches_from(["serve"].iter().chain(arguments)).unwrap();
        Given::from_arg_matches(&matches).unwrap()
    }

    fn file(text: &str) -> ConfigFile {
        ConfigFile { path: "o.toml".into(), text: text.to_owned() }
    }

    fn refused(arguments: &[&str], text: &str) -> Vec<String> {
        resolve(&given(arguments), Some(&file(text))).unwrap_err().0
    }

    #[test]
    fn flag_over_environment_over_file_over_default() {
        let text =
            "[serve]\nrestart_grace = '1s'\nio_threads = 2\nmax_beats = 1_000\nlisten = ['127.0.0.1:1', '[::1]:2']";
        let mut given = given(&["--restart-grace", "3s", "--ephemeral", "--insecure=false"]);
        given.values.insert("io_threads", ("4".to_owned(), Origin::Environment("ONAIR_IO_THREADS".to_owned())));
        let resolved = resolve(&given, Some(&file(text))).unwrap();
        assert_eq!(resolved.settings.restart_grace, Duration::from_secs(3));
        assert_eq!(resolved.settings.io_threads, 4);
        assert_eq!(resolved.settings.max_beats, 1_000);
        assert_eq!(resolved.settings.listen.len(), 2);
        assert!(resolved.settings.ephemeral && !resolved.settings.insecure);
        for (key, origin) in [
            ("restart_grace", "flag --restart-grace"),
            ("io_threads", "environment ONAIR_IO_THREADS"),
            ("max_beats", "o.toml, line 4"),
            ("max_inbox", "default"),
        ] {
            assert_eq!(resolved.origin(key).to_string(), origin);
        }
        assert!(resolved.rows().all(|(key, ..)| key != "bench_floor"), "hidden unless set");
    }

    #[test]
    fn flags_repeat_or_join() {
        let listen = |arguments: &[&str]| resolve(&given(arguments), None).unwrap().settings.listen.len();
        assert_eq!(listen(&["--listen", "127.0.0.1:1", "--listen", "[::1]:2"]), 2);
        assert_eq!(listen(&["--listen", "127.0.0.1:1,[::1]:2,127.0.0.1:0"]), 3);
        assert_eq!(listen(&[]), 1);
    }

    #[test]
    fn every_violation_at_once() {
        let text = "colour = 1\n[serve]\nio_treads = 2\nrestart_grace = 30\nlisten = 'x'\nbreaker = 'maybe'\nlog = []\n[client]\n";
        let wrong = refused(&["--max-inbox", "0", "--log", "a=b=c=d"], text);
        let expected = [
            "o.toml, line 1: unknown key `colour`",
            "o.toml, line 3: unknown key `serve.io_treads`; did you mean `io_threads`?",
            "o.toml, line 4: serve.restart_grace: `30` has no unit: say 30s or 30ms",
            "o.toml, line 5: serve.listen: `x` is not an address like 127.0.0.1:6624 or [::1]:6624",
            "o.toml, line 6: serve.breaker: `maybe` is neither on nor off",
            "o.toml, line 7: serve.log: a value of type array does not fit here",
            "--log: ",
            "--max-inbox: `0` is not a count from 16 to 1000000",
        ];
        assert_eq!(wrong.len(), expected.len(), "{wrong:#?}");
        for (got, expected) in wrong.iter().zip(expected) {
            assert!(got.starts_with(expected), "{got} for {expected}");
        }
    }

    #[test]
    fn a_broken_file_names_its_lines() {
        let wrong = refused(&[], "[serve]\nlog = \n\nmax_inbox = 1 2\n");
        assert!(wrong[0].starts_with("o.toml, line 2: "), "{wrong:#?}");
        assert!(wrong.iter().any(|line| line.starts_with("o.toml, line 4: ")), "{wrong:#?}");
    }

    #[test]
    fn the_first_file_that_speaks_of_it() {
        let [here, there] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let platform = there.path().join("onair.toml");
        let found = |named: Option<&Path>| {
            locate::<ServeSettings>(named, here.path(), Some(&platform)).map(|file| file.map(|file| file.path))
        };
        assert_eq!(found(None), Ok(None));
        fs::write(&platform, "").unwrap();
        assert_eq!(found(None), Ok(Some(platform.clone())));
        let local = here.path().join("onair.toml");
        fs::write(&local, "[client]\n").unwrap();
        assert_eq!(found(None), Ok(Some(platform.clone())), "no [serve] there");
        fs::write(&local, "[serve]\n").unwrap();
        assert_eq!(found(None), Ok(Some(local)));
        assert_eq!(found(Some(&platform)), Ok(Some(platform.clone())));
        let Refused(missing) = found(Some(Path::new("/nowhere.toml"))).unwrap_err();
        assert!(missing[0].starts_with("/nowhere.toml: cannot be read: "), "{missing:?}");
    }

    #[test]
    fn what_is_misspelt_is_told() {
        let here = tempfile::tempdir().unwrap();
        fs::write(here.path().join("onair.toml"), "[sevre]\nlog = 'debug'\n").unwrap();
        let found = locate::<ServeSettings>(None, here.path(), None).unwrap();
        let wrong = resolve(&given(&[]), found.as_ref()).unwrap_err().0;
        assert!(wrong[0].ends_with("line 1: unknown key `sevre`; did you mean `serve`?"), "{wrong:?}");

        let names = ["ONAIR_LISEN", "ONAIR_LISTEN", "ONAIR_PORT_6624_TCP", "ONAIR_SERVICE_HOST", "PATH"];
        let told = misspelt(names.map(str::to_owned).into_iter());
        assert_eq!(told, ["ONAIR_LISEN is no setting; did you mean `ONAIR_LISTEN`?"]);
    }

    #[test]
    fn choices_are_listed() {
        let command = Given::<crate::config::ClientSettings>::augment_args(Command::new("list"));
        let matches = command.try_get_matches_from(["list", "--output", "yaml"]).unwrap();
        let given = Given::<crate::config::ClientSettings>::from_arg_matches(&matches).unwrap();
        assert_eq!(resolve(&given, None).unwrap_err().0, ["--output: `yaml` is not one of table|json|curl"]);
        assert_ne!(Output::Table, Output::Json);
    }
}
