//! A start as it is seen: each level when all before it are online, each application when it comes or goes, until all of
//! them are online together. Knows what is told, and not how it is asked for.

use std::collections::HashMap;

use serde_json::json;

use crate::{
    cli::{failure::Failure, print::Printer, text::safe},
    proto::WaitReadyResponse,
};

/// What was told of a start.
pub(super) struct Start<'a> {
    print: &'a Printer,
    levels: Vec<Vec<String>>,
    /// How many levels were told.
    told: usize,
    /// Each application's level, and whether it is online.
    applications: HashMap<String, (usize, bool)>,
    online: usize,
    /// How many of the levels that were told are not online.
    waiting: usize,
}

impl<'a> Start<'a> {
    pub(super) fn new(print: &'a Printer, levels: Vec<Vec<String>>) -> Self {
        let each = levels.iter().enumerate().flat_map(|(level, names)| names.iter().map(move |name| (name, level)));
        let applications = each.map(|(name, level)| (name.clone(), (level, false))).collect();
        Self { print, levels, told: 0, applications, online: 0, waiting: 0 }
    }

    /// Every application, in order.
    pub(super) fn names(&self) -> Vec<String> {
        self.levels.iter().flatten().cloned().collect()
    }

    fn is_online(&self, name: &str) -> bool {
        self.applications.get(name).is_some_and(|(_, online)| *online)
    }

    /// Those of the levels that were told that are not online.
    pub(super) fn missing(&self) -> Vec<String> {
        let told = self.levels.iter().take(self.told).flatten();
        told.filter(|name| !self.is_online(name)).cloned().collect()
    }

    pub(super) fn is_over(&self) -> bool {
        self.online == self.applications.len()
    }

    /// Tells what a message brings; the first of a stream has all that are online.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn tell(&mut self, first: bool, message: &WaitReadyResponse) -> Result<(), Failure> {
        // What is to be started comes before that it is; what is online at the beginning is not to be started.
        if !first {
            self.tell_levels()?;
        }
        if first {
            let now: std::collections::HashSet<&String> = message.online.iter().collect();
            let gone = self.names().into_iter().filter(|name| self.is_online(name) && !now.contains(name));
            gone.collect::<Vec<_>>().iter().try_for_each(|name| self.turn(name, false))?;
        }
        message.offline.iter().try_for_each(|name| self.turn(name, false))?;
        message.online.iter().try_for_each(|name| self.turn(name, true))?;
        self.tell_levels()
    }

    /// An application came or went.
    fn turn(&mut self, name: &str, comes: bool) -> Result<(), Failure> {
        let Some((level, online)) = self.applications.get_mut(name).filter(|(_, online)| *online != comes) else {
            return Ok(());
        };
        *online = comes;
        let was_told = usize::from(*level < self.told);
        if comes {
            (self.online, self.waiting) = (self.online + 1, self.waiting - was_told);
        } else {
            (self.online, self.waiting) = (self.online - 1, self.waiting + was_told);
        }
        let (event, total) = (if comes { "online" } else { "offline" }, self.applications.len());
        if self.print.is_json() {
            let value = json!({"event": event, "application": name, "online": self.online, "total": total});
            return self.print.value(&value);
        }
        self.print.line(&format!("{event} {} {}/{total}", safe(name), self.online))
    }

    /// Tells the levels whose turn it is, with those of them that are not online.
    fn tell_levels(&mut self) -> Result<(), Failure> {
        while self.waiting == 0
            && let Some(level) = self.levels.get(self.told)
        {
            self.told += 1;
            let missing: Vec<&String> = level.iter().filter(|name| !self.is_online(name)).collect();
            self.waiting = missing.len();
            if missing.is_empty() {
                continue;
            }
            if self.print.is_json() {
                self.print.value(&json!({"event": "level", "level": self.told, "applications": missing}))?;
            } else {
                let names: Vec<_> = missing.iter().map(|name| safe(name)).collect();
                self.print.line(&format!("level {} {}", self.told, names.join(" ")))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Output;

    fn message(online: &[&str], offline: &[&str]) -> WaitReadyResponse {
        let texts = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        WaitReadyResponse { online: texts(online), offline: texts(offline), ..WaitReadyResponse::default() }
    }

    fn levels() -> Vec<Vec<String>> {
        [&["db", "mail"][..], &["api"], &["www"]].map(|level| level.iter().map(|&name| name.into()).collect()).into()
    }

    #[test]
    fn a_level_is_told_when_all_before_it_are_online() {
        let (print, kept) = Printer::keeping(Output::Table);
        let mut start = Start::new(&print, levels());
        start.tell(true, &message(&["mail"], &[])).unwrap();
        start.tell(false, &message(&["db"], &["mail"])).unwrap();
        assert_eq!(start.missing(), ["mail"]);
        start.tell(false, &message(&["mail", "www"], &[])).unwrap();
        // Another stream tells all that is: what was known is not told again, what went meanwhile is.
        start.tell(true, &message(&["mail", "www"], &[])).unwrap();
        start.tell(false, &message(&["db", "api"], &[])).unwrap();
        assert!(start.is_over());
        let wanted = [
            "online mail 1/4",
            "level 1 db",
            "offline mail 0/4",
            "online db 1/4",
            "online mail 2/4",
            "online www 3/4",
            "level 2 api",
            "offline db 2/4",
            "online db 3/4",
            "online api 4/4",
        ];
        assert_eq!(*kept.lock().unwrap(), wanted);
    }

    #[test]
    fn programs_read_it_a_line_each() {
        let (print, kept) = Printer::keeping(Output::Json);
        let mut start = Start::new(&print, vec![vec!["db".into()]]);
        start.tell(true, &message(&[], &[])).unwrap();
        start.tell(false, &message(&["db"], &[])).unwrap();
        let lines: Vec<serde_json::Value> =
            kept.lock().unwrap().iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        let wanted = [
            json!({"event": "level", "level": 1, "applications": ["db"]}),
            json!({"event": "online", "application": "db", "online": 1, "total": 1}),
        ];
        assert_eq!(lines, wanted);
    }
}
