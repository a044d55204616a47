//! Names and values that a program finds in its environment, as the texts by which they get there. Values come from
//! whoever registered: each is written so that it stays one, or refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// A name and its value.
pub type Variable = (String, String);

/// The variable's name that an id stands for: `shop-db` is `SHOP_DB`.
#[must_use]
pub fn variable(id: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    let name: String = id.chars().map(letter).collect();
    // No shell takes a name that begins with a digit.
    if name.starts_with(|first: char| first.is_ascii_digit()) { format!("_{name}") } else { name }
}

/// Variables of which each has one value.
///
/// # Errors
/// One has two: of these ids, more than one stand for it.
pub fn distinct(id: &str, all: impl IntoIterator<Item = Variable>) -> Result<BTreeMap<String, String>, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in all {
        match variables.get(&name) {
            Some(other) if *other != value => {
                return Err(format!("{id} needs two applications that are both {name} in its environment"));
            }
            _ => _ = variables.insert(name, value),
        }
    }
    Ok(variables)
}

fn refused(name: &str, value: &str, form: &str) -> String {
    format!("{name} is {value:?}, which {form} cannot carry; --format json can")
}

/// `export` commands for a shell: in single quotes nothing means anything.
///
/// # Errors
/// A value has control characters.
pub fn shell(variables: &BTreeMap<String, String>) -> Result<String, String> {
    let line = |(name, value): (&String, &String)| {
        if value.chars().any(char::is_control) {
            return Err(refused(name, value, "a line of a shell"));
        }
        Ok(format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
    };
    variables.iter().map(line).collect()
}

/// Lines of a `.env` file. Its readers do not agree on escapes, so that there are none: plain, or in single quotes.
///
/// # Errors
/// A value would be read differently by different programs.
pub fn dotenv(variables: &BTreeMap<String, String>) -> Result<String, String> {
    let line = |(name, value): (&String, &String)| {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_./:@%+,".contains(letter);
        if value.chars().all(plain) {
            return Ok(format!("{name}={value}\n"));
        }
        if value.chars().any(|letter| letter.is_control() || "'\\".contains(letter)) {
            return Err(refused(name, value, "a .env file"));
        }
        Ok(format!("{name}='{value}'\n"))
    };
    variables.iter().map(line).collect()
}

/// One object of JSON.
#[must_use]
pub fn variables_json(variables: &BTreeMap<String, String>) -> Value {
    let members = variables.iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
    Value::Object(members.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn names_that_every_shell_takes() {
        for (id, name) in [("shop-db", "SHOP_DB"), ("a.b_c", "A_B_C"), ("1st", "_1ST"), ("ü$(x)", "___X_")] {
            assert_eq!(variable(id), name);
        }
    }

    #[test]
    fn one_value_each() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(distinct("x", [pair("A", "1"), pair("A", "1"), pair("B", "2")]).unwrap().len(), 2);
        let told = distinct("x", [pair("A_B", "1"), pair("A_B", "2")]).unwrap_err();
        assert_eq!(told, "x needs two applications that are both A_B in its environment");
    }

    #[test]
    fn values_stay_values() {
        let hostile = [
            "http://h:1/a?b=c&d",
            "'; touch x; '",
            "$(id) `id` $HOME ${HOME} !! \\ \" # ~ *",
            "a'b''c",
            "",
            " leading and trailing ",
            "-n",
            "ü 漢",
        ];
        for value in hostile {
            let script = shell(&[("VALUE".to_owned(), value.to_owned())].into()).expect("a script");
            let output = Command::new("sh").arg("-c").arg(format!("{script}printf %s \"$VALUE\"")).output().unwrap();
            assert_eq!((String::from_utf8_lossy(&output.stdout), output.stderr.len()), (value.into(), 0), "{script}");
        }
        for control in ["a\nexport B=1", "a\rb", "\u{1b}[2J", "a\0b"] {
            let variable = [("V".to_owned(), control.to_owned())].into();
            assert!(shell(&variable).is_err() && dotenv(&variable).is_err());
            assert_eq!(variables_json(&variable)["V"], control);
        }
    }

    #[test]
    fn files_that_all_readers_read_alike() {
        let line = |value: &str| dotenv(&[("A".to_owned(), value.to_owned())].into());
        assert_eq!(line("http://h:1/x").as_deref(), Ok("A=http://h:1/x\n"));
        assert_eq!(line("a b#c $D \"e\" `f`").as_deref(), Ok("A='a b#c $D \"e\" `f`'\n"));
        assert_eq!(line("").as_deref(), Ok("A=\n"));
        for value in ["it's", "a\\nb"] {
            assert!(line(value).unwrap_err().contains("--format json"), "{value}");
        }
    }
}
